"""The hands of a molecule: which atoms have one, and which hand a configuration has there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Frame, Mask, Positions, Scalars

if TYPE_CHECKING:
    from rdkit import Chem

Bonds = tuple[tuple[int, int], ...]

SMALLEST_VOLUME_NM3 = 1e-4  # a tetrahedral carbon spans twenty times as much


@dataclass(frozen=True)
class Stereocentre:
    r"""An atom whose four neighbours all differ, so that it has a hand.

    The hand is the sign of the volume that three of the neighbours span from the centre,

    $$ V = \det(x_a - x_c,\; x_b - x_c,\; x_d - x_c) . $$

    Attributes:
        centre: index $c$.
        neighbours: indices $a, b, d$ by falling canonical rank, so that a symmetry of the molecule
            that maps one centre onto another maps their volumes, too.
        sign: of $V$ in the reference, +1 or -1.
    """

    centre: int
    neighbours: tuple[int, int, int]
    sign: int

    def inverted(self, positions_nm: Positions) -> Mask:
        """Whether the centre has the other hand than in the reference, for each frame (nm)."""
        return self.sign * _signed_volumes(positions_nm, self.centre, self.neighbours) <= 0


def neighbours_of(bonds: Bonds, atom: int) -> tuple[int, ...]:
    """The atoms bonded to one, rising."""
    return tuple(sorted(i + j - atom for i, j in bonds if atom in (i, j)))


def stereocentres_of(
    atomic_numbers: Sequence[int], bonds: Bonds, reference_positions_nm: Frame
) -> tuple[Stereocentre, ...]:
    """The stereocentres of a molecule with their hands in a structure, by rising index.

    Raises:
        ValueError: the structure is flat at one of them.
    """
    ranks = canonical_ranks(atomic_numbers, bonds)
    found = []
    for centre in range(len(atomic_numbers)):
        neighbours = sorted(neighbours_of(bonds, centre), key=ranks.__getitem__, reverse=True)
        if len(neighbours) != 4 or len({ranks[atom] for atom in neighbours}) < 4:
            continue
        spanning = neighbours[0], neighbours[1], neighbours[2]
        volume = _signed_volumes(reference_positions_nm[None], centre, spanning)[0]
        if abs(volume) < SMALLEST_VOLUME_NM3:
            raise ValueError(
                f"reference_positions_nm: flat at stereocentre {centre} (V = {volume:.1e} nm^3); "
                "give a three-dimensional structure, in nm"
            )
        found.append(Stereocentre(centre, spanning, 1 if volume > 0 else -1))
    return tuple(found)


def skeleton(atomic_numbers: Sequence[int], bonds: Bonds) -> Chem.RWMol:
    """Elements and bonds for RDKit, each bond as a single one."""
    from rdkit import Chem

    mol = Chem.RWMol()
    for number in atomic_numbers:
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol


def canonical_ranks(atomic_numbers: Sequence[int], bonds: Bonds) -> tuple[int, ...]:
    """A number that goes with each atom, equal where RDKit cannot tell two apart."""
    from rdkit import Chem

    mol = skeleton(atomic_numbers, bonds)
    mol.UpdatePropertyCache(strict=False)
    return tuple(Chem.CanonicalRankAtoms(mol, breakTies=False))


def _signed_volumes(
    positions_nm: Positions, centre: int, neighbours: tuple[int, int, int]
) -> Scalars:
    arms = positions_nm[:, neighbours] - positions_nm[:, [centre]]
    volumes: Scalars = np.linalg.det(arms)
    return volumes
