"""Frames of `simulate`, which have to be of the molecule and the target that they serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmm.app import Topology

    from ..frames import Frames
    from ..reference import ReferenceSystem


def read_simulated(path: Path, molecule: str, topology: Topology) -> Frames:
    """The frames of a folder, checked to be of the molecule.

    Raises:
        ValueError: Elements or bonds differ, or the folder says nothing of its target.
        FileNotFoundError: The folder holds no frames.
    """
    from ..frames import load_frames

    frames = load_frames(path)
    metadata = frames.metadata
    missing = {"elements", "bonds", "force_field", "temperature_K"} - metadata.keys()
    if missing:
        raise ValueError(f"{path} says nothing of {', '.join(sorted(missing))}: simulate it anew")
    atoms = list(topology.atoms())
    bonds = sorted(sorted((one.index, other.index)) for one, other in topology.bonds())
    if [atom.element.symbol for atom in atoms] != metadata["elements"] or bonds != sorted(
        sorted(pair) for pair in metadata["bonds"]
    ):
        raise ValueError(
            f"{path} holds frames of another molecule than {molecule}: give the molecule "
            "that was simulated"
        )
    return frames


def require_of_target(frames: Frames, path: Path, target: ReferenceSystem) -> None:
    """Check that frames were simulated in the target.

    Raises:
        ValueError: Force field or temperature differ.
    """
    there = tuple(frames.metadata["force_field"]), frames.metadata["temperature_K"]
    if there != (target.force_field, target.temperature_K):
        raise ValueError(
            f"{path} was simulated with {' + '.join(there[0])} at {there[1]:g} K, the target is "
            f"{' + '.join(target.force_field)} at {target.temperature_K:g} K: give the target of "
            "the frames, or frames of the target"
        )
