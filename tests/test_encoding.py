"""Encodings: which atoms share a label."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from rdkit import Chem
from structures import Alanine, structure_from_smiles, structure_of

from openmm_tbg.encoding import AtomEncoding, encode_backbone, encode_elements, encode_full
from openmm_tbg.fields.egnn import EGNN
from openmm_tbg.molecule import Molecule
from openmm_tbg.reference import alanine_dipeptide


def tied(encoding: AtomEncoding) -> set[tuple[int, ...]]:
    """Groups of two and more atoms with one label."""
    groups = [
        tuple(atom for atom, other in enumerate(encoding.labels) if other == label)
        for label in range(encoding.n_labels)
    ]
    return {group for group in groups if len(group) > 1}


def hydrogens_of(molecule: Molecule, atom: int) -> tuple[int, ...]:
    return tuple(h for h in molecule.neighbours(atom) if molecule.atomic_numbers[h] == 1)


def test_full_ties_the_methyl_hydrogens_of_alanine_dipeptide(alanine: Alanine) -> None:
    encoding = encode_full(alanine.molecule)
    assert encoding.n_labels == 16
    assert tied(encoding) == {(0, 2, 3), (11, 12, 13), (19, 20, 21)}


@pytest.mark.parametrize(
    ("smiles", "groups"),
    [
        pytest.param("C[NH3+]", [0, 1], id="ammonium"),
        pytest.param("NC(=O)C=O", [0], id="amide"),
        pytest.param("NC(=[NH2+])NC=O", [0, 2], id="guanidinium"),
        pytest.param("OCC=O", [], id="methylene"),
        pytest.param("O=CN1CCC1", [], id="ring"),
        pytest.param("[NH4+]", [0], id="four hydrogens"),
    ],
)
def test_full_ties_hydrogens_on_one_atom_only_where_they_exchange(
    smiles: str, groups: list[int]
) -> None:
    molecule = structure_from_smiles(smiles).molecule
    assert tied(encode_full(molecule)) == {hydrogens_of(molecule, atom) for atom in groups}


@pytest.mark.parametrize("letter", "ACDEFGHIKLMNQRSTVWY")  # proline has none
def test_full_ties_only_atoms_whose_exchange_leaves_the_bonds_as_they_are(letter: str) -> None:
    molecule = structure_of(Chem.MolFromSequence(letter)).molecule
    groups = tied(encode_full(molecule))
    assert groups
    for i, j in (pair for group in groups for pair in combinations(group, 2)):
        swap = {i: j, j: i}
        swapped = {tuple(sorted(swap.get(a, a) for a in bond)) for bond in molecule.bonds}
        assert swapped == set(molecule.bonds)


def test_elements_ties_all_atoms_of_an_element(alanine: Alanine) -> None:
    labels = encode_elements(alanine.molecule).labels
    element_of = (1, 6, 7, 8)
    assert tuple(element_of[label] for label in labels) == alanine.molecule.atomic_numbers


def test_one_hot_rows_are_unit_vectors_of_the_labels() -> None:
    assert np.array_equal(AtomEncoding((2, 0, 2), 3).one_hot(), [[0, 0, 1], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("labels", [(0, 3), (-1, 0)])
def test_labels_out_of_range_are_refused(labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels: .* leave the range 0 to 2"):
        AtomEncoding(labels, 3)


def test_the_backbone_of_alanine_dipeptide_has_the_published_nine_labels() -> None:
    """Hydrogen, carbon, and seven atoms of the backbone: the EGNN then has 147,599 parameters."""
    reference = alanine_dipeptide()
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    encoding = encode_backbone(molecule)
    egnn = EGNN(torch.from_numpy(encoding.one_hot()))
    assert encoding.n_labels == 9
    assert sum(weight.numel() for weight in egnn.parameters()) == 147_599
