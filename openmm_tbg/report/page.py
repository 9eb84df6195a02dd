"""A report as one file without anything from a network, HTML or PNG, and JSON beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from openmm.app import Element

from ..citations import Citation
from ..evaluation.record import plain
from ..files import write_atomically
from ..free_energy import Convergence
from ..verdict import Verdict, to_a_tenth
from .chain import ChainReport
from .contents import Report
from .pictures import inline, pictures_of, sheet
from .viewer import ANGSTROMS_PER_NM, VIEWER


def write_report(report: Report, path: Path) -> None:
    """Write a report as HTML or as a picture, by the ending, and its figures as JSON beside it.

    Args:
        report: What it says.
        path: Of the HTML or PNG file; that of the JSON ends in ".json".

    Raises:
        ValueError: `path` ends in neither ".html" nor ".png".
        OSError: A file cannot be written.
    """
    context = {
        "n": len(report.log_weights),
        "viewer": Markup(VIEWER.read_text()),
        "structures": _structures(report),
        "isfinite": math.isfinite,
        "to_a_tenth": to_a_tenth,
    }
    _write(report, path, "proposals.html", context, figures(report))


def write_chain_report(report: ChainReport, path: Path) -> None:
    """Write the report of a chain as HTML or as a picture, and its figures as JSON beside it.

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
    _write(report, path, "chain.html", {}, plain(figures_of_chain))


def _write(
    report: Report | ChainReport,
    path: Path,
    template: str,
    context: dict[str, Any],
    content: dict[str, Any],
) -> None:
    path, pictures = Path(path), pictures_of(report)
    match path.suffix:
        case ".png":
            written = sheet(pictures, str(report.verdict))
        case ".html":
            context = context | {"report": report, "pictures": inline(pictures)}
            written = _environment().get_template(template).render(context).encode()
        case _:
            raise ValueError(f"path is {path}: give a name that ends in .html or .png")
    write_atomically(path, written)
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("openmm_tbg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
