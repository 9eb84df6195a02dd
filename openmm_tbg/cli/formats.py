"""Files whose format is what their ending says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

if TYPE_CHECKING:
    from openmm.app import Topology

    from ..arrays import Positions, Scalars

TABLES = ("json", "csv")
FRAMES = ("pdb", "xtc", "dcd", "npz")


class OutputFile(click.Path):
    """A file to be written, with one of some endings, in a folder that is there."""

    name = "file"

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, checked before any work is done."""
        path = Path(value)
        if path.suffix.removeprefix(".") not in self.endings:
            names = ", ".join(f".{ending}" for ending in self.endings)
            self.fail(f"{str(path)!r}: name a file that ends in one of {names}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{str(path.parent)!r} is no folder: make it first", param, ctx)
        return path


class OutputFolder(click.Path):
    """A folder that a run makes, or goes on with."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, checked before any work is done."""
        path = Path(value)
        if path.exists() and not path.is_dir():
            self.fail(f"{str(path)!r} is a file: name a folder", param, ctx)
        return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write figures, as CSV, or with what they are about as JSON (null for what is not finite)."""
    from ..evaluation.record import plain
    from ..files import write_atomically

    if path.suffix == ".json":
        content = plain({"about": about, "rows": rows})
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    else:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        text = table.getvalue()
    write_atomically(path, text.encode())


def write_frames(path: Path, topology: Topology, positions_nm: Positions) -> None:
    """Write configurations as PDB, XTC (to 0.001 nm), DCD or NumPy arrays.

    Raises:
        OSError: They cannot be written; a file that was there is as it was.
    """
    import mdtraj

    from ..exports import export_trajectory

    if path.suffix == ".npz":
        write_arrays(path, positions_nm=positions_nm)
    else:
        frames = mdtraj.Trajectory(positions_nm, mdtraj.Topology.from_openmm(topology))
        export_trajectory(frames, path)


def write_arrays(path: Path, **arrays: Positions | Scalars) -> None:
    """Write NumPy arrays by their names; errors as in `write_frames`."""
    import numpy as np

    from ..files import write_atomically, writing

    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    with writing(str(path), "export again"):
        write_atomically(path, content.getvalue())


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
