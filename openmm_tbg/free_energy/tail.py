"""The error of a mean of weights, of which the largest may hold most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..analysis import FEWEST_FOR_A_TAIL, tail_length, weights_over_largest
from ..arrays import Scalars
from .estimated import effective_number

RESAMPLES = 1000
SEED = 0  # the same weights have the same error


@dataclass(frozen=True)
class ParetoTail:
    r"""The largest weights, as a generalised Pareto distribution has them.

    $$ P(w > x \mid w > t) = (1 + k (x - t) / s)^{-1/k} $$

    Attributes:
        k: Its index, as `pareto_k` gives it.
        scale: s, in units of the largest weight.
        threshold: t, the largest weight that is not in the tail, in the same units.
        n: Weights in the tail.
    """

    k: float
    scale: float
    threshold: float
    n: int


def log_mean_error(log_weights: Scalars) -> float:
    r"""Standard error of the log of the mean of independent weights.

    Where the weights are bounded, k of their tail not above zero, or too few to see a tail,

    $$ \sigma^2 = \frac{1}{N - 1} \Bigl( \frac{N \sum w^2}{(\sum w)^2} - 1 \Bigr). $$

    Where a few carry the sum this is too small, since weights larger than those drawn are not in
    it. There $\sigma$ is the standard deviation of $\ln \sum w$ over resamples: of N weights a
    binomial number lies above the threshold of the tail, drawn from its `ParetoTail`, which goes on
    beyond the largest weight; the sum of the others has their mean and variance, and follows a
    gamma distribution, so that it stays positive. `benchmarks/tail_errors.py` compares errors with
    those of repeats.

    Args:
        log_weights: Of all N proposals, N above 1, -inf where the weight is zero.

    Raises:
        ValueError: There are no proposals, a log-weight is NaN or +inf, or every weight is zero.

    Reference:
        Semi-parametric bootstrap: Davison & Hinkley, Bootstrap Methods and their Application
        (Cambridge, 1997), section 3.4; the tail: Vehtari et al., J. Mach. Learn. Res. 25 (2024) 72.

    Example:
        >>> log_weights = 2 * np.random.default_rng(1).normal(size=100)
        >>> n_effective = effective_number(np.exp(log_weights))
        >>> bool(1 < log_mean_error(log_weights) / np.sqrt((100 / n_effective - 1) / 99) < 2)
        True
    """
    weights = weights_over_largest(log_weights)
    n, tail = len(weights), pareto_tail(log_weights)
    if tail is None:
        return math.sqrt(max(0.0, n / effective_number(weights) - 1) / (n - 1))
    rng = np.random.default_rng(SEED)
    n_drawn = rng.binomial(n, tail.n / n, size=RESAMPLES)
    survival = 1 - rng.random((RESAMPLES, n_drawn.max()))
    drawn = tail.threshold + tail.scale * (survival**-tail.k - 1) / tail.k
    drawn[np.arange(n_drawn.max()) >= n_drawn[:, np.newaxis]] = 0.0
    others = np.partition(weights, n - tail.n)[: n - tail.n]
    mean, variance = others.mean(), max(others.var(), 1e-12 * others.mean() ** 2)
    sums = rng.gamma((n - n_drawn) * mean**2 / variance, variance / mean)
    return float(np.log(sums + drawn.sum(axis=1)).std(ddof=1))


def pareto_tail(log_weights: Scalars) -> ParetoTail | None:
    """The tail of weights, of which some are above zero; None where none is seen or k <= 0."""
    positive = np.sort(log_weights[log_weights > -np.inf])
    n = tail_length(len(positive))
    if len(positive) < FEWEST_FOR_A_TAIL or positive[-1] - positive[-n] < 1e-9:
        return None
    from arviz_stats.base.array import array_stats  # takes three seconds

    smoothed, k = array_stats.psislw(-positive)  # type: ignore[no-untyped-call]
    # Smoothed weights are quantiles of the tail; the one below it is as it was, up to the norm.
    below, middle = len(positive) - n - 1, n // 2
    of_largest = positive[below] - smoothed[below] - positive[-1]
    threshold = math.exp(positive[below] - positive[-1])
    quantile = math.exp(smoothed[below + 1 + middle] + of_largest)
    if not k > 0 or not quantile > threshold:
        return None
    scale = (quantile - threshold) * k / ((1 - (middle + 0.5) / n) ** -k - 1)
    return ParetoTail(float(k), float(scale), threshold, n)
