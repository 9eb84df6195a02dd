"""Proposals drawn once: a folder that many processes fill and every machine reads.

A folder holds arrays of full size, batch after batch: `positions_nm` (rows, atoms, 3), `log_q` and
`cause` (rows,), and `sha256` (batches, 32), the digest of each finished batch. A chunk of an array
is a batch, renamed into place when it is whole, and the digest comes last: a batch counts once it
is there. Each is on the disk before the next is written. So processes need no locks, and may be
killed, or lose their power, at any instant; what they may leave ends in .partial and is never read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from .arrays import Mask
from .files import digest_of, exclusive, writing
from .folders import LastingStore, create_column, make_whole
from .progress import progress_bar
from .proposals import ProposalGenerator, Proposals
from .shown import Shown

COLUMNS = ("positions_nm", "log_q", "cause")
PACKAGES = ("openmm-tbg", "numpy", "torch", "zarr")  # versions are told, not compared

_log = logging.getLogger(__name__)


class ProposalStore(Shown):
    """Batches of proposals of one generator, drawn once.

    Batch b is drawn from the seed and b alone: however the batches are spread over processes, and
    after any kill, one kind of machine gives the same bits.

    Args:
        path: A folder that `create` made.

    Raises:
        FileNotFoundError: There is no store.

    Example:
        >>> from openmm_tbg.molecule import Molecule
        >>> class Normal:
        ...     molecule = Molecule((1,), ("H",), ("H",), (0,), (), ())
        ...     reference, sha256, evaluate = "normal", "0", len
        ...     def propose(self, n, rng):
        ...         x = rng.normal(size=(n, 1, 3))
        ...         return Proposals(x, -np.square(x).sum(axis=(1, 2)) / 2, np.zeros(n, np.int8))
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = ProposalStore.create(Path(folder) / "a", Normal(), 3, batch_size=4, seed=1)
        ...     store.fill(Normal(), [0, 2])
        ...     store.finished, len(store.read())
        (array([ True, False,  True]), 8)
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        if not _is_store(self.path):
            raise FileNotFoundError(
                f"{path} is no store of proposals: make one with ProposalStore.create"
            )
        group = zarr.open_group(LastingStore(self.path), mode="r+")
        self.manifest: dict[str, Any] = group.attrs.asdict()
        arrays: dict[str, Any] = dict(group.arrays())
        self._columns = [arrays[name] for name in COLUMNS]
        self._digests = arrays["sha256"]

    @classmethod
    def create(
        cls, path: Path, generator: ProposalGenerator, n_batches: int, batch_size: int, seed: int
    ) -> ProposalStore:
        """Make a store, or open the one that the same arguments have made; nothing is drawn yet.

        One with fewer batches grows. Several processes may call it at the same time.

        Args:
            path: The folder; one that is there already is empty or a store.
            generator: What will draw the proposals.
            n_batches: Number of batches that it has at least.
            batch_size: Proposals in each.
            seed: Origin of all random numbers.

        Raises:
            ValueError: A number is out of range, or the store there is of another generator,
                molecule, batch size or seed.
            FileExistsError: `path` is there and no store.
            OSError: The folder cannot be made.
        """
        if n_batches < 1 or batch_size < 1 or seed < 0:
            raise ValueError(
                f"n_batches is {n_batches}, batch_size {batch_size} and seed {seed}: "
                "give at least one batch of at least one proposal, and a seed that is not negative"
            )
        path = Path(path).absolute()
        made_from = _identity(generator) | {"batch_size": int(batch_size), "seed": int(seed)}
        if not _is_store(path):
            versions = {name: version(name) for name in PACKAGES}
            manifest = made_from | {"reference": generator.reference, "versions": versions}
            fill = partial(_allocate, manifest, n_batches)
            with writing(str(path), "create the store again"):
                make_whole(path, fill, _is_store, "store of proposals")
        store = cls(path)
        store._require_same(made_from)
        if store.n_batches < n_batches:
            _grow(path, n_batches)
            store = cls(path)
        return store

    def _facts(self) -> dict[str, object]:
        return {
            "path": self.path,
            "model": self.manifest["reference"],
            "batches": f"{int(self.finished.sum())} of {self.n_batches}",
            "batch size": self.batch_size,
            "seed": self.manifest["seed"],
        }

    @property
    def n_batches(self) -> int:
        """Number of batches, finished or not."""
        return int(self._digests.shape[0])

    @property
    def batch_size(self) -> int:
        """Proposals in each batch."""
        return int(self.manifest["batch_size"])

    @property
    def finished(self) -> Mask:
        """Which batches are drawn."""
        with suppress(ValueError):  # of a digest that is cut short
            return np.array(np.asarray(self._digests[:]).any(axis=1))
        return np.array([self.has(number) for number in range(self.n_batches)])

    def has(self, number: int) -> bool:
        """Whether a batch is drawn."""
        return any(self._digest(number))

    def require_same(self, generator: ProposalGenerator) -> None:
        """Raise a ValueError if these are proposals of another model or molecule."""
        self._require_same(_identity(generator))

    def fill(self, generator: ProposalGenerator, batches: Iterable[int] | None = None) -> None:
        """Draw the batches that are not there yet, and those that are damaged.

        Args:
            generator: What draws the proposals.
            batches: Which batches, such as `Rank.here().share(store.n_batches)`; all if None.

        Raises:
            ValueError: The generator is another, or drops the rows that fail a filter.
            IndexError: There is no such batch.
            OSError: A batch cannot be written.
        """
        numbers = list(range(self.n_batches) if batches is None else batches)
        with progress_bar(len(numbers), "batch", self.path.name) as bar:
            for number in numbers:
                self.draw(number, generator)
                bar.update()

    def draw(self, number: int, generator: ProposalGenerator) -> None:
        """Draw a batch, unless it is there and sound; errors as in `fill`."""
        self.require_same(generator)
        if not self._is_sound(number):
            seeds = np.random.SeedSequence(self.manifest["seed"], spawn_key=(number,))
            self.write(number, generator.propose(self.batch_size, np.random.default_rng(seeds)))

    def write(self, number: int, batch: Proposals) -> None:
        """Write a batch, over the one that is there.

        Raises:
            ValueError: It has another number of rows than the batches of the store.
            OSError: It cannot be written. Those written before are sound.
        """
        if len(batch) != self.batch_size:
            raise ValueError(
                f"batch {number} has {len(batch)} rows, the batches of {self.path} have "
                f"{self.batch_size}: a proposal that fails a filter has to keep its row"
            )
        then = "fill the store again; the batches written before are sound"
        with writing(f"batch {number} of {self.path}", then):
            for name, array in zip(COLUMNS, self._columns, strict=True):
                array[self._rows(number)] = getattr(batch, name)
            digest = self._digest_of(number, batch)
            self._digests[number] = np.frombuffer(digest, dtype=np.uint8)

    def read(self) -> Proposals:
        """All finished batches in their order, each checked against its digest.

        Raises:
            RuntimeError: A batch is damaged, or none is finished.
        """
        numbers = np.flatnonzero(self.finished)
        if not len(numbers):
            raise RuntimeError(f"no batch of {self.path} is finished: fill the store first")
        return Proposals.concatenate([self.read_batch(int(number)) for number in numbers])

    def read_batch(self, number: int) -> Proposals:
        """One batch, checked against its digest.

        Raises:
            RuntimeError: It is damaged, or not finished.
            IndexError: There is no such batch.
        """
        if not self.has(number):
            raise RuntimeError(f"batch {number} of {self.path} is not drawn yet: fill the store")
        with suppress(ValueError):  # of an array that is cut short
            columns = [np.asarray(array[self._rows(number)]) for array in self._columns]
            batch = Proposals(*columns)
            if self._digest_of(number, batch) == self._digest(number):
                return batch
        raise RuntimeError(
            f"batch {number} of {self.path} is damaged: fill the store again with its generator, "
            "which draws this batch anew and leaves the others alone"
        )

    def _is_sound(self, number: int) -> bool:
        if not self.has(number):
            return False
        try:
            self.read_batch(number)
        except RuntimeError:
            _log.warning("batch %d of %s is damaged and drawn again", number, self.path)
            return False
        return True

    def _rows(self, number: int) -> slice:
        return slice(number * self.batch_size, (number + 1) * self.batch_size)

    def _digest(self, number: int) -> bytes:
        """The stored digest, zeros while there is none."""
        if not 0 <= number < self.n_batches:
            raise IndexError(f"{self.path} has batches 0 to {self.n_batches - 1}, but no {number}")
        try:
            return bytes(np.asarray(self._digests[number]))
        except ValueError:
            return b"cut short"

    def _digest_of(self, number: int, batch: Proposals) -> bytes:
        """The digest of a batch at its place in this store."""
        columns = (getattr(batch, name) for name in COLUMNS)
        return digest_of([self.manifest, number], columns)

    def _require_same(self, here: dict[str, Any]) -> None:
        differing = [
            f"{key} is {self.manifest[key]!r:.70} there and {value!r:.70} here"
            for key, value in here.items()
            if self.manifest[key] != value
        ]
        if differing:
            raise ValueError(
                f"{self.path} holds other proposals: {'; '.join(differing)}. "
                "Choose another folder, or give what made the one there"
            )


