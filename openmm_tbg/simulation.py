"""Training data: Langevin dynamics of one small molecule on OpenMM's Reference platform."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from jaxtyping import Float, Float32
from openmm import app, unit
from tqdm import tqdm

from .arrays import Frame
from .reference import ReferenceSystem

Trajectory = Float32[np.ndarray, "frames atoms 3"]

HYDROGEN = app.element.hydrogen
SECONDS_BETWEEN_LOG_LINES = 30.0


@dataclass(frozen=True)
class Dynamics:
    """Langevin-middle dynamics (Zhang et al. 2019, doi:10.1021/acs.jpca.9b02771).

    Args:
        interval_ps: time between stored frames.
        timestep_fs: 2 fs is stable without constraints where hydrogens weigh 4 amu.
        friction_per_ps: friction coefficient.
        hydrogen_mass_amu: mass of a hydrogen atom, taken from the atom that it is bound to.
        equilibration_ps: time of each walker before its first frame.

    Raises:
        ValueError: for an interval that is no multiple of the timestep, or times out of range.
    """

    interval_ps: float
    timestep_fs: float = 2.0
    friction_per_ps: float = 1.0
    hydrogen_mass_amu: float = 4.0
    equilibration_ps: float = 100.0

    def __post_init__(self) -> None:
        if min(self.timestep_fs, self.friction_per_ps, self.hydrogen_mass_amu) <= 0:
            raise ValueError(f"{self}: timestep, friction and hydrogen mass must be above 0")
        if self.equilibration_ps < 0:
            raise ValueError(f"equilibration_ps is {self.equilibration_ps}: it cannot be negative")
        steps = 1000 * self.interval_ps / self.timestep_fs
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"interval_ps={self.interval_ps} is not a whole number of steps of "
                f"{self.timestep_fs} fs: take a multiple of {self.timestep_fs / 1000} ps"
            )

    @property
    def steps_per_frame(self) -> int:
        """Steps of the integrator between stored frames."""
        return round(1000 * self.interval_ps / self.timestep_fs)

    @property
    def equilibration_steps(self) -> int:
        """Steps of the integrator before the first frame."""
        return round(1000 * self.equilibration_ps / self.timestep_fs)


@dataclass(frozen=True)
class Frames:
    """Centred configurations in nm, walker after walker, and how they came about.

    The metadata of a file that `simulate` did not write may be empty.
    """

    positions_nm: Trajectory
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _Walker:
    index: int
    system: openmm.System
    start_nm: Frame
    temperature_K: float
    dynamics: Dynamics
    n_frames: int
    seed: int


def repartition_hydrogen_mass(
    system: openmm.System, topology: app.Topology, hydrogen_mass_amu: float
) -> openmm.System:
    """A copy of `system` with hydrogens of a given mass, taken from the atoms they are bound to.

    The total mass and every configurational average stay what they are.

    Raises:
        ValueError: if a bond partner would have no mass left.
    """
    copied = copy.deepcopy(system)
    masses = _masses_amu(copied)
    for first, second in topology.bonds():
        for heavy, light in ((first, second), (second, first)):
            if light.element is HYDROGEN and heavy.element is not HYDROGEN:
                masses[heavy.index] -= hydrogen_mass_amu - masses[light.index]
                masses[light.index] = hydrogen_mass_amu
    if masses.min() <= 0:
        atom = list(topology.atoms())[int(masses.argmin())]
        raise ValueError(
            f"hydrogen_mass_amu={hydrogen_mass_amu} leaves {masses.min():.2f} amu for {atom}: "
            "take lighter hydrogens"
        )
    for particle, mass in enumerate(masses):
        copied.setParticleMass(particle, mass)
    return copied


def simulate(
    reference: ReferenceSystem,
    out: Path,
    *,
    dynamics: Dynamics,
    n_frames: int,
    n_walkers: int,
    seed: int,
    n_processes: int = 1,
) -> Frames:
    """Simulate independent walkers and store their frames, centred, as a compressed `.npz` file.

    Walker k begins at start k modulo the number of starts. The same seed gives the same frames on
    the same machine, however many processes share the walkers. The file appears when it is whole.

    Args:
        reference: what is simulated.
        out: the file to be written; its name ends in `.npz`.
        dynamics: how it moves, and how often it is stored.
        n_frames: number of frames of all walkers together.
        n_walkers: number of independent trajectories.
        seed: origin of all random numbers.
        n_processes: more than one starts new interpreters, so the calling script needs
            `if __name__ == "__main__":`.

    Raises:
        ValueError: for numbers that cannot be, or a file name without `.npz`.
        FileExistsError: if `out` is there already.
        RuntimeError: if a trajectory blows up.
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise ValueError(f"out is {out.name}: give it a name that ends in .npz")
    if out.exists():
        raise FileExistsError(f"{out} is there already: move it away or choose another name")
    if min(n_walkers, n_processes) < 1 or n_frames < 1 or n_frames % n_walkers:
        raise ValueError(
            f"{n_frames} frames of {n_walkers} walkers in {n_processes} processes: all numbers "
            "must be at least 1, and n_frames a multiple of n_walkers"
        )
    walkers = _walkers(reference, dynamics, n_frames // n_walkers, n_walkers, seed)
    frames = Frames(
        np.concatenate(_run_all(walkers, n_processes)),
        {
            "force_field": list(reference.force_field),
            "temperature_K": reference.temperature_K,
            **asdict(dynamics),
            "masses_amu": _masses_amu(walkers[0].system).tolist(),
            "seed": seed,
            "frames_per_walker": n_frames // n_walkers,
            "start_of_walker": [k % len(reference.starts_nm) for k in range(n_walkers)],
            "starts_nm": reference.starts_nm.tolist(),
            "platform": "Reference",
            "versions": {"openmm": openmm.version.full_version, "numpy": np.__version__},
        },
    )
    _save(frames, out)
    return frames


def load_frames(path: Path) -> Frames:
    """Read frames that `simulate` stored.

    Raises:
        ValueError: if the file holds no positions.
    """
    with np.load(path, allow_pickle=False) as stored:
        if "positions_nm" not in stored:
            raise ValueError(f"{path} holds {sorted(stored)}, but no positions_nm")
        metadata = json.loads(str(stored["metadata"])) if "metadata" in stored else {}
        return Frames(stored["positions_nm"], metadata)


def _save(frames: Frames, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("wb") as file:
            metadata = json.dumps(frames.metadata)
            np.savez_compressed(file, positions_nm=frames.positions_nm, metadata=metadata)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


def _walkers(
    reference: ReferenceSystem, dynamics: Dynamics, n_frames: int, n_walkers: int, seed: int
) -> list[_Walker]:
    system = repartition_hydrogen_mass(
        reference.system, reference.topology, dynamics.hydrogen_mass_amu
    )
    # OpenMM takes 31 bits, and 0 for "choose one yourself".
    seeds = np.random.SeedSequence(seed).generate_state(n_walkers) % (2**31 - 1) + 1
    starts = itertools.cycle(reference.starts_nm)
    return [
        _Walker(k, system, start, reference.temperature_K, dynamics, n_frames, int(own_seed))
        for k, (own_seed, start) in enumerate(zip(seeds, starts, strict=False))
    ]


def _run_all(walkers: Sequence[_Walker], n_processes: int) -> list[Trajectory]:
    if n_processes == 1:
        return [_run(walker) for walker in walkers]
    # A forked child hangs in a Context of its parent.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=spawn) as executor:
        return list(executor.map(_run, walkers))


def _run(walker: _Walker) -> Trajectory:
    dynamics = walker.dynamics
    integrator = openmm.LangevinMiddleIntegrator(
        walker.temperature_K, dynamics.friction_per_ps, dynamics.timestep_fs / 1000
    )
    integrator.setRandomNumberSeed(walker.seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(walker.system, integrator, platform)
    context.setPositions(walker.start_nm)
    context.setVelocitiesToTemperature(walker.temperature_K, walker.seed)
    integrator.step(dynamics.equilibration_steps)
    frames = np.empty((walker.n_frames, *walker.start_nm.shape), dtype=np.float32)
    for k in _progress(range(walker.n_frames), walker.index):
        integrator.step(dynamics.steps_per_frame)
        positions = context.getState(positions=True).getPositions(asNumpy=True)
        positions_nm = positions.value_in_unit(unit.nanometer)
        if not np.isfinite(positions_nm).all():
            raise RuntimeError(
                f"walker {walker.index} blew up before frame {k}: take a timestep_fs below "
                f"{dynamics.timestep_fs}"
            )
        frames[k] = positions_nm - positions_nm.mean(axis=0)
    return frames


def _progress(steps: Iterable[int], walker: int) -> Iterable[int]:
    """A bar on a terminal, a line now and then in a log file."""
    if sys.stderr.isatty():
        bar: Iterable[int] = tqdm(steps, f"walker {walker}", position=walker, leave=False)
    else:
        bar = tqdm(steps, f"walker {walker}", mininterval=SECONDS_BETWEEN_LOG_LINES)
    return bar


def _masses_amu(system: openmm.System) -> Float[np.ndarray, " atoms"]:
    masses = [system.getParticleMass(k) for k in range(system.getNumParticles())]
    return np.array([mass.value_in_unit(unit.dalton) for mass in masses])
