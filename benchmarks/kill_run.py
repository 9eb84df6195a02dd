"""A Markov chain in a folder is killed at random instants: what is lost, and is the rest right?

    python benchmarks/kill_run.py --kills 50 --out benchmarks/kill_run.json

Each process goes on where the one before it was killed. The target is the spring of `soak.py`, the
proposals come from a normal distribution, and HMC goes before them; blocks are short, so that kills
also meet one that is being written. HMC cannot be seeded, so two runs agree in law alone: the means
of the reduced potential, which is 3/2, and of the acceptance are compared with those of a run that
nobody killed. All stored numbers are computed again from the stored positions.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from kill_store import report
from openmm import unit
from openmmtools import mcmc
from openmmtools.cache import ContextCache
from openmmtools.states import SamplerState, ThermodynamicState
from pymbar.timeseries import statistical_inefficiency
from soak import spring

from openmm_tbg import MCMCRun, TBGMove, read_run
from openmm_tbg import run as run_module
from openmm_tbg.arrays import Cause, Positions
from openmm_tbg.molecule import Molecule
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.proposals import Proposals
from openmm_tbg.run_record import RunRecord

BLOCK_SIZE, N_PROPOSALS = 10, 4
FLOW_WIDTH_NM = 0.028  # of each coordinate; the spring has 0.014
REFERENCE = spring()
STATE = ThermodynamicState(REFERENCE.system, REFERENCE.temperature_K * unit.kelvin)


@dataclass(frozen=True)
class KillStatistics:
    kills: int
    kills_before_the_first_block: int
    iterations_a_block: int
    iterations_stored: int
    iterations_of_all_processes: int
    most_lost_in_one_kill: int
    blocks_damaged: int
    stored_rows_that_changed: int
    u_wrong: int
    log_q_wrong: int
    proposals_without_one_fate: int
    proposals_that_served_twice: int
    files_left_over: int
    mean_u: tuple[float, float]
    mean_u_uninterrupted: tuple[float, float]
    acceptance: tuple[float, float]
    acceptance_uninterrupted: tuple[float, float]


@dataclass(frozen=True)
class Normal:
    """Centred normal positions."""

    molecule: Molecule
    reference: str = "normal"
    sha256: str = "normal"

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        noise = rng.normal(0.0, FLOW_WIDTH_NM, (n, 2, 3))
        return self.evaluate(noise - noise.mean(axis=1, keepdims=True))

    def evaluate(self, positions_nm: Positions) -> Proposals:
        squares = np.square(positions_nm / FLOW_WIDTH_NM).sum(axis=(1, 2))
        log_q = -squares / 2 - 1.5 * np.log(2 * np.pi * FLOW_WIDTH_NM**2)
        return Proposals(positions_nm, log_q, np.zeros(len(log_q), dtype=np.int8))


GENERATOR = Normal(Molecule.from_topology(REFERENCE.topology, REFERENCE.positions_nm))


def chain(path: Path) -> MCMCRun:
    """The run of a folder, new or old."""
    moves = [
        mcmc.HMCMove(timestep=1.0 * unit.femtosecond, n_steps=10),
        TBGMove(GENERATOR, N_PROPOSALS, seed=1),
    ]
    start = SamplerState(REFERENCE.positions_nm * unit.nanometer)
    move = mcmc.SequenceMove(moves)
    return MCMCRun(path, STATE, start, move, REFERENCE.topology, 1, BLOCK_SIZE)


def contexts() -> ContextCache:
    return ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))


@contextmanager
def counted(reached: Any) -> Iterator[None]:
    """Count the iterations of all processes that are forked meanwhile."""
    plain = run_module.MCMCSampler

    class Counted(plain):  # type: ignore[misc, valid-type]
        def run(self, n_iterations: int, context_cache: ContextCache) -> None:
            super().run(n_iterations, context_cache=context_cache)
            reached.value += n_iterations

    run_module.MCMCSampler = Counted
    try:
        yield
    finally:
        run_module.MCMCSampler = plain


def fork(path: Path, n_iterations: int) -> int:
    """The number of a process that goes on with the chain."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress of a process that will not end
        chain(path).run(n_iterations, contexts())
        os._exit(0)
    return child


