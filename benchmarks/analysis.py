"""Seconds and peak memory of the analysis of many proposals.

    python benchmarks/analysis.py --out benchmarks/analysis.json

Each question is asked in a process of its own. `seconds_to_load` go by in importing the libraries
that it takes on the first call; the peak is of the whole process, weights and libraries too. The
weights are those of a flow 1.4 times as wide as its target in 6 dimensions; every tenth is zero.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from likelihood import machine

from openmm_tbg.analysis import effective_sample_size, pareto_k
from openmm_tbg.free_energy import (
    free_energy_between,
    free_energy_difference,
    free_energy_profile,
    log_normalising_constant,
)

WIDTH, DIMENSIONS, BINS = 1.4, 6, 36
EDGES = np.linspace(-math.pi, math.pi, BINS + 1)

QUESTIONS = {
    "effective_sample_size": lambda log_weights, x: effective_sample_size(log_weights),
    "pareto_k": lambda log_weights, x: pareto_k(log_weights),
    "log_normalising_constant": lambda log_weights, x: log_normalising_constant(log_weights),
    "free_energy_difference": lambda log_weights, x: free_energy_difference(
        log_weights, x[:, 0] > 0.5, x[:, 0] <= 0.5
    ),
    "free_energy_between": lambda log_weights, x: free_energy_between(
        log_weights - 0.1 * x[:, 0], log_weights
    ),
    "free_energy_profile": lambda log_weights, x: free_energy_profile(
        log_weights, x[:, :2], [EDGES, EDGES]
    ),
}


def weighted(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights, and the coordinates of the proposals."""
    rng = np.random.default_rng(0)
    x = WIDTH * rng.normal(size=(n, DIMENSIONS))
    log_weights = np.square(x).sum(axis=1) / 2 * (WIDTH**-2 - 1)
    log_weights[::10] = -np.inf
    return log_weights, x


def peak_memory() -> float:
    """In GB; unlike ru_maxrss it leaves out the process that started this one."""
    status = Path("/proc/self/status").read_text()
    (kB,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    return round(int(kB) / 1e6, 3)


def ask(name: str, n: int) -> dict[str, object]:
    question = QUESTIONS[name]
    log_weights, x = weighted(n)
    before_GB = peak_memory()
    started = time.perf_counter()
    question(log_weights[:100], x[:100])
    loaded = time.perf_counter()
    question(log_weights, x)
    return {
        "question": name,
        "seconds": round(time.perf_counter() - loaded, 3),
        "seconds_to_load": round(loaded - started, 3),
        "peak_GB": peak_memory(),
        "peak_GB_before": before_GB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="proposals")
    parser.add_argument("--one", help="ask this question only, and print its row as JSON")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ask(options.one, options.n)))
        return
    rows = []
    for name in QUESTIONS:
        command = [sys.executable, __file__, "--n", str(options.n), "--one", name]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(run.stdout))
        print(rows[-1])
    record = {
        "machine": machine(),
        "N": options.n,
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "peak_GB": max(row["peak_GB"] for row in rows),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
