"""Seconds for one exact-likelihood sample: the reference recipe against this library, in one run.

    python benchmarks/likelihood.py --out benchmarks/likelihood.json

The reference recipe is that of Klein & Noé 2024: an EGNN of 5 x 64, dopri5 with tolerances of 1e-4
on the augmented state, and the trace of the Jacobian by reverse mode. Its published weights are not
at hand, and an untrained EGNN is so smooth that dopri5 takes few steps. So three rows are timed:

- the recipe with the EGNN untrained, which is a lower bound of its cost;
- the recipe with the trained field of this library in place of the EGNN, same tolerances;
- this library's way: fixed grid, forward mode, divergence at quadrature nodes only.

For each row: seconds a sample (median and range of the repeats), and evaluations of the divergence.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.fields.egnn import EGNN
from openmm_tbg.fields.protocol import VectorField
from openmm_tbg.flow import ContinuousFlow, reference_log_prob
from openmm_tbg.models import find_model
from openmm_tbg.prior import MeanFreeGaussian

TOLERANCE = 1e-4


class ReverseMode:
    """A field with its divergence by reverse mode, one product for each coordinate."""

    def __init__(self, field: VectorField) -> None:
        self.field = field
        self.bytes_per_divergence = field.bytes_per_divergence
        self.evaluations = 0

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field.velocity(t, x)

    def velocity_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        def of_one(frame: Tensor) -> Tensor:
            return self.field.velocity(t, frame[None])[0]

        self.evaluations += 1
        jacobian = torch.func.vmap(torch.func.jacrev(of_one))(x)
        return self.field.velocity(t, x), torch.einsum("bicic->b", jacobian)


@dataclass(frozen=True)
class Row:
    name: str
    batch: int
    seconds_per_sample: float
    fastest: float
    slowest: float
    divergence_evaluations: int


def timed(name: str, batch: int, repeats: int, work: Callable[[], int]) -> Row:
    seconds, evaluations = [], 0
    for _ in range(repeats):
        started = time.perf_counter()
        evaluations = work()
        seconds.append((time.perf_counter() - started) / batch)
    return Row(name, batch, statistics.median(seconds), min(seconds), max(seconds), evaluations)


def recipe(field: VectorField, prior: MeanFreeGaussian, x: Tensor) -> int:
    counted = ReverseMode(field)
    reference_log_prob(ContinuousFlow(counted, prior), x, TOLERANCE)
    return counted.evaluations


def measure(batch: int, repeats: int) -> list[Row]:
    model = TrainedModel.load(find_model("alanine-dipeptide"))
    flow = model.flow()
    generator = torch.Generator().manual_seed(0)
    x = flow.sample_with_log_prob(batch, generator).positions_nm
    torch.manual_seed(0)
    egnn = EGNN(torch.from_numpy(np.eye(22, 21)), hidden=64, layers=5).requires_grad_(False)
    wide = MeanFreeGaussian.isotropic(22, 0.1)

    def ours() -> int:
        flow.sample_with_log_prob(batch, generator)
        return flow.grid.nodes

    rows = [
        timed("EGNN 5 x 64 untrained, dopri5 1e-4, reverse mode", batch, repeats,
              lambda: recipe(egnn, wide, x)),
        timed("trained denoiser, dopri5 1e-4, reverse mode", batch, repeats,
              lambda: recipe(flow.field, flow.prior, x)),
        timed(f"openmm_tbg, {flow.grid.nodes} nodes, forward mode", batch, repeats, ours),
    ]  # fmt: skip
    errors = reference_log_prob(flow, x, TOLERANCE) - flow.log_prob(x)
    print(
        f"dopri5 at 1e-4 differs from the fixed grid by {errors.square().mean().sqrt():.4f} kT rms"
    )
    print(flow.log_prob_error(batch, generator))
    return rows


def machine() -> dict[str, object]:
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "processor": model[0].split(":")[1].strip() if model else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": head.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.batch, options.repeats)
    base = rows[0].seconds_per_sample
    for row in rows:
        print(
            f"{row.name:50s} {row.seconds_per_sample:8.3f} s a sample ({row.fastest:.3f} to "
            f"{row.slowest:.3f}), {row.divergence_evaluations} divergences, "
            f"{base / row.seconds_per_sample:.1f} times the first row's speed"
        )
    if options.out:
        record = {"machine": machine(), "rows": [vars(row) for row in rows]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
