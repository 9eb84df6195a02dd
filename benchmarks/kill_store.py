"""A process that fills a store is killed at random instants: what is lost, and is the rest right?

    python benchmarks/kill_store.py --kills 50 --out benchmarks/kill_store.json

Each process goes on where the one before it was killed. Batches are as large as those of alanine
dipeptide, but come from a normal distribution, so that most of the time is spent in writing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openmm_tbg.arrays import Positions
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.molecule import Molecule
from openmm_tbg.proposals import Proposals
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.store import ProposalStore

BATCH_SIZE = 64
N_BATCHES = 2000
SEED = 1


@dataclass(frozen=True)
class Normal:
    """Draws normal positions, and adds a line to a file for each batch that it draws."""

    molecule: Molecule
    log: Path
    reference: str = "normal"
    sha256: str = "normal"

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        with self.log.open("a") as file:
            file.write("drawn\n")
        return self.evaluate(rng.normal(size=(n, len(self.molecule.names), 3)))

    def evaluate(self, positions_nm: Positions) -> Proposals:
        log_q = -np.square(positions_nm).sum(axis=(1, 2)) / 2
        return Proposals(positions_nm, log_q, np.zeros(len(log_q), dtype=np.int8))


@dataclass(frozen=True)
class KillStatistics:
    kills: int
    batches_finished: int
    batches_drawn: int
    most_lost_in_one_kill: int
    batches_damaged: int
    batches_wrong: int
    files_left_over: int


def killed_after(seconds: float, store: ProposalStore, first: int, generator: Normal) -> None:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress of a process that will not end
        store.fill(generator, range(first, N_BATCHES))
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        raise RuntimeError("the store was full before the last kill: raise N_BATCHES")


def is_right(store: ProposalStore, number: int, generator: Normal) -> bool:
    rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(number,)))
    expected, found = generator.propose(BATCH_SIZE, rng), store.read_batch(number)
    return all(
        np.array_equal(getattr(found, name), value) for name, value in vars(expected).items()
    )


def run(n_kills: int, folder: Path) -> KillStatistics:
    molecule = BoltzmannGenerator.from_pretrained(
        "alanine-dipeptide", alanine_dipeptide().topology
    ).molecule
    generator = Normal(molecule, folder / "drawn.log")
    generator.log.touch()
    store = ProposalStore.create(folder / "store", generator, N_BATCHES, BATCH_SIZE, SEED)
    rng = np.random.default_rng(0)
    lost, n_finished, n_drawn = [], 0, 0
    for _ in range(n_kills):
        killed_after(float(rng.uniform(0.0, 0.6)), store, n_finished, generator)
        finished, drawn = int(store.finished.sum()), len(generator.log.read_text().splitlines())
        lost.append((drawn - n_drawn) - (finished - n_finished))
        n_finished, n_drawn = finished, drawn
    wrong, damaged = 0, 0
    for number in np.flatnonzero(store.finished):
        try:
            wrong += not is_right(store, int(number), generator)
        except RuntimeError:
            damaged += 1
    left_over = sum(1 for _ in store.path.rglob("*.partial"))
    return KillStatistics(n_kills, n_finished, n_drawn, max(lost), damaged, wrong, left_over)


def report(description: str, run: Callable[[int, Path], Any]) -> None:
    """Kill as often as the command line asks, in a folder of its own, and keep what was found."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.kills, Path(folder))
    options.out.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    report(__doc__, run)
