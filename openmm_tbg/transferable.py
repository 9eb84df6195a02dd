"""The published encodings of uncapped dipeptides: the same columns for every one of them.

Those of `encoding` number the atoms of one molecule; a network with these serves all 400.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .encoding import BACKBONE_NAMES, AtomEncoding
from .molecule import Molecule

ELEMENTS = (1, 6, 7, 8, 16)
RESIDUES = (  # noqa: SIM905
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
).split()
AROMATIC = {"HIS", "PHE", "TRP", "TYR"}
ATOM_TYPES = (  # noqa: SIM905
    "C CA CB CD CD1 CD2 CE CE1 CE2 CE3 CG CG1 CG2 CH2 CZ CZ2 CZ3 "
    "H HA HB HD HD1 HD2 HE HE1 HE2 HE3 HG HG1 HG2 HH HH1 HH2 HZ HZ2 HZ3 "
    "N ND1 ND2 NE NE1 NE2 NH1 NH2 NZ O OD OE OG OG1 OH OXT SD SG"
).split()
N_RESIDUES = 2


def encode_none(molecule: Molecule) -> AtomEncoding:
    """One label for each of the elements H, C, N, O and S: 5 columns.

    The encoding of "TBG" in Klein & Noé 2024 (arXiv:2406.14426).

    Raises:
        ValueError: for another element.

    Example:
        >>> bonds = ((0, 1), (0, 2))
        >>> names = ("O", "H1", "H2")
        >>> encode_none(Molecule((8, 1, 1), names, ("HOH",) * 3, (0,) * 3, bonds, ()))
        AtomEncoding(labels=(3, 0, 0), n_labels=5, blocks=())
    """
    return AtomEncoding(_element_labels(molecule), len(ELEMENTS))


def encode_backbone(molecule: Molecule) -> AtomEncoding:
    """A label for each element, and one for each of N, CA, C and O of both residues: 13 columns.

    The encoding of "TBG + backbone" in Klein & Noé 2024 (arXiv:2406.14426).

    Raises:
        ValueError: for another element, or more than two residues.

    Example:
        >>> from openmm_tbg.peptides import assembled
        >>> glycines = Molecule.from_topology(*assembled("GG"))
        >>> encode_backbone(glycines).labels
        (5, 0, 0, 0, 6, 0, 0, 7, 8, 9, 0, 10, 0, 0, 11, 12, 3)
    """
    _require_two_residues(molecule)
    labels = [
        len(ELEMENTS) + len(BACKBONE_NAMES) * residue + BACKBONE_NAMES.index(name)
        if name in BACKBONE_NAMES
        else element
        for element, residue, name in zip(
            _element_labels(molecule), molecule.residue_indices, molecule.names, strict=True
        )
    ]
    return AtomEncoding(tuple(labels), len(ELEMENTS) + N_RESIDUES * len(BACKBONE_NAMES))


def encode_full(molecule: Molecule) -> AtomEncoding:
    """Place and kind of the residue, and type of the atom in it: 2 + 20 + 54 = 76 columns.

    Types are names without the number of a hydrogen, except on rings, and of the oxygens OD and OE:
    the hydrogens of CH2, CH3, NH2 and NH3 share a label, and so do the two oxygens of ASP and of
    GLU. The encoding of "TBG + full" in Klein & Noé 2024 (arXiv:2406.14426).

    Args:
        molecule: with the names of `dipeptide`.

    Raises:
        ValueError: for a name that is none of these, or more than two residues.

    Example:
        >>> from openmm_tbg.peptides import assembled
        >>> full = encode_full(Molecule.from_topology(*assembled("KS")))
        >>> full.one_hot().shape, full.labels[1] == full.labels[2]
        ((36, 76), True)
    """
    _require_two_residues(molecule)
    blocks = (N_RESIDUES, len(RESIDUES), len(ATOM_TYPES))
    labels = []
    for place, residue, name in zip(
        molecule.residue_indices, molecule.residue_names, molecule.names, strict=True
    ):
        kind = _atom_type(residue, name)
        if residue not in RESIDUES or kind not in ATOM_TYPES:
            raise ValueError(
                f"molecule: no published type for {name} of {residue}; take names and order from "
                "dipeptide(sequence), and bring positions into this order by match_dipeptide"
            )
        values = place, RESIDUES.index(residue), ATOM_TYPES.index(kind)
        labels.append(int(np.ravel_multi_index(values, blocks)))
    return AtomEncoding(tuple(labels), math.prod(blocks), blocks)


ENCODINGS: Mapping[str, Callable[[Molecule], AtomEncoding]] = {
    "none": encode_none,
    "backbone": encode_backbone,
    "full": encode_full,
}


def _element_labels(molecule: Molecule) -> tuple[int, ...]:
    for number, name in zip(molecule.atomic_numbers, molecule.names, strict=True):
        if number not in ELEMENTS:
            raise ValueError(
                f"molecule: {name} has atomic number {number}, the encoding knows "
                f"{', '.join(map(str, ELEMENTS))}; train a model of this molecule"
            )
    return tuple(ELEMENTS.index(number) for number in molecule.atomic_numbers)


def _require_two_residues(molecule: Molecule) -> None:
    if set(molecule.residue_indices) != set(range(N_RESIDUES)):
        raise ValueError(
            f"molecule: {len(set(molecule.residue_indices))} residues where the encoding has "
            f"{N_RESIDUES}; give an uncapped dipeptide"
        )


def _atom_type(residue: str, name: str) -> str:
    on_ring = residue in AROMATIC and name[1:2] in ("D", "E", "Z", "H")
    numbered = name[0] == "H" and name[-1] in "123" and not on_ring
    return name[:-1] if numbered or name[:2] in ("OD", "OE") else name
