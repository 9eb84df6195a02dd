"""Walkers of many molecules at once in one OpenMM Context, as a GPU wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import openmm

from ..frames import Frames, FrameStore
from ..reference import ReferenceSystem
from .bias import RamachandranBias
from .dynamics import Dynamics
from .packing import pack
from .trajectory import Track, Trajectory, run_all
from .walkers import openmm_seeds, prepare, whole_frames_per_walker


def simulate_packed(
    references: Mapping[str, ReferenceSystem],
    out: Path,
    *,
    dynamics: Dynamics,
    n_frames: int,
    n_walkers: int,
    seed: int,
    biases: Mapping[str, RamachandranBias] | None = None,
    platform: str = "CUDA",
) -> dict[str, Frames]:
    """Simulate walkers of many molecules in one Context; each molecule gets a folder of frames.

    The folders mean what those of `simulate` mean. The same call goes on where an earlier one was
    stopped: bit for bit on the Reference platform, and from the same state on a GPU.

    Args:
        references: the molecules, under the names of their folders; all at one temperature.
        out: the folder of the folders.
        dynamics: how they move, and how often they are stored.
        n_frames: number of frames of each molecule, all its walkers together.
        n_walkers: number of independent copies of each molecule.
        seed: origin of all random numbers.
        biases: added to the energies of the molecules of these names.
        platform: OpenMM's name of the platform.

    Raises:
        ValueError: for numbers that cannot be, a platform that is not there, molecules that cannot
            be packed, or a folder with frames of another simulation.
        FileExistsError: if a folder holds something else than frames.
        RuntimeError: if a molecule blows up.
    """
    out, biases = Path(out), biases or {}
    frames_per_walker = whole_frames_per_walker(n_frames, n_walkers)
    temperature_K = _common_temperature_K(references)
    _require_platform(platform)
    unknown = sorted(biases.keys() - references.keys())
    if unknown:
        raise ValueError(f"biases has {unknown}, which references lacks: use the same names")
    systems = [
        prepare(
            reference, out / name, dynamics, biases.get(name), walkers=n_walkers,
            frames_per_walker=frames_per_walker, seed=seed, platform=platform,
            packed_with=tuple(references),
        )
        for name, reference in references.items()
    ]  # fmt: skip
    copies = [(name, walker) for name in references for walker in range(n_walkers)]
    packed = pack([system for system in systems for _ in range(n_walkers)])
    starts_nm = (references[name].starts_nm for name, _ in copies)
    tracks = tuple(
        Track(out / name, walker, first_atom, biases.get(name))
        for (name, walker), first_atom in zip(copies, packed.first_atoms, strict=True)
    )
    trajectory = Trajectory(
        name=f"{len(references)} molecules",
        system=packed.system,
        start_nm=packed.place(
            [own[k % len(own)] for own, (_, k) in zip(starts_nm, copies, strict=True)]
        ),
        temperature_K=temperature_K,
        dynamics=dynamics,
        n_frames=frames_per_walker,
        seed=int(openmm_seeds(seed, 1)[0]),
        platform=platform,
        tracks=tracks,
        checkpoint=out / "packed.checkpoint",
    )
    run_all([trajectory], n_processes=1)
    return {name: FrameStore(out / name).read() for name in references}


def _common_temperature_K(references: Mapping[str, ReferenceSystem]) -> float:  # noqa: N802
    if not references:
        raise ValueError("references is empty: give at least one molecule")
    temperatures = {reference.temperature_K for reference in references.values()}
    if len(temperatures) != 1:
        raise ValueError(
            f"references have the temperatures {sorted(temperatures)} K: pack molecules of one"
        )
    return temperatures.pop()


def _require_platform(name: str) -> None:
    platforms = [openmm.Platform.getPlatform(k) for k in range(openmm.Platform.getNumPlatforms())]
    names = [platform.getName() for platform in platforms]
    if name not in names:
        raise ValueError(f"platform is {name}, but OpenMM finds {names} here: take one of these")
