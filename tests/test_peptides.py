"""Dipeptides from their sequence: the stated system, hand, protonation, and the same each time."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from rdkit import Chem
from rdkit.Geometry import Point3D

from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import AMINO_ACIDS, assembled, dipeptide
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.torsions import dihedral

ROOT = Path(__file__).parents[1]
TRANS_DEGREES = 160.0
RDKIT_SWAPS = {"CG1": "CG2", "CG2": "CG1"}  # in isoleucine, whose methyl RDKit calls CG1

built = cache(dipeptide)


def atoms_by_name(reference: ReferenceSystem) -> list[dict[str, int]]:
    return [{a.name: a.index for a in r.atoms()} for r in reference.topology.residues()]


def test_is_the_reference_system() -> None:
    reference = built("KS")
    forces = {force.getName(): force for force in reference.system.getForces()}
    assert set(forces) == {
        "HarmonicBondForce",
        "PeriodicTorsionForce",
        "NonbondedForce",
        "HarmonicAngleForce",
        "CustomGBForce",
    }
    assert forces["NonbondedForce"].getNonbondedMethod() == openmm.NonbondedForce.NoCutoff
    assert reference.system.getNumConstraints() == 0
    assert reference.temperature_K == 310.0
    assert reference.force_field == ("amber14-all.xml", "implicit/obc1.xml")


@pytest.mark.parametrize(
    ("sequence", "n_atoms", "charge"),
    [("GG", 17, 0), ("KD", 37, 0), ("ER", 42, 0), ("RK", 49, 2), ("HC", 31, 0), ("DE", 30, -2)],
)
def test_protonation_is_that_of_ph_7(sequence: str, n_atoms: int, charge: int) -> None:
    system = built(sequence).system
    nonbonded = next(f for f in system.getForces() if f.getName() == "NonbondedForce")
    charges = [nonbonded.getParticleParameters(k)[0]._value for k in range(n_atoms)]
    assert system.getNumParticles() == n_atoms
    assert sum(charges) == pytest.approx(charge, abs=1e-6)


def test_histidine_has_its_hydrogen_on_ne2() -> None:
    histidine = atoms_by_name(built("HC"))[0]
    assert "HE2" in histidine
    assert "HD1" not in histidine


def test_starts_are_minima_on_both_sides_of_phi_and_trans() -> None:
    reference = built("KS")
    first, second = atoms_by_name(reference)
    phi = dihedral(reference.starts_nm, (first["C"], second["N"], second["CA"], second["C"]))
    omega = dihedral(reference.starts_nm, (first["CA"], first["C"], second["N"], second["CA"]))
    assert phi[0] < 0 < phi[1]
    assert np.degrees(np.abs(omega)).min() > TRANS_DEGREES
    np.testing.assert_allclose(reference.starts_nm.mean(axis=1), 0, atol=1e-12)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(reference.system, openmm.VerletIntegrator(0.001), platform)
    for start in reference.starts_nm:
        context.setPositions(start)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        assert np.sqrt(np.mean(forces**2)) < 10.0  # kJ/mol/nm, the minimiser's tolerance


def test_proline_has_one_start() -> None:
    assert built("GP").starts_nm.shape == (1, 24, 3)


@pytest.mark.parametrize("letter", AMINO_ACIDS)
def test_stereocentres_have_the_labels_of_l_amino_acids(letter: str) -> None:
    """CIP labels of the structure, by RDKit, against those of its own L-peptides."""
    topology, positions_nm = assembled(f"G{letter}")
    place = {(atom.residue.index, atom.name): atom.index for atom in topology.atoms()}
    mol = Chem.MolFromSequence(f"G{letter}")
    expected = Chem.FindMolChiralCenters(mol, useLegacyImplementation=False)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom in mol.GetAtoms():
        info = atom.GetPDBResidueInfo()
        name = info.GetName().strip()
        name = RDKIT_SWAPS.get(name, name) if letter == "I" else name
        row = positions_nm[place[info.GetResidueNumber() - 1, name]]
        conformer.SetAtomPosition(atom.GetIdx(), Point3D(*(10 * row).tolist()))
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    assert Chem.FindMolChiralCenters(mol, useLegacyImplementation=False) == expected
    molecule = Molecule.from_topology(topology, positions_nm)
    assert len(molecule.stereocentres) == len(expected)


def test_another_process_builds_the_same_and_the_global_generator_is_left_alone() -> None:
    """In a process of its own, because the type checker of the tests draws from it as well."""
    code = (
        "import random; from openmm_tbg.peptides import dipeptide; random.seed(99); "
        "before = random.getstate(); starts_nm = dipeptide('TI').starts_nm; "
        "print(random.getstate() == before, starts_nm.tobytes().hex())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    reference = built("TI")
    assert answer.stdout.split() == ["True", reference.starts_nm.tobytes().hex()]
    assert np.array_equal(dipeptide("TI").starts_nm, reference.starts_nm)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ks", "'ks' has lower-case letters; write 'KS'"),
        ("ax", "'x' in 'ax' is none of the 20 amino acids"),
        ("AX", "'X' in 'AX' is none of the 20 amino acids; use one-letter codes out of ACDE"),
        ("AAA", "'AAA' has 3 amino acids where 2 are needed"),
        ("", "'' has 0 amino acids where 2 are needed"),
    ],
)
def test_other_sequences_are_refused(sequence: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dipeptide(sequence)


def test_a_warning_names_n_terminal_proline_and_no_other() -> None:
    with pytest.warns(UserWarning, match="PG: N-terminal proline is in no training set"):
        dipeptide("PG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dipeptide("GP")
