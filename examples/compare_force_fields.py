"""Free energies of alanine dipeptide in several force fields, from one set of proposals.

    python examples/compare_force_fields.py

The generator knows one force field and temperature. Its proposals and their densities are drawn
once, into a folder that a second run reads; a target costs one energy for each proposal, and no
simulation. Prints for each target the effective sample size and the Pareto k of the weights, the
free energy of 0 < phi < 2 less that of all other phi in kT, and f - f(own), where f = -ln Z is the
molecule's reduced free energy without its kinetic part, and own the target that the generator was
trained for. Zeros of energy that differ between force fields are part of it. Where a figure is not
to be trusted, `first` is 0 < phi < 2 or the target, `second` all other phi or the own target. The
table is written as JSON with a picture.
Where tblite is installed (the extra `xtb`), GFN2-xTB is a target too, in vacuum and in ALPB water.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX

import matplotlib.pyplot as plt
import openmm
from openmm import app, unit
from openmmtools.states import ThermodynamicState
from tqdm import tqdm

from openmm_tbg import BoltzmannGenerator, Proposals, ProposalStore, ReducedPotential
from openmm_tbg.analysis import effective_sample_size, pareto_k
from openmm_tbg.evaluation.figures import in_basin
from openmm_tbg.free_energy import Estimated, free_energy_between, free_energy_difference
from openmm_tbg.metropolis import log_weights
from openmm_tbg.reference import ALANINE_PHI, alanine_dipeptide
from openmm_tbg.semi_empirical import gfn2_xtb_system
from openmm_tbg.torsions import dihedral
from openmm_tbg.verdict import ENOUGH_SAMPLES, FEWEST_SAMPLES

MODEL = "alanine-dipeptide"
REFERENCE = alanine_dipeptide()
OWN = "amber99sbildn, OBC, 300 K"
BuildSystem = Callable[[], openmm.System]


def classical(*force_field: str) -> BuildSystem:
    return partial(
        app.ForceField(*force_field).createSystem,
        REFERENCE.topology,
        nonbondedMethod=app.NoCutoff,
        constraints=None,
        removeCMMotion=False,
    )


def tight_binding(solvent: str | None) -> BuildSystem:
    return partial(gfn2_xtb_system, REFERENCE.topology, charge=0, solvent=solvent)


TARGETS = {
    OWN: (classical(*REFERENCE.force_field), REFERENCE.temperature_K),
    "amber99sbildn, OBC, 350 K": (classical(*REFERENCE.force_field), 350.0),
    "amber14, OBC1, 300 K": (classical("amber14-all.xml", "implicit/obc1.xml"), 300.0),
    "amber14, OBC2, 300 K": (classical("amber14-all.xml", "implicit/obc2.xml"), 300.0),
    "amber14, vacuum, 300 K": (classical("amber14-all.xml"), 300.0),
}
if importlib.util.find_spec("tblite"):
    TARGETS["GFN2-xTB, vacuum, 300 K"] = (tight_binding(None), 300.0)
    TARGETS["GFN2-xTB, ALPB, 300 K"] = (tight_binding("water"), 300.0)
HEADER = f"{'':26s} {'ESS':>6s}  {'k':>4s} {'F(0 < phi < 2)':>16s} {'f - f(own)':>16s}"


@dataclass(frozen=True)
class Row:
    """What the proposals say of one target.

    None stands for a k of too few weights, for a basin without a proposal, and for the difference
    of the generator's own target from itself.
    """

    target: str
    effective_sample_size: float
    pareto_k: float | None
    phi_difference_kT: Estimated | None
    from_own: Estimated | None

    def __str__(self) -> str:
        found = {"phi": self.phi_difference_kT, "f - f(own)": self.from_own}
        k = "-" if self.pareto_k is None else f"{self.pareto_k:.2f}"
        figures = " ".join(
            f"{each.value:8.2f} +- {each.error:4.2f}" if each else f"{'-':>16s}"
            for each in found.values()
        )
        doubts = [
            f"  {name}: {doubt.trust}: {doubt}"
            for name, each in found.items()
            for doubt in (each.doubts if each else ())
        ]
        line = f"{self.target:26s} {self.effective_sample_size:6.2%}  {k:>4s} {figures}"
        return "\n".join([line, *doubts])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="proposals in each")
    parser.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", type=Path, default=Path("alanine_proposals"))
    parser.add_argument("--out", type=Path, default=Path("compare_force_fields.json"))
    return parser.parse_args()


def potential_of(system: openmm.System, temperature_K: float) -> ReducedPotential:
    state = ThermodynamicState(system, temperature_K * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")  # the fastest for 22 atoms in GBSA
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


def weights_of(proposals: Proposals, potential: ReducedPotential) -> np.ndarray:
    u = proposals.reduced_potentials(potential)
    return log_weights(u, proposals.log_q, proposals.passes)


def row_of(target: str, weights: np.ndarray, own: np.ndarray, inside: np.ndarray) -> Row:
    k = pareto_k(weights)
    try:
        difference = free_energy_difference(weights, inside, ~inside)
    except ValueError as error:
        tqdm.write(f"{target}: {error}")
        difference = None
    return Row(
        target,
        effective_sample_size(weights),
        k if math.isfinite(k) else None,
        difference,
        None if target == OWN else free_energy_between(weights, own),
    )


def rows_of(proposals: Proposals) -> list[Row]:
    phi = dihedral(proposals.positions_nm, ALANINE_PHI)
    weights = {
        target: weights_of(proposals, potential_of(build(), temperature_K))
        for target, (build, temperature_K) in tqdm(TARGETS.items(), unit="target", mininterval=10.0)
    }
    inside = in_basin(phi)
    return [row_of(target, each, weights[OWN], inside) for target, each in weights.items()]


def picture(rows: list[Row], n: int, path: Path) -> None:
    figure, (numbers, differences) = plt.subplots(
        1, 2, figsize=(10, 3.6), sharey=True, layout="constrained"
    )
    heights = range(len(rows), 0, -1)
    numbers.barh(heights, [n * row.effective_sample_size for row in rows], color="tab:blue")
    for fewest in (FEWEST_SAMPLES, ENOUGH_SAMPLES):
        numbers.axvline(fewest, color="0.5", linestyle="--")
    numbers.set_yticks(heights, [row.target for row in rows])
    numbers.set(xscale="log", xlim=(1, n), xlabel=f"effective proposals of {n}")
    numbers.set_title("lines: 10 and 50, to trust averages with care, and to trust them", size=9)
    for height, row in zip(heights, rows, strict=True):
        if found := row.phi_difference_kT:
            face = "tab:blue" if found.is_trusted else "white"
            differences.errorbar(
                found.value, height, xerr=found.error, fmt="o", color="tab:blue", mfc=face
            )
    differences.set(xlabel="free energy of 0 < phi < 2 less that of the rest / kT")
    differences.set_title("hollow: do not trust", size=9)
    figure.savefig(path, dpi=130)


def report(proposals: Proposals, about: dict[str, object], out: Path) -> None:
    """Print the table, and write it with what the proposals are."""
    rows = rows_of(proposals)
    print("\n".join([f"{len(proposals)} proposals", HEADER, *map(str, rows)]))
    record = {
        **about,
        "N": len(proposals),
        "passing": float(proposals.passes.mean()),
        "rows": [asdict(row) for row in rows],
    }
    out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    picture(rows, len(proposals), out.with_suffix(".png"))


def main() -> None:
    options = arguments()
    generator = BoltzmannGenerator.from_pretrained(MODEL, REFERENCE.topology, options.device)
    store = ProposalStore.create(
        options.store, generator, options.batches, options.batch, options.seed
    )
    store.fill(generator)
    about = {"model": generator.sha256, "seed": options.seed}
    report(store.read(), about, options.out)


if __name__ == "__main__":
    main()
