"""What a method of `free_energy_table.py` is asked, and what it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
logging.getLogger("openmmtools").setLevel(logging.ERROR)

import openmm
from openmm import unit
from openmmtools.mcmc import LangevinDynamicsMove
from openmmtools.states import SamplerState, ThermodynamicState
from tqdm import tqdm

from openmm_tbg import BoltzmannGenerator
from openmm_tbg.free_energy import Estimated, free_energy_difference_of_chain
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass
from openmm_tbg.torsions import Dihedral, TorsionRange, dihedral

LANGEVIN_STEPS = 500  # of 2 fs, between recorded states
EQUILIBRATION_STEPS = 20_000


@dataclass(frozen=True)
class Problem:
    """A molecule, what proposes its configurations, and where its energies are computed."""

    name: str
    molecule: ReferenceSystem
    phi: Dihedral
    psi: Dihedral
    load_generator: Callable[[], BoltzmannGenerator]
    platform: openmm.Platform
    clock: Callable[[], float] = time.perf_counter

    @property
    def basin(self) -> TorsionRange:
        return TorsionRange(self.phi, 0.0, 2.0)

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

    def context(
        self, system: openmm.System, seed: int, start_nm: np.ndarray | None = None
    ) -> openmm.Context:
        """At the first minimum or at `start_nm`, with velocities."""
        dynamics = Dynamics(interval_ps=LANGEVIN_STEPS * 0.002)
        integrator = dynamics.integrator(self.molecule.temperature_K, seed)
        context = openmm.Context(system, integrator, self.platform)
        context.setPositions(self.molecule.positions_nm if start_nm is None else start_nm)
        context.setVelocitiesToTemperature(self.temperature, seed)
        return context


@dataclass(frozen=True)
class Sampled:
    """States with their log-weights, and the figure that they give or the reason against it."""

    torsions: np.ndarray
    log_weights: np.ndarray
    estimate: Callable[[], Estimated]


Method = Callable[[Problem, int, float], Sampled]


def until(clock: Callable[[], float], name: str, end: float) -> Iterator[int]:
    """Count up until a time of the clock, with progress; once at least."""
    started, number = clock(), 0
    total = max(1, round(end - started))
    with tqdm(desc=name, total=total, unit="s", mininterval=10.0) as bar:
        while number == 0 or clock() < end:
            yield number
            number += 1
            bar.update(min(total, round(clock() - started)) - bar.n)


def in_basin(torsions: np.ndarray) -> np.ndarray:
    return (torsions[:, 0] >= 0) & (torsions[:, 0] < 2)


def of_chain(torsions: list[np.ndarray]) -> Sampled:
    """States that follow each other, of equal weight."""
    every = np.array(torsions)
    there = in_basin(every)
    return Sampled(every, np.zeros(len(every)), lambda: free_energy_difference_of_chain(there))


def langevin(n_steps: int, reassign_velocities: bool = False) -> LangevinDynamicsMove:
    return LangevinDynamicsMove(
        timestep=2.0 * unit.femtosecond,
        collision_rate=1.0 / unit.picosecond,
        n_steps=n_steps,
        reassign_velocities=reassign_velocities,
    )
