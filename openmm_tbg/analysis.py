"""What the weights of proposals say about the target."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .arrays import Scalars, require_numbers

FEWEST_FOR_A_TAIL = 25  # of which a fifth, five, are the tail
HALVINGS = 50


def effective_sample_size(log_weights: Scalars) -> float:
    r"""Kish's effective sample size of weighted proposals, as a share of their number.

    $$ \mathrm{ESS} / N = (\sum_n w_n)^2 / (N \sum_n w_n^2) $$ No weight is clipped; a proposal that
    failed a filter counts in N with weight zero.

    Args:
        log_weights: Log-weights of all N proposals, -inf where the weight is zero.

    Returns:
        A share between 0 (every weight is zero) and 1 (all weights are equal).

    Raises:
        ValueError: There are no proposals, or a log-weight is NaN or +inf.

    Reference:
        Kish, Survey Sampling (Wiley, 1965), section 11.7.

    Example:
        >>> effective_sample_size(np.array([-700.0, -700.0, -np.inf, -np.inf]))
        0.5
    """
    largest = _largest(log_weights)
    if largest == -np.inf:
        return 0.0
    weights = np.exp(log_weights - largest)
    return float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum()))


def clipped_effective_sample_size(log_weights: Scalars, share: float) -> float:
    r"""The effective sample size after the largest weights were cut, which is biased upward.

    The `share` of all N proposals with the largest weights are given the largest weight of the
    others. Published figures are often clipped; this one serves to compare with them, and says
    nothing of how well averages over the proposals converge.

    Args:
        log_weights: Log-weights of all N proposals, -inf where the weight is zero.
        share: Share of the N proposals to be clipped, rounded to whole proposals.

    Raises:
        ValueError: `share` is not in [0, 1), there are no proposals, a log-weight is NaN or +inf,
            or every weight is zero.

    Example:
        >>> log_weights = np.log([1.0, 1.0, 1.0, 5.0])
        >>> clipped_effective_sample_size(log_weights, share=0.25)
        1.0
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}: give the share of weights to clip, from 0 to below 1")
    weights_over_largest(log_weights)
    n_kept = max(1, len(log_weights) - round(share * len(log_weights)))
    largest_kept = np.partition(log_weights, n_kept - 1)[n_kept - 1]
    return effective_sample_size(np.minimum(log_weights, largest_kept))


