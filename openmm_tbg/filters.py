"""Which configurations are the molecule: bonds as in its graph, stereocentres of its hand."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from .arrays import Cause, Causes, Mask, Positions
from .molecule import Molecule

if TYPE_CHECKING:
    import rustworkx as rx

# Two atoms are bonded up to this multiple of the sum of their covalent radii. The extremes seen in
# molecular dynamics: bonds 1.17 (80,000 frames of alanine dipeptide at 300 K), other pairs 1.34
# (imidazole ring, 10,000 frames of His-His at 310 K).
BOND_STRETCH = 1.25

# A wrong graph can take exponentially many calls. A right one takes some 100, if VF2 orders the
# atoms itself: in the order of their indices 1 % of the shuffled frames of Ile-Leu, labelled by
# element, took more than the limit.
VF2_CALL_LIMIT = 10_000

PAIRS_AT_ONCE = 2**16  # distances that fit into a processor's cache

# Elements 1 to 96, in angstrom: Cordero et al. 2008 (doi:10.1039/b801115j), as RDKit has them.
COVALENT_RADII = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05,
    1.02, 1.06, 2.03, 1.76, 1.70, 1.60, 1.52, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.20,
    1.19, 1.20, 1.20, 1.16, 2.20, 1.95, 1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44,
    1.42, 1.39, 1.39, 1.38, 1.39, 1.40, 2.44, 2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96,
    1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87, 1.75, 1.70, 1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32,
    1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.20, 2.15, 2.06, 2.00, 1.96, 1.90, 1.87, 1.80, 1.69,
)  # fmt: skip
NM_PER_ANGSTROM = 0.1


@dataclass(frozen=True)
class Screened:
    """Configurations after a filter, none dropped.

    Attributes:
        positions_nm: (batch, atoms, 3) in nm; where a row passes, of the molecule's bonds and hand.
        cause: why a row fails, `Cause.NONE` where it passes.
    """

    positions_nm: Positions
    cause: Causes

    @property
    def passes(self) -> Mask:
        """Where nothing speaks against a row."""
        passes: Mask = self.cause == Cause.NONE
        return passes


class BondGraph:
    r"""Recognises the molecule by its bonds, and brings its atoms into order.

    Atoms $i$ and $j$ are bonded where $|x_i - x_j| < 1.25\,(r_i + r_j)$, with the covalent radii of
    Cordero et al. 2008 (doi:10.1039/b801115j). A frame whose bonds are not those of the molecule is
    reordered by an isomorphism that keeps labels, and fails where there is none.

    A density that does not tell atoms of equal label apart gains a constant factor by this: the
    isomorphism is chosen from the bonds alone, so each frame in order is reached from equally many
    arrangements, $\prod_l n_l!\,/\,|A|$ with $n_l$ atoms of label $l$ and $A$ the symmetries of the
    labelled graph. With atoms that it does tell apart the factor would depend on the frame.

    Args:
        molecule: the bonds to look for.
        labels: of each atom; equal for atoms that the density cannot tell apart.

    Raises:
        ValueError: if there is not one label for each atom, or two elements share one.
    """

    def __init__(self, molecule: Molecule, labels: Sequence[int]) -> None:
        _require_labels(molecule, labels)
        self._labels = list(labels)
        self._first, self._second = np.triu_indices(molecule.n_atoms, k=1)
        self._pairs = list(zip(self._first.tolist(), self._second.tolist(), strict=True))
        bonds = set(molecule.bonds)
        self._expected = np.array([pair in bonds for pair in self._pairs])
        radii = NM_PER_ANGSTROM * np.array(
            [COVALENT_RADII[number - 1] for number in molecule.atomic_numbers]
        )
        self._squared_cutoffs = (BOND_STRETCH * (radii[self._first] + radii[self._second])) ** 2

    def screen(self, positions_nm: Positions) -> Screened:
        """Put the atoms of each finite frame in order; `Cause.BOND_GRAPH` where that fails."""
        n_pairs = len(positions_nm) * len(self._pairs)
        blocks = np.array_split(positions_nm, 1 + n_pairs // PAIRS_AT_ONCE)
        bonded = np.concatenate([self._bonded(block) for block in blocks])
        ordered = positions_nm.copy()
        cause = np.full(len(positions_nm), Cause.NONE, dtype=np.int8)
        for row in np.flatnonzero((bonded != self._expected).any(axis=1)):
            order = self._order(bonded[row])
            if order is None:
                cause[row] = Cause.BOND_GRAPH
            else:
                ordered[row] = positions_nm[row, order]
        return Screened(ordered, cause)

    def _bonded(self, positions_nm: Positions) -> Bool[np.ndarray, "batch pairs"]:
        squared_distances = np.zeros((len(positions_nm), len(self._pairs)))
        with np.errstate(over="ignore"):  # infinitely far apart is not bonded
            for component in np.moveaxis(positions_nm, 2, 0):
                squared_distances += (component[:, self._first] - component[:, self._second]) ** 2
        return np.less(squared_distances, self._squared_cutoffs)

    def _order(self, bonded: Bool[np.ndarray, " pairs"]) -> list[int] | None:
        """The atom of the frame that stands for each atom of the molecule."""
        if self._surroundings(bonded) != self._expected_surroundings:
            return None  # no isomorphism keeps the labels
        import rustworkx as rx

        mappings = rx.graph_vf2_mapping(
            self._graph,
            self._labelled_graph(bonded),
            node_matcher=operator.eq,
            id_order=False,
            call_limit=VF2_CALL_LIMIT,
        )
        mapping = next(iter(mappings), None)
        return None if mapping is None else [mapping[atom] for atom in range(len(self._labels))]

    def _surroundings(self, bonded: Bool[np.ndarray, " pairs"]) -> list[tuple[int, list[int]]]:
        """The label of each atom and those that it is bonded to, in an order of their own."""
        around: list[list[int]] = [[] for _ in self._labels]
        for pair in np.flatnonzero(bonded):
            i, j = self._pairs[pair]
            around[i].append(self._labels[j])
            around[j].append(self._labels[i])
        return sorted(zip(self._labels, map(sorted, around), strict=True))

    @cached_property
    def _expected_surroundings(self) -> list[tuple[int, list[int]]]:
        return self._surroundings(self._expected)

    @cached_property
    def _graph(self) -> rx.PyGraph[int | None, None]:
        return self._labelled_graph(self._expected)

    def _labelled_graph(self, bonded: Bool[np.ndarray, " pairs"]) -> rx.PyGraph[int | None, None]:
        import rustworkx as rx

        graph: rx.PyGraph[int | None, None] = rx.PyGraph()
        graph.add_nodes_from(self._labels)
        graph.extend_from_edge_list([self._pairs[pair] for pair in np.flatnonzero(bonded)])
        return graph


class Chirality:
    """Brings each frame to the molecule's hand, where that is a matter of a mirror.

    A frame with all stereocentres inverted is mirrored through the origin, $x$ becoming $-x$; one
    with some inverted is another diastereomer and fails. An achiral molecule passes as it is.

    Args:
        molecule: its stereocentres carry the hand.
        density_sees_hand: the density tells mirror images apart, so none may be mirrored: all
            frames with an inverted centre fail.
    """

    def __init__(self, molecule: Molecule, density_sees_hand: bool = False) -> None:
        self._stereocentres = molecule.stereocentres
        self._n_mirrored = 0 if density_sees_hand else len(molecule.stereocentres)

    def screen(self, positions_nm: Positions) -> Screened:
        """Mirror where all centres are inverted; `Cause.CHIRALITY` where only some are."""
        n_inverted = np.zeros(len(positions_nm), dtype=int)
        for stereocentre in self._stereocentres:
            n_inverted += stereocentre.inverted(positions_nm)
        some, all_ = n_inverted > 0, n_inverted == self._n_mirrored
        return Screened(
            np.where((some & all_)[:, None, None], -positions_nm, positions_nm),
            np.where(some & ~all_, Cause.CHIRALITY, Cause.NONE).astype(np.int8),
        )


class TopologyFilter:
    r"""Tells which configurations are the molecule, after undoing what its density does not see.

    Undone are permutations of atoms with equal label (`BondGraph`) and, for a molecule with
    stereocentres, the mirror image (`Chirality`). Folding the two mirror images of an achiral
    density $q(x) = q(-x)$ into one doubles it, so that `log_fold` $= \ln 2$ belongs to the log q of
    every frame that passes, of proposals and of current states, mirrored or not. A density that
    tells the two apart is left as it is. A cis peptide bond passes: bonds and hand are the same.

    Args:
        molecule: bonds and stereocentres that a configuration must have.
        labels: of each atom, as the density sees it (`AtomEncoding.labels`).
        density_sees_hand: whether the density tells mirror images apart.

    Raises:
        ValueError: if there is not one label for each atom, or two elements share one.

    Example:
        >>> water = Molecule(
        ...     (8, 1, 1), ("O", "H1", "H2"), ("HOH",) * 3, (0,) * 3, ((0, 1), (0, 2)), ()
        ... )
        >>> intact = np.array([[0.0, 0.0, 0.0], [0.096, 0.0, 0.0], [-0.024, 0.093, 0.0]])
        >>> dissociated = intact * [[1], [1], [3]]
        >>> screened = TopologyFilter(water, (0, 1, 1)).screen(np.stack([intact, dissociated]))
        >>> [Cause(cause).name for cause in screened.cause]
        ['NONE', 'BOND_GRAPH']
    """

    def __init__(
        self, molecule: Molecule, labels: Sequence[int], density_sees_hand: bool = False
    ) -> None:
        folds = molecule.stereocentres and not density_sees_hand
        self.log_fold = math.log(2) if folds else 0.0
        self._n_atoms = molecule.n_atoms
        self._bond_graph = BondGraph(molecule, labels)
        self._chirality = Chirality(molecule, density_sees_hand)

    def screen(self, positions_nm: Positions) -> Screened:
        """Screen a batch; a row that fails several filters carries the first cause.

        Args:
            positions_nm: (batch, atoms, 3) in nm. NaN and infinity make a row fail with
                `Cause.ENERGY_NOT_FINITE`.

        Raises:
            ValueError: for another number of atoms than the molecule's.
        """
        if positions_nm.shape[1:] != (self._n_atoms, 3):
            raise ValueError(
                f"positions_nm: shape {positions_nm.shape} where (batch, {self._n_atoms}, 3) is "
                "needed; give configurations of the filter's molecule"
            )
        finite = np.isfinite(positions_nm).all(axis=(1, 2))
        cause = np.where(finite, Cause.NONE, Cause.ENERGY_NOT_FINITE).astype(np.int8)
        restored = positions_nm.copy()
        for check in (self._bond_graph, self._chirality):
            rows = np.flatnonzero(cause == Cause.NONE)
            screened = check.screen(restored[rows])
            restored[rows], cause[rows] = screened.positions_nm, screened.cause
        return Screened(restored, cause)


def _require_labels(molecule: Molecule, labels: Sequence[int]) -> None:
    if len(labels) != molecule.n_atoms:
        raise ValueError(
            f"labels: {len(labels)} labels for {molecule.n_atoms} atoms; give one for each atom"
        )
    element_of: dict[int, int] = {}
    for atom, (label, number) in enumerate(zip(labels, molecule.atomic_numbers, strict=True)):
        if element_of.setdefault(label, number) != number:
            raise ValueError(
                f"labels: atom {atom} ({molecule.names[atom]}) shares label {label} with another "
                "element; give each element labels of its own"
            )
