"""What proposals are worth for the target of one molecule, without a simulation of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis import effective_sample_size, independence_acceptance, pareto_k
from ..arrays import Cause
from ..torsions import Dihedral
from .drawing import ScoredProposals
from .figures import bootstrapped, free_energy_difference, phi_of, quartiles, refuse_thinned
from .record import Estimate

QUARTILES = ("25", "50", "75")


@dataclass(frozen=True)
class Origin:
    """What figures belong to: the same origin gives the same proposals and energies.

    Attributes:
        generator_sha256: Of the generator.
        target_sha256: Of the System and temperature.
        n: Number of proposals.
        seed: With which they were drawn.
        batch: Proposals drawn at a time.
    """

    generator_sha256: str
    target_sha256: str
    n: int
    seed: int
    batch: int


@dataclass(frozen=True)
class MoleculeFigures:
    """How well N proposals serve the target of one molecule; errors are as in `evaluate`.

    Attributes:
        valid_bonds: Share of proposals with the molecule's bonds.
        valid_chirality: Share of those with valid bonds that have, maybe mirrored, its hand; NaN
            where there are none.
        valid: Share of proposals with both.
        effective_sample_size: Kish's ESS as a share of N, nothing clipped; 0 without an error where
            fewer than two proposals have a weight.
        acceptance: Of a stationary independence-Metropolis chain; the same.
        pareto_k: Tail index of the weights; NaN where it is unknown.
        energy_quartiles_kT: Of the proposals that pass the filters, unweighted; NaN without any.
        free_energy_difference_kT: -ln P(0 < phi < 2) / P(rest) of the weighted proposals; not
            finite where one of the two has no weight.
        seconds_per_proposal: Wall time, energies included.
        reference_kT: The same free-energy difference from elsewhere, where it is known.
    """

    valid_bonds: float
    valid_chirality: float
    valid: float
    effective_sample_size: Estimate
    acceptance: Estimate
    pareto_k: float
    energy_quartiles_kT: tuple[float, float, float]
    free_energy_difference_kT: Estimate
    seconds_per_proposal: float
    reference_kT: Estimate | None = None

    @classmethod
    def measured(
        cls, scored: ScoredProposals, phi: Dihedral, reference_kT: Estimate | None = None
    ) -> MoleculeFigures:
        """The figures of proposals.

        Args:
            scored: The proposals, those that fail a filter included.
            phi: Atoms of the dihedral phi.
            reference_kT: Free-energy difference to compare with.

        Raises:
            ValueError: Proposals were dropped at random.
        """
        refuse_thinned(scored)
        log_weights = scored.log_weights
        intact = ~np.isin(scored.cause, (Cause.ENERGY_NOT_FINITE, Cause.BOND_GRAPH))
        hand = scored.cause[intact] != Cause.CHIRALITY
        energies = scored.u_kT[np.isfinite(scored.u_kT)]
        n_usable = int((log_weights > -np.inf).sum())
        if n_usable < 2:
            ess = acceptance = Estimate(0.0, math.inf)
            difference = Estimate(math.nan, math.inf)
        else:
            ess = bootstrapped(effective_sample_size, log_weights)
            acceptance = bootstrapped(independence_acceptance, log_weights)
            angles = phi_of(scored, phi)
            difference = bootstrapped(free_energy_difference, log_weights, angles)
        return cls(
            valid_bonds=float(intact.mean()),
            valid_chirality=float(hand.mean()) if len(hand) else math.nan,
            valid=float(scored.passes.mean()),
            effective_sample_size=ess,
            acceptance=acceptance,
            pareto_k=pareto_k(log_weights) if n_usable else math.nan,
            energy_quartiles_kT=quartiles(energies, np.ones(len(energies)))
            if len(energies)
            else (math.nan, math.nan, math.nan),
            free_energy_difference_kT=difference,
            seconds_per_proposal=float(scored.seconds.mean()),
            reference_kT=reference_kT,
        )

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> MoleculeFigures:
        """What `dataclasses.asdict` and JSON made plain."""
        return cls(**{name: _restored(value) for name, value in stored.items()})

    @property
    def effective_samples_per_second(self) -> float:
        """Independent samples of the target that a second of proposals is worth."""
        return self.effective_sample_size.value / self.seconds_per_proposal

    @property
    def deviation_kT(self) -> Estimate | None:  # noqa: N802
        """Free-energy difference less its reference; the two share no samples."""
        if self.reference_kT is None:
            return None
        here, there = self.free_energy_difference_kT, self.reference_kT
        return Estimate(here.value - there.value, math.hypot(here.error, there.error))

    def columns(self) -> dict[str, float | None]:
        """All figures by name, an estimate and its error apart; None where one is unknown."""
        deviation = self.deviation_kT
        found: dict[str, float | None] = {}
        for name, value in (vars(self) | {"deviation_kT": deviation}).items():
            match value:
                case tuple():
                    found |= {f"{name}_{k}": each for k, each in zip(QUARTILES, value, strict=True)}
                case Estimate():
                    found |= {name: value.value, f"{name}_error": value.error}
                case None:
                    found |= {name: None, f"{name}_error": None}
                case _:
                    found[name] = value
        return found | {"effective_samples_per_second": self.effective_samples_per_second}


def _restored(value: Any) -> Any:
    match value:
        case dict():
            return Estimate(**value)
        case list():
            return tuple(value)
        case _:
            return value
