"""Free-energy differences of phi and psi from biased dynamics, with its error from blocks of time.

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
from openmm_tbg.frames import Frames, load_frames
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI
from openmm_tbg.torsions import dihedral

N_BOOTSTRAP = 1000


def difference(
    frames: Frames, first: np.ndarray, second: np.ndarray, blocks_ps: list[float]
) -> dict:
    """-ln P(first) / P(second) with its error for each length of the blocks, in kT."""
    weights = np.exp(frames.log_weights - frames.log_weights.max())
    errors = {}
    for block_ps in blocks_ps:
        length = round(block_ps / frames.metadata["interval_ps"])
        n_blocks = len(weights) // length
        sums = [
            (weights * part)[: n_blocks * length].reshape(n_blocks, length).sum(axis=1)
            for part in (first, second)
        ]
        drawn = np.random.default_rng(0).integers(n_blocks, size=(N_BOOTSTRAP, n_blocks))
        values = -np.log(sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1))
        errors[f"{block_ps:g} ps"] = round(float(values.std()), 4)
    value = -np.log(weights[first].sum() / weights[second].sum())
    return {
        "free_energy_difference": round(float(value), 4),
        "standard_error_by_block_length": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--block-ps", type=float, nargs="+", default=[250.0, 500.0, 1000.0, 2000.0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frames = load_frames(options.frames)
    positions_nm = frames.positions_nm.astype(np.float64)
    phi, psi = (dihedral(positions_nm, angle) for angle in (ALANINE_PHI, ALANINE_PSI))
    rare = (phi > 0) & (phi < 2)
    helical = (phi < 0) & (psi > np.radians(-120)) & (psi < np.radians(60))
    extended = (phi < 0) & ~helical
    result = {
        "quantity": "-ln P(0 < phi < 2) / P(rest), kT",
        **difference(frames, rare, ~rare, options.block_ps),
        "helical": {
            "quantity": "-ln P(helical) / P(extended) at phi < 0, helical -120 < psi < 60, kT",
            **difference(frames, helical, extended, options.block_ps),
        },
        "frames": len(phi),
        "nanoseconds": len(phi) * frames.metadata["interval_ps"] / 1000,
        "crossings": int(np.count_nonzero(np.diff(rare.astype(int)))),
        "effective_sample_size_of_weights": round(effective_sample_size(frames.log_weights), 3),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
