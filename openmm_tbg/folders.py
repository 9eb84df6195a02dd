"""Folders that are seen whole or not at all, and arrays in them that last."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import zarr
from zarr.storage import LocalStore

from .files import PARTIAL, sync, write_atomically

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


class LastingStore(LocalStore):
    """Files of zarr that are whole and on the disk once an array has been written."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one file."""
        self._check_writable()
        ending = f".{uuid.uuid4().hex}{PARTIAL}"  # several processes may write it at a time
        write_atomically(self.root / key, value.to_bytes(), ending)


def make_whole(
    path: Path, fill: Callable[[Path], None], is_made: Callable[[Path], bool], what: str
) -> None:
    """Make a folder that is seen whole or not at all, unless another process is faster.

    Args:
        path: The folder; its parents are made.
        fill: Makes a folder of the name given to it, and what belongs in it.
        is_made: Whether there is such a folder already.
        what: What one is called.

    Raises:
        FileExistsError: `path` is there and something else.
        OSError: The folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / "made"
        fill(made)
        for entry in (*made.rglob("*"), made):
            sync(entry)
        try:
            made.rename(path)
        except OSError as error:
            if not is_made(path):
                raise FileExistsError(
                    f"{path} is there and no {what}: choose another folder"
                ) from error
        sync(path.parent)


def create_column(
    group: zarr.Group,
    name: str,
    row: tuple[int, ...],
    chunk: int,
    dtype: str,
    n_chunks: int = 0,
    fill_value: int | float = 0,
) -> None:
    """Make an array in which no chunk of rows is written yet.

    Args:
        group: Where it belongs.
        name: What it is called.
        row: Shape of a row.
        chunk: Rows in each chunk, which is one file.
        dtype: Of its numbers.
        n_chunks: Chunks that it has from the beginning.
        fill_value: What is read where nothing is written.
    """
    group.create_array(
        name,
        shape=(n_chunks * chunk, *row),
        chunks=(chunk, *row),
        dtype=dtype,
        fill_value=fill_value,
        compressors=None,  # noise does not compress
        chunk_key_encoding={"name": "default", "separator": "."},  # no folder for each chunk
    )
