"""Learned replica exchange of alanine dipeptide against plain parallel tempering.

    python examples/alanine_replica_exchange.py

A `TBGMove` at the target's rung is an exchange with a rung above it from which independent
configurations come (Invernizzi et al., J. Phys. Chem. Lett. 13 (2022) 11643). Three ladders get the
same number of force evaluations: parallel tempering from 300 to 600 K; the same rungs with the flow
at 300 K; 300 K alone, where the flow stands for all other rungs.

An exact proposal costs as much as some ten thousand force evaluations on a CPU core, so proposals
are drawn once into a store, which both ladders with the flow use, and whose time is counted apart.
Run again, the example takes the proposals that are there. Prints a table, and writes it as JSON
with a picture. Seconds are those of all cores together, so that other work does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
logging.getLogger("openmmtools").setLevel(logging.ERROR)

import matplotlib.pyplot as plt
import openmm
from free_energy_problem import langevin
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import SequenceMove
from openmmtools.multistate import MultiStateReporter, ReplicaExchangeSampler
from openmmtools.states import SamplerState, ThermodynamicState
from tqdm import tqdm

from openmm_tbg import (
    BoltzmannGenerator,
    ProposalStore,
    ReducedPotential,
    StoredProposals,
    TBGMove,
)
from openmm_tbg.analysis import independence_acceptance
from openmm_tbg.evaluation.figures import BASIN, in_basin
from openmm_tbg.free_energy import Estimated, free_energy_difference_of_chain
from openmm_tbg.metropolis import log_weights
from openmm_tbg.reference import ALANINE_PHI, alanine_dipeptide
from openmm_tbg.simulation import repartition_hydrogen_mass
from openmm_tbg.torsions import dihedral

REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference_free_energy.json"
HOTTEST_K, RUNGS = 600.0, 4
TEMPERING_STEPS = 500  # of 2 fs, between swaps of parallel tempering
FLOW_STEPS = 10_000  # over all rungs, between two uses of the flow
EQUILIBRATION_STEPS = 20_000
BATCH = 32

MOLECULE = alanine_dipeptide()
SYSTEM = repartition_hydrogen_mass(MOLECULE.system, MOLECULE.topology, 4.0)
STATE = ThermodynamicState(SYSTEM, MOLECULE.temperature_K * unit.kelvin)
PLATFORM = openmm.Platform.getPlatformByName("Reference")  # the fastest for 22 atoms in GBSA


@dataclass(frozen=True)
class Ladder:
    """Rungs, the steps on each between swaps, and whether the flow stands on the lowest."""

    name: str
    temperatures_K: tuple[float, ...]
    n_steps: int
    n_iterations: int
    has_flow: bool


@dataclass(frozen=True)
class Row:
    """What came of one ladder; `phi` of the lowest rung after each iteration, radians."""

    ladder: Ladder
    phi: np.ndarray
    round_trips: int
    from_the_flow: int
    seconds: float
    seconds_of_drawing: float

    @property
    def crossings(self) -> int:
        there = in_basin(self.phi)
        return int(np.count_nonzero(there[1:] != there[:-1]))

    @property
    def found(self) -> Estimated | None:
        """The free-energy difference, None where the ladder never crossed."""
        return free_energy_difference_of_chain(in_basin(self.phi)) if self.crossings else None

    def record(self) -> dict[str, object]:
        per_hour = {
            name: 3600 * self.crossings / seconds
            for name, seconds in (
                ("alone", self.seconds),
                ("with_drawing", self.seconds + self.seconds_of_drawing),
            )
        }
        return {
            **asdict(self.ladder),
            "round_trips": self.round_trips,
            "from_the_flow": self.from_the_flow,
            "crossings": self.crossings,
            "seconds": self.seconds,
            "seconds_of_drawing": self.seconds_of_drawing,
            "crossings_per_hour": per_hour,
            "found": self.found and asdict(self.found),
        }

    def __str__(self) -> str:
        figure = "never crossed"
        if self.found:
            figure = f"{self.found.value:5.2f} +- {self.found.error:4.2f}"
            figure += f"  ({self.found.n_effective:.0f} effective)"
        return (
            f"{self.ladder.name:22s} {len(self.ladder.temperatures_K):5d} {self.round_trips:6d} "
            f"{self.from_the_flow:5d} {self.crossings:9d} {self.seconds:6.0f} s "
            f"{self.seconds_of_drawing:6.0f} s  {figure}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=64, help="uses of the flow")
    parser.add_argument("--proposals", type=int, default=4, help="in each")
    parser.add_argument("--store", type=Path, default=Path("alanine_proposals"))
    parser.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("alanine_replica_exchange.json"))
    return parser.parse_args()


def ladders(n_iterations: int) -> list[Ladder]:
    rungs = tuple(map(float, np.geomspace(MOLECULE.temperature_K, HOTTEST_K, RUNGS)))
    n_swaps = n_iterations * FLOW_STEPS // (RUNGS * TEMPERING_STEPS)
    return [
        Ladder("parallel tempering", rungs, TEMPERING_STEPS, n_swaps, False),
        Ladder("flow below the rungs", rungs, FLOW_STEPS // RUNGS, n_iterations, True),
        Ladder("flow for the rungs", rungs[:1], FLOW_STEPS, n_iterations, True),
    ]


def round_trips(states: np.ndarray) -> int:
    """How often a replica came to the lowest rung from the highest: (iterations, replicas)."""
    n, top = 0, states.max()
    for replica in states.T if top else ():
        ends = replica[(replica == 0) | (replica == top)]
        n += int(np.count_nonzero((ends[:-1] == top) & (ends[1:] == 0)))
    return n


def run(ladder: Ladder, flow: TBGMove, seconds_a_proposal: float, folder: Path) -> Row:
    moves = [langevin(ladder.n_steps) for _ in ladder.temperatures_K]
    if ladder.has_flow:
        moves[0] = SequenceMove([moves[0], flow])
    start = SamplerState(MOLECULE.positions_nm * unit.nanometer)
    langevin(EQUILIBRATION_STEPS, reassign_velocities=True).apply(STATE, start)
    reporter = MultiStateReporter(str(folder / "ladder.nc"), checkpoint_interval=10**6)
    sampler = ReplicaExchangeSampler(
        mcmc_moves=moves, number_of_iterations=10**9, online_analysis_interval=None
    )
    states = [ThermodynamicState(SYSTEM, T * unit.kelvin) for T in ladder.temperatures_K]
    sampler.create(states, [start] * len(states), reporter)
    started, phi = time.process_time(), []
    for _ in tqdm(range(ladder.n_iterations), ladder.name, unit="iteration", mininterval=10.0):
        sampler.run(1)
        frames = [state.positions.value_in_unit(unit.nanometer) for state in sampler.sampler_states]
        phi.append(dihedral(np.array(frames), ALANINE_PHI))
    seconds = time.process_time() - started
    rungs = np.array(reporter.read_replica_thermodynamic_states()[1:])  # the first is the start
    taken = sampler.mcmc_moves[0].statistics[1] if ladder.has_flow else {}
    reporter.close()
    return Row(
        ladder,
        np.array(phi)[rungs == 0],
        round_trips(rungs),
        taken.get("n_accepted", 0),
        seconds,
        taken.get("n_proposed", 0) * seconds_a_proposal,
    )


def acceptance(store: ProposalStore) -> dict[str, float]:
    """Of independence Metropolis at each rung, as the weights of the proposals tell."""
    context = STATE.create_context(openmm.VerletIntegrator(0.001), PLATFORM)
    drawn = store.read()
    u = drawn.reduced_potentials(ReducedPotential(STATE, context))
    rungs = ladders(1)[0].temperatures_K
    return {
        f"{T:.0f} K": independence_acceptance(
            log_weights(u * MOLECULE.temperature_K / T, drawn.log_q, drawn.passes)
        )
        for T in rungs
    }


def picture(rows: list[Row], reference_kT: float, path: Path) -> None:
    figure = plt.figure(figsize=(10, 5), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, width_ratios=(2, 1))
    figures = figure.add_subplot(grid[:, 1])
    figures.axvline(reference_kT, color="0.5", linestyle="--")
    for k, row in enumerate(rows):
        series = figure.add_subplot(grid[k, 0])
        cost = len(row.ladder.temperatures_K) * row.ladder.n_steps * 1e-6
        series.plot(cost * np.arange(1, len(row.phi) + 1), np.degrees(row.phi), ".", ms=2)
        series.axhspan(*np.degrees(BASIN), color="0.9")
        series.set(ylim=(-180, 180), yticks=(-180, 0, 180), title=row.ladder.name)
        series.set_ylabel("phi / degrees")
        if row.found:
            face = "tab:blue" if row.found.is_trusted else "white"
            figures.errorbar(
                row.found.value, -k, xerr=row.found.error, fmt="o", color="tab:blue", mfc=face
            )
        else:
            figures.text(
                reference_kT, -k, " no figure", va="center", color="0.4", backgroundcolor="w"
            )
    series.set_xlabel("force evaluations / million")
    figures.set_yticks(range(0, -len(rows), -1), [row.ladder.name for row in rows])
    figures.set(xlabel="free-energy difference / kT", ylim=(0.5 - len(rows), 0.5))
    figures.set_title("at 300 K; line: reference\nhollow: do not trust", fontsize="medium")
    figure.savefig(path, dpi=130)


def main() -> None:
    options = arguments()
    cache.global_context_cache.platform = PLATFORM
    reference_kT = json.loads(REFERENCE.read_text())["free_energy_difference"]
    generator = BoltzmannGenerator.from_pretrained(
        "alanine-dipeptide", MOLECULE.topology, options.device
    )
    n_batches = -(-options.iterations * options.proposals // BATCH)
    store = ProposalStore.create(options.store, generator, n_batches, BATCH, options.seed)
    store.fill(generator)
    started = time.process_time()
    generator.propose(BATCH, np.random.default_rng(options.seed))
    seconds_a_proposal = (time.process_time() - started) / BATCH

    rows = []
    for ladder in ladders(options.iterations):
        with tempfile.TemporaryDirectory() as folder:
            stored = StoredProposals(store, generator, Path(folder) / "claims")
            flow = TBGMove(stored, options.proposals, seed=options.seed)
            rows.append(run(ladder, flow, seconds_a_proposal, Path(folder)))
        gc.collect()  # netCDF4 crashes where a file is opened before the last is forgotten
    print(f"-ln P(0 < phi < 2) / P(rest), kT; reference {reference_kT:.2f}")
    print(f"{'':22s} rungs  trips  flow crossings    chain  drawing  free-energy difference")
    print("\n".join(map(str, rows)))
    record = {
        "reference_kT": reference_kT,
        "force_evaluations": options.iterations * FLOW_STEPS,
        "proposals": options.proposals,
        "seconds_a_proposal": seconds_a_proposal,
        "acceptance": acceptance(store),
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "rows": [row.record() for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    picture(rows, reference_kT, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
