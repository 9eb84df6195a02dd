"""How molecules move: the settings of Langevin dynamics, and the masses of hydrogens."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import openmm
from jaxtyping import Float
from openmm import app, unit

HYDROGEN = app.element.hydrogen


@dataclass(frozen=True)
class Dynamics:
    """Langevin-middle dynamics (Zhang et al. 2019, doi:10.1021/acs.jpca.9b02771).

    Args:
        interval_ps: time between stored frames.
        timestep_fs: 2 fs is stable without constraints where hydrogens weigh 4 amu.
        friction_per_ps: friction coefficient.
        hydrogen_mass_amu: mass of a hydrogen atom, taken from the atom that it is bound to.
        equilibration_ps: time of each walker before its first frame.

    Raises:
        ValueError: for an interval that is no multiple of the timestep, or times out of range.
    """

    interval_ps: float
    timestep_fs: float = 2.0
    friction_per_ps: float = 1.0
    hydrogen_mass_amu: float = 4.0
    equilibration_ps: float = 100.0

    def __post_init__(self) -> None:
        if min(self.timestep_fs, self.friction_per_ps, self.hydrogen_mass_amu) <= 0:
            raise ValueError(f"{self}: timestep, friction and hydrogen mass must be above 0")
        if self.equilibration_ps < 0:
            raise ValueError(f"equilibration_ps is {self.equilibration_ps}: it cannot be negative")
        steps = 1000 * self.interval_ps / self.timestep_fs
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"interval_ps={self.interval_ps} is not a whole number of steps of "
                f"{self.timestep_fs} fs: take a multiple of {self.timestep_fs / 1000} ps"
            )

    @property
    def steps_per_frame(self) -> int:
        """Steps of the integrator between stored frames."""
        return round(1000 * self.interval_ps / self.timestep_fs)

    @property
    def equilibration_steps(self) -> int:
        """Steps of the integrator before the first frame."""
        return round(1000 * self.equilibration_ps / self.timestep_fs)

    def integrator(self, temperature_K: float, seed: int) -> openmm.Integrator:
        """A new integrator; its random numbers begin at `seed`, within [1, 2^31)."""
        integrator = openmm.LangevinMiddleIntegrator(
            temperature_K, self.friction_per_ps, self.timestep_fs / 1000
        )
        integrator.setRandomNumberSeed(seed)
        return integrator


def repartition_hydrogen_mass(
    system: openmm.System, topology: app.Topology, hydrogen_mass_amu: float
) -> openmm.System:
    """A copy of `system` with hydrogens of a given mass, taken from the atoms they are bound to.

    The total mass and every configurational average stay what they are.

    Raises:
        ValueError: if a bond partner would have no mass left.
    """
    copied = copy.deepcopy(system)
    masses = masses_amu(copied)
    for first, second in topology.bonds():
        for heavy, light in ((first, second), (second, first)):
            if light.element is HYDROGEN and heavy.element is not HYDROGEN:
                masses[heavy.index] -= hydrogen_mass_amu - masses[light.index]
                masses[light.index] = hydrogen_mass_amu
    if masses.min() <= 0:
        atom = list(topology.atoms())[int(masses.argmin())]
        raise ValueError(
            f"hydrogen_mass_amu={hydrogen_mass_amu} leaves {masses.min():.2f} amu for {atom}: "
            "take lighter hydrogens"
        )
    for particle, mass in enumerate(masses):
        copied.setParticleMass(particle, mass)
    return copied


def masses_amu(system: openmm.System) -> Float[np.ndarray, " atoms"]:
    """Mass of every particle in amu."""
    masses = [system.getParticleMass(k) for k in range(system.getNumParticles())]
    return np.array([mass.value_in_unit(unit.dalton) for mass in masses])
