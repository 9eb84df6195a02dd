"""Molecule: what it reads from a topology, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from openmm.app import Element, Topology
from rdkit import Chem
from structures import Alanine, Structure, structure_from_smiles, structure_of

from openmm_tbg.molecule import Molecule
from openmm_tbg.stereochemistry import Stereocentre

THREONINE = "CC(=O)N[C@@H]([C@@H](C)O)C(=O)NC"


def topology_of(
    symbols: list[str | None], bonds: list[tuple[int, int]], names: list[str] | None = None
) -> Topology:
    topology = Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [
        topology.addAtom(name, symbol and Element.getBySymbol(symbol), residue)
        for name, symbol in zip(names or [str(s) for s in symbols], symbols, strict=True)
    ]
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j])
    return topology


def renumbered(structure: Structure, order: list[int]) -> Structure:
    """The same structure with atom `order[k]` in place `k`."""
    place = {atom: k for k, atom in enumerate(order)}
    atoms = list(structure.topology.atoms())
    topology = topology_of(
        [atoms[atom].element.symbol for atom in order],
        [(place[i.index], place[j.index]) for i, j in structure.topology.bonds()],
    )
    return Structure(topology, structure.positions_nm[order])


def test_alanine_dipeptide_is_read_as_it_is(alanine: Alanine) -> None:
    molecule = alanine.molecule
    assert molecule.n_atoms == 22
    assert len(molecule.bonds) == 21
    assert molecule.bonds == tuple(sorted(molecule.bonds))
    assert all(i < j for i, j in molecule.bonds)
    assert molecule.names[8:11] == ("CA", "HA", "CB")
    assert molecule.residue_names[4:8] == ("ACE", "ACE", "ALA", "ALA")
    assert molecule.residue_indices[4:8] == (0, 0, 1, 1)
    assert molecule.neighbours(8) == (6, 9, 10, 14)
    assert [molecule.names[c.centre] for c in molecule.stereocentres] == ["CA"]


@pytest.mark.parametrize("letter", "ACDEFGHIKLMNPQRSTVWY")
def test_stereocentres_are_those_that_rdkit_finds_with_bond_orders(letter: str) -> None:
    mol = Chem.MolFromSequence(letter)
    found = Chem.FindMolChiralCenters(mol, includeUnassigned=True, useLegacyImplementation=False)
    centres = [c.centre for c in structure_of(mol).molecule.stereocentres]
    assert centres == sorted(index for index, _ in found)


def test_the_mirror_image_has_the_opposite_signs() -> None:
    threonine = structure_from_smiles(THREONINE)
    mirrored = Structure(threonine.topology, -threonine.positions_nm)
    signs = [c.sign for c in threonine.molecule.stereocentres]
    assert len(signs) == 2
    assert [c.sign for c in mirrored.molecule.stereocentres] == [-sign for sign in signs]


def test_the_sign_is_that_of_the_volume_spanned_by_the_neighbours(alanine: Alanine) -> None:
    (alpha,) = alanine.molecule.stereocentres
    a, b, d = alanine.positions_nm[list(alpha.neighbours)] - alanine.positions_nm[alpha.centre]
    assert np.sign(np.dot(np.cross(a, b), d)) == alpha.sign


@pytest.mark.parametrize("seed", range(5))
def test_stereocentres_do_not_depend_on_the_order_of_atoms(seed: int) -> None:
    threonine = structure_from_smiles(THREONINE)
    n_atoms = threonine.molecule.n_atoms
    order = np.random.default_rng(seed).permutation(n_atoms).tolist()
    expected = {
        Stereocentre(
            order.index(c.centre), tuple(order.index(atom) for atom in c.neighbours), c.sign
        )
        for c in threonine.molecule.stereocentres
    }
    assert set(renumbered(threonine, order).molecule.stereocentres) == expected


def test_topological_distances_are_shortest_paths(alanine: Alanine) -> None:
    distances = alanine.molecule.topological_distances()
    graph = nx.Graph(alanine.molecule.bonds)
    for atom, lengths in nx.all_pairs_shortest_path_length(graph):
        assert {other: distances[atom, other] for other in range(22)} == lengths


def test_json_brings_the_molecule_back() -> None:
    molecule = structure_from_smiles(THREONINE).molecule
    assert Molecule.from_dict(json.loads(json.dumps(molecule.to_dict()))) == molecule


@pytest.mark.parametrize(
    ("symbols", "bonds", "message"),
    [
        (["O", "H", "H"], [], r"topology: no bonds.*createStandardBonds"),
        (
            ["O", "H", "H", None],
            [(0, 1), (0, 2)],
            r"atom 3 \(None\) is a virtual site; use",
        ),
        (["O", "H", "H"], [(0, 1)], r"2 fragments .*\(atom 2 is not in the first\).*all its bonds"),
    ],
)
def test_unfit_topologies_are_refused(
    symbols: list[str | None], bonds: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Molecule.from_topology(topology_of(symbols, bonds), np.eye(len(symbols), 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:-1], r"shape \(21, 3\) where \(22, 3\) is needed"),
        (lambda x: np.where(x == x[4, 1], np.nan, x), "reference_positions_nm: not finite"),
        (lambda x: x * [1, 1, 0], r"flat at stereocentre 8 .*three-dimensional"),
    ],
)
def test_unfit_references_are_refused(
    alanine: Alanine, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Molecule.from_topology(alanine.topology, change(alanine.positions_nm))


WATER = Molecule((8, 1, 1), ("O", "H1", "H2"), ("HOH",) * 3, (0,) * 3, ((0, 1), (0, 2)), ())


def test_a_topology_may_have_other_names_and_another_order_of_bonds() -> None:
    WATER.require_same(topology_of(["O", "H", "H"], [(2, 0), (1, 0)], ["OW", "HW1", "HW2"]))


@pytest.mark.parametrize(
    ("symbols", "bonds", "message"),
    [
        (["O"], [], "no hydrogens where the molecule has 2; add them with Modeller.addHydrogens"),
        (["O", "H"], [(0, 1)], "2 atoms where the molecule has 3; reorder the atoms, or choose"),
        (["H", "O", "H"], [(0, 1), (1, 2)], r"atom 0 \(H\) is H where the molecule has O \(O\)"),
        (["O", "H", None], [(0, 1)], r"atom 2 \(None\) is a virtual site where the molecule has H"),
        (["O", "H", "H"], [(0, 1)], r"atoms 0 \(O\) and 2 \(H2\) is missing; reorder"),
        (
            ["O", "H", "H"],
            [(0, 1), (0, 2), (1, 2)],
            r"1 \(H1\) and 2 \(H2\) is not in the",
        ),
    ],
)
def test_another_topology_is_refused_by_its_first_difference(
    symbols: list[str | None], bonds: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WATER.require_same(topology_of(symbols, bonds))
