"""One figure that shows where proposals and molecular dynamics agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from ..arrays import Positions, Scalars
from ..free_energy import free_energy_profile
from ..panels import COLOURS, DEGREES, HIGHEST_KT, draw_densities, draw_plane, draw_weights
from ..torsions import Dihedral, dihedral
from .drawing import ScoredProposals
from .dynamics import MolecularDynamics, normalised
from .record import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAMES_FOR_DISTANCES = 5000
ANGLES = np.linspace(-np.pi, np.pi, 61)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of one curve, with weights of sum 1."""

    name: str
    positions_nm: Positions
    u_kT: Scalars
    weights: Scalars

    def free_energy(self, *angles: Dihedral) -> Float64[np.ndarray, "*bins"]:
        """Free energy over dihedrals in kT; NaN where no weight falls."""
        values = np.stack([dihedral(self.positions_nm, atoms) for atoms in angles], axis=-1)
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        found = free_energy_profile(log_weights, values, [ANGLES] * len(angles)).free_energy_kT
        return np.where(np.isfinite(found), found, np.nan)


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
    draw_weights(tail, scored.log_weights, evaluation.pareto_k)
    tail.set_title(f"weights by rank, Pareto k = {evaluation.pareto_k:.2f}")
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


def _curves(scored: ScoredProposals, dynamics: MolecularDynamics) -> tuple[_Rows, _Rows, _Rows]:
    usable = scored[scored.log_weights > -np.inf]
    equal = np.full(len(usable), 1 / len(usable))
    return (
        _Rows("proposals", usable.positions_nm, usable.u_kT, equal),
        _Rows("reweighted", usable.positions_nm, usable.u_kT, normalised(usable.log_weights)),
        _Rows("molecular dynamics", dynamics.positions_nm, dynamics.u_kT, dynamics.weights),
    )


def _draw_energies(axes: Axes, curves: tuple[_Rows, _Rows, _Rows]) -> None:
    proposals, _, dynamics = curves
    low = min(float(proposals.u_kT.min()), float(dynamics.u_kT.min()))
    high = max(float(np.quantile(proposals.u_kT, 0.9)), float(np.quantile(dynamics.u_kT, 0.999)))
    edges = np.linspace(low, high, 61)
    shares = {
        curve.name: np.histogram(curve.u_kT, edges, weights=curve.weights)[0] for curve in curves
    }
    draw_densities(axes, edges, shares)
    axes.set(xlabel="u / kT", ylabel="density / kT$^{-1}$", title="energies")


def _draw_distances(axes: Axes, curves: tuple[_Rows, _Rows, _Rows]) -> None:
    longest = max(float(d.max()) for curve in curves for d, _ in _distances(curve))
    edges = np.linspace(0, longest, 161)
    shares = {}
    for curve in curves:
        total = np.zeros(160)
        for values, weights in _distances(curve):
            total += np.histogram(values, edges, weights=weights)[0]
        shares[curve.name] = total / total.sum()
    draw_densities(axes, edges, shares)
    axes.set(xlabel="distance / nm", ylabel="density / nm$^{-1}$", title="all pairs of atoms")


def _distances(curve: _Rows) -> Iterator[tuple[Scalars, Scalars]]:
    """Distances of each pair of atoms in at most some thousand rows, with the rows' weights."""
    step = max(1, len(curve.weights) // FRAMES_FOR_DISTANCES)
    step = 1 if curve.name == "reweighted" else step  # a few rows carry the weight
    positions_nm, weights = curve.positions_nm[::step], curve.weights[::step]
    for i, j in itertools.combinations(range(positions_nm.shape[1]), 2):
        yield np.linalg.norm(positions_nm[:, i] - positions_nm[:, j], axis=-1), weights


def _draw_surfaces(
    left: Axes, right: Axes, curves: tuple[_Rows, _Rows, _Rows], dynamics: MolecularDynamics
) -> None:
    _, reweighted, md = curves
    for axes, curve in ((left, md), (right, reweighted)):
        surface = curve.free_energy(dynamics.phi, dynamics.psi)
        mesh = draw_plane(axes, (ANGLES, ANGLES), surface, HIGHEST_KT)
        axes.set_title(f"free energy, {curve.name}")
    figure = right.get_figure()
    assert figure is not None
    beside = right.inset_axes((1.05, 0, 0.05, 1))
    figure.colorbar(mesh, cax=beside, label="F / kT", extend="max")


def _draw_profile(
    axes: Axes, curves: tuple[_Rows, _Rows, _Rows], dynamics: MolecularDynamics
) -> None:
    for curve, colour in zip(curves, COLOURS, strict=True):
        profile = curve.free_energy(dynamics.phi)
        axes.stairs(profile, np.degrees(ANGLES), baseline=None, color=colour, label=curve.name)
    axes.set(
        xlabel="phi / degrees",
        ylabel="F / kT",
        title="free energy over phi",
        xticks=DEGREES,
        ylim=(0, 1.2 * HIGHEST_KT),
    )
