"""The molecule without charges: what is left of its forces, and how it moves."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_tbg.arrays import Frame
from openmm_tbg.peptides import TEMPERATURE_K, assembled, dipeptide
from openmm_tbg.simulation.uncharged import uncharged_frames, without_charges
from openmm_tbg.torsions import dihedral

SEED = 5


def forces_of(system: openmm.System, frame: Frame) -> np.ndarray:
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frame)
    return np.array(context.getState(forces=True).getForces(asNumpy=True)._value)


@pytest.fixture(scope="module")
def alanines() -> tuple[app.Topology, Frame, openmm.System]:
    topology, frame = assembled("AA")
    force_field = app.ForceField("amber14-all.xml")
    return topology, frame, force_field.createSystem(topology, nonbondedMethod=app.NoCutoff)


def test_only_electrostatics_and_solvent_are_gone(
    alanines: tuple[app.Topology, Frame, openmm.System],
) -> None:
    """The rest is linear in the products of charges: twice all charges, four times the forces."""
    _, frame, system = alanines
    doubled = copy.deepcopy(system)
    (nonbonded,) = (f for f in doubled.getForces() if isinstance(f, openmm.NonbondedForce))
    for k in range(nonbonded.getNumParticles()):
        charge, sigma, epsilon = nonbonded.getParticleParameters(k)
        nonbonded.setParticleParameters(k, 2 * charge, sigma, epsilon)
    for k in range(nonbonded.getNumExceptions()):
        one, other, product, sigma, epsilon = nonbonded.getExceptionParameters(k)
        nonbonded.setExceptionParameters(k, one, other, 4 * product, sigma, epsilon)
    without = (4 * forces_of(system, frame) - forces_of(doubled, frame)) / 3
    left = forces_of(without_charges(system), frame)
    np.testing.assert_allclose(left, without, atol=1e-6 * np.abs(without).max())
    solvated = without_charges(dipeptide("AA").system)
    np.testing.assert_allclose(forces_of(solvated, frame), left, atol=1e-9 * np.abs(left).max())


def test_bonds_are_as_wide_as_their_force_constants_say(
    alanines: tuple[app.Topology, Frame, openmm.System],
) -> None:
    topology, frame, system = alanines
    frames = uncharged_frames(topology, system, frame, TEMPERATURE_K, n_frames=2000, seed=SEED)
    assert np.abs(frames.mean(axis=1)).max() < 1e-12
    (bonds,) = (f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    kT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE_K * unit.kelvin)._value / 1000
    ratios = []
    for k in range(bonds.getNumBonds()):
        one, other, _, stiffness = bonds.getBondParameters(k)
        lengths = np.linalg.norm(frames[:, one] - frames[:, other], axis=1)
        ratios.append(lengths.std() / np.sqrt(kT / stiffness._value))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    atoms = {(atom.residue.index, atom.name): atom.index for atom in topology.atoms()}
    omega = tuple(atoms[key] for key in ((0, "CA"), (0, "C"), (1, "N"), (1, "CA")))
    assert (np.abs(dihedral(frames, omega)) > np.pi / 2).all()  # trans stays trans


def test_the_same_seed_gives_the_same_frames(
    alanines: tuple[app.Topology, Frame, openmm.System],
) -> None:
    topology, frame, system = alanines
    first, second, other = (
        uncharged_frames(topology, system, frame, TEMPERATURE_K, n_frames=3, seed=seed)
        for seed in (SEED, SEED, SEED + 1)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-3


def test_a_system_without_nonbonded_forces_is_refused() -> None:
    with pytest.raises(ValueError, match="no NonbondedForce"):
        without_charges(openmm.System())
