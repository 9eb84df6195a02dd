"""What it saves to give an exact density only to proposals that are likely to count.

    python benchmarks/thinning.py --out benchmarks/thinning.json

Batches are drawn in turns with and without thinning from the same noise, so that both see the same
configurations. Reported are seconds a proposal, and the share of the effective sample size that is
left, sum(w^2) / sum(w^2 / r), which holds in the mean over the coins of the thinning. Time saved
times share left is how much less an effective sample costs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from evaluate_alanine import load_model, reduced_potential
from likelihood import machine

from openmm_tbg import BoltzmannGenerator, ThinnedGenerator
from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.metropolis import log_weights
from openmm_tbg.proposals import Proposals, Thinning
from openmm_tbg.reference import alanine_dipeptide


class Watched:
    """Draws proposals with all their densities, and notes log r of those that pass.

    `log_r` has an array for each time that the flow asked, with a row for each kind of thinning.
    """

    def __init__(self, plain: BoltzmannGenerator, kinds: list[ThinnedGenerator]) -> None:
        self._plain, self._kinds = plain, kinds
        self.log_r: list[np.ndarray] = []

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        return self._plain.propose(n, rng, Thinning(self._look))

    def _look(self, positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
        rows = [kind.thinning.log_keep(positions_nm, log_q_estimate) for kind in self._kinds]
        self.log_r.append(np.array(rows))
        return np.zeros(len(positions_nm))


def timed(generator, n: int, seed: int, device: str) -> tuple[Proposals, float]:
    """Proposals of one seed, and seconds for each: of the processor, or by the clock on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    proposals = generator.propose(n, np.random.default_rng(seed))
    return proposals, (clock() - started) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.2, 0.1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = alanine_dipeptide()
    potential = reduced_potential(reference)
    plain = load_model("alanine-dipeptide", reference, options.device)
    rng = np.random.default_rng(0)
    kinds = [
        ThinnedGenerator.from_pilot(plain, potential, s, rng, options.batch) for s in options.shares
    ]
    seconds, seconds_thinned = [], [[] for _ in kinds]
    log_w, passing, watched = [], [], Watched(plain, kinds)
    for seed in range(options.batches):
        proposals, took = timed(watched, options.batch, seed, options.device)
        seconds.append(took)
        inside = proposals[proposals.passes]
        u = potential(inside.positions_nm)
        log_w.append(log_weights(u, inside.log_q, inside.passes))
        passing.append(len(inside) / len(proposals))
        for thinned, times in zip(kinds, seconds_thinned, strict=True):
            times.append(timed(thinned, options.batch, seed, options.device)[1])
    log_w = np.concatenate(log_w)
    w = np.exp(log_w - log_w.max())
    n = options.batch * options.batches
    whole = float(np.median(seconds))
    rows = []
    for share, times, r in zip(
        options.shares, seconds_thinned, np.exp(np.concatenate(watched.log_r, axis=1)), strict=True
    ):
        left = float(np.square(w).sum() / (np.square(w)[r > 0] / r[r > 0]).sum())
        took = float(np.median(times))
        rows.append(
            {
                "share_asked": share,
                "share_kept": float(r.sum() / n),
                "seconds": took,
                "seconds_range": [min(times), max(times)],
                "ess_left": left,
                "effective_sample_costs_less_by": whole / took * left,
            }
        )
    record = {
        "machine": machine(),
        "model": plain.sha256,
        "N": n,
        "passing": float(np.mean(passing)),
        "ess": float(w.sum() ** 2 / np.square(w).sum() / n),
        "seconds_all": whole,
        "seconds_all_range": [min(seconds), max(seconds)],
        "rows": rows,
    }
    print(json.dumps(record, indent=1))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
