"""What an evaluation found: figures with their errors, as a table and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..verdict import largest_pareto_k


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; inf where there is none."""

    value: float
    error: float

    def __format__(self, spec: str) -> str:
        if not math.isfinite(self.error):
            return f"{self.value:{spec}} (no error bar)"
        return f"{self.value:{spec}} +- {self.error:{spec}}"


@dataclass(frozen=True)
class Evaluation:
    """How well N proposals of a generator serve their target.

    Attributes:
        n: Number N of proposals; those that fail a filter count with weight zero.
        seeds: The seeds with which they were drawn.
        temperature_K: Temperature of the target in K.
        effective_sample_size: Kish's ESS as a share of N, nothing clipped.
        effective_sample_size_clipped_0_2_percent: The same with the largest 0.2 % of weights
            clipped: biased upward.
        effective_sample_size_clipped_1_percent: The same with 1 % clipped: biased upward.
        pareto_k: Tail index of the weights, as `analysis.pareto_k` finds it.
        acceptance: Of a stationary independence-Metropolis chain.
        valid_bonds: Share of proposals with the molecule's bonds.
        valid_chirality: Share of those with valid bonds that have, maybe mirrored, its hand.
        valid: Share of proposals with both.
        energy_quartiles_kT: Of the proposals that pass the filters, unweighted, in kT.
        energy_quartiles_md_kT: Of molecular dynamics.
        bond_width_ratio: Mean over bonds of the standard deviation of their length in proposals
            that pass the filters, unweighted, over that in molecular dynamics.
        bond_width_ratio_worst: The ratio that is farthest from 1, up or down.
        free_energy_difference_kT: -ln P(0 < phi < 2) / P(rest) of the weighted proposals.
        free_energy_difference_md_kT: The same of molecular dynamics, whose frames are correlated.
        log_mean_weight: ln Z of exp(-u) over centred configurations in nm.
        samples_per_second: Proposals a second, energies included.
        n_held_out: Held-out frames whose log q was given.
        n_held_out_failed: Of these, frames that fail the generator's filters, and so have no log q.
        nll_nm: Mean of -log q over the others, in nats, lengths in nm, with its standard error.
        nll_scaled: The same for lengths multiplied by `length_scale`.
        length_scale: What lengths in nm are multiplied by.
        made_with: Model, hardware and versions.
    """

    n: int
    seeds: tuple[int, ...]
    temperature_K: float
    effective_sample_size: Estimate
    effective_sample_size_clipped_0_2_percent: float
    effective_sample_size_clipped_1_percent: float
    pareto_k: float
    acceptance: Estimate
    valid_bonds: float
    valid_chirality: float
    valid: float
    energy_quartiles_kT: tuple[float, float, float]
    energy_quartiles_md_kT: tuple[float, float, float]
    bond_width_ratio: float
    bond_width_ratio_worst: float
    free_energy_difference_kT: Estimate
    free_energy_difference_md_kT: float
    log_mean_weight: Estimate
    samples_per_second: float
    n_held_out: int
    n_held_out_failed: int
    nll_nm: Estimate | None
    nll_scaled: Estimate | None
    length_scale: float
    made_with: str

    def to_json(self, path: Path) -> None:
        """Write plain numbers, whole or not at all; null where a number is not finite."""
        content = json.dumps(plain(asdict(self)), indent=1, allow_nan=False)
        write_atomically(Path(path), (content + "\n").encode())

    def __str__(self) -> str:
        return "\n".join(f"{name:27s} {text}" for name, text in self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        largest_k = largest_pareto_k(max(2, round(self.valid * self.n)))
        likelihood = [
            ("-log q, lengths in nm", self.nll_nm),
            (f"  in nm / {self.length_scale:g}", self.nll_scaled),
        ]
        held_out = f"{self.n_held_out} frames held out, {self.n_held_out_failed} fail the filters"
        return [
            ("proposals", f"{self.n}, seeds {', '.join(map(str, self.seeds))}"),
            ("effective sample size", f"{self.effective_sample_size:.2%}, nothing clipped"),
            ("  0.2 % clipped (biased)", f"{self.effective_sample_size_clipped_0_2_percent:.2%}"),
            ("  1 % clipped (biased)", f"{self.effective_sample_size_clipped_1_percent:.2%}"),
            ("Pareto k", f"{self.pareto_k:.2f} (to be trusted up to {largest_k:.2f})"),
            ("Metropolis acceptance", f"{self.acceptance:.2%}"),
            ("valid bonds", f"{self.valid_bonds:.2%}"),
            ("valid chirality of these", f"{self.valid_chirality:.2%}"),
            ("valid in both", f"{self.valid:.2%}"),
            ("energy quartiles", f"{_spread(self.energy_quartiles_kT)} kT"),
            ("  molecular dynamics", f"{_spread(self.energy_quartiles_md_kT)} kT"),
            (
                "bond widths / MD's",
                f"{self.bond_width_ratio:.3f}, worst {self.bond_width_ratio_worst:.3f}",
            ),
            (
                "free energy of 0 < phi < 2",
                f"{self.free_energy_difference_kT:.2f} kT at {self.temperature_K:g} K",
            ),
            ("  molecular dynamics", f"{self.free_energy_difference_md_kT:.2f} kT"),
            ("ln Z", f"{self.log_mean_weight:.3f}"),
            *((name, f"{nll:.3f} nats ({held_out})") for name, nll in likelihood if nll),
            ("proposals a second", f"{self.samples_per_second:.3g}"),
            ("made with", self.made_with),
        ]


def _spread(quartiles: tuple[float, float, float]) -> str:
    return ", ".join(f"{quartile:.1f}" for quartile in quartiles)


def plain(value: Any) -> Any:
    """The value for JSON, which knows no infinities."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
