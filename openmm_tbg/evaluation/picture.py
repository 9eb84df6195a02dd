"""One figure that shows where proposals and molecular dynamics agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from ..arrays import Positions, Scalars
from ..torsions import dihedral
from .drawing import ScoredProposals
from .dynamics import MolecularDynamics, normalised
from .record import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHEST_KT = 10.0  # end of the colour scale
FRAMES_FOR_DISTANCES = 5000
Edges = Float64[np.ndarray, " edges"]
Bins = Float64[np.ndarray, " edges-1"]

COLOURS = {"proposals": "tab:orange", "reweighted": "tab:blue", "molecular dynamics": "0.2"}
DEGREES = (-180, -90, 0, 90, 180)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of one curve, with weights of sum 1."""

    name: str
    positions_nm: Positions
    u_kT: Scalars
    weights: Scalars

    @property
    def colour(self) -> str:
        return COLOURS[self.name]


def picture(evaluation: Evaluation, scored: ScoredProposals, dynamics: MolecularDynamics) -> Figure:
    """Six panels of proposals as drawn, proposals reweighted, and molecular dynamics.

    Energies in kT; distances between all pairs of atoms in nm; free energies over phi and psi of
    molecular dynamics and of the reweighted proposals in kT on one scale; the free energy over phi;
    the weights by rank. Proposals that fail a filter are left out of all curves.

    Args:
        evaluation: What `evaluate` found, for the title.
        scored: The proposals.
        dynamics: Frames of the target.

    Returns:
        A figure to be saved with `savefig`.
    """
    from matplotlib.figure import Figure  # takes a second

    curves = _curves(scored, dynamics)
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    (energies, distances, tail), (left, right, profile) = figure.subplots(2, 3)
    _draw_energies(energies, curves)
    _draw_distances(distances, curves)
    _draw_tail(tail, evaluation, scored)
    _draw_surfaces(left, right, curves, dynamics)
    _draw_profile(profile, curves, dynamics)
    handles, labels = energies.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        f"N = {evaluation.n}: effective sample size {evaluation.effective_sample_size:.2%} "
        f"(nothing clipped), acceptance {evaluation.acceptance:.2%}, "
        f"{evaluation.temperature_K:g} K"
    )
    return figure


def free_energy_profile(values: Scalars, weights: Scalars, edges: Edges) -> Bins:
    r"""Free energy over one coordinate in kT, its minimum at zero and inf where no weight falls.

    $$ F_k = -\ln \sum_{n \in \text{bin } k} w_n - \min_k F_k $$ in bins of equal width.

    Example:
        >>> free_energy_profile(np.array([0.5, 1.5]), np.array([0.5, 0.5]), np.arange(4.0))
        array([ 0.,  0., inf])
    """
    return _free_energy(np.histogram(values, edges, weights=weights)[0])


def free_energy_surface(
    first: Scalars, second: Scalars, weights: Scalars, edges: Edges
) -> Float64[np.ndarray, "edges-1 edges-1"]:
    """The same over two coordinates, with the same bins; the first coordinate comes first."""
    return _free_energy(np.histogram2d(first, second, (edges, edges), weights=weights)[0])


def _free_energy(histogram: Float64[np.ndarray, "*bins"]) -> Float64[np.ndarray, "*bins"]:
    with np.errstate(divide="ignore"):
        free_energy: Float64[np.ndarray, "*bins"] = -np.log(histogram / histogram.max()) + 0.0
    return free_energy


def _curves(scored: ScoredProposals, dynamics: MolecularDynamics) -> tuple[_Rows, _Rows, _Rows]:
    usable = scored[scored.log_weights > -np.inf]
    equal = np.full(len(usable), 1 / len(usable))
    return (
        _Rows("proposals", usable.positions_nm, usable.u_kT, equal),
        _Rows("reweighted", usable.positions_nm, usable.u_kT, normalised(usable.log_weights)),
        _Rows("molecular dynamics", dynamics.positions_nm, dynamics.u_kT, dynamics.weights),
    )


def _draw_density(axes: Axes, edges: Edges, share: Bins, curve: _Rows) -> None:
    density = share / np.diff(edges)
    axes.stairs(density, edges, color=curve.colour, label=curve.name, linewidth=1.3)


