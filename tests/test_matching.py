"""Any topology of an uncapped dipeptide is brought into the library's order, or refused."""

from __future__ import annotations

import io
import itertools
import operator
from collections import defaultdict

import numpy as np
import pytest
import rustworkx as rx
from openmm import app, unit
from peptides import peptide
from structures import Alanine, Structure, structure_from_smiles

from openmm_tbg.matching import _heavy_graphs, match_dipeptide
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled

NH3, NH2 = ("H", "H2", "H3"), (("HH11", "HH12"), ("HH21", "HH22"))
# Atoms that rotations exchange, beside NH3+ and COO-; any order of them will do.
FREE = {
    "G": (),
    "V": (("HG11", "HG12", "HG13"), ("HG21", "HG22", "HG23")),
    "L": (("HD11", "HD12", "HD13"), ("HD21", "HD22", "HD23")),
    "I": (("HG21", "HG22", "HG23"), ("HD11", "HD12", "HD13")),
    "T": (("HG21", "HG22", "HG23"),),
    "R": NH2,
    "K": (("HZ1", "HZ2", "HZ3"),),
    "P": (),
    "F": (("CD1", "CD2"), ("CE1", "CE2"), ("HD1", "HD2"), ("HE1", "HE2")),
    "D": (("OD1", "OD2"),),
    "Q": (("HE21", "HE22"),),
    "H": (),
}


def structure_of(sequence: str) -> Structure:
    return Structure(*assembled(sequence))


def shuffled(structure: Structure, seed: int) -> tuple[Structure, list[int]]:
    """Atoms in another order, in one residue and without names; `order[k]` is now in place k."""
    atoms = list(structure.topology.atoms())
    order = np.random.default_rng(seed).permutation(len(atoms)).tolist()
    topology = app.Topology()
    residue = topology.addResidue("UNK", topology.addChain())
    moved = {atom: topology.addAtom("X", atoms[atom].element, residue) for atom in order}
    for i, j in structure.topology.bonds():
        topology.addBond(moved[i.index], moved[j.index])
    return Structure(topology, structure.positions_nm[order]), order


def free_groups(sequence: str) -> set[frozenset[tuple[int, str]]]:
    groups = [(0, NH3), (1, ("O", "OXT"))]
    groups += [(place, names) for place, letter in enumerate(sequence) for names in FREE[letter]]
    return {frozenset((place, name) for name in names) for place, names in groups}


@pytest.mark.parametrize("sequence", ["VR", "LP", "IT", "GK", "FD", "QH"])
def test_any_order_of_atoms_is_brought_into_the_librarys(sequence: str) -> None:
    reference = structure_of(sequence)
    names = [(atom.residue.index, atom.name) for atom in reference.topology.atoms()]
    home = {name: group for group in free_groups(sequence) for name in group}
    for seed in range(10):
        given, placed = shuffled(reference, seed)
        match = match_dipeptide(given.topology, given.positions_nm)
        assert match.sequence == sequence
        assert sorted(match.order) == list(range(len(names)))
        found = [names[placed[atom]] for atom in match.order]
        for name, other in zip(names, found, strict=True):
            assert other in home.get(name, {name})
        place = {atom: k for k, atom in enumerate(match.order)}
        bonds = {frozenset(place[atom.index] for atom in bond) for bond in given.topology.bonds()}
        assert bonds == {frozenset(bond) for bond in reference.molecule.bonds}


def test_no_two_of_the_400_share_their_heavy_atoms_and_bonds() -> None:
    alike = defaultdict(list)
    for graph in _heavy_graphs().values():
        alike[tuple(sorted(graph.nodes()))].append(graph)
    pairs = [pair for group in alike.values() for pair in itertools.combinations(group, 2)]
    assert sum(map(len, alike.values())) == 400
    assert len(pairs) > 500
    assert not any(rx.is_isomorphic(*pair, node_matcher=operator.eq) for pair in pairs)


def test_the_structure_may_be_turned_and_bent() -> None:
    reference = structure_of("VR")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    noise = np.random.default_rng(1).normal(scale=0.005, size=reference.positions_nm.shape)
    plain = match_dipeptide(reference.topology, reference.positions_nm)
    bent = match_dipeptide(reference.topology, (reference.positions_nm + noise) @ turn + 3.0)
    assert bent == plain


def test_a_pdb_file_with_other_names_is_recognised() -> None:
    reference = structure_of("SL")
    text = io.StringIO()
    app.PDBFile.writeFile(reference.topology, reference.positions_nm * unit.nanometer, text)
    other = text.getvalue().replace(" H   SER", " H1  SER").replace(" HB3 ", " HB1 ")
    assert other != text.getvalue()
    pdb = app.PDBFile(io.StringIO(other))
    positions_nm = np.array(pdb.positions.value_in_unit(unit.nanometer))
    match = match_dipeptide(pdb.topology, positions_nm)
    assert match.sequence == "SL"
    found = positions_nm[list(match.order)]
    fixed = [a.index for a in reference.topology.atoms() if a.name in ("CD1", "CD2", "HB2", "HB3")]
    np.testing.assert_allclose(found[fixed], reference.positions_nm[fixed], atol=2e-4)


