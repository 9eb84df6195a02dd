"""What a field knows of its molecule before it sees a configuration."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from ..arrays import Positions
from ..encoding import AtomEncoding
from ..molecule import Molecule

Pairs = Float64[np.ndarray, "atoms atoms"]


@dataclass(frozen=True)
class ReferenceGeometry:
    r"""Labels of the atoms and the first two moments of an ensemble of configurations.

    Where bonds do not tell atoms of equal label apart, every matrix is the same for them, so a
    field built on it is equivariant under their permutation: see `require_equal_atoms`.

    Args:
        one_hot: what the encoding says of each atom (atoms, columns).
        graph_distances: number of bonds between two atoms.
        covariance: between atoms, per Cartesian component, nm^2, of configurations that are centred
            and isotropically rotated.
        distance_mean: mean distance of each pair, nm.
        distance_sd: standard deviation of each distance, nm.
        stereocentres: three neighbours and the centre of each, in an order such that
            $a_0 \cdot (a_1 \times a_2) > 0$ for the arms from the centre.
    """

    one_hot: Float64[np.ndarray, "atoms columns"]
    graph_distances: Int[np.ndarray, "atoms atoms"]
    covariance: Pairs
    distance_mean: Pairs
    distance_sd: Pairs
    stereocentres: Int[np.ndarray, "centres 4"]

    @classmethod
    def from_frames(
        cls, molecule: Molecule, encoding: AtomEncoding, positions_nm: Positions
    ) -> ReferenceGeometry:
        """Moments of `positions_nm`, averaged over pairs of equal labels and graph distance."""
        centred = positions_nm - positions_nm.mean(axis=1, keepdims=True)
        graph_distances = molecule.topological_distances()
        classes = _pair_classes(np.asarray(encoding.labels), graph_distances)
        squares = np.zeros(graph_distances.shape)
        distances = np.zeros(graph_distances.shape)
        for frame in centred:
            square = np.square(frame[:, None] - frame[None]).sum(-1)
            squares += square
            distances += np.sqrt(square)
        mean = _class_average(distances / len(centred), classes)
        mean_square = _class_average(squares / len(centred), classes)
        return cls.from_moments(
            molecule, encoding, mean, np.sqrt(np.maximum(mean_square - mean**2, 0.0))
        )

    @classmethod
    def from_moments(
        cls,
        molecule: Molecule,
        encoding: AtomEncoding,
        distance_mean: Pairs,
        distance_sd: Pairs,
    ) -> ReferenceGeometry:
        """The geometry that has these moments of distances, in nm; they fix the covariance.

        With $c$ the projector on the mean-free subspace, the covariance is
        $-\\frac{1}{6} c \\langle d^2 \\rangle c$ (classical scaling).
        """
        centring = np.eye(molecule.n_atoms) - 1 / molecule.n_atoms
        return cls(
            one_hot=encoding.one_hot(),
            graph_distances=molecule.topological_distances(),
            covariance=centring @ (-(distance_mean**2 + distance_sd**2) / 6) @ centring,
            distance_mean=distance_mean,
            distance_sd=distance_sd,
            stereocentres=_right_handed(molecule),
        )

    def require_equal_atoms(self) -> None:
        """Check that any two atoms of equal label may change places in every matrix.

        Raises:
            ValueError: naming two that the bonds tell apart.
        """
        labels = np.unique(self.one_hot, axis=0, return_inverse=True)[1]
        for label in np.unique(labels):
            for one, other in itertools.pairwise(np.flatnonzero(labels == label).tolist()):
                order = np.arange(len(labels))
                order[[one, other]] = other, one
                if (self.graph_distances[np.ix_(order, order)] != self.graph_distances).any():
                    raise ValueError(
                        f"geometry: atoms {one} and {other} have the same label, but the bonds "
                        "tell them apart, and so does a denoiser: take the encoding 'full', or an "
                        "EGNN, which knows the labels alone"
                    )


def _right_handed(molecule: Molecule) -> Int[np.ndarray, "centres 4"]:
    rows = [
        (*centre.neighbours[:: centre.sign], centre.centre) for centre in molecule.stereocentres
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _pair_classes(
    labels: Int[np.ndarray, " atoms"], graph_distances: Int[np.ndarray, "atoms atoms"]
) -> Int[np.ndarray, "atoms atoms"]:
    low = np.minimum.outer(labels, labels)
    high = np.maximum.outer(labels, labels)
    keys = np.stack([low, high, graph_distances], axis=-1).reshape(-1, 3)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(graph_distances.shape)


def _class_average(values: Pairs, classes: Int[np.ndarray, "atoms atoms"]) -> Pairs:
    totals = np.bincount(classes.ravel(), values.ravel())
    averages: Pairs = (totals / np.bincount(classes.ravel()))[classes]
    return averages
