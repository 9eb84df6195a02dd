"""Are the errors of free energies those that repeats show?

    python benchmarks/z_scores.py --out benchmarks/z_scores.json

Each question is asked again and again of fresh samples, and its z-score taken, the distance from
the known answer over the error that came with it. Their mean should be 0 and their standard
deviation 1. The target is exp(-x^2 / 2) on x > -0.5, and the flow a Gaussian 1.4 times as wide.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
from likelihood import machine
from tqdm import tqdm

from openmm_tbg.free_energy import (
    Estimated,
    average,
    bennett,
    free_energy_between,
    free_energy_difference,
    free_energy_difference_of_chain,
    log_normalising_constant,
)

EDGE, WIDTH, SPLIT, SOFTER = -0.5, 1.4, 1.0, 1.1
N = 500


def above(x: float) -> float:
    """Integral of the target's density, not normalised, from x on."""
    return math.sqrt(math.pi / 2) * math.erfc(x / math.sqrt(2))


ANSWERS = {
    "log_normalising_constant": math.log(above(EDGE)),
    "average": math.exp(-(EDGE**2) / 2) / above(EDGE),
    "free_energy_difference": -math.log(above(SPLIT) / (above(EDGE) - above(SPLIT))),
    "free_energy_between": -math.log(SOFTER * above(EDGE / SOFTER) / above(EDGE)),
    "bennett": math.log(above(EDGE)),
    "free_energy_difference_of_chain": math.log(4),
}


def log_weight(x: np.ndarray) -> np.ndarray:
    log_q = -((x / WIDTH) ** 2) / 2 - math.log(WIDTH * math.sqrt(2 * math.pi))
    return np.where(x > EDGE, -(x**2) / 2 - log_q, -np.inf)


def two_state_chain(rng: np.random.Generator, n: int) -> np.ndarray:
    """Enters with probability 0.05 and leaves with 0.2; starts in equilibrium."""
    coins, inside = rng.random(n), np.zeros(n, dtype=bool)
    inside[0] = coins[0] < 0.2
    for step in range(1, n):
        inside[step] = coins[step] >= 0.2 if inside[step - 1] else coins[step] < 0.05
    return inside


def asked(rng: np.random.Generator) -> dict[str, Estimated]:
    """Every question once, of fresh samples."""
    x = WIDTH * rng.normal(size=N)
    y = rng.normal(size=4 * N)
    weights = log_weight(x)
    softer = weights + x**2 / 2 * (1 - SOFTER**-2)
    return {
        "log_normalising_constant": log_normalising_constant(weights),
        "average": average(weights, x),
        "free_energy_difference": free_energy_difference(weights, x > SPLIT, x <= SPLIT),
        "free_energy_between": free_energy_between(softer, weights),
        "bennett": bennett(weights, log_weight(y[y > EDGE][:N])),
        "free_energy_difference_of_chain": free_energy_difference_of_chain(
            two_state_chain(rng, 8 * N)
        ),
    }


def row_of(name: str, scores: np.ndarray) -> dict[str, object]:
    """Moments of the scores; the error of the standard deviation uses their fourth moment."""
    spread = scores.std(ddof=1)
    fourth = np.mean((scores - scores.mean()) ** 4) / spread**4
    figures = {
        "mean": scores.mean(),
        "mean_error": spread / math.sqrt(len(scores)),
        "standard_deviation": spread,
        "standard_deviation_error": spread * math.sqrt((fourth - 1) / (4 * len(scores))),
        "beyond_two": np.mean(np.abs(scores) > 2),
    }
    return {"question": name} | {key: round(float(each), 4) for key, each in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
    rng = np.random.default_rng(options.seed)
    scores: dict[str, list[float]] = {name: [] for name in ANSWERS}
    for _ in tqdm(range(options.repeats), unit="repeat", mininterval=10.0):
        for name, found in asked(rng).items():
            scores[name].append((found.value - ANSWERS[name]) / found.error)
    rows = [row_of(name, np.array(values)) for name, values in scores.items()]
    record = {"machine": machine(), "repeats": options.repeats, "seed": options.seed, "rows": rows}
    print("\n".join(map(str, rows)))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
