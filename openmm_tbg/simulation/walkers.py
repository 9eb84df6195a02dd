"""Independent walkers of one molecule on OpenMM's Reference platform."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from jaxtyping import UInt64

from ..frames import Frames, FrameStore
from ..reference import ReferenceSystem
from .bias import RamachandranBias
from .dynamics import Dynamics, repartition_hydrogen_mass
from .manifest import manifest
from .trajectory import AUXILIARY_GROUP, Track, Trajectory, run_all

PLATFORM = "Reference"


def simulate(
    reference: ReferenceSystem,
    out: Path,
    *,
    dynamics: Dynamics,
    n_frames: int,
    n_walkers: int,
    seed: int,
    n_processes: int = 1,
    bias: RamachandranBias | None = None,
) -> Frames:
    """Simulate independent walkers, and store their frames and forces in a folder on the way.

    Walker k begins at start k modulo the number of starts. The same seed gives the same frames on
    the same machine, however many processes share the walkers. The same call goes on where an
    earlier one was stopped, bit for bit; `load_frames` reads what is finished at any time.

    Args:
        reference: what is simulated.
        out: the folder to be written.
        dynamics: how it moves, and how often it is stored.
        n_frames: number of frames of all walkers together.
        n_walkers: number of independent trajectories.
        seed: origin of all random numbers.
        n_processes: more than one starts new interpreters, so the calling script needs
            `if __name__ == "__main__":`.
        bias: added to the energy while frames are simulated; the stored forces are without it.

    Raises:
        ValueError: for numbers that cannot be, or a folder with frames of another simulation.
        FileExistsError: if `out` is something else than a folder of frames.
        RuntimeError: if a trajectory blows up or its process dies; the others come to their ends.
    """
    out = Path(out)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}: give the number of cores, at least 1")
    frames_per_walker = whole_frames_per_walker(n_frames, n_walkers)
    system = prepare(
        reference, out, dynamics, bias, walkers=n_walkers, frames_per_walker=frames_per_walker,
        seed=seed, platform=PLATFORM,
    )  # fmt: skip
    trajectories = [
        Trajectory(
            name=f"walker {k}",
            system=system,
            start_nm=reference.starts_nm[k % len(reference.starts_nm)],
            temperature_K=reference.temperature_K,
            dynamics=dynamics,
            n_frames=frames_per_walker,
            seed=int(own_seed),
            platform=PLATFORM,
            tracks=(Track(out, k, 0, bias),),
            checkpoint=out / f"walker_{k:04d}.checkpoint",
        )
        for k, own_seed in enumerate(openmm_seeds(seed, n_walkers))
    ]
    run_all(trajectories, n_processes)
    return FrameStore(out).read()


def prepare(
    reference: ReferenceSystem,
    out: Path,
    dynamics: Dynamics,
    bias: RamachandranBias | None,
    **settings: Any,
) -> openmm.System:
    """Create or open the store of a molecule; the System that its walkers move in.

    Args:
        reference: the molecule.
        out: the folder of its frames.
        dynamics: how it moves, which sets the masses.
        bias: a force of the System, in `AUXILIARY_GROUP`.
        settings: the other arguments of `manifest`.

    Raises:
        ValueError: for frames of another simulation, or where the System uses that group itself.
        FileExistsError: if `out` is something else than a folder of frames.
    """
    if out.suffix == ".npz":
        raise ValueError(f"out is {out.name}: frames go into a folder, name it without .npz")
    system = repartition_hydrogen_mass(
        reference.system, reference.topology, dynamics.hydrogen_mass_amu
    )
    if any(force.getForceGroup() == AUXILIARY_GROUP for force in system.getForces()):
        raise ValueError(
            f"the System has forces in group {AUXILIARY_GROUP}, which the bias needs: "
            "put them into another"
        )
    FrameStore.create(out, manifest(reference, system, dynamics, bias, **settings))
    if bias is not None:
        system = copy.deepcopy(system)
        force = bias.force(reference.temperature_K)
        force.setForceGroup(AUXILIARY_GROUP)
        system.addForce(force)
    return system


def whole_frames_per_walker(n_frames: int, n_walkers: int) -> int:
    """Frames of each walker.

    Raises:
        ValueError: if they are not the same whole number for all.
    """
    if n_walkers < 1 or n_frames < 1 or n_frames % n_walkers:
        raise ValueError(
            f"{n_frames} frames of {n_walkers} walkers: both must be at least 1, and n_frames a "
            "multiple of n_walkers"
        )
    return n_frames // n_walkers


def openmm_seeds(seed: int, n: int) -> UInt64[np.ndarray, " n"]:
    """Independent seeds for OpenMM, which takes 31 bits, and 0 for "choose one yourself"."""
    return np.random.SeedSequence(seed).generate_state(n, np.uint64) % (2**31 - 1) + 1