def _identity(generator: ProposalGenerator) -> dict[str, Any]:
    """What tells generators apart; tuples become lists, as in the file."""
    molecule: dict[str, Any] = json.loads(json.dumps(asdict(generator.molecule)))
    return {"sha256": generator.sha256} | molecule


def _is_store(path: Path) -> bool:
    return (path / "sha256" / "zarr.json").exists()


def _allocate(manifest: dict[str, Any], n_batches: int, path: Path) -> None:
    """Arrays of full size in which no chunk is written yet."""
    batch_size = manifest["batch_size"]
    group = zarr.create_group(path, attributes=manifest)
    for name, row, dtype, chunk, unwritten in (
        ("positions_nm", (len(manifest["names"]), 3), "float64", batch_size, np.inf),
        ("log_q", (), "float64", batch_size, np.inf),
        ("cause", (), "int8", batch_size, -1),
        ("sha256", (32,), "uint8", 1, 0),
    ):
        create_column(group, name, row, chunk, dtype, n_batches, unwritten)


def _grow(path: Path, n_batches: int) -> None:
    """Longer arrays; a batch counts by its digest, and these come last."""
    with exclusive(path / "zarr.json"):  # so that none of two makes it shorter again
        arrays: dict[str, Any] = dict(zarr.open_group(LastingStore(path), mode="r+").arrays())
        for name in (*COLUMNS, "sha256"):
            shape = (n_batches * arrays[name].chunks[0], *arrays[name].shape[1:])
            if shape > arrays[name].shape:
                arrays[name].resize(shape)
