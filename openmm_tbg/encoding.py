"""Which atoms a field can tell apart: one integer label for each atom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from .molecule import Molecule

HYDROGEN, CARBON, NITROGEN = 1, 6, 7
BACKBONE_NAMES = ("N", "CA", "C", "O")


@dataclass(frozen=True)
class AtomEncoding:
    """A label from 0 to `n_labels` - 1 for each atom of a molecule.

    A density that knows atoms by their labels only is invariant under permutations of atoms with
    equal label.

    Args:
        labels: of each atom.
        n_labels: number of possible labels.
        blocks: where a label stands for several properties at once, how many values each has; the
            last varies fastest (C order), and their product is `n_labels`.

    Raises:
        ValueError: for a label out of range, or blocks of another product.
    """

    labels: tuple[int, ...]
    n_labels: int
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= label < self.n_labels for label in self.labels):
            raise ValueError(f"labels: {self.labels} leave the range 0 to {self.n_labels - 1}")
        if self.blocks and math.prod(self.blocks) != self.n_labels:
            raise ValueError(f"blocks: the product of {self.blocks} is not {self.n_labels}")

    def one_hot(self) -> Float64[np.ndarray, "atoms columns"]:
        """Row $i$ is the unit vector of the label of atom $i$, or one of each block side by side.

        Example:
            >>> AtomEncoding((0, 5), 6, (2, 3)).one_hot()
            array([[1., 0., 1., 0., 0.],
                   [0., 1., 0., 0., 1.]])
        """
        blocks = self.blocks or (self.n_labels,)
        values = np.unravel_index(list(self.labels), blocks)
        rows = [np.eye(size)[value] for size, value in zip(blocks, values, strict=True)]
        return np.concatenate(rows, axis=1)


def encode_full(molecule: Molecule) -> AtomEncoding:
    """A label of its own for each atom, except that the hydrogens of CH3, NH3 and NH2 share one.

    Those of CH2 keep their own: beside a stereocentre they are different atoms (diastereotopic).
    After the encoding "full" of Klein & Noé 2024 (arXiv:2406.14426).

    Example:
        >>> bonds = ((0, 1), (0, 2), (0, 3))
        >>> names = ("N", "H1", "H2", "H3")
        >>> encode_full(Molecule((7, 1, 1, 1), names, ("NH3",) * 4, (0,) * 4, bonds, ()))
        AtomEncoding(labels=(0, 1, 1, 1), n_labels=2, blocks=())
    """
    representatives = list(range(molecule.n_atoms))
    for atom, number in enumerate(molecule.atomic_numbers):
        hydrogens = [
            neighbour
            for neighbour in molecule.neighbours(atom)
            if molecule.atomic_numbers[neighbour] == HYDROGEN
        ]
        if len(hydrogens) >= 3 or (len(hydrogens) == 2 and number == NITROGEN):
            for hydrogen in hydrogens:
                representatives[hydrogen] = hydrogens[0]
    return _numbered(representatives)


def encode_elements(molecule: Molecule) -> AtomEncoding:
    """One label for each element of the molecule, lightest first.

    Example:
        >>> bonds = ((0, 1), (0, 2))
        >>> names = ("O", "H1", "H2")
        >>> encode_elements(Molecule((8, 1, 1), names, ("HOH",) * 3, (0,) * 3, bonds, ()))
        AtomEncoding(labels=(1, 0, 0), n_labels=2, blocks=())
    """
    return _numbered(molecule.atomic_numbers)


def encode_backbone(molecule: Molecule) -> AtomEncoding:
    """A label for each element, and one of its own for each backbone atom (N, CA, C, O).

    Backbone labels come last, in the order of the atoms. After the encoding "backbone" of Klein &
    Noé 2024 (arXiv:2406.14426); 9 labels for alanine dipeptide.

    Example:
        >>> bonds = ((0, 1), (0, 2), (2, 3))
        >>> names = ("CA", "HA", "CB", "HB")
        >>> encode_backbone(Molecule((6, 1, 6, 1), names, ("ALA",) * 4, (0,) * 4, bonds, ()))
        AtomEncoding(labels=(2, 0, 1, 0), n_labels=3, blocks=())
    """
    keys = [
        (True, atom) if _is_backbone(molecule, atom) else (False, number)
        for atom, number in enumerate(molecule.atomic_numbers)
    ]
    return _numbered(keys)


def _is_backbone(molecule: Molecule, atom: int) -> bool:
    """By name; the methyl carbon of NME, which is called C as well, is none."""
    numbers = molecule.atomic_numbers
    hydrogens = sum(numbers[other] == HYDROGEN for other in molecule.neighbours(atom))
    is_methyl = numbers[atom] == CARBON and hydrogens >= 3
    return molecule.names[atom] in BACKBONE_NAMES and not is_methyl


def _numbered(keys: Sequence[Any]) -> AtomEncoding:
    label = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return AtomEncoding(tuple(label[key] for key in keys), len(label))
