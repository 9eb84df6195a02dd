"""The ensemble of a molecule without its charges: shape and flexibility for a second of a core."""

from __future__ import annotations

import copy

import numpy as np
import openmm
from openmm import unit
from openmm.app import Topology

from ..arrays import Frame, Positions
from .dynamics import Dynamics, repartition_hydrogen_mass

PLATFORM = "Reference"
DYNAMICS = Dynamics(interval_ps=0.05, equilibration_ps=10.0)


def without_charges(system: openmm.System) -> openmm.System:
    """A copy of `system` that keeps bonds, angles, torsions and Lennard-Jones, and nothing else.

    Raises:
        ValueError: if it holds no NonbondedForce.
    """
    copied = copy.deepcopy(system)
    valence = (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce)
    nonbonded = False
    for index in reversed(range(copied.getNumForces())):
        force = copied.getForce(index)
        if isinstance(force, openmm.NonbondedForce):
            nonbonded = True
            _discharge(force)
        elif not isinstance(force, valence):
            copied.removeForce(index)
    if not nonbonded:
        raise ValueError("system has no NonbondedForce: give one of an all-atom force field")
    return copied


def uncharged_frames(
    topology: Topology,
    system: openmm.System,
    start_nm: Frame,
    temperature_K: float,
    *,
    n_frames: int,
    seed: int,
) -> Positions:
    """Centred frames of the molecule without charges and solvent, 0.05 ps apart, from its minimum.

    Not the target, but near it in all that bonds, angles and room decide, and some fifty times as
    cheap: what a field has to know of a molecule that it has never seen.

    Args:
        topology: atoms and bonds.
        system: the force field; charges and solvent are left out.
        start_nm: where to begin; it is minimised first.
        temperature_K: temperature in K.
        n_frames: number of frames.
        seed: of velocities and noise, within [1, 2^31).

    Raises:
        ValueError: if the System cannot be discharged.
        RuntimeError: if the dynamics blow up.
    """
    light = without_charges(repartition_hydrogen_mass(system, topology, DYNAMICS.hydrogen_mass_amu))
    integrator = DYNAMICS.integrator(temperature_K, seed)
    platform = openmm.Platform.getPlatformByName(PLATFORM)
    context = openmm.Context(light, integrator, platform)
    context.setPositions(start_nm)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(temperature_K, seed)
    integrator.step(DYNAMICS.equilibration_steps)
    frames_nm = np.empty((n_frames, *start_nm.shape))
    for frame in frames_nm:
        integrator.step(DYNAMICS.steps_per_frame)
        frame[:] = context.getState(positions=True).getPositions(asNumpy=True)._value
    if not np.isfinite(frames_nm).all():
        raise RuntimeError("the molecule without charges blew up: minimise start_nm first")
    centred: Positions = frames_nm - frames_nm.mean(axis=1, keepdims=True)
    return centred


def _discharge(force: openmm.NonbondedForce) -> None:
    none = 0.0 * unit.elementary_charge
    for particle in range(force.getNumParticles()):
        _, sigma, epsilon = force.getParticleParameters(particle)
        force.setParticleParameters(particle, none, sigma, epsilon)
    for exception in range(force.getNumExceptions()):
        one, other, _, sigma, epsilon = force.getExceptionParameters(exception)
        force.setExceptionParameters(exception, one, other, none**2, sigma, epsilon)
