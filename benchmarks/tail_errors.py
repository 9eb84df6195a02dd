"""Which errors of ln Z and of differences are those of repeats, where few weights carry a sum?

    python benchmarks/tail_errors.py --proposals EVALUATION --out tail_errors.json

EVALUATION is a folder of `evaluate_alanine.py`. A z-score is the distance of a sample's figure from
the truth over its error; their standard deviation should be 1. Errors that are compared:

- textbook: the standard error of the mean over the mean.
- jackknife: from leaving out each weight in turn.
- smoothed: the largest weights are replaced by expected order statistics of the generalised Pareto
  distribution that fits them (Vehtari et al., J. Mach. Learn. Res. 25 (2024) 72), in the value and
  in the error; "smoothed error" does it in the error alone.
- tail bootstrap: the spread of ln Z over resamples whose largest weights are drawn from that
  distribution, which goes on beyond the largest weight seen (`free_energy.tail`).

First for weights of known mean: of a Gaussian flow wider than its target (bounded), lognormal, and
Pareto with k = 0.3, 0.5, 0.7; the regions of a difference are drawn at random. These chose the
error of the library for ln Z, the tail bootstrap; for differences, where it is too large for
regions of like size, the textbook's stays.
Then for disjoint sets of the proposals of alanine dipeptide, as `z_scores_alanine.py` cuts them:
ln Z against that of all, and F(helical) - F(extended) against the reference.
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
from z_scores import row_of
from z_scores_alanine import REFERENCE, SIZES, read

from openmm_tbg.analysis import effective_sample_size, log_mean_weight, weights_over_largest
from openmm_tbg.evaluation import ScoredProposals
from openmm_tbg.free_energy import free_energy_difference, log_normalising_constant
from openmm_tbg.free_energy.tail import log_mean_error
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI
from openmm_tbg.torsions import dihedral

HELICAL = REFERENCE["helical"]
SHARES = (0.5, 0.1)  # of proposals in the first of two regions
SIZES_OF_DIFFERENCES = (64, 256)
Draw = Callable[[np.random.Generator, int], np.ndarray]
Answers = dict[str, tuple[float, float]]  # value and error, by way


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


def answers(log_weights: np.ndarray) -> Answers:
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


def of_difference(log_weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> Answers:
    found, n = free_energy_difference(log_weights, first, second), len(log_weights)
    parts = [np.where(inside, log_weights, -np.inf) for inside in (first, second)]
    variance = sum(log_mean_error(part) ** 2 for part in parts)
    # No proposal is in both, so that the two sums share -1/n of covariance.
    combined = math.sqrt((n - 1) / n * variance + 2 / n)
    return {"textbook": (found.value, found.error), "tail bootstrap": (found.value, combined)}


def rows_of(
    about: dict[str, object], found: list[Answers], truth: float, truth_error: float, share: float
) -> list[dict[str, object]]:
    """Of samples of one size, whose errors of `truth` are `share` of their own."""
    rows = []
    for way in found[0]:
        scores = [
            (each[way][0] - truth) / math.hypot(each[way][1] * share, truth_error) for each in found
        ]
        figures = row_of(str(about["question"]), np.array(scores))
        figures["root_mean_square"] = round(float(np.sqrt(np.square(scores).mean())), 4)
        rows.append(about | {"sets": len(found), "way": way} | figures)
    return rows


def about_sets(question: str, name: str, samples: list[np.ndarray]) -> dict[str, object]:
    numbers = [effective_sample_size(sample) * len(sample) for sample in samples]
    median = round(float(np.median(numbers)), 1)
    n = len(samples[0])
    return {"question": question, "weights": name, "n": n, "median_effective": median}


def of_known(name: str, n: int, repeats: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(n)
    samples = [KNOWN[name](rng, n) for _ in range(repeats)]
    rows = rows_of(about_sets("ln Z", name, samples), [*map(answers, samples)], 0.0, 0.0, 1.0)
    for share in SHARES if n in SIZES_OF_DIFFERENCES else ():
        sides = [rng.random(n) < share for _ in samples]
        found = [
            of_difference(sample, side, ~side)
            for sample, side in zip(samples, sides, strict=True)
            if side.any()
        ]
        about = about_sets(f"difference, {share:.0%} inside", name, samples)
        rows += rows_of(about, found, math.log(1 / share - 1), 0.0, 1.0)
    return rows


def of_alanine(proposals: ScoredProposals, n: int) -> list[dict[str, object]]:
    weights = proposals.log_weights
    phi, psi = (dihedral(proposals.positions_nm, atoms) for atoms in (ALANINE_PHI, ALANINE_PSI))
    helical = (phi < 0) & (psi > math.radians(-120)) & (psi < math.radians(60))
    extended = (phi < 0) & ~helical
    rows = [slice(start, start + n) for start in range(0, len(weights) - n + 1, n)]
    samples = [weights[each] for each in rows]
    name, left = "alanine dipeptide", math.sqrt(1 - n / len(weights))
    found = [*map(answers, samples)]
    table = rows_of(about_sets("ln Z", name, samples), found, log_mean_weight(weights), 0.0, left)
    found = [of_difference(weights[each], helical[each], extended[each]) for each in rows]
    error = max(HELICAL["standard_error_by_block_length"].values())
    about = about_sets("helical - extended", name, samples)
    return table + rows_of(about, found, HELICAL["free_energy_difference"], error, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in tqdm(KNOWN, unit="kind", mininterval=10.0):
        for n in (*SIZES, 1024):
            rows += of_known(name, n, options.repeats)
    proposals = read(options.proposals)
    for n in SIZES:
        rows += of_alanine(proposals, n)
    print("\n".join(map(str, rows)))
    if options.out:
        record = {"machine": machine(), "repeats": options.repeats, "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