def _draw_energies(axes: Axes, curves: tuple[_Rows, _Rows, _Rows]) -> None:
    proposals, _, dynamics = curves
    low = min(float(proposals.u_kT.min()), float(dynamics.u_kT.min()))
    high = max(float(np.quantile(proposals.u_kT, 0.9)), float(np.quantile(dynamics.u_kT, 0.999)))
    edges = np.linspace(low, high, 61)
    for curve in curves:
        share = np.histogram(curve.u_kT, edges, weights=curve.weights)[0]
        _draw_density(axes, edges, share, curve)
    axes.set(xlabel="u / kT", ylabel="density / kT$^{-1}$", title="energies")


def _draw_distances(axes: Axes, curves: tuple[_Rows, _Rows, _Rows]) -> None:
    longest = max(float(d.max()) for curve in curves for d, _ in _distances(curve))
    edges = np.linspace(0, longest, 161)
    for curve in curves:
        total = np.zeros(160)
        for values, weights in _distances(curve):
            total += np.histogram(values, edges, weights=weights)[0]
        _draw_density(axes, edges, total / total.sum(), curve)
    axes.set(xlabel="distance / nm", ylabel="density / nm$^{-1}$", title="all pairs of atoms")


def _distances(curve: _Rows) -> Iterator[tuple[Scalars, Scalars]]:
    """Distances of each pair of atoms in at most some thousand rows, with the rows' weights."""
    step = max(1, len(curve.weights) // FRAMES_FOR_DISTANCES)
    step = 1 if curve.name == "reweighted" else step  # a few rows carry the weight
    positions_nm, weights = curve.positions_nm[::step], curve.weights[::step]
    for i, j in itertools.combinations(range(positions_nm.shape[1]), 2):
        yield np.linalg.norm(positions_nm[:, i] - positions_nm[:, j], axis=-1), weights


def _draw_tail(axes: Axes, evaluation: Evaluation, scored: ScoredProposals) -> None:
    log_weights = np.sort(scored.log_weights)[::-1]
    log_weights = log_weights[log_weights > -np.inf] - evaluation.log_mean_weight.value
    ranks = np.arange(1, len(log_weights) + 1)
    axes.plot(ranks, log_weights / np.log(10), ".", color=COLOURS["reweighted"], markersize=3)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(
        xscale="log",
        ylim=(-8, max(1.0, float(log_weights[0]) / np.log(10) + 0.5)),
        xlabel="rank",
        ylabel="log$_{10}$ (w / mean of w)",
        title=f"weights by rank, Pareto k = {evaluation.pareto_k:.2f}",
    )


def _draw_surfaces(
    left: Axes, right: Axes, curves: tuple[_Rows, _Rows, _Rows], dynamics: MolecularDynamics
) -> None:
    _, reweighted, md = curves
    edges = np.linspace(-np.pi, np.pi, 61)
    for axes, curve in ((left, md), (right, reweighted)):
        phi = dihedral(curve.positions_nm, dynamics.phi)
        psi = dihedral(curve.positions_nm, dynamics.psi)
        surface = free_energy_surface(phi, psi, curve.weights, edges).T
        mesh = axes.pcolormesh(
            np.degrees(edges), np.degrees(edges), np.where(np.isfinite(surface), surface, np.nan),
            vmin=0, vmax=HIGHEST_KT, cmap="viridis", rasterized=True,
        )  # fmt: skip
        axes.set(
            xlabel="phi / degrees", ylabel="psi / degrees", title=f"free energy, {curve.name}",
            xticks=DEGREES, yticks=DEGREES, aspect="equal",
        )  # fmt: skip
    figure = right.get_figure()
    assert figure is not None
    beside = right.inset_axes((1.05, 0, 0.05, 1))
    figure.colorbar(mesh, cax=beside, label="F / kT", extend="max")


def _draw_profile(
    axes: Axes, curves: tuple[_Rows, _Rows, _Rows], dynamics: MolecularDynamics
) -> None:
    edges = np.linspace(-np.pi, np.pi, 61)
    for curve in curves:
        phi = dihedral(curve.positions_nm, dynamics.phi)
        profile = free_energy_profile(phi, curve.weights, edges)
        profile[~np.isfinite(profile)] = np.nan
        axes.stairs(profile, np.degrees(edges), baseline=None, color=curve.colour, label=curve.name)
    axes.set(
        xlabel="phi / degrees",
        ylabel="F / kT",
        title="free energy over phi",
        xticks=DEGREES,
        ylim=(0, 1.2 * HIGHEST_KT),
    )
