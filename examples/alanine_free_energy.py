"""One free-energy difference of alanine dipeptide by five methods, each for the same time.

    python examples/alanine_free_energy.py --minutes 1.5

The quantity is -ln P(0 < phi < 2) / P(rest) at 300 K, in kT. Methods: weights of proposals of the
Boltzmann generator; a chain of generator moves and Langevin dynamics; plain Langevin dynamics;
parallel tempering of openmmtools; umbrella sampling over phi with MBAR. Prints a table with the
difference from a converged reference, and writes it as JSON with a picture. Each time includes
what the method has to do first, equilibration too.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
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
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import LangevinDynamicsMove, MCMCSampler, SequenceMove
from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler
from openmmtools.states import SamplerState, ThermodynamicState
from tqdm import tqdm

from openmm_tbg import BoltzmannGenerator, ReducedPotential, TBGMove, ThinnedGenerator
from openmm_tbg.free_energy import (
    Estimated,
    FreeEnergyProfile,
    free_energy_difference,
    free_energy_difference_of_chain,
    free_energy_profile,
    independent_rows,
    multistate,
)
from openmm_tbg.metropolis import log_weights
from openmm_tbg.proposals import Proposals
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass
from openmm_tbg.torsions import dihedral

REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference_free_energy.json"
BASIN = (0.0, 2.0)  # of phi, radians
BATCH, KEEP, PILOT = 16, 0.3, 32
LANGEVIN_STEPS = 500  # of 2 fs, between recorded states
EQUILIBRATION_STEPS = 20_000
HOTTEST_K, RUNGS = 600.0, 4
WINDOWS, UMBRELLA_KT = 24, 20.0  # force constant in kT / rad^2

REFERENCE_SYSTEM = alanine_dipeptide()
SYSTEM = repartition_hydrogen_mass(REFERENCE_SYSTEM.system, REFERENCE_SYSTEM.topology, 4.0)
TEMPERATURE = REFERENCE_SYSTEM.temperature_K * unit.kelvin
STATE = ThermodynamicState(SYSTEM, TEMPERATURE)
DYNAMICS = Dynamics(interval_ps=LANGEVIN_STEPS * 0.002)
PLATFORM = openmm.Platform.getPlatformByName("Reference")  # the fastest for 22 atoms in GBSA


@dataclass(frozen=True)
class Row:
    """What one method found, and what it cost."""

    method: str
    seconds: float
    found: Estimated | None
    why_none: str
    reference_kT: float

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.method:24s} no figure: {self.why_none}"
        away = self.found.value - self.reference_kT
        doubts = "".join(f"  ! {doubt.reason}" for doubt in self.found.doubts)
        return (
            f"{self.method:24s} {self.found.value:6.2f} +- {self.found.error:4.2f}  "
            f"off by {away:+5.2f}  {self.seconds:4.0f} s  N {sum(self.found.n)}{doubts}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.5, help="for each method")
    parser.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("alanine_free_energy.json"))
    return parser.parse_args()


def until(name: str, seconds: float) -> Iterator[int]:
    """Count up until the time is over, with progress."""
    started, number = time.perf_counter(), 0
    with tqdm(desc=name, total=round(seconds), unit="s", mininterval=10.0) as bar:
        while (passed := time.perf_counter() - started) < seconds or number == 0:
            yield number
            number += 1
            bar.update(min(round(seconds), round(passed)) - bar.n)


def inside(phi: np.ndarray) -> np.ndarray:
    return (phi > BASIN[0]) & (phi < BASIN[1])


def new_context(system: openmm.System, seed: int) -> openmm.Context:
    """Minimised, with velocities, at the reference frame."""
    integrator = DYNAMICS.integrator(REFERENCE_SYSTEM.temperature_K, seed)
    context = openmm.Context(system, integrator, PLATFORM)
    context.setPositions(REFERENCE_SYSTEM.positions_nm)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    return context


def phi_of(context: openmm.Context) -> float:
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    return float(dihedral(positions.value_in_unit(unit.nanometer), ALANINE_PHI))


def generator_of(options: argparse.Namespace) -> tuple[ThinnedGenerator, ReducedPotential]:
    """Proposals that get an exact density only where they may count."""
    generator = BoltzmannGenerator.from_pretrained(
        "alanine-dipeptide", REFERENCE_SYSTEM.topology, options.device
    )
    context = STATE.create_context(openmm.VerletIntegrator(0.001), PLATFORM)
    potential = ReducedPotential(STATE, context)
    rng = np.random.default_rng(options.seed)
    return ThinnedGenerator.from_pilot(generator, potential, KEEP, rng, PILOT), potential


def by_weights(options: argparse.Namespace, seconds: float) -> tuple[Estimated, FreeEnergyProfile]:
    started = time.perf_counter()
    generator, potential = generator_of(options)
    rng = np.random.default_rng(options.seed + 1)
    batches, energies = [], []
    for _ in until("weights", seconds - (time.perf_counter() - started)):
        batches.append(generator.propose(BATCH, rng))
        energies.append(batches[-1].reduced_potentials(potential))
    drawn = Proposals.concatenate(batches)
    weights = log_weights(np.concatenate(energies), drawn.log_q, drawn.passes)
    phi, psi = (dihedral(drawn.positions_nm, atoms) for atoms in (ALANINE_PHI, ALANINE_PSI))
    edges = np.linspace(-math.pi, math.pi, 19)
    surface = free_energy_profile(weights, np.stack([phi, psi], axis=-1), [edges, edges])
    return free_energy_difference(weights, inside(phi), ~inside(phi)), surface


def by_moves(options: argparse.Namespace, seconds: float) -> Estimated:
    started = time.perf_counter()
    generator, _ = generator_of(options)
    move = TBGMove(generator, n_proposals=BATCH, seed=options.seed)
    state = SamplerState(REFERENCE_SYSTEM.positions_nm * unit.nanometer)
    langevin = langevin_move(LANGEVIN_STEPS)
    langevin_move(EQUILIBRATION_STEPS).apply(STATE, state)
    sampler = MCMCSampler(STATE, state, move=SequenceMove([langevin, move]))
    phi = []
    for _ in until("moves", seconds - (time.perf_counter() - started)):
        sampler.run(1)
        frame = sampler.sampler_state.positions.value_in_unit(unit.nanometer)
        phi.append(float(dihedral(np.asarray(frame), ALANINE_PHI)))
    return free_energy_difference_of_chain(inside(np.array(phi)))


def langevin_move(n_steps: int) -> LangevinDynamicsMove:
    return LangevinDynamicsMove(
        timestep=2.0 * unit.femtosecond,
        collision_rate=1.0 / unit.picosecond,
        n_steps=n_steps,
        reassign_velocities=n_steps == EQUILIBRATION_STEPS,
    )


def by_dynamics(options: argparse.Namespace, seconds: float) -> Estimated:
    context = new_context(SYSTEM, options.seed)
    context.getIntegrator().step(EQUILIBRATION_STEPS)
    phi = []
    for _ in until("dynamics", seconds):
        context.getIntegrator().step(LANGEVIN_STEPS)
        phi.append(phi_of(context))
    return free_energy_difference_of_chain(inside(np.array(phi)))


def by_tempering(options: argparse.Namespace, seconds: float) -> Estimated:
    """Populations of the lowest rung, whose states follow each other through all replicas."""
    with tempfile.TemporaryDirectory() as folder:
        reporter = MultiStateReporter(str(Path(folder) / "ladder.nc"), checkpoint_interval=10**6)
        sampler = ParallelTemperingSampler(
            mcmc_moves=langevin_move(LANGEVIN_STEPS),
            number_of_iterations=10**9,
            online_analysis_interval=None,
        )
        start = SamplerState(REFERENCE_SYSTEM.positions_nm * unit.nanometer)
        sampler.create(
            STATE, [start], reporter, TEMPERATURE, HOTTEST_K * unit.kelvin, n_temperatures=RUNGS
        )
        phi = []
        for _ in until("tempering", seconds):
            sampler.run(1)
            replica = int(np.flatnonzero(sampler._replica_thermodynamic_states == 0)[0])
            frame = sampler.sampler_states[replica].positions.value_in_unit(unit.nanometer)
            phi.append(float(dihedral(np.asarray(frame), ALANINE_PHI)))
        reporter.close()
    return free_energy_difference_of_chain(inside(np.array(phi)))


def by_umbrellas(options: argparse.Namespace, seconds: float) -> Estimated:
    """Windows over phi one after the other, each from where the last one ended."""
    kT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE).value_in_unit(unit.kilojoule_per_mole)
    formula = "0.5 * k * d^2; d = min(abs(theta - centre), 2 * pi - abs(theta - centre))"
    force = openmm.CustomTorsionForce(f"{formula}; pi = {math.pi}")
    force.addGlobalParameter("k", UMBRELLA_KT * kT)
    force.addGlobalParameter("centre", 0.0)
    force.addTorsion(*ALANINE_PHI, [])
    system = openmm.XmlSerializer.clone(SYSTEM)
    system.addForce(force)
    context = new_context(system, options.seed)
    centres = np.linspace(-math.pi, math.pi, WINDOWS, endpoint=False)
    windows: list[np.ndarray] = []
    for centre in centres:
        context.setParameter("centre", float(centre))
        context.getIntegrator().step(4 * LANGEVIN_STEPS)
        phi = []
        for _ in until(f"umbrella {np.degrees(centre):.0f}", seconds / WINDOWS):
            context.getIntegrator().step(LANGEVIN_STEPS // 5)
            phi.append(phi_of(context))
        windows.append(np.array(phi)[independent_rows(np.sin(phi))])
    phi = np.concatenate(windows)
    away = np.abs(phi - centres[:, np.newaxis])
    bias = 0.5 * UMBRELLA_KT * np.minimum(away, 2 * math.pi - away) ** 2
    # The basin and the rest are states of their own, in which no sample was drawn.
    halves = [np.where(side, 0.0, np.inf) for side in (inside(phi), ~inside(phi))]
    states = multistate(np.concatenate([bias, halves]), np.array([*map(len, windows), 0, 0]))
    return Estimated(
        float(states.differences_kT[-1, -2]),
        float(states.errors_kT[-1, -2]),
        "umbrella sampling, MBAR",
        states.n,
        float(states.n_effective[-2:].min()),
        states.weakest_link,
        states.doubts,
    )


def picture(rows: list[Row], surface: FreeEnergyProfile, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    for height, row in enumerate(reversed(rows)):
        if row.found is None:
            left.text(row.reference_kT, height, "  no figure", va="center", color="0.4")
        else:
            left.errorbar(row.found.value, height, xerr=row.found.error, fmt="o", color="tab:blue")
    left.axvline(rows[0].reference_kT, color="0.5", linestyle="--")
    left.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    left.set(xlabel="free-energy difference / kT", title="0 < phi < 2, 300 K (line: reference)")
    degrees = np.degrees(surface.edges[0])
    mesh = right.pcolormesh(degrees, degrees, surface.free_energy_kT.T, cmap="viridis", vmax=8)
    right.set(
        xlabel="phi / degrees", ylabel="psi / degrees", title="from TBG weights", aspect="equal"
    )
    figure.colorbar(mesh, label="free energy / kT")
    figure.savefig(path, dpi=130)


def main() -> None:
    options = arguments()
    cache.global_context_cache.platform = PLATFORM
    reference_kT = json.loads(REFERENCE.read_text())["free_energy_difference"]
    seconds, rows = 60 * options.minutes, []
    surfaces: list[FreeEnergyProfile] = []

    def weights(options: argparse.Namespace, seconds: float) -> Estimated:
        found, surface = by_weights(options, seconds)
        surfaces.append(surface)
        return found

    for method, measure in {
        "TBG weights": weights,
        "TBG moves + Langevin": by_moves,
        "Langevin dynamics": by_dynamics,
        "parallel tempering": by_tempering,
        "umbrella sampling, MBAR": by_umbrellas,
    }.items():
        started = time.perf_counter()
        found, why_none = None, ""
        try:
            found = measure(options, seconds)
        except ValueError as error:  # such as a chain that never crossed
            why_none = str(error)
        rows.append(Row(method, time.perf_counter() - started, found, why_none, reference_kT))
    print(f"-ln P(0 < phi < 2) / P(rest), kT; reference {reference_kT:.2f}")
    print("\n".join(map(str, rows)))
    record = {
        "reference_kT": reference_kT,
        "minutes_each": options.minutes,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    if surfaces:
        picture(rows, surfaces[0], options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
