"""Alanine dipeptide is the system of the published figures; it starts from both basins."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools.testsystems import AlanineDipeptideVacuum

from openmm_tbg.reference import ALANINE_PHI, ReferenceSystem, alanine_dipeptide
from openmm_tbg.torsions import dihedral

CA_AND_NEIGHBOURS = (8, 6, 14, 10)


@pytest.fixture(scope="module")
def alanine() -> ReferenceSystem:
    return alanine_dipeptide()


def handedness(frame: np.ndarray) -> float:
    centre, *neighbours = frame[list(CA_AND_NEIGHBOURS)]
    return float(np.sign(np.linalg.det(np.array(neighbours) - centre)))


def test_is_the_published_system(alanine: ReferenceSystem) -> None:
    forces = {force.getName(): force for force in alanine.system.getForces()}
    assert set(forces) == {
        "HarmonicBondForce",
        "HarmonicAngleForce",
        "PeriodicTorsionForce",
        "NonbondedForce",
        "GBSAOBCForce",
    }
    assert forces["NonbondedForce"].getNonbondedMethod() == openmm.NonbondedForce.NoCutoff
    assert alanine.system.getNumConstraints() == 0
    assert alanine.temperature_K == 300.0
    expected = [atom.name for atom in AlanineDipeptideVacuum().topology.atoms()]
    assert [atom.name for atom in alanine.topology.atoms()] == expected


def test_starts_lie_in_both_basins_of_the_same_hand(alanine: ReferenceSystem) -> None:
    phi_degrees = np.degrees(dihedral(alanine.starts_nm, ALANINE_PHI))
    assert -100 < phi_degrees[0] < -50
    assert 40 < phi_degrees[1] < 80
    template = AlanineDipeptideVacuum().positions.value_in_unit(unit.nanometer)
    assert {handedness(start) for start in alanine.starts_nm} == {handedness(template)}
    np.testing.assert_allclose(alanine.starts_nm.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(alanine.positions_nm, alanine.starts_nm[0])


def test_starts_are_minima(alanine: ReferenceSystem) -> None:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(alanine.system, openmm.VerletIntegrator(0.001), platform)
    for start in alanine.starts_nm:
        context.setPositions(start)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        assert np.sqrt(np.mean(forces**2)) < 10.0  # kJ/mol/nm, the minimiser's tolerance
