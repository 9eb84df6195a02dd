"""Are the errors of `bennett_difference` those that repeats show, on alanine dipeptide?

    python benchmarks/z_scores_both_ends.py --folder basins --out z_scores_both_ends.json

The folder is one of `alanine_basins.py`. Its proposals, and the frames of its dynamics, are cut
into disjoint sets, each of which is asked for the free energy of 0 < phi < 2 from both ends; a
z-score is the distance from the reference over the errors of both. Their mean should be 0 and their
standard deviation 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
from alanine_basins import BASINS, RARE, REFERENCE, Problem
from likelihood import machine
from z_scores import row_of

from openmm_tbg.free_energy import Estimated, bennett_difference
from openmm_tbg.metropolis import log_weights
from openmm_tbg.store import ProposalStore

NUMBERS_OF_SETS = (8, 16)


def inside_weights(problem: Problem, name: str) -> np.ndarray:
    """-u - log q at all frames of a basin whose densities are there."""
    parts = [np.load(file) for file in sorted(problem.folder.glob(f"densities_{name}_????.npz"))]
    frames, log_q = (
        np.concatenate([part[column] for part in parts]) for column in ("positions_nm", "log_q")
    )
    known = np.isfinite(log_q)
    return -problem.potential(frames[known]) - log_q[known]


def of_sets(
    weights: np.ndarray, rare: np.ndarray, frames: list[np.ndarray], n_sets: int
) -> list[Estimated]:
    """The figure of each set."""
    found = []
    for number, rows in enumerate(np.array_split(np.arange(len(weights)), n_sets)):
        inside = [each[number::n_sets] for each in frames]
        found.append(bennett_difference(weights[rows], rare[rows], ~rare[rows], *inside))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
    problem = Problem(options.folder, options.seed)
    drawn = ProposalStore(options.folder / "proposals").read()
    u = drawn.reduced_potentials(problem.potential)
    weights, rare = log_weights(u, drawn.log_q, drawn.passes), RARE.holds(drawn.positions_nm)
    frames = [inside_weights(problem, name) for name in BASINS]
    known = json.loads(REFERENCE.read_text())
    reference_error = max(known["standard_error_by_block_length"].values())
    rows = []
    for n_sets in NUMBERS_OF_SETS:
        found = of_sets(weights, rare, frames, n_sets)
        scores = [
            (each.value - known["free_energy_difference"]) / math.hypot(each.error, reference_error)
            for each in found
        ]
        row: dict[str, object] = {"sets": n_sets, "n": len(weights) // n_sets}
        row["frames"] = [len(each) // n_sets for each in frames]
        row["median_error_kT"] = round(float(np.median([each.error for each in found])), 4)
        row["trusted"] = sum(each.is_trusted for each in found)
        rows.append(row | row_of("0 < phi < 2, both ends", np.array(scores)))
    print("\n".join(map(str, rows)))
    if options.out:
        record = {"machine": machine(), "N": len(weights), "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
