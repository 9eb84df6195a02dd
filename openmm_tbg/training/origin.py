"""What a checkpoint belongs to: settings, a network and frames; no other run goes on from it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from .data import Fingerprint
from .objectives import Task
from .settings import TrainingSettings

SETTINGS_THAT_MAY_CHANGE = {"n_steps"}
FORCES = "forces_per_nm"
AGREEMENT = 1e-4  # relative; of forces and weights on platforms of single precision


def fingerprints(tasks: Sequence[Task]) -> list[dict[str, Fingerprint]]:
    """Of all frames, molecule by molecule, as a checkpoint keeps them."""
    return [
        {"training": task.frames.fingerprint, "validation": task.validation.fingerprint}
        for task in tasks
    ]


def require_sound(checkpoint: Path) -> None:
    """Refuse a checkpoint that has changed since it was written; torch checks no sums itself.

    Raises:
        RuntimeError: It is damaged.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if archive.testzip() is None:
                return
    except zipfile.BadZipFile:
        pass
    raise RuntimeError(
        f"checkpoint {checkpoint} is damaged: put a copy of it in its place, or remove it and "
        "begin anew"
    )


def require_origin(
    state: Mapping[str, Any],
    settings: TrainingSettings,
    network: nn.Module,
    frames: Sequence[Mapping[str, Fingerprint]],
    checkpoint: Path,
) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: It was made with other settings, another network or other frames, or does not
            say with which.
    """
    mine, theirs = asdict(settings), state["settings"]
    other = [k for k in mine if k not in SETTINGS_THAT_MAY_CHANGE and mine[k] != theirs.get(k)]
    if other:
        raise ValueError(
            f"checkpoint {checkpoint} was made with other settings ({', '.join(other)}): "
            "give the same settings, or another checkpoint file"
        )
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    if shapes != {k: v.shape for k, v in state["field"].items()}:
        raise ValueError(
            f"checkpoint {checkpoint} holds another network: give the same architecture, "
            "hidden and layers, or another checkpoint file"
        )
    if "frames" not in state:
        raise ValueError(
            f"checkpoint {checkpoint} does not say with which frames it was made: an earlier "
            "version of the library wrote it; begin anew with another checkpoint file"
        )
    if len(frames) != len(state["frames"]):
        raise ValueError(
            f"checkpoint {checkpoint} was made with frames of another number of molecules "
            f"({len(state['frames'])}, not {len(frames)}): give those, or another checkpoint file"
        )
    if differing := list(_differing(state["frames"], frames)):
        raise ValueError(
            f"checkpoint {checkpoint} was made with other frames ({', '.join(differing)}): give "
            "the frames of that run in the same order, or another checkpoint file"
        )


def _differing(
    theirs: Sequence[Mapping[str, Fingerprint]], mine: Sequence[Mapping[str, Fingerprint]]
) -> Iterator[str]:
    """Columns that are not the same, such as "positions_nm for validation of molecule 3 of 200"."""
    for number, (their_sets, my_sets) in enumerate(zip(theirs, mine, strict=True), start=1):
        molecule = f" of molecule {number} of {len(mine)}" if len(mine) > 1 else ""
        for purpose, columns in my_sets.items():
            for column, value in columns.items():
                known = their_sets[purpose][column]
                if column == FORCES and None in (value, known):
                    continue  # they take noise from the targets, whose means stay what they are
                if not _agree(value, known):
                    yield f"{column} for {purpose}{molecule}"


def _agree(one: str | float | None, other: str | float | None) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=AGREEMENT, abs_tol=AGREEMENT)
    return one == other
