"""Sample alanine dipeptide with a Boltzmann generator inside openmmtools.

    python examples/alanine_mcmc.py

Each iteration runs Langevin dynamics and then proposes whole configurations, which the generator
draws live and which are accepted or rejected with the OpenMM energy. Prints what became of the
proposals and how the chain is spread over the Ramachandran plane, and writes a picture of it.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX

import matplotlib.pyplot as plt
import openmm
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import LangevinDynamicsMove, MCMCSampler, SequenceMove
from openmmtools.states import SamplerState, ThermodynamicState
from pymbar import timeseries
from tqdm import tqdm

from openmm_tbg import (
    BoltzmannGenerator,
    Proposals,
    ReducedPotential,
    TBGMove,
    ThinnedGenerator,
)
from openmm_tbg.arrays import Cause
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, ReferenceSystem, alanine_dipeptide
from openmm_tbg.torsions import dihedral

EQUILIBRATION_STEPS = 20_000
SECONDS_BETWEEN_LOG_LINES = 15.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--proposals", type=int, default=8, help="in each iteration")
    parser.add_argument("--batch", type=int, default=32, help="proposals drawn ahead at a time")
    parser.add_argument(
        "--keep",
        type=float,
        default=0.3,
        help="share of the proposals to which an exact density is given; 1 for all",
    )
    parser.add_argument("--langevin-steps", type=int, default=2000, help="of 1 fs")
    parser.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=Path("ramachandran.png"))
    return parser.parse_args()


class RecordingGenerator(BoltzmannGenerator):
    """A generator that keeps the dihedral angles of what it proposed, for the picture."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.angles: list[np.ndarray] = []

    def propose(self, n: int, rng: np.random.Generator, thinning=None) -> Proposals:
        proposals = super().propose(n, rng, thinning)
        intact = proposals.passes | (proposals.cause == Cause.THINNED)
        self.angles.append(ramachandran(proposals.positions_nm[intact]))
        return proposals


def ramachandran(positions_nm: np.ndarray) -> np.ndarray:
    """phi and psi in radians, on a last axis."""
    both = dihedral(positions_nm, ALANINE_PHI), dihedral(positions_nm, ALANINE_PSI)
    return np.stack(both, axis=-1)


def run_chain(
    options: argparse.Namespace,
    reference: ReferenceSystem,
    state: ThermodynamicState,
    move: TBGMove,
) -> np.ndarray:
    """phi and psi in radians after each iteration."""
    start = SamplerState(reference.positions_nm * unit.nanometer)
    dynamics = {"timestep": 1.0 * unit.femtosecond, "collision_rate": 1.0 / unit.picosecond}
    LangevinDynamicsMove(n_steps=EQUILIBRATION_STEPS, reassign_velocities=True, **dynamics).apply(
        state, start, context_cache=cache.global_context_cache
    )
    local = LangevinDynamicsMove(n_steps=options.langevin_steps, **dynamics)
    sampler = MCMCSampler(state, start, move=SequenceMove([local, move]))
    angles = []
    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LOG_LINES
    for _ in tqdm(range(options.iterations), unit="iteration", mininterval=interval):
        sampler.run(1)
        frame = sampler.sampler_state.positions.value_in_unit(unit.nanometer)
        angles.append(ramachandran(frame))
    return np.array(angles)


def population(inside: np.ndarray) -> str:
    """Share of a chain inside a region, with a standard error from its statistical inefficiency."""
    share = inside.mean()
    if share in (0.0, 1.0):
        # Without a transition there is no variance to measure: this is the rule of three.
        return f"{share:6.1%} (no transition; to within {min(1.0, 3 / len(inside)):.0%} at best)"
    independent = len(inside) / timeseries.statistical_inefficiency(inside.astype(float))
    return f"{share:6.1%} +- {math.sqrt(share * (1 - share) / independent):.1%}"


def report_populations(angles: np.ndarray) -> None:
    phi, psi = np.degrees(angles).T
    helical = (phi < 0) & (psi > -120) & (psi < 60)
    print(f"populations of the chain, {len(angles)} states:")
    print(f"  phi < 0, extended (beta, PII)       {population((phi < 0) & ~helical)}")
    print(f"  phi < 0, helical (-120 < psi < 60)  {population(helical)}")
    print(f"  phi > 0                             {population(phi > 0)}")


def draw(angles: np.ndarray, proposed: np.ndarray, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
    axes.scatter(*np.degrees(proposed).T, s=10, color="0.75", label="proposals")
    axes.scatter(*np.degrees(angles).T, s=16, color="tab:blue", label="chain")
    axes.set(xlabel="phi / degrees", ylabel="psi / degrees", title="Alanine dipeptide, 300 K")
    axes.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    axes.set_xticks(range(-180, 181, 60))
    axes.set_yticks(range(-180, 181, 60))
    figure.legend(loc="outside lower center", ncols=2)  # off the points
    figure.savefig(path, dpi=150)


def main() -> None:
    options = arguments()
    started = time.perf_counter()
    # For a small molecule in GBSA the Reference platform beats the CPU platform several times.
    cache.global_context_cache.platform = openmm.Platform.getPlatformByName("Reference")
    reference = alanine_dipeptide()
    generator = RecordingGenerator.from_pretrained(
        "alanine-dipeptide", reference.topology, options.device
    )
    state = ThermodynamicState(reference.system, reference.temperature_K * unit.kelvin)
    platform = cache.global_context_cache.platform
    context = state.create_context(openmm.VerletIntegrator(1.0 * unit.femtosecond), platform)
    thinned = ThinnedGenerator.from_pilot(
        generator,
        ReducedPotential(state, context),
        options.keep,
        np.random.default_rng(options.seed),
        n=options.batch,
    )
    move = TBGMove(thinned, options.proposals, batch_size=options.batch, seed=options.seed)
    angles = run_chain(options, reference, state, move)
    print(move.summary())
    report_populations(angles)
    draw(angles, np.concatenate(generator.angles), options.picture)
    seconds = time.perf_counter() - started
    print(f"{options.picture} written; {seconds:.0f} s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
