"""A wall is zero inside its range, whole outside, and holds dynamics there."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
from structures import Alanine
from toys import KT

from openmm_tbg.reference import ALANINE_PHI, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass, torsion_wall
from openmm_tbg.torsions import TorsionRange, dihedral, with_dihedral

BASIN = TorsionRange(ALANINE_PHI, 0.0, 2.0)
ACROSS_PI = TorsionRange(ALANINE_PHI, 2.5, 4.5)
EVERY = [BASIN, BASIN.others, ACROSS_PI, ACROSS_PI.others, TorsionRange(ALANINE_PHI, -3.0, 3.0)]
ANGLES = np.linspace(-math.pi + 0.01, math.pi - 0.01, 60)

each_range = pytest.mark.parametrize("inside", EVERY, ids=lambda each: f"{each.low}-{each.high}")


def turned(alanine: Alanine) -> np.ndarray:
    """One frame for each of ANGLES, which is its phi."""
    start = alanine.positions_nm
    return np.array([with_dihedral(start, ALANINE_PHI, range(9, 22), each) for each in ANGLES])


def distances(inside: TorsionRange) -> np.ndarray:
    """How far each of ANGLES is from the range, by walking: the shorter way to the nearer end."""
    ends = np.array([inside.low, inside.high])
    away = np.abs(np.exp(1j * ANGLES)[:, None] - np.exp(1j * ends)).min(axis=1)
    within = (ANGLES - inside.low) % (2 * math.pi) < inside.high - inside.low
    return np.where(within, 0.0, 2 * np.arcsin(away / 2))


@each_range
def test_its_energy_is_that_of_the_distance(inside: TorsionRange, alanine: Alanine) -> None:
    system = openmm.System()
    for _ in range(22):
        system.addParticle(12.0)
    system.addForce(torsion_wall(inside, stiffness_kJ_per_mol=300.0))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies = []
    for frame in turned(alanine):
        context.setPositions(frame)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    np.testing.assert_allclose(energies, 150.0 * distances(inside) ** 2, atol=1e-5)


@each_range
def test_each_frame_is_inside_or_outside(inside: TorsionRange, alanine: Alanine) -> None:
    frames = turned(alanine)
    np.testing.assert_array_equal(inside.holds(frames), distances(inside) == 0)
    np.testing.assert_array_equal(inside.others.holds(frames), ~inside.holds(frames))


@pytest.mark.parametrize("walled", [False, True])
def test_dynamics_stays_in_a_range_that_it_would_leave(alanine: Alanine, walled: bool) -> None:
    narrow = TorsionRange(ALANINE_PHI, 0.9, 1.1)
    molecule = alanine_dipeptide()
    system = repartition_hydrogen_mass(molecule.system, molecule.topology, 4.0)
    if walled:
        system.addForce(torsion_wall(narrow))
    integrator = Dynamics(interval_ps=1.0).integrator(300.0, 5)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(with_dihedral(alanine.positions_nm, ALANINE_PHI, range(9, 22), 1.0))
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
    integrator.step(500)
    found = []
    for _ in range(200):
        integrator.step(50)
        found.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    phi = dihedral(np.array(found), ALANINE_PHI)
    soft = math.sqrt(KT / 500.0)  # the width of the wall's edge at this temperature
    stays = phi.min() > narrow.low - 4 * soft and phi.max() < narrow.high + 4 * soft
    assert stays == walled


@pytest.mark.parametrize("high", [0.0, -1.0, 2 * math.pi, math.nan])
def test_ranges_that_hold_nothing_or_everything_are_refused(high: float) -> None:
    with pytest.raises(ValueError, match="is empty or a whole turn: give radians"):
        TorsionRange(ALANINE_PHI, 0.0, high)


def test_a_wall_without_stiffness_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stiffness_kJ_per_mol is 0\.0: give one above 0"):
        torsion_wall(BASIN, stiffness_kJ_per_mol=0.0)
