"""One free-energy difference by five methods, each for the same time.

What `alanine_free_energy.py` and `dipeptide_free_energy.py` share. The quantity is
-ln P(0 < phi < 2) / P(rest), in kT. Methods: weights of proposals of the Boltzmann generator; a
chain of generator moves and Langevin dynamics; plain Langevin dynamics; parallel tempering of
openmmtools; umbrella sampling over phi with MBAR. Each time includes what the method has to do
first, equilibration too. A figure comes with its verdict; what has none says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
logging.getLogger("openmmtools").setLevel(logging.ERROR)

import matplotlib.pyplot as plt
import openmm
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import LangevinDynamicsMove, MCMCSampler, SequenceMove
from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler
from openmmtools.states import SamplerState, ThermodynamicState
from tqdm import tqdm

from openmm_tbg import BoltzmannGenerator, ReducedPotential, TBGMove, ThinnedGenerator
from openmm_tbg.evaluation.figures import in_basin
from openmm_tbg.free_energy import (
    Estimated,
    free_energy_difference,
    free_energy_difference_of_chain,
    free_energy_profile,
    independent_rows,
    multistate,
)
from openmm_tbg.metropolis import log_weights
from openmm_tbg.proposals import Proposals
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass
from openmm_tbg.torsions import Dihedral, dihedral
from openmm_tbg.verdict import doubts_of_number

BATCH, KEEP, PILOT = 8, 0.3, 32
LANGEVIN_STEPS = 500  # of 2 fs, between recorded states
EQUILIBRATION_STEPS = 20_000
HOTTEST_K, RUNGS = 600.0, 4
WINDOWS, UMBRELLA_KT = 24, 20.0  # force constant in kT / rad^2
WINDOW_STEPS = 2000  # before a window's first recorded state
EDGES = np.linspace(-math.pi, math.pi, 19)


@dataclass(frozen=True)
class Problem:
    """A molecule, what proposes its configurations, and where its energies are computed."""

    name: str
    molecule: ReferenceSystem
    phi: Dihedral
    psi: Dihedral
    load_generator: Callable[[], BoltzmannGenerator]
    platform: openmm.Platform

    @cached_property
    def system(self) -> openmm.System:
        return repartition_hydrogen_mass(self.molecule.system, self.molecule.topology, 4.0)

    @property
    def temperature(self) -> unit.Quantity:
        return self.molecule.temperature_K * unit.kelvin

    @property
    def state(self) -> ThermodynamicState:
        return ThermodynamicState(self.system, self.temperature)

    def start(self) -> SamplerState:
        return SamplerState(self.molecule.positions_nm * unit.nanometer)

    def torsions(self, positions: unit.Quantity | np.ndarray) -> np.ndarray:
        """phi and psi of every frame, on a last axis, in radians."""
        if isinstance(positions, unit.Quantity):
            positions = np.asarray(positions.value_in_unit(unit.nanometer))
        return np.stack([dihedral(positions, self.phi), dihedral(positions, self.psi)], axis=-1)

    def context(self, system: openmm.System, seed: int) -> openmm.Context:
        """At the first minimum, with velocities."""
        dynamics = Dynamics(interval_ps=LANGEVIN_STEPS * 0.002)
        integrator = dynamics.integrator(self.molecule.temperature_K, seed)
        context = openmm.Context(system, integrator, self.platform)
        context.setPositions(self.molecule.positions_nm)
        context.setVelocitiesToTemperature(self.temperature, seed)
        return context


@dataclass(frozen=True)
class Reference:
    """What the figures are held against."""

    value_kT: float
    error_kT: float
    source: str


@dataclass(frozen=True)
class Sampled:
    """States with their log-weights, and the figure that they give or the reason against it."""

    torsions: np.ndarray
    log_weights: np.ndarray
    estimate: Callable[[], Estimated]


Method = Callable[[Problem, int, float], Sampled]


@dataclass(frozen=True)
class Row:
    """What one method found, and what it cost."""

    method: str
    seconds: float
    found: Estimated | None
    why_none: str
    sampled: Sampled | None

    @property
    def verdict(self) -> str:
        return "no figure" if self.found is None else str(self.found.verdict.trust)

    def line(self, reference: Reference) -> str:
        figure, doubts = f"{'-':>14s}  {'':12s}", [f"  {self.why_none}"]
        if self.found is not None:
            figure = f"{self.found.value:6.2f} +- {self.found.error:4.2f}"
            figure += f"  off by {self.found.value - reference.value_kT:+5.2f}"
            doubts = [f"  {doubt.trust}: {doubt.reason}" for doubt in self.found.doubts]
        n = 0 if self.sampled is None else len(self.sampled.torsions)
        line = f"{self.method:24s} {figure}  {self.seconds:4.0f} s  N {n:5d}  {self.verdict}"
        return "\n".join([line, *doubts])

    def record(self) -> dict[str, object]:
        return {
            "method": self.method,
            "seconds": self.seconds,
            "verdict": self.verdict,
            "found": self.found
            and asdict(self.found) | {"doubts": [str(doubt) for doubt in self.found.doubts]},
            "why_none": self.why_none,
        }


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options that every molecule has."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--minutes", type=float, default=1.5, help="for each method")
    options.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path(out))
    return options


def until(name: str, end: float) -> Iterator[int]:
    """Count up until a time of `time.perf_counter`, with progress; once at least."""
    started, number = time.perf_counter(), 0
    total = max(1, round(end - started))
    with tqdm(desc=name, total=total, unit="s", mininterval=10.0) as bar:
        while number == 0 or time.perf_counter() < end:
            yield number
            number += 1
            bar.update(min(total, round(time.perf_counter() - started)) - bar.n)


def thinned(problem: Problem, seed: int) -> tuple[ThinnedGenerator, ReducedPotential]:
    """Proposals that get an exact density only where they may count."""
    context = problem.state.create_context(openmm.VerletIntegrator(0.001), problem.platform)
    potential = ReducedPotential(problem.state, context)
    rng = np.random.default_rng(seed)
    generator = problem.load_generator()
    return ThinnedGenerator.from_pilot(generator, potential, KEEP, rng, PILOT), potential


def by_weights(problem: Problem, seed: int, seconds: float) -> Sampled:
    end = time.perf_counter() + seconds
    generator, potential = thinned(problem, seed)
    rng = np.random.default_rng(seed + 1)
    batches, energies = [], []
    for _ in until("weights", end):
        batches.append(generator.propose(BATCH, rng))
        energies.append(batches[-1].reduced_potentials(potential))
    drawn = Proposals.concatenate(batches)
    weights = log_weights(np.concatenate(energies), drawn.log_q, drawn.passes)
    torsions = problem.torsions(drawn.positions_nm)
    there = in_basin(torsions[:, 0])
    return Sampled(torsions, weights, lambda: free_energy_difference(weights, there, ~there))


def of_chain(torsions: list[np.ndarray]) -> Sampled:
    """States that follow each other, of equal weight."""
    every = np.array(torsions)
    there = in_basin(every[:, 0])
    return Sampled(every, np.zeros(len(every)), lambda: free_energy_difference_of_chain(there))


def langevin(n_steps: int, reassign_velocities: bool = False) -> LangevinDynamicsMove:
    return LangevinDynamicsMove(
        timestep=2.0 * unit.femtosecond,
        collision_rate=1.0 / unit.picosecond,
        n_steps=n_steps,
        reassign_velocities=reassign_velocities,
    )


def by_moves(problem: Problem, seed: int, seconds: float) -> Sampled:
    """A chain that is held against what its move says of itself, too."""
    end = time.perf_counter() + seconds
    generator, _ = thinned(problem, seed)
    move, start = TBGMove(generator, n_proposals=BATCH, seed=seed), problem.start()
    langevin(EQUILIBRATION_STEPS, reassign_velocities=True).apply(problem.state, start)
    sampler = MCMCSampler(problem.state, start, move=SequenceMove([langevin(LANGEVIN_STEPS), move]))
    torsions = []
    for _ in until("moves", end):
        sampler.run(1)
        torsions.append(problem.torsions(sampler.sampler_state.positions))
    sampled, verdict = of_chain(torsions), move.summary().verdict

    def estimate() -> Estimated:
        try:
            found = sampled.estimate()
        except ValueError as error:
            raise ValueError(f"{error}; the move: {verdict}") from error
        return replace(found, doubts=found.doubts + verdict.doubts)

    return replace(sampled, estimate=estimate)


def by_dynamics(problem: Problem, seed: int, seconds: float) -> Sampled:
    end = time.perf_counter() + seconds
    context = problem.context(problem.system, seed)
    context.getIntegrator().step(EQUILIBRATION_STEPS)
    torsions = []
    for _ in until("dynamics", end):
        context.getIntegrator().step(LANGEVIN_STEPS)
        torsions.append(problem.torsions(context.getState(positions=True).getPositions(True)))
    return of_chain(torsions)


def by_tempering(problem: Problem, seed: int, seconds: float) -> Sampled:
    """The lowest rung, whose states follow each other through all replicas."""
    end = time.perf_counter() + seconds
    with tempfile.TemporaryDirectory() as folder:
        reporter = MultiStateReporter(str(Path(folder) / "ladder.nc"), checkpoint_interval=10**6)
        sampler = ParallelTemperingSampler(
            mcmc_moves=langevin(LANGEVIN_STEPS),
            number_of_iterations=10**9,
            online_analysis_interval=None,
        )
        rungs = {"min_temperature": problem.temperature, "n_temperatures": RUNGS}
        rungs["max_temperature"] = HOTTEST_K * unit.kelvin
        sampler.create(problem.state, [problem.start()], reporter, **rungs)
        torsions = []
        for _ in until("tempering", end):
            sampler.run(1)
            replica = int(np.flatnonzero(sampler._replica_thermodynamic_states == 0)[0])
            torsions.append(problem.torsions(sampler.sampler_states[replica].positions))
        reporter.close()
    return of_chain(torsions)


def umbrella(problem: Problem) -> openmm.CustomTorsionForce:
    """A harmonic force on phi about the parameter `centre`."""
    kT = (unit.MOLAR_GAS_CONSTANT_R * problem.temperature).value_in_unit(unit.kilojoule_per_mole)
    formula = "0.5 * k * d^2; d = min(abs(theta - centre), 2 * pi - abs(theta - centre))"
    force = openmm.CustomTorsionForce(f"{formula}; pi = {math.pi}")
    force.addGlobalParameter("k", UMBRELLA_KT * kT)
    force.addGlobalParameter("centre", 0.0)
    force.addTorsion(*problem.phi, [])
    return force


def by_umbrellas(problem: Problem, seed: int, seconds: float) -> Sampled:
    """Windows over phi one after the other, each from where the last one ended."""
    started = time.perf_counter()
    system = openmm.XmlSerializer.clone(problem.system)
    system.addForce(umbrella(problem))
    context = problem.context(system, seed)
    centres = np.linspace(-math.pi, math.pi, WINDOWS, endpoint=False)
    windows: list[np.ndarray] = []
    for k, centre in enumerate(centres):
        context.setParameter("centre", float(centre))
        context.getIntegrator().step(WINDOW_STEPS)
        window = []
        end = started + seconds * (k + 1) / WINDOWS
        for _ in until(f"umbrella {np.degrees(centre):.0f}", end):
            context.getIntegrator().step(LANGEVIN_STEPS // 5)
            window.append(problem.torsions(context.getState(positions=True).getPositions(True)))
        series = np.array(window)
        windows.append(series[independent_rows(np.sin(series[:, 0]))])
    return without_bias(np.concatenate(windows), centres, np.array([*map(len, windows)]))


def without_bias(torsions: np.ndarray, centres: np.ndarray, n: np.ndarray) -> Sampled:
    """MBAR over windows; no bias, the basin, and the rest are states that nobody sampled."""
    away = np.abs(torsions[:, 0] - centres[:, np.newaxis])
    bias = 0.5 * UMBRELLA_KT * np.minimum(away, 2 * math.pi - away) ** 2
    there = in_basin(torsions[:, 0])
    if there.all() or not there.any():
        raise ValueError("the windows hold no state on one side of the basin's edge: run longer")
    halves = [np.where(side, 0.0, np.inf) for side in (there, ~there)]
    unbiased = np.zeros((1, len(torsions)))
    states = multistate(np.concatenate([bias, unbiased, halves]), np.array([*n, 0, 0, 0]))
    found = Estimated(
        float(states.differences_kT[-1, -2]),
        float(states.errors_kT[-1, -2]),
        "umbrella sampling, MBAR",
        states.n,
        float(states.n_effective[-2:].min()),
        states.weakest_link,
        states.doubts
        + doubts_of_number(int(n.min()), "independent states in the poorest window", "run longer"),
    )
    return Sampled(torsions, states.log_weights(len(n)), lambda: found)


METHODS: dict[str, Method] = {
    "TBG weights": by_weights,
    "TBG moves + Langevin": by_moves,
    "Langevin dynamics": by_dynamics,
    "parallel tempering": by_tempering,
    "umbrella sampling, MBAR": by_umbrellas,
}


def row_of(problem: Problem, method: str, seed: int, seconds: float) -> Row:
    started = time.perf_counter()
    sampled, found, why_none = None, None, ""
    try:
        sampled = METHODS[method](problem, seed, seconds)
        found = sampled.estimate()
    except ValueError as error:  # such as a chain that never crossed
        why_none = str(error)
    return Row(method, time.perf_counter() - started, found, why_none, sampled)


def draw_figures(axes: plt.Axes, rows: list[Row], reference: Reference) -> None:
    """Filled where the verdict allows to trust a figure, hollow where it does not."""
    axes.axvline(reference.value_kT, color="0.5", linestyle="--")
    low, high = (reference.value_kT + sign * reference.error_kT for sign in (-1, 1))
    axes.axvspan(low, high, color="0.9")
    for height, row in enumerate(reversed(rows)):
        if row.found is None:
            at_left = axes.get_yaxis_transform()
            axes.text(0.03, height, "no figure", va="center", color="0.4", transform=at_left)
            continue
        face = "tab:blue" if row.found.is_trusted else "white"
        axes.errorbar(
            row.found.value, height, xerr=row.found.error, fmt="o", color="tab:blue", mfc=face
        )
    axes.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    axes.set(xlabel="free-energy difference / kT", ylim=(-0.6, len(rows) - 0.4))
    axes.set_title("dashed: reference; hollow: do not trust", fontsize="medium")


def draw_surface(axes: plt.Axes, row: Row) -> plt.cm.ScalarMappable | None:
    axes.set(xlabel="phi / degrees", ylabel="psi / degrees", aspect="equal")
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xticks=(-180, 0, 180), yticks=(-180, 0, 180))
    axes.set_title(f"{row.method}\n{row.verdict}", fontsize="medium")
    if row.sampled is None or np.count_nonzero(row.sampled.log_weights > -np.inf) < 2:
        return None
    surface = free_energy_profile(row.sampled.log_weights, row.sampled.torsions, [EDGES, EDGES])
    degrees = np.degrees(EDGES)
    return axes.pcolormesh(degrees, degrees, surface.free_energy_kT.T, vmin=0, vmax=8)


def picture(problem: Problem, rows: list[Row], reference: Reference, path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    draw_figures(axes[0, 0], rows, reference)
    meshes = [draw_surface(each, row) for each, row in zip(axes.flat[1:], rows, strict=True)]
    if drawn := [mesh for mesh in meshes if mesh is not None]:
        figure.colorbar(drawn[0], ax=axes[:, -1], label="free energy / kT")
    figure.suptitle(f"{problem.name}: free energy of 0 < phi < 2 less that of the rest")
    figure.savefig(path, dpi=130)


def compare(problem: Problem, reference: Reference, options: argparse.Namespace) -> None:
    """Ask every method, print a table, and write it as JSON with a picture."""
    cache.global_context_cache.platform = problem.platform
    rows = [row_of(problem, method, options.seed, 60 * options.minutes) for method in METHODS]
    print(f"{problem.name}: -ln P(0 < phi < 2) / P(rest), kT")
    print(f"reference {reference.value_kT:.2f} +- {reference.error_kT:.2f} ({reference.source})")
    print("\n".join(row.line(reference) for row in rows))
    record = {
        "molecule": problem.name,
        "reference": asdict(reference),
        "reference_kT": reference.value_kT,
        "minutes_each": options.minutes,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "rows": [row.record() for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    picture(problem, rows, reference, options.out.with_suffix(".png"))
