"""Files that are seen whole or not at all, and last once they are written; and digests."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

PARTIAL = ".partial"  # ending of a file that is not whole yet

_log = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes, ending: str = PARTIAL) -> None:
    """Write a file that is seen either whole or not at all, also after a loss of power.

    Once this returns, content and name are on the disk.

    Args:
        path: the file.
        content: what it is to hold.
        ending: of its name until it is whole; each of several processes that may write it at the
            same time takes its own.
    """
    partial = path.with_name(path.name + ending)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


@contextmanager
def writing(what: str, then: str) -> Iterator[None]:
    """Let an OSError say what could not be written, why, and what to do.

    Args:
        what: is written.
        then: what to do once that is mended, and what is sound meanwhile.

    Raises:
        OSError: As it came, with the message.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{what} cannot be written ({error.strerror or error}): see that the disk has room and "
            f"the folder may be written, and {then}",
        ) from error


def sync(path: Path) -> None:
    """Bring the content of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that sync no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process; wait, with a line in the log, while another has it.

    Args:
        path: the file to be locked; it is created and stays.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process writes %s: waiting until it ends", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest_of(description: object, columns: Iterable[np.ndarray]) -> bytes:
    """The sha256 of plain values and of the arrays that belong to them, 32 bytes."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.digest()
