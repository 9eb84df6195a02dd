"""Recognises an uncapped dipeptide in any order of atoms, and brings it into the library's."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import rustworkx as rx
from openmm.app import Topology
from rdkit import Chem

from .arrays import Frame
from .molecule import Molecule
from .peptides import AMINO_ACIDS, assembled, warn_of_first_proline

HYDROGEN, NITROGEN = 1, 7
REPROTONATE = (
    "the protonation has to be that of pH 7: NH3+, COO-, ASP- and GLU-, LYS+ and ARG+, HIS with a "
    "hydrogen on NE2 only. Delete all hydrogens and add them with Modeller.addHydrogens of OpenMM, "
    "with 'HIE' in its argument variants for each histidine and None for other residues"
)
FAULTS_SHOWN = 3

Graph = rx.PyGraph[Hashable, None]


@dataclass(frozen=True)
class DipeptideMatch:
    """What a molecule is, and where its atoms stand in the order of `dipeptide`.

    Attributes:
        sequence: one-letter codes, from the N to the C terminus.
        order: `order[k]` is the given atom that `dipeptide` has in place $k$, so that
            `positions_nm[list(order)]` is in the library's order.
    """

    sequence: str
    order: tuple[int, ...]


def match_dipeptide(topology: Topology, positions_nm: Frame) -> DipeptideMatch:
    """Recognise an uncapped dipeptide by its elements and bonds, whatever its atoms are called.

    Atoms that the bonds cannot tell apart but the structure can, such as the methyl groups of
    valine, the hydrogens of CH2 and the NH2 groups of arginine, are matched by where they lie.
    Those that rotations exchange (CH3, NH3+, COO-, phenyl), and the hydrogens of NH2, are matched
    in any order.

    Args:
        topology: one molecule, all atoms and bonds present.
        positions_nm: (atoms, 3) in nm, a structure of it, which shows its hand.

    Raises:
        ValueError: for missing hydrogens or bonds, another molecule, another protonation, or a
            stereocentre that is not that of the L-amino acid.

    Warns:
        UserWarning: where proline comes first, which no published training set contains.

    Example:
        >>> from openmm_tbg.peptides import dipeptide
        >>> reference = dipeptide("AG")
        >>> match = match_dipeptide(reference.topology, reference.positions_nm)
        >>> match.sequence, match.order[4:8]
        ('AG', (4, 5, 6, 7))
    """
    molecule = Molecule.from_topology(topology, positions_nm)
    sequence = _sequence_of(molecule)
    reference_topology, reference_nm = assembled(sequence)
    reference = Molecule.from_topology(reference_topology, reference_nm)
    _require_protonation(reference, molecule)
    order = _isomorphism(
        _graph(_marked_atoms(reference, reference_nm), reference.bonds),
        _graph(_marked_atoms(molecule, positions_nm), molecule.bonds),
    )
    assert order is not None, "equal bonds and hydrogens, and each mark beside its opposite"
    reference.require_hand(positions_nm[list(order)])
    warn_of_first_proline(sequence)
    return DipeptideMatch(sequence, order)


def _sequence_of(molecule: Molecule) -> str:
    if HYDROGEN not in molecule.atomic_numbers:
        raise ValueError(f"topology: no hydrogens; {REPROTONATE}")
    heavy = _heavy_graph(molecule)
    for sequence, graph in _heavy_graphs().items():
        if rx.is_isomorphic(graph, heavy, node_matcher=operator.eq, id_order=False):
            return sequence
    residues = dict(zip(molecule.residue_indices, molecule.residue_names, strict=True))
    raise ValueError(
        f"topology: the heavy atoms of {'-'.join(residues.values())} and their bonds are those of "
        "no uncapped dipeptide; give two of the 20 amino acids with OXT at the end and without "
        "caps, disulphide or ring closure, or train a model of this molecule"
    )


@cache
def _heavy_graphs() -> dict[str, Graph]:
    graphs = {}
    for first, second in itertools.product(AMINO_ACIDS, repeat=2):
        mol = Chem.MolFromSequence(first + second)
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
        graphs[first + second] = _graph([atom.GetAtomicNum() for atom in mol.GetAtoms()], bonds)
    return graphs


def _require_protonation(reference: Molecule, molecule: Molecule) -> None:
    mine, theirs = _hydrogens(reference), _hydrogens(molecule)
    if _isomorphism(_heavy_graph(reference, mine), _heavy_graph(molecule, theirs)):
        return
    mapping = _isomorphism(_heavy_graph(reference), _heavy_graph(molecule))
    assert mapping is not None, "the heavy atoms gave the sequence"
    pairs = zip(_heavy_atoms(reference), (_heavy_atoms(molecule)[k] for k in mapping), strict=True)
    faults = [
        f"{molecule.names[b]} of {molecule.residue_names[b]} has {theirs[b]} where {mine[a]} belong"
        for a, b in pairs
        if mine[a] != theirs[b]
    ]
    raise ValueError(
        f"topology: hydrogens differ ({'; '.join(faults[:FAULTS_SHOWN])}); {REPROTONATE}"
    )


def _marked_atoms(molecule: Molecule, positions_nm: Frame) -> list[Hashable]:
    """Element of each atom; of two neighbours alike by bonds also the side on which they lie.

    Sides are those of an axis that the rest of the neighbours spans, so that reordering atoms or
    turning the molecule leaves the marks as they are.
    """
    ranks = molecule.canonical_ranks()
    marks = [0] * molecule.n_atoms
    for centre in range(molecule.n_atoms):
        around = sorted(molecule.neighbours(centre), key=ranks.__getitem__, reverse=True)
        twins = [
            pair for pair in itertools.combinations(around, 2) if len({ranks[a] for a in pair}) == 1
        ]
        if len(twins) != 1:
            continue
        rest = [atom for atom in around if atom not in twins[0]]
        if len(around) == 4:
            arms = positions_nm[rest] - positions_nm[centre]
            axis = np.cross(arms[0], arms[1])
        elif {molecule.atomic_numbers[atom] for atom in around} == {NITROGEN}:
            beyond = [atom for atom in molecule.neighbours(rest[0]) if atom != centre]
            axis = positions_nm[max(beyond, key=ranks.__getitem__)] - positions_nm[rest[0]]
        else:
            continue
        below, above = sorted(twins[0], key=lambda atom: float(positions_nm[atom] @ axis))
        marks[below], marks[above] = -1, 1
    return list(zip(molecule.atomic_numbers, marks, strict=True))


def _heavy_atoms(molecule: Molecule) -> list[int]:
    return [atom for atom, number in enumerate(molecule.atomic_numbers) if number != HYDROGEN]


def _hydrogens(molecule: Molecule) -> list[int]:
    """How many hydrogens each atom has."""
    numbers = molecule.atomic_numbers
    return [
        sum(numbers[other] == HYDROGEN for other in molecule.neighbours(atom))
        for atom in range(molecule.n_atoms)
    ]


def _heavy_graph(molecule: Molecule, marks: Sequence[int] | None = None) -> Graph:
    """Atoms other than hydrogen, by element, and by a mark where there are marks."""
    atoms = _heavy_atoms(molecule)
    place = {atom: k for k, atom in enumerate(atoms)}
    bonds = [(place[i], place[j]) for i, j in molecule.bonds if i in place and j in place]
    numbers = molecule.atomic_numbers
    return _graph([(numbers[a], marks[a]) if marks else numbers[a] for a in atoms], bonds)


def _graph(nodes: Sequence[Hashable], bonds: Iterable[tuple[int, int]]) -> Graph:
    graph: Graph = rx.PyGraph()
    graph.add_nodes_from(list(nodes))
    graph.extend_from_edge_list(list(bonds))
    return graph


def _isomorphism(first: Graph, second: Graph) -> tuple[int, ...] | None:
    """The node of the second graph for each node of the first."""
    mappings = rx.graph_vf2_mapping(first, second, node_matcher=operator.eq, id_order=False)
    mapping = next(iter(mappings), None)
    return None if mapping is None else tuple(mapping[node] for node in range(len(first)))
