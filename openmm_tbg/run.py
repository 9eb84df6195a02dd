"""A Markov chain of openmmtools that is kept in a folder, and goes on there after any end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import yaml
from jaxtyping import Int64
from openmm import app, unit
from openmmtools import cache, utils
from openmmtools.cache import ContextCache
from openmmtools.mcmc import MCMCMove, MCMCSampler
from openmmtools.states import SamplerState, ThermodynamicState
from tqdm import tqdm

from .move import TBGMove
from .potential import ReducedPotential, require_supported
from .progress import progress_bar
from .run_record import COUNTS, RunRecord, topology_manifest
from .run_store import Checkpoint, RunStore, leaves

PACKAGES = ("openmm-tbg", "openmm", "openmmtools", "numpy", "torch", "zarr")
COUNTERS = {"statistics", "n_accepted", "n_proposed", "pool_id"}  # no settings of a move
VELOCITY = unit.nanometer / unit.picosecond


class MCMCRun:
    """`MCMCSampler` with a trajectory, records and checkpoints in a folder.

    The same call goes on after any end, also `kill -9`: the folder grows by whole blocks of
    iterations, so that at most one is lost. `read_run` reads it at any time.

    What is random: NumPy's global stream, from which moves of openmmtools draw, is set for each
    block by `seed` and its number, and is left as it was found. A `TBGMove` goes on from its own
    seed and the number of proposals that its copies have used; OpenMM's integrators seed
    themselves. So no random number serves twice and the law of the chain is the same however often
    it was interrupted, but its numbers are the same only for a chain without integrators that ran
    in one piece.

    A checkpoint holds the move in YAML, as openmmtools does, which can run code when the chain goes
    on: do that in folders you trust. Reading a folder runs nothing.

    Beside the trajectory and its records the folder holds `system.xml`, the System, and digests of
    the model, so that the chain can be read, and the System used, without the model.

    Args:
        path: The folder, new or of the same run.
        thermodynamic_state: The target; constraints and periodic boxes are refused.
        sampler_state: Where the chain starts; of no account where it goes on.
        move: What an iteration applies; a copy is made. Where `TBGMove` comes last in a
            `SequenceMove`, log q of every state is recorded.
        topology: The molecule, for the trajectory.
        seed: Origin of the random numbers of moves that draw from NumPy's global stream.
        block_size: Iterations between checkpoints, which are five files each.

    Raises:
        ValueError: The run in the folder has another topology, System, temperature, model, seed,
            block size or setting of a move, each of which is named; the System is not supported;
            an argument is out of range.
        FileExistsError: `path` is there and no run.
        OSError: The folder cannot be made.
        RuntimeError: The last block is damaged.

    Example:
        >>> import tempfile
        >>> from openmmtools.mcmc import HMCMove
        >>> from openmmtools.testsystems import HarmonicOscillator
        >>> from openmm_tbg.run_store import read_run
        >>> toy = HarmonicOscillator()
        >>> state = ThermodynamicState(toy.system, 300 * unit.kelvin)
        >>> start, move = SamplerState(toy.positions), HMCMove(n_steps=5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run"
        ...     run = MCMCRun(path, state, start, move, toy.topology, seed=1, block_size=2)
        ...     run.run(6)
        ...     read_run(path).trajectory()
        <mdtraj.Trajectory with 6 frames, 1 atoms, 1 residues, without unitcells at ...>
    """

    def __init__(
        self,
        path: Path,
        thermodynamic_state: ThermodynamicState,
        sampler_state: SamplerState,
        move: MCMCMove,
        topology: app.Topology,
        seed: int,
        block_size: int = 20,
    ) -> None:
        if seed < 0 or block_size < 1:
            raise ValueError(
                f"seed is {seed} and block_size {block_size}: give a seed that is not negative, "
                "and blocks of at least one iteration"
            )
        system = thermodynamic_state.get_system(remove_thermostat=True)
        require_supported(system, topology.getNumAtoms())
        system_xml = openmm.XmlSerializer.serialize(system)
        state = utils.serialize(move)
        manifest = {
            "topology": topology_manifest(topology),
            "system_sha256": sha256(system_xml.encode()).hexdigest(),
            "temperature_K": float(thermodynamic_state.temperature.value_in_unit(unit.kelvin)),
            "seed": int(seed),
            "block_size": int(block_size),
            "move": _settings(state),
            "versions": {name: version(name) for name in PACKAGES},
        }
        self._store = RunStore.create(path, manifest, system_xml)
        self._thermodynamic_state = copy.deepcopy(thermodynamic_state)
        self._start = copy.deepcopy(sampler_state), yaml.dump(state)
        self.sampler_state, self.move = self._last_block()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._store.path

    @property
    def n_iterations(self) -> int:
        """Number of finished iterations, whichever process ran them."""
        return self._store.n_blocks * self._block_size

    def run(self, n_iterations: int, context_cache: ContextCache | None = None) -> None:
        """Go on until the chain has a number of iterations; nothing is done where it has them.

        Afterwards `sampler_state` and `move`, with its statistics, are those of the last block.
        Another process that runs the same chain is waited for.

        Args:
            n_iterations: Length of the whole chain, in whole blocks.
            context_cache: Where to find a Context; the global cache of openmmtools if None.

        Raises:
            ValueError: `n_iterations` is no multiple of the block size.
            OSError: The folder cannot be written; the blocks written before are sound.
            RuntimeError: The last block is damaged, or the energy of a state is not finite.
        """
        size = self._block_size
        if n_iterations < 1 or n_iterations % size:
            raise ValueError(
                f"n_iterations is {n_iterations}: give a multiple of the block size, {size}"
            )
        contexts = cache.global_context_cache if context_cache is None else context_cache
        with self._store.writing():
            first = self._store.n_blocks
            self.sampler_state, self.move = self._last_block()
            done = min(first * size, n_iterations)
            with progress_bar(n_iterations, "iteration", self.path.name, done) as bar:
                for number in range(first, n_iterations // size):
                    with _global_stream(self._store.manifest["seed"], number):
                        rows = self._iterate(contexts, bar)
                    velocities = self.sampler_state.velocities
                    if velocities is not None:
                        velocities = velocities.value_in_unit(VELOCITY).tolist()
                    move = yaml.dump(utils.serialize(self.move))
                    self._store.write(number, rows, Checkpoint(velocities, move))

    @property
    def _block_size(self) -> int:
        return int(self._store.manifest["block_size"])

    def _iterate(self, contexts: ContextCache, bar: tqdm) -> RunRecord:
        """The next block; `sampler_state` and `move` go on to its end."""
        sampler = MCMCSampler(self._thermodynamic_state, self.sampler_state, self.move)
        positions_nm, log_q, counts = [], [], [_counts(self.move)]
        for _ in range(self._block_size):
            sampler.run(1, context_cache=contexts)
            positions_nm.append(sampler.sampler_state.positions.value_in_unit(unit.nanometer))
            log_q.append(_log_q(self.move, sampler.sampler_state))
            counts.append(_counts(self.move))
            bar.update()
        self.sampler_state = sampler.sampler_state
        frames = np.array(positions_nm, dtype=np.float64)
        context, _ = contexts.get_context(self._thermodynamic_state)
        u = ReducedPotential(self._thermodynamic_state, context)(frames)
        if not np.isfinite(u).all():
            raise RuntimeError(
                f"the reduced potential is {u[~np.isfinite(u)][0]} in the block that is lost: "
                "shorten the time step, or minimize the start"
            )
        return RunRecord(frames, u, np.array(log_q), np.diff(counts, axis=0), self._store.manifest)

    def _last_block(self) -> tuple[SamplerState, MCMCMove]:
        """Where the chain stands: at the end of the last block, or at the start."""
        start, here = self._start
        if not (n_blocks := self._store.n_blocks):
            return copy.deepcopy(start), utils.deserialize(yaml.load(here, yaml.Loader))
        rows, checkpoint = self._store.read_block(n_blocks - 1)
        state = SamplerState(rows.positions_nm[-1] * unit.nanometer)
        if checkpoint.velocities_nm_per_ps is not None:
            state.velocities = np.array(checkpoint.velocities_nm_per_ps) * VELOCITY
        stored, given = (yaml.load(text, yaml.Loader) for text in (checkpoint.move, here))
        return state, utils.deserialize(_with_references(stored, given))


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    """What a serialised move is, without what it has counted."""
    return {
        path: value if isinstance(value, str | int | float | None) else str(value)
        for path, value in leaves(state)
        if COUNTERS.isdisjoint(path.split("."))
    }


def _with_references(stored: Any, here: Any) -> Any:
    """A stored state whose models are where those of the same state are now."""
    match stored:
        case dict():
            return {
                key: here[key] if key == "reference" else _with_references(value, here[key])
                for key, value in stored.items()
            }
        case list():
            return [_with_references(*pair) for pair in zip(stored, here, strict=True)]
    return stored


def _tbg_moves(move: MCMCMove) -> Iterator[TBGMove]:
    """The moves with proposals, in the order in which containers of openmmtools hold them."""
    if TBGMove in type(move).__mro__:  # isinstance holds for any move of openmmtools
        yield move
    for inner in getattr(move, "move_list", ()):
        yield from _tbg_moves(inner)
    for inner, _ in getattr(move, "move_set", ()):
        yield from _tbg_moves(inner)


def _counts(move: MCMCMove) -> Int64[np.ndarray, " counts"]:
    statistics = [inner.statistics for inner in _tbg_moves(move)]
    sums = (sum(int(counts[name]) for counts in statistics) for name in COUNTS)
    return np.fromiter(sums, np.int64, len(COUNTS))


def _log_q(move: MCMCMove, sampler_state: SamplerState) -> float:
    known = (inner.known_log_q(sampler_state) for inner in _tbg_moves(move))
    return next((log_q for log_q in known if not np.isnan(log_q)), np.nan)


@contextmanager
def _global_stream(seed: int, block: int) -> Iterator[None]:
    """NumPy's global stream, as a seed and the number of a block determine it."""
    before = np.random.get_state()  # noqa: NPY002 (openmmtools draws from it)
    seeds = np.random.SeedSequence(seed, spawn_key=(block,))
    np.random.seed(seeds.generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
