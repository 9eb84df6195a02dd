"""One Context from its start to its last frame, stored on the way, and resumed where it stopped."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import openmm
from jaxtyping import Float64
from openmm import unit
from tqdm import tqdm

from ..arrays import Frame, Positions
from ..files import exclusive, write_atomically, writing
from ..frames import THEN, FrameStore
from ..progress import progress_bar
from .bias import RamachandranBias
from .dynamics import Dynamics

FRAMES_PER_CHUNK = 500
AUXILIARY_GROUP = 31  # forces that are no part of the target: biases, restraints
TARGET_GROUPS = set(range(AUXILIARY_GROUP))
GPU_PLATFORMS = {"CUDA", "HIP", "OpenCL"}
N_COUNT_BYTES = 8
N_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """The atoms of a Context that are one walker of a store.

    Args:
        store: the folder of the molecule.
        walker: its row there.
        first_atom: the atoms from this one on belong to it.
        bias: what was added to its energy.
    """

    store: Path
    walker: int
    first_atom: int
    bias: RamachandranBias | None


@dataclass(frozen=True)
class Trajectory:
    """Everything that a process needs to run one Context.

    Args:
        name: what progress and errors call it.
        system: what is simulated; forces in `AUXILIARY_GROUP` are no part of the target.
        start_nm: positions to begin at.
        temperature_K: temperature in K.
        dynamics: how it moves.
        n_frames: number of frames to be stored.
        seed: its own, within [1, 2^31).
        platform: OpenMM's name of the platform.
        tracks: where its atoms are stored, in the order of the atoms.
        checkpoint: the file that it is resumed from.
    """

    name: str
    system: openmm.System
    start_nm: Frame
    temperature_K: float
    dynamics: Dynamics
    n_frames: int
    seed: int
    platform: str
    tracks: tuple[Track, ...]
    checkpoint: Path


def run_all(trajectories: Sequence[Trajectory], n_processes: int) -> None:
    """Run trajectories to their ends, in this process or in several new ones at a time.

    One that fails is named in the log, and does not keep the others from their ends.

    Raises:
        Exception: what the first failed with, as in `run`, once the others have ended.
    """
    if n_processes == 1:
        failures = [_failure(run, trajectory) for trajectory in trajectories]
    else:
        with ThreadPoolExecutor(n_processes) as threads:
            failures = list(threads.map(partial(_failure, _run_in_a_process), trajectories))
    for failure in filter(None, failures):
        raise failure


def _failure(run_one: Callable[[Trajectory], None], trajectory: Trajectory) -> Exception | None:
    try:
        run_one(trajectory)
    except Exception as error:  # whatever it is, the other trajectories go on
        _log.warning("%s failed: %s", trajectory.name, str(error))  # a kept error keeps its arrays
        return error
    return None


def _run_in_a_process(trajectory: Trajectory) -> None:
    # A forked child hangs in a Context of its parent, and one that dies ends its pool.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _end_with_parent) as executor:
        try:
            executor.submit(run, trajectory).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the process of {trajectory.name} was ended from outside, perhaps for its memory: "
                "simulate again, which goes on"
            ) from error


def _end_with_parent() -> None:
    """End this process when its parent is killed; else it would go on, or wait for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run(trajectory: Trajectory) -> None:
    """Run a trajectory to its end from its start or its last checkpoint.

    Raises:
        RuntimeError: if it blows up, or its checkpoint is damaged.
        FileNotFoundError: if some of its frames are there, but not its checkpoint.
        OSError: if its checkpoint cannot be written.
    """
    with exclusive(trajectory.checkpoint.with_suffix(".lock")):
        stores = [FrameStore(track.store, "r+") for track in trajectory.tracks]
        n_done, state = _resume_point(trajectory, stores)
        _finish(trajectory, stores, n_done)
        if n_done == trajectory.n_frames:
            return
        context = _context(trajectory, state)
        row = trajectory.tracks[0].walker
        with progress_bar(trajectory.n_frames, "frame", trajectory.name, n_done, row) as bar:
            while n_done < trajectory.n_frames:
                n_chunk = min(FRAMES_PER_CHUNK, trajectory.n_frames - n_done)
                positions_nm, forces_per_nm = _chunk(trajectory, context, n_done, n_chunk, bar)
                for track, store in zip(trajectory.tracks, stores, strict=True):
                    _write(track, store, n_done, positions_nm, forces_per_nm)
                n_done += n_chunk
                content = n_done.to_bytes(N_COUNT_BYTES, "little") + context.createCheckpoint()
                with writing(f"the state of {trajectory.name}", THEN):
                    write_atomically(trajectory.checkpoint, sha256(content).digest() + content)
                _finish(trajectory, stores, n_done)


