"""The rare basin of alanine dipeptide from both ends: proposals, and dynamics inside each basin.

    python benchmarks/alanine_basins.py --folder basins --out benchmarks/alanine_basins.json

The quantity is -ln P(0 < phi < 2) / P(rest) at 300 K, in kT. Proposals are thinned so that half of
those that are drawn lie in the rare basin. Dynamics that a wall keeps inside a basin samples the
target there; log q of its independent frames is evaluated, and `bennett_difference` joins both.
Everything is kept in the folder: the same call goes on where an earlier one was ended, and
`--parts` does one part in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
import torch
from evaluate_alanine import held_out_log_q, load_model, made_with, reduced_potential
from openmm import unit

from openmm_tbg import ThinnedGenerator
from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.free_energy import bennett_difference, free_energy_difference, independent_rows
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.metropolis import log_weights
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, ReferenceSystem, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass, torsion_wall
from openmm_tbg.store import ProposalStore
from openmm_tbg.thinning import RegionImportance
from openmm_tbg.torsions import TorsionRange, dihedral, with_dihedral

SHARE, PILOT, BATCH = 0.5, 128, 2048
RARE = TorsionRange(ALANINE_PHI, 0.0, 2.0)
BASINS = {"rare": (RARE, 1.0), "rest": (RARE.others, -1.4)}  # with the phi of its first frame
WANTED = RegionImportance(TorsionRange(ALANINE_PHI, -0.3, 2.3), elsewhere=-3.0)
BEYOND_CA = range(9, 22)  # the atoms that phi turns
REFERENCE = Path(__file__).with_name("reference_free_energy.json")


@dataclass(frozen=True)
class Problem:
    """The molecule, its model, and where their results are kept."""

    folder: Path
    seed: int

    @cached_property
    def molecule(self) -> ReferenceSystem:
        return alanine_dipeptide()

    @cached_property
    def potential(self) -> ReducedPotential:
        return reduced_potential(self.molecule)

    @cached_property
    def generator(self) -> BoltzmannGenerator:
        return load_model("alanine-dipeptide", self.molecule, "cpu")

    @cached_property
    def thinned(self) -> ThinnedGenerator:
        """With the threshold that an earlier call has found."""
        file = self.folder / "threshold.json"
        if not file.exists():
            rng = np.random.default_rng(self.seed)
            found = ThinnedGenerator.from_pilot(
                self.generator, self.potential, SHARE, rng, PILOT, WANTED
            )
            file.write_text(json.dumps(found.log_weight_threshold))
        threshold = json.loads(file.read_text())
        return ThinnedGenerator(self.generator, self.potential, threshold, WANTED)

    def store(self, n_batches: int) -> ProposalStore:
        path = self.folder / "proposals"
        return ProposalStore.create(path, self.thinned, n_batches, BATCH, self.seed)


def trajectory(problem: Problem, name: str, n_frames: int) -> np.ndarray:
    """Frames of dynamics inside a basin, a picosecond apart; those beyond its edge are left out."""
    file = problem.folder / f"dynamics_{name}.npy"
    if file.exists():
        return np.load(file)
    inside, phi = BASINS[name]
    molecule = problem.molecule
    system = repartition_hydrogen_mass(molecule.system, molecule.topology, 4.0)
    system.addForce(torsion_wall(inside))
    dynamics = Dynamics(interval_ps=1.0)
    integrator = dynamics.integrator(molecule.temperature_K, problem.seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(with_dihedral(molecule.positions_nm, ALANINE_PHI, BEYOND_CA, phi))
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(molecule.temperature_K * unit.kelvin, problem.seed)
    integrator.step(dynamics.equilibration_steps)
    frames = []
    for _ in range(n_frames):
        integrator.step(dynamics.steps_per_frame)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    positions_nm = np.array(frames)
    np.save(file, positions_nm[inside.holds(positions_nm)])
    return positions_nm[inside.holds(positions_nm)]


def independent(problem: Problem, positions_nm: Positions, most: int) -> Positions:
    """As many frames as the slowest series counts independent, `most` at most, evenly spread."""
    psi, phi = (dihedral(positions_nm, angle) for angle in (ALANINE_PSI, ALANINE_PHI))
    series = [np.sin(phi), np.cos(phi), np.sin(psi), np.cos(psi), problem.potential(positions_nm)]
    n = min(most, *(len(independent_rows(each)) for each in series))
    return positions_nm[np.linspace(0, len(positions_nm) - 1, n).astype(int)]


def inside_weights(problem: Problem, name: str, options: argparse.Namespace) -> Scalars:
    """-u - log q of independent frames of the dynamics in a basin; log q counts the thinning."""
    n_frames = dict(zip(BASINS, options.frames, strict=True))[name]
    frames = independent(problem, trajectory(problem, name, n_frames), options.densities)
    log_q = held_out_log_q(problem.thinned, frames, problem.folder / f"densities_{name}.npz")
    known = np.isfinite(log_q)  # a frame whose bonds the filters find broken has none
    print(f"{name}: {len(frames)} independent frames, {np.count_nonzero(~known)} outside filters")
    return -problem.potential(frames[known]) - log_q[known]


def figures(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """The difference from both ends, and from the weights alone."""
    drawn = problem.store(options.batches).read()
    u = drawn.reduced_potentials(problem.potential)
    weights = log_weights(u, drawn.log_q, drawn.passes)
    rare = RARE.holds(drawn.positions_nm)
    inside = [inside_weights(problem, name, options) for name in BASINS]
    known = json.loads(REFERENCE.read_text())
    found = {
        "both ends": bennett_difference(weights, rare, ~rare, *inside),
        "weights alone": free_energy_difference(weights, rare, ~rare),
    }
    for name, each in found.items():
        print(f"{name}: {each}")
    return {
        "quantity": known["quantity"],
        "reference": known["free_energy_difference"],
        "reference_error": max(known["standard_error_by_block_length"].values()),
        **{
            name: asdict(each) | {"doubts": [str(doubt) for doubt in each.doubts]}
            for name, each in found.items()
        },
        "N": len(drawn),
        "in the rare basin": int(np.count_nonzero(rare & (weights > -np.inf))),
        "exact densities of proposals": int(np.count_nonzero(drawn.passes)),
        "seed": problem.seed,
        "log_weight_threshold": problem.thinned.log_weight_threshold,
        "made_with": made_with(problem.generator, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=16, help=f"of {BATCH} proposals")
    parser.add_argument(
        "--frames", type=int, nargs=2, default=[12_000, 12_000], help="rare, rest; 1 ps apart"
    )
    parser.add_argument("--densities", type=int, default=1000, help="of these, at most, get log q")
    parser.add_argument("--parts", nargs="+", choices=["proposals", "dynamics", "figures"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    problem, parts = Problem(options.folder, options.seed), options.parts
    started = time.process_time()
    if parts is None or "proposals" in parts:
        problem.store(options.batches).fill(problem.thinned)
    if parts is None or "dynamics" in parts:
        for name in BASINS:
            inside_weights(problem, name, options)
    print(f"{(time.process_time() - started) / 60:.1f} minutes of the processor")
    if parts is None or "figures" in parts:
        found = figures(problem, options)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
