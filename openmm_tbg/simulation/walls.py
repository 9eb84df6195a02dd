"""Walls that keep dynamics within a range of a dihedral, and leave it alone there."""

from __future__ import annotations

import math

import openmm

from ..torsions import TorsionRange

EXPRESSION = (
    "0.5 * stiffness * max(0, away - half)^2; away = min(turn, 2 * pi - turn); "
    f"turn = abs(theta - middle); pi = {math.pi!r}"
)


def torsion_wall(
    inside: TorsionRange, stiffness_kJ_per_mol: float = 500.0
) -> openmm.CustomTorsionForce:
    r"""A force that is zero within the range and pulls the dihedral back beyond its ends.

    $$ E = \frac{k}{2} \max(0, |\theta - m| - h)^2, $$ with m the middle of the range, h half its
    width, and the angle between them at most half a turn. Frames of the dynamics that lie inside
    follow the target restricted to the range, whatever k: leave out the others. So a basin can be
    sampled however soon a free trajectory would leave it.

    Args:
        inside: The range.
        stiffness_kJ_per_mol: k, in kJ/mol/rad^2.

    Raises:
        ValueError: The stiffness is not above zero.

    Example:
        >>> torsion_wall(TorsionRange((4, 6, 8, 14), 0.0, 2.0)).getNumTorsions()
        1
    """
    if not stiffness_kJ_per_mol > 0:
        raise ValueError(f"stiffness_kJ_per_mol is {stiffness_kJ_per_mol}: give one above 0")
    middle = math.remainder((inside.low + inside.high) / 2, 2 * math.pi)  # as theta, in [-pi, pi]
    force = openmm.CustomTorsionForce(EXPRESSION)
    force.setName("TorsionWall")
    force.addGlobalParameter("stiffness", stiffness_kJ_per_mol)
    force.addPerTorsionParameter("middle")
    force.addPerTorsionParameter("half")
    force.addTorsion(*inside.atoms, [middle, (inside.high - inside.low) / 2])
    return force