def kill_after(seconds: float, child: int) -> None:
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        raise RuntimeError("a process ended before its kill: look at what it says")


def columns(record: RunRecord, n: int) -> list[np.ndarray]:
    rows = (record.positions_nm, record.u, record.log_q, record.counts)
    return [column[:n] for column in rows]


def n_changed(before: RunRecord | None, after: RunRecord | None) -> int:
    """Rows that were there before and are not the same, bit for bit."""
    if before is None:
        return 0
    if after is None or len(after) < len(before):
        return len(before)
    pairs = zip(columns(before, len(before)), columns(after, len(before)), strict=True)
    same = np.ones(len(before), dtype=bool)
    for one, other in pairs:
        same &= (one == other).reshape(len(before), -1).all(axis=1)
    return int((~same).sum())


def estimate(series: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    n = len(series) / statistical_inefficiency(series)
    return float(series.mean()), float(series.std(ddof=1) / np.sqrt(n))


def served_twice(record: RunRecord) -> int:
    """Accepted proposals that are the same as an earlier one, to 1e-9 nm."""
    bonds_nm = np.diff(record.positions_nm, axis=1)[record.n_accepted > 0, 0]
    return len(bonds_nm) - len(np.unique(bonds_nm.round(9), axis=0))


def run(n_kills: int, folder: Path) -> KillStatistics:
    rng, reached = np.random.default_rng(0), multiprocessing.Value("q", 0)
    killed, whole = folder / "killed", folder / "whole"
    lost, n_before, n_damaged, changed = [], 0, 0, 0
    record: RunRecord | None = None
    here = chain(killed)
    chain(folder / "first").run(BLOCK_SIZE, contexts())  # what is loaded late is loaded here
    with counted(reached):
        for _ in range(n_kills):
            stored, done = here.n_iterations, reached.value
            kill_after(float(rng.uniform(0.0, 3.0)), fork(killed, 10**6 * BLOCK_SIZE))
            n_before += not here.n_iterations
            lost.append((reached.value - done) - (here.n_iterations - stored))
            try:
                now = read_run(killed) if here.n_iterations else None
            except RuntimeError:
                n_damaged += 1
                continue
            changed += n_changed(record, now)
            record = now
        n_iterations = here.n_iterations + BLOCK_SIZE
        for path in (killed, whole):
            if os.waitpid(fork(path, n_iterations), 0)[1]:
                raise RuntimeError(f"the chain in {path} did not end well")
        n_of_all = reached.value - n_iterations
    final, uninterrupted = read_run(killed), read_run(whole)
    context, _ = contexts().get_context(STATE)
    u = ReducedPotential(STATE, context)(final.positions_nm)
    centred = final.positions_nm - final.positions_nm.mean(axis=1, keepdims=True)
    log_q = GENERATOR.evaluate(centred).log_q
    fates = final.n_accepted + sum(final.n_rejected(cause) for cause in list(Cause)[1:])
    return KillStatistics(
        kills=n_kills,
        kills_before_the_first_block=n_before,
        iterations_a_block=BLOCK_SIZE,
        iterations_stored=len(final),
        iterations_of_all_processes=n_of_all,
        most_lost_in_one_kill=max(lost),
        blocks_damaged=n_damaged,
        stored_rows_that_changed=changed + n_changed(record, final),
        u_wrong=int((u != final.u).sum()),
        log_q_wrong=int((~np.isclose(log_q, final.log_q, rtol=0, atol=1e-9)).sum()),
        proposals_without_one_fate=int(np.abs(fates - final.n_proposed).sum()),
        proposals_that_served_twice=served_twice(final),
        files_left_over=sum(1 for _ in killed.rglob("*.partial")),
        mean_u=estimate(final.u),
        mean_u_uninterrupted=estimate(uninterrupted.u),
        acceptance=estimate(final.n_accepted / N_PROPOSALS),
        acceptance_uninterrupted=estimate(uninterrupted.n_accepted / N_PROPOSALS),
    )


if __name__ == "__main__":
    report(__doc__, run)
