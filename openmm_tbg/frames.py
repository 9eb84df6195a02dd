"""Stored frames of one molecule: a folder that can be read while it is written.

A folder holds `manifest.json` (how the frames come about) and arrays of full size, walker after
walker: `positions_nm.npy` (frames, atoms, 3), `forces_per_nm.npy` of the same shape, `bias_kT.npy`
(frames,), and `done.npy`, the number of finished frames of each walker. A frame counts once it is
written: `done.npy` is written last, so that a process may be killed at any instant.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from .arrays import Scalars
from .files import PARTIAL, exclusive, write_atomically, writing

Vectors = Float32[np.ndarray, "frames atoms 3"]
Energies = Float32[np.ndarray, " frames"]

LONGEST_BOND = 2.0  # in medians; a bond at 300 K stays within 1.3
MANIFEST = "manifest.json"
LOCK = "lock"
THEN = "simulate again; the frames written before are sound"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Frames:
    """Centred configurations of one molecule, walker after walker, and how they came about.

    Args:
        positions_nm: (frames, atoms, 3) in nm, each frame centred.
        forces_per_nm: the reduced force -grad u of the unbiased target in kT/nm, or None.
        bias_kT: the energy of the bias under which each frame was simulated, or None.
        metadata: the manifest; it may be empty in a file that `simulate` did not write.
        n_skipped: frames left out because they were not finite or their bonds were torn.
    """

    positions_nm: Vectors
    forces_per_nm: Vectors | None
    bias_kT: Energies | None
    metadata: dict[str, Any]
    n_skipped: int = 0

    @property
    def log_weights(self) -> Scalars | None:
        """Log of each frame's weight in an average over the unbiased target, up to a constant.

        Frames simulated in u + b have the density exp(-u - b), and so the weight exp(+b) toward
        exp(-u). None where no bias was recorded: all weights are equal.
        """
        return None if self.bias_kT is None else self.bias_kT.astype(np.float64)

    def __len__(self) -> int:
        return len(self.positions_nm)


class FrameStore:
    """The folder of frames of one molecule; see the module for what lies in it.

    Args:
        path: a folder that `create` made.
        mode: "r" to read, "r+" to write.

    Raises:
        FileNotFoundError: if there is no store, or it was not yet made whole.
    """

    def __init__(self, path: Path, mode: str = "r") -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        arrays = (_opened(self.path, name, mode) for name in _shapes(self.manifest))
        self._positions, self._forces, self._bias, self._done = arrays

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any]) -> FrameStore:
        """Make a store, or open the one that the same manifest has made, for writing.

        Args:
            path: the folder; one that is there already is empty or a store.
            manifest: how the frames come about; `walkers`, `frames_per_walker` and `atoms` give
                the shape of the arrays. Another `versions` is let pass in a store that is whole.

        Raises:
            FileExistsError: if `path` is there and no store.
            ValueError: if the store there comes from another manifest.
            OSError: if the folder cannot be written, or the disk has no room for all frames.
        """
        path = Path(path)
        manifest = json.loads(json.dumps(manifest))  # tuples become lists, as in the file
        leftovers = {LOCK, _partial(Path(MANIFEST)).name}
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file: give the name of a folder for the frames")
        with writing(str(path), THEN):
            path.mkdir(parents=True, exist_ok=True)
        others = {entry.name for entry in path.iterdir()} - leftovers
        if others and MANIFEST not in others:
            raise FileExistsError(
                f"{path} holds {sorted(others)[:3]}, but no {MANIFEST}: choose another folder"
            )
        with writing(str(path), THEN), exclusive(path / LOCK):
            if not (path / MANIFEST).exists():
                write_atomically(path / MANIFEST, json.dumps(manifest, indent=1).encode())
            if not (path / "done.npy").exists():
                for name, shape in _shapes(_read_manifest(path)).items():
                    _allocate(path / f"{name}.npy", shape, _dtype(name))
        store = cls(path, "r+")
        store._require_same(manifest)
        return store

    @property
    def n_done(self) -> Int[np.ndarray, " walkers"]:
        """Number of finished frames of each walker."""
        return np.array(self._done)

    @property
    def complete(self) -> bool:
        """Whether all frames are finished."""
        return bool((self._done == self.manifest["frames_per_walker"]).all())

    def write(
        self,
        walker: int,
        first: int,
        positions_nm: Float[np.ndarray, "chunk atoms 3"],
        forces_per_nm: Float[np.ndarray, "chunk atoms 3"],
        bias_kT: Float[np.ndarray, " chunk"],
    ) -> None:
        """Write frames of a walker from its frame `first` on; they count after `finish`."""
        begin = walker * self.manifest["frames_per_walker"] + first
        rows = slice(begin, begin + len(positions_nm))
        self._positions[rows] = positions_nm
        self._forces[rows] = forces_per_nm
        self._bias[rows] = bias_kT
        for array in (self._positions, self._forces, self._bias):
            array.flush()

    def finish(self, walker: int, n_frames: int) -> None:
        """Say that the first `n_frames` frames of a walker are written."""
        self._done[walker] = n_frames
        self._done.flush()

    def read(self) -> Frames:
        """The finished frames, without those that are not finite or whose bonds are torn."""
        per_walker = self.manifest["frames_per_walker"]
        finished = [np.arange(n) + k * per_walker for k, n in enumerate(self.n_done)]
        rows = np.concatenate(finished)
        frames = Frames(
            np.asarray(self._positions[rows]),
            np.asarray(self._forces[rows]),
            np.asarray(self._bias[rows]),
            self.manifest,
        )
        return _without_broken(frames, self.path)

    def _require_same(self, manifest: dict[str, Any]) -> None:
        tolerated = {"versions"} if self.complete else set()
        keys = (self.manifest.keys() | manifest.keys()) - tolerated
        differing = sorted(k for k in keys if self.manifest.get(k) != manifest.get(k))
        if differing:
            found = "; ".join(
                f"{key} is {_brief(self.manifest.get(key))} there, {_brief(manifest.get(key))} here"
                for key in differing
            )
            raise ValueError(
                f"{self.path} holds frames of another simulation: {found}. Choose another folder, "
                "or read what is there with load_frames"
            )


def load_frames(path: Path) -> Frames:
    """Read the finished frames of a folder, also while it is written, or of an older `.npz` file.

    Frames that are not finite, or with a bond of more than twice its median length, are skipped
    with a warning in the log; `n_skipped` is their number.

    Raises:
        FileNotFoundError: if there is nothing under this name, or the folder holds no frames yet.
        ValueError: if a file holds no positions.
    """
    path = Path(path)
    if path.is_dir():
        return FrameStore(path).read()
    with np.load(path, allow_pickle=False) as stored:
        if "positions_nm" not in stored:
            raise ValueError(f"{path} holds {sorted(stored)}, but no positions_nm")
        metadata = json.loads(str(stored["metadata"])) if "metadata" in stored else {}
        frames = Frames(stored["positions_nm"], None, None, metadata)
    return _without_broken(frames, path)


def _shapes(manifest: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    n_frames = manifest["walkers"] * manifest["frames_per_walker"]
    frames = (n_frames, manifest["atoms"], 3)
    shapes: dict[str, tuple[int, ...]] = {"positions_nm": frames, "forces_per_nm": frames}
    return shapes | {"bias_kT": (n_frames,), "done": (manifest["walkers"],)}  # done comes last


def _dtype(name: str) -> type[np.generic]:
    return np.int64 if name == "done" else np.float32


def _allocate(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    partial = _partial(path)
    np.lib.format.open_memmap(partial, "w+", dtype, shape)
    with partial.open("r+b") as file:  # a memmap whose disk is full would kill the process
        os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    partial.replace(path)


def _opened(path: Path, name: str, mode: str) -> np.memmap[Any, Any]:
    try:
        return np.lib.format.open_memmap(path / f"{name}.npy", mode)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} holds no frames yet: start its simulation again"
        ) from error
    except ValueError as error:  # of a file that is cut short
        raise RuntimeError(
            f"{path / name}.npy is damaged ({error}): put a copy in its place, or simulate again "
            "into another folder"
        ) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).exists():
        raise FileNotFoundError(f"{path} holds no {MANIFEST}: give a folder that simulate wrote")
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    return manifest


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:50]} ..."


def _without_broken(frames: Frames, path: Path) -> Frames:
    columns = (frames.positions_nm, frames.forces_per_nm, frames.bias_kT)
    sound = np.ones(len(frames), dtype=bool)
    for column in columns:
        if column is not None:
            sound &= np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
    sound &= ~_torn(frames.positions_nm, sound, frames.metadata.get("bonds", ()))
    n_skipped = int((~sound).sum())
    if not n_skipped:
        return frames
    _log.warning(
        "%s: %d of %d frames are skipped, not finite or a bond of more than %g times its median",
        path, n_skipped, len(frames), LONGEST_BOND,
    )  # fmt: skip
    return Frames(
        frames.positions_nm[sound],
        None if frames.forces_per_nm is None else frames.forces_per_nm[sound],
        None if frames.bias_kT is None else frames.bias_kT[sound],
        frames.metadata,
        n_skipped,
    )


def _torn(
    positions_nm: Vectors, sound: Bool[np.ndarray, " frames"], bonds: Sequence[Sequence[int]]
) -> Bool[np.ndarray, " frames"]:
    torn = np.zeros(len(positions_nm), dtype=bool)
    for first, second in bonds if sound.any() else ():
        lengths = np.linalg.norm(positions_nm[:, first] - positions_nm[:, second], axis=-1)
        torn |= lengths > LONGEST_BOND * np.median(lengths[sound])
    return torn
