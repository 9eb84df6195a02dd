"""The pictures of a report: each on its own in a page, or all on one sheet."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .chain import ChainReport
from .contents import Report
from .plots import (
    plot_angles,
    plot_convergence,
    plot_densities,
    plot_energies,
    plot_overlap,
    plot_phi,
    plot_rejections,
    plot_surface,
    plot_surface_error,
    plot_trace,
    plot_weights,
)

STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "svg.hashsalt": "openmm_tbg",
}
COLUMNS = 3  # of a sheet
CHARACTERS = 140  # of a heading, on a line
DOTS_PER_INCH = 130


class Picture(NamedTuple):
    """What it shows, and how it is drawn on given Axes, or on its own where these are None."""

    title: str
    draw: Callable[..., Axes]


Pictures = dict[str, Picture]


def pictures_of(report: Report | ChainReport) -> Pictures:
    """All pictures of a report, by the names that its page has for them."""
    return _of_chain(report) if isinstance(report, ChainReport) else _of_proposals(report)


def inline(pictures: Pictures) -> dict[str, Markup]:
    """Each picture as an element of a page."""
    with matplotlib.rc_context(STYLE):
        return {name: _element(picture) for name, picture in pictures.items()}


def sheet(pictures: Pictures, heading: str) -> bytes:
    """All pictures under one heading, as PNG."""
    n_rows = math.ceil(len(pictures) / COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * COLUMNS, 3.5 * n_rows), layout="constrained")
        places = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
        for axes, picture in zip(places, pictures.values(), strict=False):
            picture.draw(axes=axes)
            axes.set_title(picture.title, loc="left")
        for axes in places[len(pictures) :]:
            axes.remove()
        figure.suptitle(textwrap.fill(heading, CHARACTERS), ha="left", x=0.01)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _of_proposals(report: Report) -> Pictures:
    usable = report.log_weights > -math.inf
    u, log_w = report.u_kT[usable], report.log_weights[usable]
    weights = np.exp(log_w - log_w.max())
    samples: Mapping[str, Any] = {"as drawn": (u, None), "reweighted": (u, weights)}
    if report.dynamics is not None:
        samples = {**samples, "molecular dynamics": (report.dynamics.u_kT, report.dynamics.weights)}
    weights_by_rank = partial(plot_weights, report.log_weights, report.pareto_k)
    found = {
        "fates": Picture("What became of the proposals", partial(plot_rejections, report.fates)),
        "weights": Picture("Weights by rank", weights_by_rank),
        "energies": Picture("Histogram of energies", partial(plot_energies, samples)),
        "densities": Picture("Energies over densities", partial(plot_densities, u, log_w)),
    }
    if report.convergence is not None:
        draw = partial(plot_convergence, report.convergence, "ln Z")
        found["convergence"] = Picture("ln Z from parts of the proposals", draw)
    if report.surface is not None:
        found["surface"] = Picture("Free energy", partial(plot_surface, report.surface))
        found["error"] = Picture("Its standard error", partial(plot_surface_error, report.surface))
    if report.states is not None:
        found["overlap"] = Picture("Overlap of the states", partial(plot_overlap, report.states))
    return found


def _of_chain(report: ChainReport) -> Pictures:
    trace = partial(plot_trace, report.u_kT, report.accepted)
    found = {
        "fates": Picture("What became of the proposals", partial(plot_rejections, report.fates)),
        "trace": Picture("Energy of each state", trace),
    }
    if report.angles is not None:
        found["angles"] = Picture("Phi and psi of each state", partial(plot_angles, report.angles))
        found["phi"] = Picture("Phi along the chain", partial(plot_phi, report.angles[:, 0]))
    if report.convergence is not None:
        draw = partial(plot_convergence, report.convergence, "F(basin) - F(rest)")
        found["convergence"] = Picture("Free energy from parts of the chain", draw)
    return found


def _element(picture: Picture) -> Markup:
    figure = picture.draw().get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=200)
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = html.escape(picture.title)
    return Markup(f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">')
