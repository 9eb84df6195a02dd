"""Pictures of weights, energies and free energies, each on Axes that are returned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis import log_mean_weight
from ..arrays import Mask, Scalars
from ..free_energy import Convergence, FreeEnergyProfile, MultistateFreeEnergies
from ..panels import (
    BLUE,
    DEGREES,
    HIGHEST_KT,
    INK,
    ORANGE,
    draw_densities,
    draw_plane,
    draw_weights,
)


def plot_weights(log_weights: Scalars, k: float, axes: Axes | None = None) -> Axes:
    r"""Weights above zero by rank, with the slope $-k$ that a Pareto tail of index k has there.

    Args:
        log_weights: Of all proposals, -inf where the weight is zero.
        k: As `pareto_k` finds it; no line where it is not finite or not above zero.
    """
    axes = axes or new_axes()
    draw_weights(axes, log_weights, k)
    return axes


def plot_rejections(fates: Mapping[str, float], axes: Axes | None = None) -> Axes:
    """Shares of the proposals, one bar for each fate."""
    axes = axes or new_axes()
    names, shares = list(fates)[::-1], [100 * share for share in fates.values()][::-1]
    bars = axes.barh(names, shares, color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.1f %%", padding=4)
    axes.set(xlabel="% of proposals", xlim=(0, 115))
    return axes


def plot_energies(
    samples: Mapping[str, tuple[Scalars, Scalars | None]], axes: Axes | None = None
) -> Axes:
    """Histograms of energies.

    Args:
        samples: By name, reduced potentials in kT and their weights, None where they are equal.
    """
    axes = axes or new_axes()
    low = min(float(u.min()) for u, _ in samples.values())
    high = max(float(np.quantile(u, 0.95)) for u, _ in samples.values())
    edges = np.linspace(low, max(high, low + 1), 41)
    shares = {}
    for name, (u, weights) in samples.items():
        weights = np.ones(len(u)) if weights is None else weights
        shares[name] = np.histogram(u, edges, weights=weights)[0] / weights.sum()
    draw_densities(axes, edges, shares)
    axes.legend(frameon=False)
    axes.set(xlabel="u / kT", ylabel="density / kT$^{-1}$")
    return axes


def plot_densities(u: Scalars, log_weights: Scalars, axes: Axes | None = None) -> Axes:
    r"""Each proposal's reduced potential u over $-\ln q = u + \ln w$, both in kT.

    Proposals of a perfect generator lie on the line of slope 1; those below it have large weights.

    Args:
        u: Reduced potentials.
        log_weights: -u - log q, all above -inf.
    """
    axes = axes or new_axes()
    surprise = u + log_weights
    axes.plot(surprise, u, ".", color=BLUE, markersize=3, alpha=0.6, rasterized=True)
    mean = log_mean_weight(log_weights)
    low, high = np.quantile(surprise, (0, 0.99))
    axes.plot([low, high], [low - mean, high - mean], color=INK, linewidth=1)
    highest = float(np.quantile(u, 0.95))
    axes.set(xlabel=r"$-\ln q$", ylabel="u / kT", ylim=(None, max(highest, float(u.min()) + 1)))
    return axes


def plot_surface(profile: FreeEnergyProfile, axes: Axes | None = None) -> Axes:
    """A free energy over phi and psi in kT."""
    return _plane(profile, profile.free_energy_kT, HIGHEST_KT, "F / kT", axes)


def plot_surface_error(profile: FreeEnergyProfile, axes: Axes | None = None) -> Axes:
    """The standard error of each bin of a free energy over phi and psi, in kT."""
    return _plane(profile, profile.error_kT, 1.0, "standard error / kT", axes)


def plot_overlap(states: MultistateFreeEnergies, axes: Axes | None = None) -> Axes:
    """The overlap matrix of states."""
    axes = axes or new_axes()
    axes.imshow(states.overlap, cmap="Blues", vmin=0, vmax=1)
    for (row, column), overlap in np.ndenumerate(states.overlap):
        colour = "white" if overlap > 0.5 else INK
        axes.text(column, row, f"{overlap:.2f}", ha="center", va="center", color=colour)
    numbers = range(len(states.overlap))
    axes.set(xlabel="state", ylabel="state", xticks=numbers, yticks=numbers)
    return axes


def plot_convergence(found: Convergence, name: str, axes: Axes | None = None) -> Axes:
    """A figure in kT from growing parts of the samples, forward and in reverse.

    The band is the figure of all samples with its standard error.
    """
    axes = axes or new_axes()
    share, value, error = 100 * found.n / found.n[-1], found.forward[-1], found.forward_error[-1]
    axes.axhspan(value - error, value + error, color=INK, alpha=0.12, linewidth=0)
    for values, errors, colour, label in (
        (found.forward, found.forward_error, BLUE, "the first"),
        (found.reverse, found.reverse_error, ORANGE, "the last"),
    ):
        axes.errorbar(share, values, errors, color=colour, marker=".", capsize=2, label=label)
    axes.legend(frameon=False)
    axes.set(xlabel="% of the samples", ylabel=f"{name} / kT")
    return axes


def plot_trace(u: Scalars, accepted: Mask, axes: Axes | None = None) -> Axes:
    """Reduced potentials along a chain in kT, marked where a proposal was accepted."""
    axes = axes or new_axes()
    iterations = np.arange(1, len(u) + 1)
    axes.plot(iterations, u, color=BLUE, linewidth=0.8)
    axes.plot(iterations[accepted], u[accepted], ".", color=ORANGE, markersize=4, label="accepted")
    axes.legend(frameon=False)
    axes.set(xlabel="iteration", ylabel="u / kT")
    return axes


def plot_angles(angles: Float64[np.ndarray, "iterations 2"], axes: Axes | None = None) -> Axes:
    """Phi and psi of the states of a chain, shaded by the iteration; angles in radians."""
    axes = axes or new_axes()
    phi, psi = np.degrees(angles).T
    points = axes.scatter(phi, psi, c=np.arange(1, len(phi) + 1), s=6, cmap="viridis")
    axes.set(xlabel="phi / degrees", ylabel="psi / degrees", xticks=DEGREES, yticks=DEGREES)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(points, ax=axes, label="iteration")
    return axes


def plot_phi(phi: Scalars, axes: Axes | None = None) -> Axes:
    """Phi along a chain; angles in radians."""
    axes = axes or new_axes()
    axes.plot(np.arange(1, len(phi) + 1), np.degrees(phi), ".", color=BLUE, markersize=3)
    axes.set(xlabel="iteration", ylabel="phi / degrees", yticks=DEGREES, ylim=(-180, 180))
    return axes


def new_axes() -> Axes:
    """Axes of a figure of their own, which no window holds."""
    return Figure(figsize=(4.2, 3.1), layout="constrained").subplots()


def _plane(
    profile: FreeEnergyProfile,
    values: np.ndarray,
    highest: float,
    label: str,
    axes: Axes | None,
) -> Axes:
    axes = axes or new_axes()
    mesh = draw_plane(axes, profile.edges, values, highest)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(mesh, ax=axes, label=label, extend="max")
    return axes