def reprotonated(sequence: str, lost: str, gained: str) -> Structure:
    """Without the hydrogen called `lost`, and with one more on the atom called `gained`."""
    structure = without(structure_of(sequence), name=lost)
    heavy = next((a for a in structure.topology.atoms() if a.name == gained), None)
    if heavy is None:
        return structure
    hydrogen = structure.topology.addAtom("HX", app.element.hydrogen, heavy.residue)
    structure.topology.addBond(heavy, hydrogen)
    beside = structure.positions_nm[heavy.index] + [0.0, 0.0, 0.1]
    return Structure(structure.topology, np.vstack([structure.positions_nm, beside]))


@pytest.mark.parametrize(
    ("sequence", "lost", "gained", "fault"),
    [
        pytest.param("GD", "", "OD2", r"OD2 of ASP has 1 where 0 belong", id="ASH"),
        pytest.param("GE", "", "OE1", r"OE1 of GLU has 1 where 0 belong", id="GLH"),
        pytest.param("KG", "HZ1", "", r"NZ of LYS has 2 where 3 belong", id="LYN"),
        pytest.param(
            "AH", "HE2", "ND1", r"ND1 of HIS has 1 where 0 belong; NE2 of HIS has 0", id="HID"
        ),
        pytest.param("AH", "", "ND1", r"\(ND1 of HIS has 1 where 0 belong\)", id="HIP"),
        pytest.param("GA", "H2", "", r"\(N of GLY has 2 where 3 belong\)", id="NH2 terminus"),
    ],
)
def test_other_protonation_is_refused_by_its_atom(
    sequence: str, lost: str, gained: str, fault: str
) -> None:
    structure = reprotonated(sequence, lost, gained)
    with pytest.raises(ValueError, match=rf"{fault}.*pH 7.*addHydrogens"):
        match_dipeptide(structure.topology, structure.positions_nm)


def without(structure: Structure, symbol: str = "", name: str = "") -> Structure:
    modeller = app.Modeller(structure.topology, structure.positions_nm * unit.nanometer)
    modeller.delete(
        [a for a in structure.topology.atoms() if a.element.symbol == symbol or a.name == name]
    )
    return Structure(modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)))


def test_a_molecule_without_hydrogens_is_refused() -> None:
    bare = without(structure_of("GG"), "H")
    with pytest.raises(ValueError, match=r"no hydrogens; .*Modeller\.addHydrogens"):
        match_dipeptide(bare.topology, bare.positions_nm)


def disulphide() -> Structure:
    structure = without(structure_of("CC"), name="HG")
    first, second = (a for a in structure.topology.atoms() if a.name == "SG")
    structure.topology.addBond(first, second)
    return structure


@pytest.mark.parametrize(
    ("structure", "named"),
    [
        pytest.param(Alanine.build, "ACE-ALA-NME", id="capped"),
        pytest.param(lambda: peptide("AAA"), "ALA-ALA-ALA", id="longer"),
        pytest.param(disulphide, "CYS-CYS", id="disulphide"),
        pytest.param(lambda: structure_from_smiles("O=C1CNC(=O)CN1"), "MOL", id="cyclic"),
        pytest.param(
            lambda: structure_from_smiles("CCCC[C@H]([NH3+])C(=O)NCC(=O)[O-]"),
            "MOL",
            id="norleucine",
        ),
    ],
)
def test_other_molecules_are_refused(structure, named: str) -> None:
    given = structure()
    with pytest.raises(ValueError, match=f"of {named} and their bonds .* no uncapped dipeptide"):
        match_dipeptide(given.topology, given.positions_nm)


@pytest.mark.parametrize(
    ("smiles", "wrong"),
    [
        ("C[C@H]([NH3+])C(=O)N[C@@H](C)C(=O)[O-]", ""),
        ("C[C@@H]([NH3+])C(=O)N[C@@H](C)C(=O)[O-]", "CA of ALA not"),
        ("C[C@@H]([NH3+])C(=O)N[C@H](C)C(=O)[O-]", "CA of ALA and CA of ALA not"),
        ("CC[C@H](C)[C@H]([NH3+])C(=O)NCC(=O)[O-]", ""),
        ("CC[C@@H](C)[C@H]([NH3+])C(=O)NCC(=O)[O-]", "CB of ILE not"),
    ],
    ids=["LL", "DL", "DD", "isoleucine", "alloisoleucine"],
)
def test_other_hands_are_refused(smiles: str, wrong: str) -> None:
    structure = structure_from_smiles(smiles)
    if not wrong:
        assert match_dipeptide(structure.topology, structure.positions_nm).sequence in ("AA", "IG")
        return
    with pytest.raises(ValueError, match=rf"{wrong} of the hand .* L-amino acids only"):
        match_dipeptide(structure.topology, structure.positions_nm)


def test_a_warning_names_n_terminal_proline() -> None:
    structure = structure_of("PG")
    with pytest.warns(UserWarning, match="PG: N-terminal proline"):
        match_dipeptide(structure.topology, structure.positions_nm)


def test_canonical_ranks_go_with_their_atoms() -> None:
    reference = structure_of("VR")
    given, placed = shuffled(reference, 0)
    ranks = reference.molecule.canonical_ranks()
    moved = Molecule.from_topology(given.topology, given.positions_nm).canonical_ranks()
    assert [ranks[atom] for atom in placed] == list(moved)
