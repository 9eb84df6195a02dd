"""What models are worth that were trained for the same minutes: a row of cheap figures for each.

    python benchmarks/equal_minutes.py wide.safetensors narrow.safetensors \
        --frames held_out --out rows.json

An effective sample size takes thousands of exact densities, and after a quarter of an hour of one
core there is none to measure. Validity, energies, widths of bonds and the likelihood of held-out
frames tell models apart by a hundred samples.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from evaluate_alanine import FrameRows, reduced_potential
from likelihood import machine

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.fields.architecture import EGNNArchitecture
from openmm_tbg.filters import TopologyFilter
from openmm_tbg.grid import TimeGrid
from openmm_tbg.reference import alanine_dipeptide

N_SAMPLES = 96
N_HELD_OUT = {True: 6, False: 32}  # of an EGNN, whose density costs seven times as much, or not


def bond_widths_nm(positions_nm: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    arms = positions_nm[:, bonds[:, 0]] - positions_nm[:, bonds[:, 1]]
    low, high = np.percentile(np.linalg.norm(arms, axis=-1), [25, 75], axis=0)
    return high - low


def row_of(path: Path, rows: FrameRows, seed: int) -> dict[str, object]:
    model = TrainedModel.load(path)
    is_egnn = isinstance(model.architecture, EGNNArchitecture)
    grid = TimeGrid(24, 2, 0.01) if is_egnn else TimeGrid(40, 1, 0.1)
    flow = replace(model, grid=grid).flow()
    sees_hand = model.architecture.sees_hand(model.geometry)
    screen = TopologyFilter(model.molecule, model.encoding.labels, density_sees_hand=sees_hand)

    started = time.perf_counter()
    noise = torch.Generator().manual_seed(seed)
    none = lambda positions: torch.zeros(len(positions), dtype=torch.bool)  # noqa: E731
    drawn = flow.sample_with_log_prob(N_SAMPLES, noise, none).positions_nm.numpy()
    seconds = (time.perf_counter() - started) / N_SAMPLES
    screened = screen.screen(drawn)
    valid = screened.positions_nm[screened.passes]
    found = {
        "model": path.stem,
        "parameters": sum(int(np.prod(weight.shape)) for weight in model.weights.values()),
        "training": model.card.training,
        "N": N_SAMPLES,
        "seed": seed,
        "valid": float(screened.passes.mean()),
        "seconds_per_sample_without_log_q": seconds,
    }
    if len(valid):
        u = reduced_potential(alanine_dipeptide())(valid)
        bonds = np.array(model.molecule.bonds)
        ratios = bond_widths_nm(valid, bonds) / bond_widths_nm(rows.positions_nm, bonds)
        found["energy_quartiles_kT"] = np.percentile(u, [25, 50, 75]).tolist()
        found["bond_width_ratio"] = float(ratios.mean())

    n = N_HELD_OUT[is_egnn]
    frames = rows.of_target(96, np.random.default_rng(0))[:n]
    started = time.perf_counter()
    log_q = flow.log_prob(torch.from_numpy(screen.screen(frames).positions_nm)).numpy()
    log_q += screen.log_fold
    found["nll_nm"] = {
        "value": float(-log_q.mean()),
        "error": float(log_q.std(ddof=1) / np.sqrt(n)),
        "n": n,
    }
    found["seconds_per_log_q"] = (time.perf_counter() - started) / n
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--frames", type=Path, required=True, help="frames held out")
    parser.add_argument("--seed", type=int, default=401)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = FrameRows.load(options.frames)
    found = [row_of(path, rows, options.seed) for path in options.models]
    print(json.dumps(found, indent=1))
    options.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
