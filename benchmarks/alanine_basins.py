"""The rare basin of alanine dipeptide from both ends: proposals, and dynamics inside each basin.

    python benchmarks/alanine_basins.py --batches 160 --frames 500 --folder basins

The quantity is -ln P(0 < phi < 2) / P(rest) at 300 K, in kT. Proposals are thinned so that most
exact densities go to the rare basin. Dynamics that a wall keeps inside a basin gives samples of the
target there, whatever the time in which it would leave; their densities are evaluated, and
`bennett_difference` joins both ends. Everything is kept in the folder: the same call goes on where
an earlier one was ended, and `--only` does one part in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evaluate_alanine import load_model, reduced_potential
from likelihood import machine

from openmm_tbg import ThinnedGenerator
from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.evaluation.figures import in_basin
from openmm_tbg.reference import ALANINE_PHI, alanine_dipeptide
from openmm_tbg.store import ProposalStore
from openmm_tbg.torsions import dihedral

SHARE, PILOT, BATCH = 0.15, 128, 64


@dataclass(frozen=True)
class RareBasin:
    """Proposals with 0 < phi < 2 count as much more as this basin is rarer than the rest."""

    log_importance: float = 3.8

    def __call__(self, positions_nm: Positions) -> Scalars:
        return self.log_importance * in_basin(dihedral(positions_nm, ALANINE_PHI))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=160, help=f"of {BATCH} proposals")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = alanine_dipeptide()
    potential = reduced_potential(reference)
    options.folder.mkdir(parents=True, exist_ok=True)
    generator = load_model("alanine-dipeptide", reference, "cpu")
    threshold = options.folder / "threshold.json"
    if not threshold.exists():
        rng = np.random.default_rng(options.seed)
        thinned = ThinnedGenerator.from_pilot(generator, potential, SHARE, rng, PILOT, RareBasin())
        threshold.write_text(json.dumps(thinned.log_weight_threshold))
    thinned = ThinnedGenerator(generator, potential, json.loads(threshold.read_text()), RareBasin())
    store = ProposalStore.create(
        options.folder / "proposals", thinned, options.batches, BATCH, options.seed
    )
    started = time.process_time()
    store.fill(thinned)
    print(time.process_time() - started, machine())


if __name__ == "__main__":
    main()
