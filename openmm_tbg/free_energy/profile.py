"""Free energy over coordinates, as a weighted histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from ..arrays import Scalars, is_array
from ..verdict import Doubt, Verdict, doubts_of_weights
from .estimated import normalised, require_length

Coordinates = Float[np.ndarray, "batch coordinates"]
Edges = Sequence[Float[np.ndarray, " _"]]
Bins = Int[np.ndarray, " batch"]
OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class FreeEnergyProfile:
    r"""Free energy over the bins of one coordinate or more.

    Attributes:
        edges: Of the bins, for each coordinate.
        free_energy_kT: $-\ln$ of the density in each bin, zero in the lowest; inf where empty.
        error_kT: Standard error of $\ln$ of each bin's probability; inf where empty.
        n_effective: Kish's effective number of the samples in each bin; below 10 the error itself
            is not known.
        n: Samples used.
        doubts: What speaks against all bins.
    """

    edges: tuple[Float[np.ndarray, " _"], ...]
    free_energy_kT: Float64[np.ndarray, "*bins"]
    error_kT: Float64[np.ndarray, "*bins"]
    n_effective: Float64[np.ndarray, "*bins"]
    n: int
    doubts: tuple[Doubt, ...]

    @property
    def verdict(self) -> Verdict:
        """How far the profile can be trusted, and the next step."""
        return Verdict(self.doubts)


def free_energy_profile(
    log_weights: Scalars, coordinates: Coordinates, edges: Edges
) -> FreeEnergyProfile:
    r"""Free energy over one or more coordinates, as a weighted histogram of independent proposals.

    $$ F_b = -\ln \frac{p_b}{\Delta_b}, \qquad p_b = \frac{\sum_{n \in b} w_n}{\sum_n w_n}, \qquad
       \sigma_b^2 = \sum_n w_n^2 \Bigl( \frac{1_{n \in b}}{\sum_{m \in b} w_m} -
       \frac{1}{\sum_m w_m} \Bigr)^2 $$

    From samples of several states take `MultistateFreeEnergies.profile`, whose errors count those
    of the states.

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero.
        coordinates: A column for each coordinate, such as phi and psi in radians, or what a
            `mdtraj.compute_*` returns.
        edges: Rising edges of the bins, for each coordinate; what lies outside counts in the sum.

    Raises:
        ValueError: Lengths differ, edges do not rise, a coordinate is not finite where the weight
            is not zero, no such proposal lies in a bin, or the weights are as in `average`.

    Example:
        >>> x = np.array([[0.5], [0.5], [1.5]])
        >>> free_energy_profile(np.zeros(3), x, [np.array([0.0, 1.0, 2.0])]).free_energy_kT.round(2)
        array([0.  , 0.69])
    """
    weights = normalised(log_weights)
    require_coordinates(coordinates, edges)
    require_length(log_weights, coordinates=coordinates)
    bins = occupied_bins(coordinates, edges, weights)
    probability, squares = _sums(bins, weights, edges), _sums(bins, weights**2, edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = squares * (1 - 2 * probability) / probability**2 + np.square(weights).sum()
    doubts = doubts_of_weights(log_weights, {"the target": weights > 0})
    errors = np.sqrt(np.maximum(variance, 0.0))
    return profile_of_bins(bins, weights, edges, errors, doubts)


def require_coordinates(coordinates: Coordinates, edges: Edges) -> None:
    """Refuse coordinates that are no table of numbers, and edges that do not belong to them."""
    if not is_array(coordinates, "f", 2):
        raise ValueError(
            "coordinates: give a NumPy array of floats with a column for each coordinate, such as "
            "phi[:, np.newaxis]"
        )
    if coordinates.shape[1] != len(edges) or not all(
        len(each) > 1 and (np.diff(each) > 0).all() for each in edges
    ):
        raise ValueError(
            f"edges: give rising edges for each of the {coordinates.shape[1]} coordinates"
        )


def occupied_bins(coordinates: Coordinates, edges: Edges, weights: Scalars) -> Bins:
    """The bin of each row, numbered in C order; `OUTSIDE` where in none, or its weight is zero.

    Raises:
        ValueError: A coordinate is not finite where the weight is not zero, or no such row lies in
            a bin.
    """
    used = weights > 0
    if not np.isfinite(coordinates[used]).all():
        raise ValueError("coordinates: not finite for a proposal whose weight is not zero")
    bins, inside = np.zeros(len(weights), dtype=np.int64), used.copy()
    for column, each in zip(coordinates.T, edges, strict=True):
        place = np.searchsorted(each, column, side="right") - 1
        place[column == each[-1]] -= 1  # the last bin holds its upper edge
        inside &= (place >= 0) & (place < len(each) - 1)
        bins = bins * (len(each) - 1) + place
    if not inside.any():
        raise ValueError("edges: no proposal with a weight above zero lies in a bin; move them")
    return np.where(inside, bins, OUTSIDE)


def profile_of_bins(
    bins: Bins,
    weights: Scalars,
    edges: Edges,
    errors: Float64[np.ndarray, "*bins"],
    doubts: tuple[Doubt, ...],
) -> FreeEnergyProfile:
    """The profile of rows whose weights add to 1, with the errors of its bins."""
    probability, squares = _sums(bins, weights, edges), _sums(bins, weights**2, edges)
    volumes = np.ones(())
    for each in edges:
        volumes = np.multiply.outer(volumes, np.diff(each))
    with np.errstate(divide="ignore", invalid="ignore"):
        free_energy = -np.log(probability / volumes)
        numbers = np.where(probability > 0, probability**2 / squares, 0.0)
    return FreeEnergyProfile(
        tuple(edges),
        free_energy - free_energy.min(),
        np.where(probability > 0, errors, np.inf),
        numbers,
        len(weights),
        doubts,
    )


def _sums(bins: Bins, values: Scalars, edges: Edges) -> Float64[np.ndarray, "*bins"]:
    shape = tuple(len(each) - 1 for each in edges)
    inside = bins != OUTSIDE
    sums = np.bincount(bins[inside], values[inside], minlength=int(np.prod(shape)))
    return sums.reshape(shape)
