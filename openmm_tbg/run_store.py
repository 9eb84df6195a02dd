"""The folder of a Markov chain that grows block by block and may be read meanwhile.

It holds arrays with a chunk for each block of iterations: `positions_nm` (iterations, atoms, 3), in
float64 so that the last row of a block is where the chain goes on, `u` and `log_q` (iterations,)
and `counts` (iterations, `COUNTS`); and `blocks/000000.json`, with what else it takes to go on and
the digest of all. A block counts once this file is there, which is written when the rest is on the
disk, so a process may be killed, or lose its power, at any instant. The attributes of the folder
say of what the chain is; `system.xml` is the System, as OpenMM writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from .files import PARTIAL, digest_of, exclusive, write_atomically, writing
from .folders import LastingStore, create_column, make_whole
from .run_record import COUNTS, RunRecord

COLUMNS = ("positions_nm", "u", "log_q", "counts")
TOLD = {"versions", "reference"}  # not compared

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a chain needs to go on, beside the positions.

    Args:
        velocities_nm_per_ps: of each atom, None where the chain has none.
        move: the move as openmmtools serialises it, in YAML.
    """

    velocities_nm_per_ps: list[list[float]] | None
    move: str


class RunStore:
    """The folder of one chain; see the module for what lies in it.

    Args:
        path: A folder that `create` made.

    Raises:
        FileNotFoundError: There is no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        if not _is_run(self.path):
            raise FileNotFoundError(f"{path} holds no run: start one with MCMCRun")
        self.manifest: dict[str, Any] = zarr.open_group(self.path, mode="r").attrs.asdict()

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any], system_xml: str) -> RunStore:
        """Make a folder, or open the one that the same manifest has made.

        Args:
            path: The folder; one that is there already is empty or a run.
            manifest: Of what the chain is; `block_size` and `topology` shape the arrays.
            system_xml: The System, of which the manifest holds the digest.

        Raises:
            ValueError: The run there is of something else.
            FileExistsError: `path` is there and no run.
            OSError: The folder cannot be written.
        """
        path = Path(path).absolute()
        manifest = json.loads(json.dumps(manifest))  # tuples become lists, as in the file
        if not _is_run(path):
            with _explained(path):
                make_whole(path, partial(_allocate, manifest, system_xml), _is_run, "run")
        store = cls(path)
        store._require_same(manifest)
        return store

    @property
    def n_blocks(self) -> int:
        """Number of finished blocks."""
        numbers = (int(path.stem) for path in (self.path / "blocks").glob("*.json"))
        return max(numbers, default=-1) + 1

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers waiting.

        Raises:
            OSError: The folder cannot be written.
        """
        lock = self.path / "lock"
        with _explained(self.path):
            lock.touch()
        with exclusive(lock):
            for leftover in self.path.rglob(f"*{PARTIAL}"):  # of a process that was killed
                leftover.unlink()
            yield

    def write(self, number: int, rows: RunRecord, checkpoint: Checkpoint) -> None:
        """Write a block after those before it.

        Raises:
            OSError: It cannot be written. Those before it are sound.
        """
        with _explained(self.path):
            for name, array in self._arrays("r+").items():
                array.resize(((number + 1) * len(rows), *array.shape[1:]))
                array[number * len(rows) :] = getattr(rows, name)
            content = asdict(checkpoint) | {"sha256": self._digest(number, rows, checkpoint)}
            write_atomically(self._block(number), json.dumps(content).encode())

    def read(self) -> RunRecord:
        """All finished blocks, each checked against its digest.

        Raises:
            RuntimeError: A block is damaged, or none is finished.
        """
        numbers = range(self.n_blocks)
        if not numbers:
            raise RuntimeError(f"no block of {self.path} is finished yet: read it later")
        arrays = self._arrays("r")
        blocks = [self._read_block(number, arrays)[0] for number in numbers]
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(block, name) for block in blocks]) for name in COLUMNS
        }
        return RunRecord(**columns, metadata=self.manifest)

    def read_block(self, number: int) -> tuple[RunRecord, Checkpoint]:
        """One block, and what the chain needs to go on from its end.

        Raises:
            RuntimeError: It is damaged, or not there.
        """
        return self._read_block(number, self._arrays("r"))

    def _read_block(self, number: int, arrays: Arrays) -> tuple[RunRecord, Checkpoint]:
        size = self.manifest["block_size"]
        selected = slice(number * size, (number + 1) * size)
        with suppress(ValueError, FileNotFoundError):  # of what is cut short or missing
            content = json.loads(self._block(number).read_bytes())
            sha256 = content.pop("sha256")
            checkpoint = Checkpoint(**content)
            columns = {name: np.asarray(arrays[name][selected]) for name in COLUMNS}
            rows = RunRecord(**columns, metadata=self.manifest)
            if self._digest(number, rows, checkpoint) == sha256:
                return rows, checkpoint
        raise RuntimeError(
            f"block {number} of {self.path} is damaged: bring it back from a copy, or delete "
            f"blocks/{number:06d}.json and all after it, and the run goes on from there"
        )

    def _arrays(self, mode: Literal["r", "r+"]) -> Arrays:
        """The arrays as they are now; another process may let them grow."""
        stores = {name: LastingStore(self.path / name) for name in COLUMNS}
        return {name: zarr.open_array(store, mode=mode) for name, store in stores.items()}

    def _block(self, number: int) -> Path:
        return self.path / "blocks" / f"{number:06d}.json"

    def _digest(self, number: int, rows: RunRecord, checkpoint: Checkpoint) -> str:
        """The digest of a block at its place in this run."""
        place = [self.manifest, number, asdict(checkpoint)]
        return digest_of(place, (getattr(rows, name) for name in COLUMNS)).hex()

    def _require_same(self, manifest: dict[str, Any]) -> None:
        there, here = dict(leaves(self.manifest)), dict(leaves(manifest))
        differing = [
            f"{key} is {there.get(key)!r:.70} there and {here.get(key)!r:.70} here"
            for key in there.keys() | here.keys()
            if there.get(key) != here.get(key) and TOLD.isdisjoint(key.split("."))
        ]
        if differing:
            raise ValueError(
                f"{self.path} holds another run: {'; '.join(sorted(differing)[:4])}. "
                "Choose another folder, or go on with what made the one there"
            )


