"""Panels that several figures have: weights by rank, densities, free energies over two angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from .analysis import log_mean_weight, tail_length
from .arrays import Scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

HIGHEST_KT = 10.0  # end of the colour scale of free energies
DEGREES = (-180, -90, 0, 90, 180)
INK, BLUE, ORANGE = "#444444", "#2a7fb8", "#c8702a"
COLOURS = (ORANGE, BLUE, INK)  # as drawn, reweighted, molecular dynamics

Edges = Float64[np.ndarray, " edges"]


def draw_weights(axes: Axes, log_weights: Scalars, k: float) -> None:
    r"""Weights above zero by rank, with the slope $-k$ that a Pareto tail of index k has there.

    Args:
        axes: Where to draw.
        log_weights: Of all proposals, -inf where the weight is zero.
        k: As `pareto_k` finds it; no line where it is not finite or not above zero.
    """
    falling = np.sort(log_weights[log_weights > -np.inf])[::-1] - log_mean_weight(log_weights)
    ranks = np.arange(1, len(falling) + 1)
    axes.loglog(ranks, np.exp(falling), ".", color=BLUE, markersize=4)
    tail = tail_length(len(falling))
    if np.isfinite(k) and k > 0 and tail >= 5:
        line = np.exp(falling[tail - 1]) * (ranks[:tail] / tail) ** -k
        axes.plot(ranks[:tail], line, color=ORANGE, label=f"Pareto tail, k = {k:.2f}")
        axes.legend(frameon=False)
    axes.axhline(1, color="0.7", linewidth=0.8)
    top = 10 * np.exp(falling[0])  # left to itself, it follows weights far below the panel
    axes.set(xlabel="rank", ylabel="weight / mean weight", ylim=(1e-6, top))


def draw_densities(
    axes: Axes, edges: Edges, shares: Mapping[str, Float64[np.ndarray, " bins"]]
) -> None:
    """Densities as steps.

    Args:
        axes: Where to draw.
        edges: Of the bins.
        shares: By name, the share of the samples in each bin.
    """
    for (name, share), colour in zip(shares.items(), COLOURS, strict=False):
        axes.stairs(share / np.diff(edges), edges, color=colour, label=name, linewidth=1.4)


def draw_plane(
    axes: Axes, edges: Sequence[Edges], values: Float64[np.ndarray, "rows columns"], highest: float
) -> QuadMesh:
    """Values over phi and psi, in radians, from zero to the highest; white where not finite."""
    first, second = (np.degrees(each) for each in edges)
    shown = np.where(np.isfinite(values), values, np.nan).T
    mesh = axes.pcolormesh(
        first, second, shown, vmin=0, vmax=highest, cmap="viridis", rasterized=True
    )
    axes.set(xlabel="phi / degrees", ylabel="psi / degrees", xticks=DEGREES, yticks=DEGREES)
    axes.set_aspect("equal")
    return mesh
