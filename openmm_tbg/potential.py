"""Reduced potentials of whole batches through one OpenMM Context."""

from __future__ import annotations

import hashlib
import threading
import warnings

import numpy as np
import openmm
from openmm import unit
from openmmtools.states import ThermodynamicState

from .arrays import Frame, Positions, Scalars


def require_supported(system: openmm.System, n_atoms: int) -> None:
    """Refuse a System in which a Cartesian density of all atoms has no meaning.

    Args:
        system: The System whose energy is the target, as `context.getSystem()` returns it.
        n_atoms: Number of atoms that the generator draws.

    Raises:
        ValueError: The System holds another number of particles, constraints, virtual sites,
            massless (frozen) particles, a periodic box or a barostat.

    Example:
        >>> require_supported(openmm.System(), 22)
        Traceback (most recent call last):
            ...
        ValueError: the System has 0 particles, the generator 22 atoms: build both from one topology
    """
    particles = range(system.getNumParticles())
    if len(particles) != n_atoms:
        raise ValueError(
            f"the System has {len(particles)} particles, the generator {n_atoms} atoms: "
            "build both from one topology"
        )
    if system.getNumConstraints() > 0:
        raise ValueError(
            f"the System has {system.getNumConstraints()} constraints, on which a Cartesian "
            "density has no meaning: create it with constraints=None and rigidWater=False"
        )
    if any(system.isVirtualSite(particle) for particle in particles):
        raise ValueError("the System has virtual sites: use a force field without them")
    if any(system.getParticleMass(particle)._value == 0 for particle in particles):
        raise ValueError("the System has particles of mass zero: give each a mass, none is fixed")
    if any("Barostat" in type(force).__name__ for force in system.getForces()):
        raise ValueError("the System has a barostat: leave the pressure of the state at None")
    if system.usesPeriodicBoundaryConditions():
        raise ValueError("the System is periodic: create it with nonbondedMethod=NoCutoff")


def energy_platform(system: openmm.System) -> tuple[openmm.Platform, dict[str, str]]:
    """The platform, with its properties, that is fastest for energies of small molecules on a core.

    It is the CPU platform on one thread for a CustomGBForce, which Reference is slow at, and else
    Reference.
    """
    has_custom_gb = any(isinstance(force, openmm.CustomGBForce) for force in system.getForces())
    name, properties = ("CPU", {"Threads": "1"}) if has_custom_gb else ("Reference", {})
    return openmm.Platform.getPlatformByName(name), properties


class ReducedPotential:
    """Reduced potentials u(x) in kT, the negative log of the target density up to a constant.

    Whatever forces the System holds are the target, through `ThermodynamicState.reduced_potential`.
    A Context that fails is said in a warning, and the others of a batch are evaluated all the same.

    Args:
        thermodynamic_state: Temperature and System of the target.
        context: A Context in that state; its positions are overwritten. Threads take turns.

    Raises:
        ValueError: The temperature carries no unit.

    Example:
        >>> from openmmtools.testsystems import HarmonicOscillator
        >>> state = ThermodynamicState(HarmonicOscillator().system, temperature=300 * unit.kelvin)
        >>> context = state.create_context(openmm.VerletIntegrator(0.001))
        >>> ReducedPotential(state, context)(np.array([[[0.0, 0.0, 0.0]], [[np.nan, 0.0, 0.0]]]))
        array([ 0., nan])
    """

    @classmethod
    def from_state(cls, thermodynamic_state: ThermodynamicState) -> ReducedPotential:
        """The same in a Context of its own, on the platform of `energy_platform`.

        Args:
            thermodynamic_state: Temperature and System of the target.
        """
        integrator = openmm.VerletIntegrator(0.001)
        platform = energy_platform(thermodynamic_state.system)
        return cls(thermodynamic_state, thermodynamic_state.create_context(integrator, *platform))

    def __init__(self, thermodynamic_state: ThermodynamicState, context: openmm.Context) -> None:
        if not unit.is_quantity(thermodynamic_state.temperature):
            raise ValueError(
                "the temperature of thermodynamic_state has no unit: "
                f"set it to {thermodynamic_state.temperature} * unit.kelvin"
            )
        self._thermodynamic_state = thermodynamic_state
        self._context = context
        self._turn = threading.Lock()

    @property
    def system(self) -> openmm.System:
        """The System of the target."""
        return self._context.getSystem()

    @property
    def temperature_K(self) -> float:  # noqa: N802
        """Temperature of the target in K."""
        return float(self._thermodynamic_state.temperature.value_in_unit(unit.kelvin))

    @property
    def sha256(self) -> str:
        """Digest of the System and the temperature."""
        system = openmm.XmlSerializer.serialize(self.system)
        return hashlib.sha256(f"{self.temperature_K!r} {system}".encode()).hexdigest()

    def __call__(self, positions_nm: Positions) -> Scalars:
        """Reduced potential of each configuration; NaN where OpenMM cannot evaluate it.

        Args:
            positions_nm: Configurations in nm.
        """
        with self._turn:
            found = [self._of_one(positions) for positions in positions_nm]
        return np.array(found, dtype=np.float64)

    def forces(self, positions_nm: Positions) -> Positions:
        r"""The reduced force $-\nabla u$ in kT/nm on each atom; NaN in it where u is NaN.

        Args:
            positions_nm: Configurations in nm.
        """
        with self._turn:
            return np.stack([self._forces_of_one(positions) for positions in positions_nm])

    def _forces_of_one(self, positions_nm: Frame) -> Frame:
        per_nm = self._thermodynamic_state.kT / unit.nanometer
        try:
            self._context.setPositions(positions_nm)
            forces = self._context.getState(forces=True).getForces(asNumpy=True)
        except openmm.OpenMMException as error:
            _tell(error, positions_nm)
            return np.full(positions_nm.shape, np.nan)
        reduced: Frame = np.array(forces / per_nm, dtype=np.float64)
        return reduced

    def _of_one(self, positions_nm: Frame) -> float:
        # The CPU platform raises on coordinates that are NaN, others return NaN.
        try:
            self._context.setPositions(positions_nm)
            return float(self._thermodynamic_state.reduced_potential(self._context))
        except openmm.OpenMMException as error:
            _tell(error, positions_nm)
            return np.nan


def _tell(error: openmm.OpenMMException, positions_nm: Frame) -> None:
    """Warn of a Context that fails; coordinates that are not finite are at fault themselves."""
    if np.isfinite(positions_nm).all():
        warnings.warn(
            f"OpenMM could not evaluate a configuration, whose energy counts as NaN: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