def read_run(path: Path) -> RunRecord:
    """Read what a run has visited so far, also while it goes on in another process.

    Args:
        path: The folder of an `MCMCRun`.

    Raises:
        FileNotFoundError: There is no run.
        RuntimeError: No block is finished yet, or one is damaged.
    """
    return RunStore(path).read()


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values in nested dicts and lists, each with its path: "move.0.n_steps"."""
    match tree:
        case dict():
            items: Iterable[tuple[Any, Any]] = tree.items()
        case list() | tuple():
            items = enumerate(tree)
        case _:
            yield path, tree
            return
    for key, value in items:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def _is_run(path: Path) -> bool:
    return (path / COLUMNS[-1] / "zarr.json").exists() and (path / "blocks").is_dir()


def _allocate(manifest: dict[str, Any], system_xml: str, path: Path) -> None:
    """Arrays without rows."""
    group = zarr.create_group(path, attributes=manifest)
    (path / "system.xml").write_text(system_xml)
    (path / "blocks").mkdir()
    n_atoms = len(manifest["topology"]["atoms"]["name"])
    shapes = ((n_atoms, 3), (), (), (len(COUNTS),))
    for name, row in zip(COLUMNS, shapes, strict=True):
        dtype = "int64" if name == "counts" else "float64"
        create_column(group, name, row, manifest["block_size"], dtype)


def _explained(path: Path) -> AbstractContextManager[None]:
    return writing(str(path), "run again; the blocks written before are sound")