def tempering_power(log_weights: Scalars, share: float) -> float:
    r"""The largest power of the weights that leaves a given effective sample size.

    $$ \beta = \max \{ b \le 1 : \mathrm{ESS}(w^b) / N \ge s \} $$

    The effective sample size falls as b grows, from 1 to that of the weights: its logarithm has the
    slope $2 (\langle \ln w \rangle_b - \langle \ln w \rangle_{2b}) \le 0$, with means under
    $w^b$ and $w^{2b}$.

    Args:
        log_weights: Log-weights of N proposals, all above zero: finite.
        share: s, between 0 and 1.

    Raises:
        ValueError: `share` is not between 0 and 1, there are no proposals, or a log-weight is not
            finite.

    Reference:
        Koblents & Míguez, Stat. Comput. 25 (2015) 407, who temper the weights of adaptive
        importance sampling; the rule for the power is that of Jasra et al., Scand. J. Stat. 38
        (2011) 1.

    Example:
        >>> log_weights = np.array([0.0, 1.0, 8.0])
        >>> power = tempering_power(log_weights, share=0.5)
        >>> round(power, 3), round(effective_sample_size(power * log_weights), 3)
        (0.282, 0.5)
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: give a share between 0 and 1")
    if not np.isfinite(log_weights).all():
        raise ValueError("log_weights holds one that is not finite: leave out rows of weight zero")
    if effective_sample_size(log_weights) >= share:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = effective_sample_size(middle * log_weights) >= share
        low, high = (middle, high) if enough else (low, middle)
    return low


def independence_acceptance(log_weights: Scalars) -> float:
    r"""Acceptance of a stationary independence-Metropolis chain, from weighted proposals alone.

    $$ \langle \min(1, w'/w) \rangle_{x \sim p,\, x' \sim q} \approx
       \frac{1}{(N - 1) \sum_i w_i} \sum_{i \ne j} \min(w_i, w_j) $$

    Sorted by falling weight, the double sum is $2 \sum_r (r - 1) w_{(r)}$.

    Args:
        log_weights: Log-weights of N proposals drawn from q, -inf where the weight is zero.

    Returns:
        A share between 0 and 1 (all weights are equal).

    Raises:
        ValueError: There are fewer than two proposals, a log-weight is NaN or +inf, or every
            weight is zero.

    Example:
        >>> independence_acceptance(np.log([1.0, 3.0]))
        0.5
    """
    weights = weights_over_largest(log_weights)
    if len(weights) < 2:
        raise ValueError("log_weights holds one proposal: an acceptance takes at least two")
    falling = np.sort(weights)[::-1]
    ranks = np.arange(len(falling))
    return float(2 * (ranks @ falling) / ((len(falling) - 1) * falling.sum()))


def log_mean_weight(log_weights: Scalars) -> float:
    r"""Log of the mean weight, the log of the target's normalising constant.

    $$ \ln \hat Z = \ln \frac{1}{N} \sum_n w_n, \qquad Z = \int e^{-u(x)} dx $$ over the centred
    configurations in nm that pass the filters.

    Args:
        log_weights: Log-weights of all N proposals, -inf where the weight is zero.

    Raises:
        ValueError: There are no proposals, a log-weight is NaN or +inf, or every weight is zero.

    Example:
        >>> round(log_mean_weight(np.array([1000.0, -np.inf])) - 1000, 4)
        -0.6931
    """
    mean = float(weights_over_largest(log_weights).mean())
    return float(log_weights.max()) + math.log(mean)


def pareto_k(log_weights: Scalars) -> float:
    r"""Index k of the generalised Pareto distribution that fits the tail of the weights.

    Weights have $1/k$ finite moments: below 0.5 their variance is finite. What k allows to trust is
    said in `verdict`, whatever the effective sample size. The fit is over the largest
    $\min(n/5, 3\sqrt n)$ of the n weights above zero; zeros do not change the tail's index.

    Args:
        log_weights: Log-weights of all proposals, -inf where the weight is zero.

    Returns:
        k; -inf where the largest weights are equal, so that there is no tail; NaN where fewer than
        25 weights are above zero.

    Raises:
        ValueError: There are no proposals, a log-weight is NaN or +inf, or every weight is zero.

    Reference:
        Vehtari et al., J. Mach. Learn. Res. 25 (2024) 72, through arviz-stats.

    Example:
        >>> x = 0.6 * np.random.default_rng(0).normal(size=10_000)
        >>> bool(abs(pareto_k(x**2 / 2 * (1 / 0.6**2 - 1)) - 0.64) < 0.2)
        True
    """
    weights_over_largest(log_weights)
    positive = np.sort(log_weights[log_weights > -np.inf])
    if len(positive) < FEWEST_FOR_A_TAIL:
        return math.nan
    if positive[-1] - positive[-(len(positive) // 5)] < 1e-9:
        return -math.inf
    from arviz_stats.base.array import array_stats  # takes three seconds

    # psislw expects log-likelihoods: it takes minus its argument for the log-weights.
    _, k = array_stats.psislw(-positive)  # type: ignore[no-untyped-call]
    return float(k)


def tail_length(n: int) -> int:
    r"""How many of n weights above zero the fit of `pareto_k` is over, $\min(n/5, 3\sqrt n)$.

    Example:
        >>> tail_length(100), tail_length(10_000)
        (20, 300)
    """
    return int(min(n / 5, 3 * math.sqrt(n)))


def bootstrap_error(
    statistic: Callable[..., float],
    log_weights: Scalars,
    *columns: Scalars,
    seed: int,
    n: int = 200,
) -> float:
    """Standard deviation of a statistic over resamples of the proposals with replacement.

    Proposals must be independent, as those of a flow are and the frames of a trajectory are not.
    Where a few weights carry the statistic, a resample cannot know of those never drawn, and the
    error is too small: mind `pareto_k`.

    Args:
        statistic: Called with the rows of `log_weights` and of each of `columns`.
        log_weights: Log-weights of all N proposals, -inf where the weight is zero.
        columns: What else belongs to each proposal, resampled together with its weight.
        seed: Seed of the resampling.
        n: Number of resamples; one in which every weight is zero is drawn again.

    Returns:
        The standard deviation; inf where some resample gives no finite value.

    Raises:
        ValueError: There are no proposals, a log-weight is NaN or +inf, every weight is zero, a
            column has another length, or `n` is below 2.

    Reference:
        Efron, Ann. Stat. 7 (1979) 1.

    Example:
        >>> log_weights = np.random.default_rng(0).normal(size=1000)
        >>> error = bootstrap_error(log_mean_weight, log_weights, seed=0)
        >>> bool(abs(error / np.sqrt((np.e - 1) / 1000) - 1) < 0.2)
        True
    """
    if n < 2:
        raise ValueError(f"n is {n}: a standard deviation takes at least two resamples")
    if {len(column) for column in columns} - {len(log_weights)}:
        raise ValueError(
            f"columns of {[len(column) for column in columns]} rows, log_weights of "
            f"{len(log_weights)}: give one row for each proposal"
        )
    weights_over_largest(log_weights)
    rng = np.random.default_rng(seed)
    values: list[float] = []
    while len(values) < n:
        rows = rng.integers(len(log_weights), size=len(log_weights))
        if log_weights[rows].max() > -np.inf:
            values.append(statistic(log_weights[rows], *(column[rows] for column in columns)))
    return float(np.std(values, ddof=1)) if np.isfinite(values).all() else math.inf


def weights_over_largest(log_weights: Scalars) -> Scalars:
    """Weights in units of the largest.

    Raises:
        ValueError: There are no proposals, a log-weight is NaN or +inf, or every weight is zero.

    Example:
        >>> weights_over_largest(np.array([1000.0, -np.inf]))
        array([1., 0.])
    """
    largest = _largest(log_weights)
    if largest == -np.inf:
        raise ValueError(
            "every log-weight is -inf: no proposal passes the filters with a finite energy"
        )
    weights: Scalars = np.exp(log_weights - largest)
    return weights


def _largest(log_weights: Scalars) -> float:
    require_numbers(log_weights=log_weights)
    if len(log_weights) == 0:
        raise ValueError("log_weights is empty: draw proposals first")
    largest = float(log_weights.max())
    if np.isnan(largest) or largest == np.inf:
        raise ValueError("log_weights must be finite, or -inf for a weight of zero")
    return largest
