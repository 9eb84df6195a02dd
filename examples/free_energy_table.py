"""One free-energy difference by six methods, each for the same time: table and picture.

What `alanine_free_energy.py` and `dipeptide_free_energy.py` share. The quantity is
-ln P(0 < phi < 2) / P(rest), in kT; `free_energy_by_flow.py` and `free_energy_by_dynamics.py` have
the methods. Each time includes what the method has to do first, equilibration too. A figure comes
with its verdict; what has none says why.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from free_energy_by_dynamics import by_dynamics, by_tempering, by_umbrellas
from free_energy_by_flow import by_basins, by_moves, by_weights
from free_energy_problem import Problem, Sampled
from openmmtools import cache

from openmm_tbg.free_energy import Estimated, free_energy_profile

EDGES = np.linspace(-np.pi, np.pi, 19)
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
METHODS: dict[str, Callable[[Problem, int, float], Sampled]] = {
    "TBG weights": by_weights,
    "TBG + dynamics in basins": by_basins,
    "TBG moves + Langevin": by_moves,
    "Langevin dynamics": by_dynamics,
    "parallel tempering": by_tempering,
    "umbrella sampling, MBAR": by_umbrellas,
}


@dataclass(frozen=True)
class Reference:
    """What the figures are held against."""

    value_kT: float
    error_kT: float
    source: str


@dataclass(frozen=True)
class Row:
    """What one method found, and what it cost."""

    method: str
    seconds: float
    found: Estimated | None
    why_none: str
    sampled: Sampled | None

    @property
    def verdict(self) -> str:
        return "no figure" if self.found is None else str(self.found.verdict.trust)

    def line(self, reference: Reference) -> str:
        figure, doubts = f"{'-':>14s}  {'':12s}", [f"  {self.why_none}"]
        if self.found is not None:
            figure = f"{self.found.value:6.2f} +- {self.found.error:4.2f}"
            figure += f"  off by {self.found.value - reference.value_kT:+5.2f}"
            doubts = [f"  {doubt.trust}: {doubt.reason}" for doubt in self.found.doubts]
        n = 0 if self.sampled is None else len(self.sampled.torsions)
        line = f"{self.method:24s} {figure}  {self.seconds:4.0f} s  N {n:5d}  {self.verdict}"
        return "\n".join([line, *doubts])

    def record(self) -> dict[str, object]:
        return {
            "method": self.method,
            "seconds": self.seconds,
            "verdict": self.verdict,
            "found": self.found
            and asdict(self.found) | {"doubts": [str(doubt) for doubt in self.found.doubts]},
            "why_none": self.why_none,
        }


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options that every molecule has."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--minutes", type=float, default=1.5, help="for each method")
    options.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="by which to count; processor: of this process",
    )
    options.add_argument("--device", default="cpu", help="of the generator: cpu or cuda")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path(out))
    return options


def row_of(problem: Problem, method: str, seed: int, seconds: float) -> Row:
    started = problem.clock()
    sampled, found, why_none = None, None, ""
    try:
        sampled = METHODS[method](problem, seed, seconds)
        found = sampled.estimate()
    except ValueError as error:  # such as a chain that never crossed
        why_none = str(error)
    return Row(method, problem.clock() - started, found, why_none, sampled)


def draw_figures(axes: plt.Axes, rows: list[Row], reference: Reference) -> None:
    """Filled where the verdict allows to trust a figure, hollow where it does not."""
    axes.axvline(reference.value_kT, color="0.5", linestyle="--")
    low, high = (reference.value_kT + sign * reference.error_kT for sign in (-1, 1))
    axes.axvspan(low, high, color="0.9")
    for height, row in enumerate(reversed(rows)):
        if row.found is None:
            at_left = axes.get_yaxis_transform()
            axes.text(0.03, height, "no figure", va="center", color="0.4", transform=at_left)
            continue
        face = "tab:blue" if row.found.is_trusted else "white"
        axes.errorbar(
            row.found.value, height, xerr=row.found.error, fmt="o", color="tab:blue", mfc=face
        )
    axes.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    axes.set(xlabel="free-energy difference / kT", ylim=(-0.6, len(rows) - 0.4))
    axes.set_title("dashed: reference; hollow: do not trust", fontsize="medium")


def draw_surface(axes: plt.Axes, row: Row) -> plt.cm.ScalarMappable | None:
    axes.set(xlabel="phi / degrees", ylabel="psi / degrees", aspect="equal")
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xticks=(-180, 0, 180), yticks=(-180, 0, 180))
    axes.set_title(f"{row.method}\n{row.verdict}", fontsize="medium")
    if row.sampled is None or np.count_nonzero(row.sampled.log_weights > -np.inf) < 2:
        return None
    surface = free_energy_profile(row.sampled.log_weights, row.sampled.torsions, [EDGES, EDGES])
    degrees = np.degrees(EDGES)
    return axes.pcolormesh(degrees, degrees, surface.free_energy_kT.T, vmin=0, vmax=8)


def picture(problem: Problem, rows: list[Row], reference: Reference, path: Path) -> None:
    figure = plt.figure(figsize=(15, 7), layout="constrained")
    axes = figure.subplot_mosaic([["figures", 0, 1, 2], ["figures", 3, 4, 5]])
    draw_figures(axes["figures"], rows, reference)
    meshes = [draw_surface(axes[number], row) for number, row in enumerate(rows)]
    if drawn := [mesh for mesh in meshes if mesh is not None]:
        figure.colorbar(drawn[0], ax=[axes[2], axes[5]], label="free energy / kT")
    figure.suptitle(f"{problem.name}: free energy of 0 < phi < 2 less that of the rest")
    figure.savefig(path, dpi=130)


def compare(problem: Problem, reference: Reference, options: argparse.Namespace) -> None:
    """Ask every method, print a table, and write it as JSON with a picture."""
    cache.global_context_cache.platform = problem.platform
    problem = replace(problem, clock=CLOCKS[options.clock])
    rows = [row_of(problem, method, options.seed, 60 * options.minutes) for method in METHODS]
    print(f"{problem.name}: -ln P(0 < phi < 2) / P(rest), kT")
    print(f"reference {reference.value_kT:.2f} +- {reference.error_kT:.2f} ({reference.source})")
    print("\n".join(row.line(reference) for row in rows))
    record = {
        "molecule": problem.name,
        "reference": asdict(reference),
        "reference_kT": reference.value_kT,
        "minutes_each": options.minutes,
        "clock": options.clock,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "rows": [row.record() for row in rows],
    }
    options.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    picture(problem, rows, reference, options.out.with_suffix(".png"))
