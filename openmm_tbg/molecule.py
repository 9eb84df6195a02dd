"""The molecule a generator was trained on or is asked for: atoms, bonds and handedness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from scipy import sparse
from scipy.sparse import csgraph

from .arrays import Frame
from .stereochemistry import Bonds, Stereocentre, canonical_ranks, neighbours_of, stereocentres_of

if TYPE_CHECKING:
    from openmm.app import Topology


@dataclass(frozen=True)
class Molecule:
    """One molecule without coordinates, except for the hand of its stereocentres.

    Attributes:
        atomic_numbers: of each atom.
        names: of each atom, as in the topology.
        residue_names: of each atom's residue.
        residue_indices: of each atom's residue, counted from 0.
        bonds: pairs $i < j$, sorted.
        stereocentres: by rising index of the centre; empty for an achiral molecule.
    """

    atomic_numbers: tuple[int, ...]
    names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_indices: tuple[int, ...]
    bonds: Bonds
    stereocentres: tuple[Stereocentre, ...]

    @classmethod
    def from_topology(cls, topology: Topology, reference_positions_nm: Frame) -> Molecule:
        """Read the molecule from an OpenMM topology, and its hand from a structure of it.

        A stereocentre is an atom with four neighbours of different canonical rank (RDKit). Bond
        orders are ignored, so that resonance forms do not matter. Chiral axes, double bonds and
        centres whose neighbours differ by nothing but their own hand are not looked for.

        Args:
            topology: one molecule, all atoms and bonds present.
            reference_positions_nm: (atoms, 3) in nm, of the wanted hand.

        Raises:
            ValueError: for virtual sites, missing bonds, more than one fragment, or a reference
                that has another number of atoms, is not finite, or is flat at a stereocentre.

        Example:
            >>> from openmm.app import Element, Topology
            >>> topology = Topology()
            >>> residue = topology.addResidue("CHX", topology.addChain())
            >>> carbon, *ligands = [
            ...     topology.addAtom(symbol, Element.getBySymbol(symbol), residue)
            ...     for symbol in ("C", "H", "F", "Cl", "Br")
            ... ]
            >>> for ligand in ligands:
            ...     topology.addBond(carbon, ligand)
            >>> corners = [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
            >>> molecule = Molecule.from_topology(topology, 0.1 * np.array(corners))
            >>> molecule.stereocentres
            (Stereocentre(centre=0, neighbours=(4, 3, 2), sign=1),)
        """
        atoms = list(topology.atoms())
        bonds = _bonds(topology)
        for atom in atoms:
            if atom.element is None:
                raise ValueError(
                    f"topology: atom {atom.index} ({atom.name}) is a virtual site; "
                    "use a model of the molecule without virtual sites"
                )
        _require_connected(len(atoms), bonds)
        _require_reference(len(atoms), reference_positions_nm)
        atomic_numbers = tuple(int(atom.element.atomic_number) for atom in atoms)
        return cls(
            atomic_numbers=atomic_numbers,
            names=tuple(atom.name for atom in atoms),
            residue_names=tuple(atom.residue.name for atom in atoms),
            residue_indices=tuple(atom.residue.index for atom in atoms),
            bonds=bonds,
            stereocentres=stereocentres_of(atomic_numbers, bonds, reference_positions_nm),
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def neighbours(self, atom: int) -> tuple[int, ...]:
        """Indices of the atoms bonded to `atom`, rising."""
        return neighbours_of(self.bonds, atom)

    def canonical_ranks(self) -> tuple[int, ...]:
        """A number that goes with each atom, equal where RDKit cannot tell two apart."""
        return canonical_ranks(self.atomic_numbers, self.bonds)

    def topological_distances(self) -> Int[np.ndarray, "atoms atoms"]:
        """Number of bonds on the shortest way between each two atoms."""
        graph = _graph(self.n_atoms, self.bonds)
        distances: Int[np.ndarray, "atoms atoms"] = csgraph.shortest_path(graph).astype(np.int64)
        return distances

    def require_hand(self, positions_nm: Frame) -> None:
        """Check that a structure has the molecule's hand at each stereocentre.

        Args:
            positions_nm: (atoms, 3) in nm, in the order of the molecule's atoms.

        Raises:
            ValueError: naming the centres that are inverted.
        """
        wrong = [
            f"{self.names[c.centre]} of {self.residue_names[c.centre]}"
            for c in self.stereocentres
            if c.inverted(positions_nm[None])[0]
        ]
        if wrong:
            raise ValueError(
                f"positions_nm: {' and '.join(wrong)} not of the hand of the molecule; dipeptides "
                "are known of L-amino acids only (check for a mirror image, or a D- or "
                "allo-residue)"
            )

    def require_same(self, other_topology: Topology) -> None:
        """Check that a topology has the same elements and bonds, in the same order of atoms.

        Names may differ: no density depends on them once the atoms are labelled.

        Raises:
            ValueError: naming the first atom or bond that differs.
        """
        from openmm.app import Element

        hydrogens = self.atomic_numbers.count(1)
        remedy = (
            "reorder the atoms, or choose a model of this molecule (match_dipeptide tells what "
            "belongs where in a dipeptide)"
        )
        atoms = list(other_topology.atoms())
        if hydrogens and not any(atom.element is Element.getBySymbol("H") for atom in atoms):
            raise ValueError(
                f"other_topology: no hydrogens where the molecule has {hydrogens}; add them with "
                "Modeller.addHydrogens of OpenMM"
            )
        if len(atoms) != self.n_atoms:
            raise ValueError(
                f"other_topology: {len(atoms)} atoms where the molecule has {self.n_atoms}; "
                f"{remedy}"
            )
        for index, (atom, number) in enumerate(zip(atoms, self.atomic_numbers, strict=True)):
            if atom.element is None or atom.element.atomic_number != number:
                found = "a virtual site" if atom.element is None else atom.element.symbol
                raise ValueError(
                    f"other_topology: atom {index} ({atom.name}) is {found} where the molecule has "
                    f"{Element.getByAtomicNumber(number).symbol} ({self.names[index]}); {remedy}"
                )
        bonds = _bonds(other_topology)
        for i, j in sorted(set(bonds) ^ set(self.bonds)):
            state = "missing" if (i, j) in self.bonds else "not in the molecule"
            raise ValueError(
                f"other_topology: the bond between atoms {i} ({self.names[i]}) and "
                f"{j} ({self.names[j]}) is {state}; {remedy}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Molecule:
        """The molecule that `to_dict` wrote, also after a way through JSON."""
        return cls(
            atomic_numbers=tuple(data["atomic_numbers"]),
            names=tuple(data["names"]),
            residue_names=tuple(data["residue_names"]),
            residue_indices=tuple(data["residue_indices"]),
            bonds=tuple((i, j) for i, j in data["bonds"]),
            stereocentres=tuple(
                Stereocentre(item["centre"], (a, b, d), item["sign"])
                for item in data["stereocentres"]
                for a, b, d in [item["neighbours"]]
            ),
        )


def _bonds(topology: Topology) -> Bonds:
    pairs = ((bond[0].index, bond[1].index) for bond in topology.bonds())
    return tuple(sorted({(min(pair), max(pair)) for pair in pairs}))


def _graph(n_atoms: int, bonds: Bonds) -> sparse.csr_array:
    """The adjacency matrix."""
    first, second = np.array(bonds).T
    ends = np.concatenate([first, second]), np.concatenate([second, first])
    return sparse.csr_array((np.ones(2 * len(bonds)), ends), shape=(n_atoms, n_atoms))


def _require_connected(n_atoms: int, bonds: Bonds) -> None:
    if not bonds:
        raise ValueError(
            "topology: no bonds; read it from a file that has them, or call "
            "topology.createStandardBonds()"
        )
    n_fragments, fragments = csgraph.connected_components(_graph(n_atoms, bonds))
    if n_fragments > 1:
        outside = int(np.flatnonzero(fragments != fragments[0])[0])
        raise ValueError(
            f"topology: {n_fragments} fragments with no bond between them (atom {outside} is "
            "not in the first); give one molecule, without solvent or ions, and all its bonds"
        )


def _require_reference(n_atoms: int, reference_positions_nm: Frame) -> None:
    if reference_positions_nm.shape != (n_atoms, 3):
        raise ValueError(
            f"reference_positions_nm: shape {reference_positions_nm.shape} where ({n_atoms}, 3) is "
            "needed; give one frame of all atoms"
        )
    if not np.isfinite(reference_positions_nm).all():
        raise ValueError("reference_positions_nm: not finite; give a sound structure, in nm")