def _resume_point(trajectory: Trajectory, stores: Sequence[FrameStore]) -> tuple[int, bytes | None]:
    """The number of frames that are written, and the state of the Context after them."""
    checkpoint = trajectory.checkpoint
    tracks = zip(trajectory.tracks, stores, strict=True)
    n_done = {int(store.n_done[track.walker]) for track, store in tracks}
    if n_done == {trajectory.n_frames} or (n_done == {0} and not checkpoint.exists()):
        return n_done.pop(), None
    instead = (
        f"without which {trajectory.name} cannot go on: read the frames that are there with "
        "load_frames, and simulate into another folder"
    )
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is gone, {instead}")
    stored = checkpoint.read_bytes()
    digest, content = stored[:N_DIGEST_BYTES], stored[N_DIGEST_BYTES:]
    if sha256(content).digest() != digest:
        raise RuntimeError(f"{checkpoint} is damaged, {instead}")
    return int.from_bytes(content[:N_COUNT_BYTES], "little"), content[N_COUNT_BYTES:]


def _finish(trajectory: Trajectory, stores: Sequence[FrameStore], n_done: int) -> None:
    for track, store in zip(trajectory.tracks, stores, strict=True):
        store.finish(track.walker, n_done)


def _context(trajectory: Trajectory, state: bytes | None) -> openmm.Context:
    dynamics, temperature_K = trajectory.dynamics, trajectory.temperature_K
    integrator = dynamics.integrator(temperature_K, trajectory.seed)
    platform = openmm.Platform.getPlatformByName(trajectory.platform)
    properties = {"Precision": "mixed"} if trajectory.platform in GPU_PLATFORMS else {}
    context = openmm.Context(trajectory.system, integrator, platform, properties)
    context.setPositions(trajectory.start_nm)
    if state is None:
        context.setVelocitiesToTemperature(temperature_K, trajectory.seed)
        integrator.step(dynamics.equilibration_steps)
    else:
        context.loadCheckpoint(state)
    return context


def _chunk(
    trajectory: Trajectory, context: openmm.Context, n_done: int, n_chunk: int, bar: tqdm
) -> tuple[Positions, Positions]:
    """The next frames in nm, and the reduced forces of the target on them in kT/nm."""
    kT = unit.MOLAR_GAS_CONSTANT_R * trajectory.temperature_K * unit.kelvin
    per_nm = 1 / kT.value_in_unit(unit.kilojoule_per_mole)
    positions_nm = np.empty((n_chunk, *trajectory.start_nm.shape))
    forces_per_nm = np.empty_like(positions_nm)
    for k in range(n_chunk):
        context.getIntegrator().step(trajectory.dynamics.steps_per_frame)
        state = context.getState(positions=True, forces=True, groups=TARGET_GROUPS)
        positions_nm[k] = state.getPositions(asNumpy=True)._value
        forces_per_nm[k] = state.getForces(asNumpy=True)._value * per_nm
        _require_finite(trajectory, positions_nm[k] + forces_per_nm[k], n_done + k)
        bar.update()
    return positions_nm, forces_per_nm


def _require_finite(trajectory: Trajectory, columns: Frame, frame: int) -> None:
    broken = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(broken):
        track = [track for track in trajectory.tracks if track.first_atom <= broken[0]][-1]
        raise RuntimeError(
            f"walker {track.walker} of {track.store.name} blew up before frame {frame}: take "
            f"a timestep_fs below {trajectory.dynamics.timestep_fs} and another folder"
        )


def _write(
    track: Track, store: FrameStore, n_done: int, positions_nm: Positions, forces_per_nm: Positions
) -> None:
    atoms = slice(track.first_atom, track.first_atom + store.manifest["atoms"])
    own = positions_nm[:, atoms]
    centred = own - own.mean(axis=1, keepdims=True)
    bias_kT: Float64[np.ndarray, " chunk"] = np.zeros(len(own))
    if track.bias is not None:
        bias_kT = track.bias.energy_kT(own)
    store.write(track.walker, n_done, centred, forces_per_nm[:, atoms], bias_kT)
