"""Dihedral angles by name or by their atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from openmm.app import Topology

    from ..torsions import Dihedral


def read_angle(option: str, angle: str, topology: Topology) -> Dihedral:
    """The atoms of phi or psi of the first residue that has it, or those that are listed.

    Raises:
        UsageError: There is no such angle.
    """
    import mdtraj

    n_atoms = topology.getNumAtoms()
    if angle in ("phi", "psi"):
        frame = mdtraj.Trajectory([[[0.0] * 3] * n_atoms], mdtraj.Topology.from_openmm(topology))
        compute = mdtraj.compute_phi if angle == "phi" else mdtraj.compute_psi
        indices, _ = compute(frame)
        if not len(indices):
            raise click.UsageError(f"{option} {angle}: no residue has one; give four atoms")
        atoms = tuple(int(atom) for atom in indices[0])
    else:
        parts = angle.split(",")
        if not all(part.isdigit() for part in parts):
            raise click.UsageError(f"{option} {angle!r}: give phi, psi or atoms such as 4,6,8,14")
        atoms = tuple(int(part) for part in parts)
    if len(set(atoms)) != 4 or len(atoms) != 4 or max(atoms) >= n_atoms:
        raise click.UsageError(
            f"{option} {angle}: give four different atoms from 0 to {n_atoms - 1}"
        )
    first, second, third, fourth = atoms
    return first, second, third, fourth


def ramachandran(topology: Topology) -> tuple[Dihedral, Dihedral] | None:
    """Phi and psi of the first residues that have them; None where there are none."""
    try:
        return read_angle("--phi", "phi", topology), read_angle("--psi", "psi", topology)
    except click.UsageError:
        return None
