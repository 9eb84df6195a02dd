"""A report as one HTML file without anything from a network, and as JSON beside it."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from openmm.app import Element

from ..citations import Citation
from ..evaluation.record import plain
from ..files import write_atomically
from ..free_energy import Convergence
from ..verdict import Verdict, to_a_tenth
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
from .viewer import ANGSTROMS_PER_NM, VIEWER

STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "svg.hashsalt": "openmm_tbg",
}


def write_report(report: Report, path: Path) -> None:
    """Write a report as HTML, and its figures as JSON beside it.

    Args:
        report: What it says.
        path: Of the HTML file; that of the JSON ends in ".json".

    Raises:
        ValueError: `path` does not end in ".html".
        OSError: A file cannot be written.
    """
    context = {
        "report": report,
        "n": len(report.log_weights),
        "pictures": _pictures(report),
        "viewer": Markup(VIEWER.read_text()),
        "structures": _structures(report),
        "isfinite": math.isfinite,
        "to_a_tenth": to_a_tenth,
    }
    _write(path, "proposals.html", context, figures(report))


def write_chain_report(report: ChainReport, path: Path) -> None:
    """Write the report of a chain as HTML, and its figures as JSON beside it.

    Args and errors are those of `write_report`.
    """
    figures_of_chain = {
        "n_iterations": len(report.u_kT),
        "verdict": str(report.verdict.trust),
        "doubts": _doubts(report.verdict),
        "n_steps": report.n_steps,
        "n_accepted": report.n_accepted,
        "longest_run": report.longest_run,
        "visits": report.visits and asdict(report.visits),
        "fates": dict(report.fates),
        "convergence": report.convergence and _columns(report.convergence),
        "provenance": dict(report.provenance),
        "citations": _citations(report.citations),
    }
    with matplotlib.rc_context(STYLE):
        pictures = {
            "fates": _inline(plot_rejections(report.fates), "What became of the proposals"),
            "trace": _inline(plot_trace(report.u_kT, report.accepted), "Energy of each state"),
        }
        if report.angles is not None:
            pictures["angles"] = _inline(plot_angles(report.angles), "Phi and psi of each state")
            pictures["phi"] = _inline(plot_phi(report.angles[:, 0]), "Phi along the chain")
        if report.convergence is not None:
            axes = plot_convergence(report.convergence, "F(basin) - F(rest)")
            pictures["convergence"] = _inline(axes, "Free energy from parts of the chain")
    _write(path, "chain.html", {"report": report, "pictures": pictures}, plain(figures_of_chain))


def _write(path: Path, template: str, context: dict[str, Any], content: dict[str, Any]) -> None:
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"path is {path}: give a name that ends in .html")
    environment = Environment(
        loader=PackageLoader("openmm_tbg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(context)
    write_atomically(path, page.encode())
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())


def _columns(found: Convergence) -> dict[str, Any]:
    return {name: column.tolist() for name, column in vars(found).items()}


def _doubts(verdict: Verdict) -> list[dict[str, str]]:
    return [
        {"trust": str(doubt.trust), "reason": doubt.reason, "advice": doubt.advice}
        for doubt in verdict.doubts
    ]


def _citations(citations: Sequence[Citation]) -> dict[str, str]:
    return {each.reason: each.text() for each in citations}


def figures(report: Report) -> dict[str, Any]:
    """The figures of a report as plain values; None where a number is not finite."""
    found: dict[str, Any] = {
        "n_proposals": len(report.log_weights),
        "verdict": str(report.verdict.trust),
        "doubts": _doubts(report.verdict),
        "effective_sample_size": report.effective_sample_size,
        "acceptance": report.acceptance,
        "pareto_k": report.pareto_k,
        "fates": dict(report.fates),
        "free_energies": {
            name: {
                "value": each.value,
                "error": each.error,
                "estimator": each.estimator,
                "n": list(each.n),
                "n_effective": each.n_effective,
                "overlap": each.overlap,
                "verdict": str(each.verdict.trust),
            }
            for name, each in report.free_energies.items()
        },
        "provenance": dict(report.provenance),
        "citations": _citations(report.citations),
    }
    if report.convergence is not None:
        found["convergence"] = _columns(report.convergence)
    if report.states is not None:
        found["overlap"] = report.states.overlap.tolist()
    values: dict[str, Any] = plain(found)
    return values


def _pictures(report: Report) -> dict[str, Markup]:
    with matplotlib.rc_context(STYLE):
        usable = report.log_weights > -math.inf
        u, log_w = report.u_kT[usable], report.log_weights[usable]
        weights = np.exp(log_w - log_w.max())
        samples = {"as drawn": (u, None), "reweighted": (u, weights)}
        if report.dynamics is not None:
            samples["molecular dynamics"] = (report.dynamics.u_kT, report.dynamics.weights)
        pictures = {
            "fates": _inline(plot_rejections(report.fates), "What became of the proposals"),
            "weights": _inline(
                plot_weights(report.log_weights, report.pareto_k), "Weights by rank"
            ),
            "energies": _inline(plot_energies(samples), "Histogram of energies"),
            "densities": _inline(plot_densities(u, log_w), "Energies over densities"),
        }
        if report.convergence is not None:
            axes = plot_convergence(report.convergence, "ln Z")
            pictures["convergence"] = _inline(axes, "ln Z from parts of the proposals")
        if report.surface is not None:
            pictures["surface"] = _inline(plot_surface(report.surface), "Free energy, phi and psi")
            pictures["error"] = _inline(plot_surface_error(report.surface), "Its standard error")
        if report.states is not None:
            pictures["overlap"] = _inline(plot_overlap(report.states), "Overlap of the states")
    return pictures


def _inline(axes: Axes, name: str) -> Markup:
    figure = axes.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=200)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f'<img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{data}">')


def _structures(report: Report) -> dict[str, Any]:
    frames, shares = report.structures()
    neighbours = [report.molecule.neighbours(atom) for atom in range(report.molecule.n_atoms)]
    symbols = [Element.getByAtomicNumber(each).symbol for each in report.molecule.atomic_numbers]
    return {
        "symbols": symbols,
        "neighbours": [list(each) for each in neighbours],
        "frames": (ANGSTROMS_PER_NM * frames).round(3).tolist(),
        "shares": shares.tolist(),
    }
