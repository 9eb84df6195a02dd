"""Filters on dipeptides that hold all 20 amino acids: frames of dynamics pass, faults do not.

`benchmarks/dipeptide_filters.py` does the same for all 400.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import openmm
import pytest
from openmm import app, unit
from rdkit import Chem

from openmm_tbg.arrays import Cause, Frame, Positions
from openmm_tbg.encoding import AtomEncoding, encode_backbone, encode_elements, encode_full
from openmm_tbg.filters import TopologyFilter
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled
from openmm_tbg.torsions import with_dihedral

Encode = Callable[[Molecule], AtomEncoding]

SEQUENCES = ["GG", "AG", "CC", "GP", "PI", "TI", "IT", "RV", "LD", "FY", "WH", "MN", "QE", "KS"]
N_FRAMES = 20

each_sequence = pytest.mark.parametrize("sequence", SEQUENCES)
each_encoding = pytest.mark.parametrize("encode", [encode_full, encode_backbone, encode_elements])


@cache
def simulated(sequence: str) -> tuple[Molecule, Positions]:
    """Frames 0.1 ps apart at 310 K in vacuum, 2 fs with heavy hydrogens."""
    topology, positions_nm = assembled(sequence)
    system = app.ForceField("amber14-all.xml").createSystem(topology, hydrogenMass=4 * unit.amu)
    integrator = openmm.LangevinMiddleIntegrator(310.0, 1.0, 0.002)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(310.0, 2)
    integrator.step(500)
    frames: Positions = np.empty((N_FRAMES, *positions_nm.shape))
    for frame in frames:
        integrator.step(50)
        frame[:] = context.getState(positions=True).getPositions(asNumpy=True)._value
    return Molecule.from_topology(topology, positions_nm), frames


def filter_of(molecule: Molecule, encode: Encode, sees_hand: bool = False) -> TopologyFilter:
    return TopologyFilter(molecule, encode(molecule).labels, sees_hand)


def cause_of(topology_filter: TopologyFilter, frame: Frame) -> Cause:
    return Cause(topology_filter.screen(frame[None]).cause[0])


def atoms_called(molecule: Molecule, residue: int, *names: str) -> list[int]:
    keys = list(zip(molecule.residue_indices, molecule.names, strict=True))
    return [keys.index((residue, name)) for name in names]


def residue_of(molecule: Molecule, residue: int) -> list[int]:
    return [atom for atom in range(molecule.n_atoms) if molecule.residue_indices[atom] == residue]


def shuffled_orders(labels: tuple[int, ...], n: int) -> np.ndarray:
    """Orders of atoms that keep each label where it is."""
    rng, orders = np.random.default_rng(0), np.tile(np.arange(len(labels)), (n, 1))
    for label in set(labels):
        alike = np.flatnonzero(np.array(labels) == label)
        orders[:, alike] = rng.permuted(orders[:, alike], axis=1)
    return orders


def reflected(frame: Frame, plane: list[int], moving: list[int]) -> Frame:
    """Some atoms through the plane of three, which do not move."""
    origin, first, second = frame[plane]
    normal = np.cross(first - origin, second - origin)
    normal /= np.linalg.norm(normal)
    changed = frame.copy()
    changed[moving] -= 2 * ((frame[moving] - origin) @ normal)[:, None] * normal
    return changed


@each_sequence
def test_the_stereocentres_are_those_that_rdkit_finds(sequence: str) -> None:
    mol = Chem.MolFromSequence(sequence)
    expected = Chem.FindMolChiralCenters(mol, useLegacyImplementation=False)
    assert len(simulated(sequence)[0].stereocentres) == len(expected)


@each_encoding
@each_sequence
def test_frames_of_dynamics_pass_as_they_are_and_shuffled(sequence: str, encode: Encode) -> None:
    molecule, frames = simulated(sequence)
    topology_filter = filter_of(molecule, encode)
    screened = topology_filter.screen(frames)
    assert screened.passes.all()
    assert np.array_equal(screened.positions_nm, frames)
    orders = shuffled_orders(encode(molecule).labels, N_FRAMES)
    back = topology_filter.screen(np.take_along_axis(frames, orders[:, :, None], axis=1))
    assert back.passes.all()
    lengths = [[np.linalg.norm(x[i] - x[j]) for i, j in molecule.bonds] for x in back.positions_nm]
    assert np.max(lengths) < 0.21  # nm: sulphur and carbon
    for found, original in zip(back.positions_nm, frames, strict=True):
        assert {tuple(atom) for atom in found} == {tuple(atom) for atom in original}


@pytest.mark.parametrize("encode", [encode_backbone, encode_elements])
def test_no_order_of_many_branches_is_given_up(encode: Encode) -> None:
    molecule = Molecule.from_topology(*assembled("IL"))
    orders = shuffled_orders(encode(molecule).labels, 500)
    assert filter_of(molecule, encode).screen(assembled("IL")[1][orders]).passes.all()


@each_sequence
def test_a_mirrored_residue_fails_unless_it_holds_all_stereocentres(sequence: str) -> None:
    molecule, _ = simulated(sequence)
    (carbon, nitrogen) = (*atoms_called(molecule, 0, "C"), *atoms_called(molecule, 1, "N"))
    for residue in (0, 1):
        alpha = atoms_called(molecule, residue, "CA")
        moving = residue_of(molecule, residue)
        frame = reflected(assembled(sequence)[1], [carbon, nitrogen, *alpha], moving)
        inverted = [c.centre in moving for c in molecule.stereocentres]
        fails = Cause.CHIRALITY if any(inverted) and not all(inverted) else Cause.NONE
        assert cause_of(filter_of(molecule, encode_elements), frame) == fails
        seen = Cause.CHIRALITY if any(inverted) else Cause.NONE
        assert cause_of(filter_of(molecule, encode_elements, sees_hand=True), frame) == seen


@pytest.mark.parametrize(
    ("sequence", "residue", "branches"),
    [
        ("IT", 0, "HB CG1 HG12 HG13 CG2 HG21 HG22 HG23 CD1 HD11 HD12 HD13"),
        ("TI", 0, "HB OG1 HG1 CG2 HG21 HG22 HG23"),
        ("TI", 1, "HB CG1 HG12 HG13 CG2 HG21 HG22 HG23 CD1 HD11 HD12 HD13"),
        ("IT", 1, "HB OG1 HG1 CG2 HG21 HG22 HG23"),
    ],
)
def test_an_inverted_side_chain_fails(sequence: str, residue: int, branches: str) -> None:
    molecule, frames = simulated(sequence)
    plane = atoms_called(molecule, residue, "CA", "CB", "CG2")
    frame = reflected(frames[0], plane, atoms_called(molecule, residue, *branches.split()))
    assert cause_of(filter_of(molecule, encode_full), frame) == Cause.CHIRALITY


@each_sequence
def test_hydrogens_swapped_between_atoms_fail_or_are_put_back(sequence: str) -> None:
    molecule, frames = simulated(sequence)
    alpha = "HA2" if sequence[1] == "G" else "HA"
    pair = atoms_called(molecule, 0, "H2") + atoms_called(molecule, 1, alpha)
    swapped = frames[0].copy()
    swapped[pair] = frames[0][pair[::-1]]
    assert cause_of(filter_of(molecule, encode_full), swapped) == Cause.BOND_GRAPH
    assert cause_of(filter_of(molecule, encode_elements), swapped) == Cause.NONE


@each_encoding
@each_sequence
def test_broken_and_extra_bonds_fail(sequence: str, encode: Encode) -> None:
    molecule, frames = simulated(sequence)
    frame, topology_filter = frames[0], filter_of(molecule, encode)
    (nitrogen, hydrogen) = atoms_called(molecule, 0, "N", "H2")
    (oxygen,) = atoms_called(molecule, 1, "OXT")
    torn, touching = frame.copy(), frame.copy()
    torn[hydrogen] += frame[hydrogen] - frame[nitrogen]
    touching[hydrogen] = frame[oxygen] + 0.1 * np.array([0.0, 0.0, 1.0])
    assert cause_of(topology_filter, torn) == Cause.BOND_GRAPH
    assert cause_of(topology_filter, touching) == Cause.BOND_GRAPH


def test_a_disulphide_is_an_extra_bond() -> None:
    molecule, frames = simulated("CC")
    first, second = (atoms_called(molecule, residue, "SG") for residue in (0, 1))
    frame = frames[0].copy()
    frame[residue_of(molecule, 1)] += frame[first] + [0.0, 0.0, 0.205] - frame[second]
    assert cause_of(filter_of(molecule, encode_elements), frame) == Cause.BOND_GRAPH


@pytest.mark.parametrize("sequence", ["GG", "AG", "GP", "LD"])
def test_a_cis_peptide_passes(sequence: str) -> None:
    """It is the same molecule by bonds and hand; its energy says how likely it is."""
    molecule, _ = simulated(sequence)
    omega = atoms_called(molecule, 0, "CA", "C") + atoms_called(molecule, 1, "N", "CA")
    moving = residue_of(molecule, 1)
    cis = with_dihedral(assembled(sequence)[1], tuple(omega), moving, 0.0)
    assert cause_of(filter_of(molecule, encode_full), cis) == Cause.NONE
