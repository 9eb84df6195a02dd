"""Trajectories in files of other programs, whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import mdtraj

from .files import PARTIAL, sync, writing


def export_trajectory(trajectory: mdtraj.Trajectory, path: Path) -> None:
    """Write a trajectory in the format that the file's ending names, as MDTraj knows it.

    Args:
        trajectory: The frames.
        path: Ends in .xtc (to 0.001 nm), .dcd, .pdb or another ending of MDTraj.

    Raises:
        OSError: It cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")
    with writing(str(path), "export again"):
        try:
            _save(trajectory, partial)
            sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _save(trajectory: mdtraj.Trajectory, path: Path) -> None:
    try:
        trajectory.save(str(path))
    except (RuntimeError, TypeError) as error:  # what a full disk is to its writers of XTC and DCD
        raise OSError(errno.EIO, "MDTraj wrote a part of it") from error
    if path.suffix == ".xtc":
        with mdtraj.open(str(path)) as written:  # the end may be lost without a word
            if len(written) < len(trajectory):
                raise OSError(errno.EIO, f"MDTraj wrote {len(written)} of {len(trajectory)} frames")
