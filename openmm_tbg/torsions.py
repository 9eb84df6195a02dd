"""Dihedral angles: measured in arrays of frames, and set in one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import rustworkx as rx
from jaxtyping import Float

from .arrays import Frame, Mask, Positions

Dihedral = tuple[int, int, int, int]


@dataclass(frozen=True)
class TorsionRange:
    """Configurations whose dihedral lies within a range, such as a basin of phi.

    Args:
        atoms: The four atoms of the dihedral.
        low: Where the range begins, in radians.
        high: Where it ends, going upwards from `low` by less than a whole turn.

    Raises:
        ValueError: The range is empty, or a whole turn or more.

    Example:
        >>> beyond = TorsionRange((0, 1, 2, 3), 2.0, 2 * math.pi)  # 2 to pi, and -pi to 0
        >>> quarter_turn = np.array([[[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]]])
        >>> beyond.holds(quarter_turn), beyond.others.holds(quarter_turn)
        (array([False]), array([ True]))
    """

    atoms: Dihedral
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.high - self.low < 2 * math.pi:
            raise ValueError(
                f"the range from {self.low} to {self.high} is empty or a whole turn: give radians, "
                "with high above low by less than 2 pi"
            )

    @property
    def others(self) -> TorsionRange:
        """The rest of the turn."""
        return TorsionRange(self.atoms, self.high, self.low + 2 * math.pi)

    def holds(self, positions_nm: Positions) -> Mask:
        """Which frames lie within the range; each lies within it or within `others`."""
        above = (dihedral(positions_nm, self.atoms) - self.low) % (2 * math.pi)
        inside: Mask = above < self.high - self.low
        return inside


def dihedral(
    positions_nm: Float[np.ndarray, "*frames atoms 3"], atoms: Dihedral
) -> Float[np.ndarray, "*frames"]:
    r"""Dihedral angle of four atoms in every frame, in radians within $(-\pi, \pi]$.

    Zero is cis; looking from the second atom to the third, the angle grows as the fourth turns
    clockwise (IUPAC).

    Example:
        >>> quarter_turn = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
        >>> float(np.degrees(dihedral(quarter_turn, (0, 1, 2, 3))))
        90.0
    """
    first, second, third, fourth = (positions_nm[..., atom, :] for atom in atoms)
    axis = third - second
    before = np.cross(axis, first - second)
    after = np.cross(axis, fourth - third)
    sine = np.sum(np.cross(before, after) * axis, axis=-1) / np.linalg.norm(axis, axis=-1)
    return np.asarray(np.arctan2(sine, np.sum(before * after, axis=-1)))


def can_turn(atoms: Dihedral, bonds: Iterable[tuple[int, int]]) -> bool:
    """Whether the middle bond of a dihedral lies in no ring, as that of phi does in proline.

    Args:
        atoms: The four atoms of the dihedral.
        bonds: Of the molecule.

    Example:
        >>> chain = [(0, 1), (1, 2), (2, 3)]
        >>> can_turn((0, 1, 2, 3), chain), can_turn((0, 1, 2, 3), [*chain, (3, 1)])
        (True, False)
    """
    graph: rx.PyGraph[None, None] = rx.PyGraph()
    graph.extend_from_edge_list(list(bonds))
    return bool({atoms[1:3], atoms[2:0:-1]} & rx.bridges(graph))


def with_dihedral(frame: Frame, atoms: Dihedral, moving: Iterable[int], angle: float) -> Frame:
    """The frame with one dihedral set, by a rotation of some atoms about its axis.

    Args:
        frame: positions in nm.
        atoms: the four atoms of the dihedral.
        moving: the atoms on the fourth atom's side of the axis, and this one.
        angle: the new dihedral, in radians.

    Example:
        >>> quarter_turn = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
        >>> print(with_dihedral(quarter_turn, (0, 1, 2, 3), [3], 0.0)[3].round(9) + 0.0)
        [1. 0. 1.]
    """
    _, second, third, _ = frame[list(atoms)]
    x, y, z = (third - second) / np.linalg.norm(third - second)
    generator = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = angle - dihedral(frame, atoms)
    rotation = np.eye(3) + np.sin(turn) * generator + (1 - np.cos(turn)) * generator @ generator
    rows = list(moving)
    turned = frame.copy()
    turned[rows] = (frame[rows] - third) @ rotation.T + third
    return turned
