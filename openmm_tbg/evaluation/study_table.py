"""Rows of many molecules, and their means with the spread."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from ..verdict import Verdict, doubts_of_number, doubts_of_tail
from .molecule_figures import MoleculeFigures, Origin
from .record import plain

AVERAGED = (
    "valid_bonds",
    "valid_chirality",
    "valid",
    "effective_sample_size",
    "acceptance",
    "pareto_k",
    "seconds_per_proposal",
    "effective_samples_per_second",
)


@dataclass(frozen=True)
class Row:
    """What was found for one molecule, or why nothing was.

    Attributes:
        molecule: Its name.
        origin: What the figures belong to.
        figures: The figures.
        failure: The cause where there are no figures; else empty.
    """

    molecule: str
    origin: Origin | None = None
    figures: MoleculeFigures | None = None
    failure: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """How far averages over the proposals can be trusted; None without figures."""
        if self.figures is None or self.origin is None:
            return None
        n_effective = self.figures.effective_sample_size.value * self.origin.n
        n_weights = round(self.figures.valid * self.origin.n)
        tail = doubts_of_tail(self.figures.pareto_k, n_weights) if n_weights > 1 else ()
        return Verdict((*doubts_of_number(n_effective, "effective proposals", "draw more"), *tail))

    @staticmethod
    def file(folder: Path) -> Path:
        """Where the row lies in the folder of its molecule."""
        return folder / "row.json"

    @classmethod
    def read(cls, file: Path) -> Row:
        """Read what `write` wrote."""
        stored = json.loads(file.read_text())
        if stored["figures"] is not None:
            stored["origin"] = Origin(**stored["origin"])
            stored["figures"] = MoleculeFigures.from_dict(stored["figures"])
        return cls(**stored)

    def write(self, folder: Path) -> None:
        """Write the row, whole or not at all, with infinities as Python reads them."""
        write_atomically(self.file(folder), json.dumps(asdict(self), indent=1).encode())

    def columns(self) -> dict[str, Any]:
        """Everything by name; of a molecule that failed only this and the cause."""
        found: dict[str, Any] = {"molecule": self.molecule, "failure": self.failure}
        if self.figures is None or self.origin is None:
            return found
        return found | {"verdict": str(self.verdict)} | asdict(self.origin) | self.figures.columns()


@dataclass(frozen=True)
class Spread:
    """Mean of a figure over molecules, and the standard deviation from one to another.

    Attributes:
        mean: The mean; NaN where no molecule has the figure.
        standard_deviation: With n - 1; NaN for fewer than two.
        n: Molecules that have the figure.
    """

    mean: float
    standard_deviation: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """Of the values that are finite.

        Example:
            >>> Spread.of([1.0, 3.0, None])
            Spread(mean=2.0, standard_deviation=1.4142135623730951, n=2)
        """
        known = [each for each in values if each is not None and math.isfinite(each)]
        return cls(
            float(np.mean(known)) if known else math.nan,
            float(np.std(known, ddof=1)) if len(known) > 1 else math.nan,
            len(known),
        )


@dataclass(frozen=True)
class StudyTable:
    """The rows of a study.

    Attributes:
        rows: One for each molecule, in the order in which they were given.

    Example:
        >>> StudyTable((Row("KS", failure="OSError: no such file"),)).failures
        {'KS': 'OSError: no such file'}
    """

    rows: tuple[Row, ...]

    @classmethod
    def read(cls, molecules: Sequence[str], folder: Path) -> StudyTable:
        """The rows of those molecules that have one."""
        files = [Row.file(folder / molecule) for molecule in molecules]
        return cls(tuple(Row.read(file) for file in files if file.exists()))

    @property
    def failures(self) -> dict[str, str]:
        """Molecules without figures, which no mean contains, with the cause."""
        return {row.molecule: row.failure for row in self.rows if row.figures is None}

    @property
    def spreads(self) -> dict[str, Spread]:
        """Each figure over the molecules that have it; of deviations the magnitude."""
        columns = [row.figures.columns() for row in self.rows if row.figures is not None]
        found = {name: Spread.of([each[name] for each in columns]) for name in AVERAGED}
        deviations = [each["deviation_kT"] for each in columns]
        magnitudes = [None if each is None else abs(each) for each in deviations]
        return found | {"absolute_deviation_kT": Spread.of(magnitudes)}

    def write(self, folder: Path) -> None:
        """Write `results.csv` and `results.json`, the latter with null for what is not finite."""
        rows = [row.columns() for row in self.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, names)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / "results.csv", table.getvalue().encode())
        spreads = {name: asdict(spread) for name, spread in self.spreads.items()}
        content = plain({"spreads": spreads, "rows": rows})
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write_atomically(folder / "results.json", text.encode())

    def __str__(self) -> str:
        lines = [_line(row) for row in self.rows]
        n_found = len(self.rows) - len(self.failures)
        lines.append(f"mean and standard deviation over {n_found} of {len(self.rows)} molecules:")
        lines += [
            f"  {name:29s} {spread.mean:.4g}, {spread.standard_deviation:.2g} (n = {spread.n})"
            for name, spread in self.spreads.items()
        ]
        return "\n".join(lines)


def _line(row: Row) -> str:
    found, verdict = row.figures, row.verdict
    if found is None or verdict is None:
        return f"{row.molecule:4s} {row.failure}"
    return (
        f"{row.molecule:4s} {verdict.trust:15s}  valid {found.valid:.1%}  "
        f"ESS {found.effective_sample_size:.2%}  acceptance {found.acceptance:.2%}  "
        f"Pareto k {found.pareto_k:.2f}  dF {found.free_energy_difference_kT:.2f} kT  "
        f"{found.seconds_per_proposal:.3g} s a proposal"
    )
