"""A training is killed at random instants: what is lost, and does it end as if it had not been?

    python benchmarks/kill_training.py --kills 50 --out benchmarks/kill_training.json

Each process goes on where the one before it was killed. The network is tiny and the checkpoints are
near each other, so that kills also meet one that is being written.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kill_store import report

from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.molecule import Molecule
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.training import (
    MoleculeFrames,
    Progress,
    ResidualMatching,
    Task,
    Trainer,
    TrainingSettings,
)

STEPS_BETWEEN_CHECKPOINTS = 5
SETTINGS = TrainingSettings(n_steps=400, batch_size=2, warmup_steps=10, ema_decay=0.9)
ARCHITECTURE = DenoiserArchitecture(hidden=4, layers=1)


@dataclass(frozen=True)
class KillStatistics:
    kills: int
    kills_before_the_first_checkpoint: int
    steps_between_checkpoints: int
    steps_done_at_the_last_kill: int
    steps_of_all_processes: int
    most_steps_lost_in_one_kill: int
    checkpoints_damaged: int
    ends_bit_for_bit_as_uninterrupted: bool


def noisy_task() -> Task:
    """Noise around the structure of alanine dipeptide."""
    reference = alanine_dipeptide()
    structure_nm = reference.positions_nm
    molecule = Molecule.from_topology(reference.topology, structure_nm)
    rng = np.random.default_rng(0)
    frames = structure_nm + 0.01 * rng.normal(size=(40, *structure_nm.shape))
    frames -= frames.mean(axis=1, keepdims=True)
    geometry = ReferenceGeometry.from_frames(molecule, encode_full(molecule), frames)
    torch.manual_seed(0)
    field = ARCHITECTURE.field(geometry, torch.float32)
    tensor = torch.from_numpy(frames).float()
    return Task(ResidualMatching(field), MoleculeFrames(tensor[:36]), MoleculeFrames(tensor[36:]))


def train(task: Task, checkpoint: Path, reached: Any) -> None:
    """Train to the end, and tell after each step of the optimiser which one it was."""
    trainer = Trainer([task], SETTINGS, checkpoint)

    def count(*_: object) -> None:
        reached.value = trainer.step + 1

    def ignore(_: Progress) -> None:
        pass

    trainer.optimizer.register_step_post_hook(count)
    trainer.run(ignore, every=STEPS_BETWEEN_CHECKPOINTS)


def fork(task: Task, checkpoint: Path, reached: Any) -> int:
    """The number of a process that trains; the network of this one stays as it is."""
    child = os.fork()
    if child == 0:
        train(task, checkpoint, reached)
        os._exit(0)
    return child


def kill_after(seconds: float, child: int) -> None:
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        raise RuntimeError("the training was over before the last kill: raise n_steps")


def is_equal(one: Any, other: Any) -> bool:
    """Whether all numbers of two checkpoints are the same, but for the time that they took."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = one.keys() - {"minutes"}
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return bool(one == other)


def run(n_kills: int, folder: Path) -> KillStatistics:
    torch.set_num_threads(1)
    rng, reached = np.random.default_rng(0), multiprocessing.Value("q", 0)
    task, killed, whole = noisy_task(), folder / "killed.pt", folder / "whole.pt"
    Trainer([copy.deepcopy(task)], SETTINGS, killed)  # torch loads much of itself only here
    started = time.perf_counter()
    os.waitpid(fork(task, whole, reached), 0)
    seconds = time.perf_counter() - started
    lost, n_steps, n_before, n_damaged, step = [], 0, 0, 0, 0
    for _ in range(n_kills):
        reached.value = first = step
        wait_s = float(rng.uniform(0.0, 1.6 * seconds / n_kills))
        kill_after(wait_s, fork(task, killed, reached))
        try:
            step = torch.load(killed, weights_only=True)["step"] if killed.exists() else 0
        except Exception:  # whatever torch says of a file that is no checkpoint
            n_damaged += 1
        n_before += not killed.exists()
        n_steps += reached.value - first
        lost.append(reached.value - step)
    n_steps += SETTINGS.n_steps - step
    last = step
    os.waitpid(fork(task, killed, reached), 0)
    ends = (torch.load(path, weights_only=True) for path in (killed, whole))
    return KillStatistics(
        kills=n_kills,
        kills_before_the_first_checkpoint=n_before,
        steps_between_checkpoints=STEPS_BETWEEN_CHECKPOINTS,
        steps_done_at_the_last_kill=last,
        steps_of_all_processes=n_steps,
        most_steps_lost_in_one_kill=max(lost),
        checkpoints_damaged=n_damaged,
        ends_bit_for_bit_as_uninterrupted=is_equal(*ends),
    )


if __name__ == "__main__":
    report(__doc__, run)
