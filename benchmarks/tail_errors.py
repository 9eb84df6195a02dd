"""Which error of ln Z is that of repeats, where few weights carry the mean?

    python benchmarks/tail_errors.py --proposals EVALUATION --out tail_errors.json

EVALUATION is a folder of `evaluate_alanine.py`. A z-score is the distance of ln Z of a sample from
the truth over its error; their standard deviation should be 1. Errors that are compared:

- textbook: the standard error of the mean over the mean.
- jackknife: from leaving out each weight in turn.
- smoothed: the largest weights are replaced by expected order statistics of the generalised Pareto
  distribution that fits them (Vehtari et al., J. Mach. Learn. Res. 25 (2024) 72), in the value and
  in the error; "smoothed error" does it in the error alone.
- tail bootstrap: the spread of ln Z over resamples whose largest weights are drawn from that
  distribution, which goes on beyond the largest weight seen: that of the library
  (`free_energy.tail`).

First for weights of known ln Z: of a Gaussian flow wider than its target (bounded), lognormal, and
Pareto with k = 0.3, 0.5, 0.7. Then for disjoint sets of the proposals of alanine dipeptide, as
`z_scores_alanine.py` cuts them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from arviz_stats.base.array import array_stats
from likelihood import machine
from tqdm import tqdm
from z_scores_alanine import SIZES, read

from openmm_tbg.analysis import log_mean_weight, weights_over_largest
from openmm_tbg.free_energy import log_normalising_constant

Draw = Callable[[np.random.Generator, int], np.ndarray]


def gaussian(width: float) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        x = width * rng.normal(size=n)
        return x**2 / 2 * (width**-2 - 1) + math.log(width)

    return draw


def lognormal(width: float) -> Draw:
    return lambda rng, n: width * rng.normal(size=n) - width**2 / 2


def pareto(k: float) -> Draw:
    return lambda rng, n: -k * np.log(rng.random(n)) + math.log(1 - k)


KNOWN: dict[str, Draw] = {  # of weights whose mean is 1, so that ln Z = 0
    "bounded": gaussian(1.4),
    "lognormal, width 0.5": lognormal(0.5),
    "lognormal, width 1": lognormal(1.0),
    "lognormal, width 1.5": lognormal(1.5),
    "lognormal, width 2": lognormal(2.0),
    "Pareto, k 0.3": pareto(0.3),
    "Pareto, k 0.5": pareto(0.5),
    "Pareto, k 0.7": pareto(0.7),
}


def textbook(log_weights: np.ndarray) -> tuple[float, float]:
    weights, n = weights_over_largest(log_weights), len(log_weights)
    return log_mean_weight(log_weights), weights.std(ddof=1) / math.sqrt(n) / weights.mean()


def jackknife(log_weights: np.ndarray) -> tuple[float, float]:
    weights, n = weights_over_largest(log_weights), len(log_weights)
    left = np.log(weights.sum() - weights)
    error = math.sqrt((n - 1) / n * np.square(left - left.mean()).sum())
    return log_mean_weight(log_weights), error


def smoothing(log_weights: np.ndarray) -> np.ndarray:
    smoothed, _ = array_stats.psislw(-log_weights)
    lowest = log_weights.argmin()  # it is not smoothed, so that it tells the normalisation
    return smoothed + (log_weights[lowest] - smoothed[lowest])


def answers(log_weights: np.ndarray) -> dict[str, tuple[float, float]]:
    """Value and error of ln Z, by each way; weights of zero go to the others."""
    positive = log_weights[log_weights > -np.inf]
    smoothed = smoothing(positive)
    padded = np.full(len(log_weights), -np.inf)
    padded[: len(positive)] = smoothed
    value, error = textbook(padded)
    found = log_normalising_constant(log_weights)
    return {
        "textbook": textbook(log_weights),
        "jackknife": jackknife(log_weights),
        "smoothed": (value, error),
        "smoothed error": (log_mean_weight(log_weights), error),
        "tail bootstrap": (found.value, found.error),
    }


def row_of(way: str, scores: np.ndarray) -> dict[str, object]:
    spread = scores.std(ddof=1)
    fourth = np.mean((scores - scores.mean()) ** 4) / spread**4
    figures = {
        "mean": scores.mean(),
        "standard_deviation": spread,
        "standard_deviation_error": spread * math.sqrt((fourth - 1) / (4 * len(scores))),
        "root_mean_square": np.sqrt(np.square(scores).mean()),
        "beyond_two": np.mean(np.abs(scores) > 2),
    }
    return {"way": way} | {key: round(float(each), 3) for key, each in figures.items()}


def rows_of(
    name: str, samples: list[np.ndarray], truth: float, share: float
) -> list[dict[str, object]]:
    """Of samples of one size, whose errors of `truth` are `share` of their own."""
    scores: dict[str, list[float]] = {}
    for sample in samples:
        for way, (value, error) in answers(sample).items():
            scores.setdefault(way, []).append((value - truth) / (error * share))
    numbers = [log_normalising_constant(sample).n_effective for sample in samples]
    about = {"weights": name, "n": len(samples[0]), "sets": len(samples)}
    about["median_effective"] = round(float(np.median(numbers)), 1)
    return [about | row_of(way, np.array(each)) for way, each in scores.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=250)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name, draw in tqdm(KNOWN.items(), unit="kind", mininterval=10.0):
        for n in (*SIZES, 1024):
            rng = np.random.default_rng(n)
            samples = [draw(rng, n) for _ in range(options.repeats)]
            rows += rows_of(name, samples, 0.0, 1.0)
    weights = read(options.proposals).log_weights
    whole = log_mean_weight(weights)
    for n in SIZES:
        sets = list(weights[: len(weights) // n * n].reshape(-1, n))
        rows += rows_of("alanine dipeptide", sets, whole, math.sqrt(1 - n / len(weights)))
    print("\n".join(map(str, rows)))
    if options.out:
        record = {"machine": machine(), "repeats": options.repeats, "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
