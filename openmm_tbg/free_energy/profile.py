"""Free energy over coordinates, as a weighted histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ..arrays import Scalars
from .estimated import normalised, require_length


@dataclass(frozen=True, eq=False)
class FreeEnergyProfile:
    r"""Free energy over the bins of one coordinate or more.

    Attributes:
        edges: Of the bins, for each coordinate.
        free_energy_kT: $-\ln$ of the density in each bin, zero in the lowest; inf where empty.
        error_kT: Standard error of $\ln$ of each bin's probability; inf where empty.
        n: Proposals used.
    """

    edges: tuple[Float64[np.ndarray, " edges"], ...]
    free_energy_kT: Float64[np.ndarray, "*bins"]
    error_kT: Float64[np.ndarray, "*bins"]
    n: int


def free_energy_profile(
    log_weights: Scalars,
    coordinates: Float64[np.ndarray, "batch coordinates"],
    edges: Sequence[Float64[np.ndarray, " edges"]],
) -> FreeEnergyProfile:
    r"""Free energy over one or more coordinates, as a weighted histogram of independent proposals.

    $$ F_b = -\ln \frac{p_b}{\Delta_b}, \qquad p_b = \frac{\sum_{n \in b} w_n}{\sum_n w_n}, \qquad
       \sigma_b^2 = \sum_n w_n^2 \Bigl( \frac{1_{n \in b}}{\sum_{m \in b} w_m} -
       \frac{1}{\sum_m w_m} \Bigr)^2 $$

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero.
        coordinates: A column for each coordinate, such as phi and psi in radians.
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
    require_length(log_weights, coordinates=coordinates)
    if coordinates.shape[1] != len(edges) or any((np.diff(each) <= 0).any() for each in edges):
        raise ValueError(
            f"edges: give rising edges for each of the {coordinates.shape[1]} coordinates"
        )
    used = weights > 0
    if not np.isfinite(coordinates[used]).all():
        raise ValueError("coordinates: not finite for a proposal whose weight is not zero")
    rows, of_rows = coordinates[used], weights[used]
    probability, _ = np.histogramdd(rows, list(edges), weights=of_rows)
    squares, _ = np.histogramdd(rows, list(edges), weights=of_rows**2)
    if not probability.any():
        raise ValueError("edges: no proposal with a weight above zero lies in a bin; move them")
    volumes = np.ones(())
    for each in edges:
        volumes = np.multiply.outer(volumes, np.diff(each))
    with np.errstate(divide="ignore", invalid="ignore"):
        free_energy = -np.log(probability / volumes)
        variance = squares * (1 - 2 * probability) / probability**2 + np.square(of_rows).sum()
    error = np.where(probability > 0, np.sqrt(np.maximum(variance, 0.0)), np.inf)
    lowest = free_energy[np.isfinite(free_energy)].min()
    return FreeEnergyProfile(tuple(edges), free_energy - lowest, error, len(weights))
