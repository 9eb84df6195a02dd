"""The free-energy difference of phi from biased dynamics, with its error from blocks of time.

    python benchmarks/reference_free_energy.py --frames alanine_frames

Weights exp(bias) undo the bias of each frame. The error is the standard deviation over resampled
blocks of time; it should not depend on their length.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.frames import load_frames
from openmm_tbg.reference import ALANINE_PHI
from openmm_tbg.torsions import dihedral

N_BOOTSTRAP = 1000


def difference(rare: np.ndarray, rest: np.ndarray) -> float:
    return float(-np.log(rare.sum() / rest.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--block-ps", type=float, nargs="+", default=[250.0, 500.0, 1000.0, 2000.0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frames = load_frames(options.frames)
    log_weights = frames.log_weights
    weights = np.exp(log_weights - log_weights.max())
    phi = dihedral(frames.positions_nm.astype(np.float64), ALANINE_PHI)
    rare = (phi > 0) & (phi < 2)
    interval_ps = frames.metadata["interval_ps"]
    errors = {}
    for block_ps in options.block_ps:
        length = round(block_ps / interval_ps)
        n_blocks = len(phi) // length
        blocks = [
            (weights[rows] * part[rows]).reshape(n_blocks, length).sum(axis=1)
            for rows in [slice(n_blocks * length)]
            for part in (rare, ~rare)
        ]
        rng = np.random.default_rng(0)
        drawn = rng.integers(n_blocks, size=(N_BOOTSTRAP, n_blocks))
        values = -np.log(blocks[0][drawn].sum(axis=1) / blocks[1][drawn].sum(axis=1))
        errors[f"{block_ps:g} ps"] = round(float(values.std()), 4)
    visits = np.count_nonzero(np.diff(rare.astype(int)))
    result = {
        "quantity": "-ln P(0 < phi < 2) / P(rest), kT",
        "free_energy_difference": round(difference(weights[rare], weights[~rare]), 4),
        "standard_error_by_block_length": errors,
        "frames": len(phi),
        "nanoseconds": len(phi) * interval_ps / 1000,
        "crossings": int(visits),
        "effective_sample_size_of_weights": round(float(effective_sample_size(log_weights)), 3),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
