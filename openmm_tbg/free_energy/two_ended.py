"""Free energies from both ends: proposals of the flow, and samples of the target."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64

from .estimated import Estimated, normalised, require_length, require_sets, require_two
from .states import multistate


def bennett(
    log_weights_proposed: Float64[np.ndarray, " proposals"],
    log_weights_target: Float64[np.ndarray, " samples"],
) -> Estimated:
    r"""The log of the target's normalising constant, from samples of the flow and of the target.

    The Bennett acceptance ratio between q and $e^{-u} / Z$, with $\ln w = -u - \log q$ at samples
    of both. A proposal that fails a filter lies outside the target: it counts, with weight zero.

    Args:
        log_weights_proposed: At independent proposals, -inf where the weight is zero.
        log_weights_target: At independent samples of the target (see `independent_rows`), inside
            the filters.

    Raises:
        ValueError: There are fewer than two samples of either, a log-weight is NaN or +inf, that of
            a target's sample -inf, every weight is zero, or the two do not overlap.

    Reference:
        Bennett, J. Comput. Phys. 22 (1976) 245; Shirts & Chodera, J. Chem. Phys. 129 (2008) 124105,
        whose estimator it is for two states, through pymbar.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = 1.5 * rng.normal(size=1000), rng.normal(size=1000)
        >>> def log_weight(x):  # q = N(0, 1.5^2); u = x^2 / 2, so that Z = sqrt(2 pi)
        ...     return -x**2 / 2 + (x / 1.5)**2 / 2 + np.log(1.5 * np.sqrt(2 * np.pi))
        >>> found = bennett(log_weight(x), log_weight(y))
        >>> abs(found.value - np.log(2 * np.pi) / 2) < 3 * found.error < 0.1
        True
    """
    normalised(log_weights_proposed)
    require_two(log_weights_target)
    if not np.isfinite(log_weights_target).all():
        raise ValueError(
            "log_weights_target: not finite for a sample of the target, which lies inside the "
            "filters by definition; leave out frames that fail them, and say how many"
        )
    every = np.concatenate([log_weights_proposed, log_weights_target])
    n = len(log_weights_proposed), len(log_weights_target)
    states = multistate(np.stack([np.zeros(len(every)), -every]), np.array(n))
    return Estimated(
        -float(states.differences_kT[0, 1]),
        float(states.errors_kT[0, 1]),
        "BAR",
        n,
        float(states.n_effective.min()),
        states.weakest_link,
        states.doubts,
    )


def bennett_difference(
    log_weights: Float64[np.ndarray, " proposals"],
    first: Bool[np.ndarray, " proposals"],
    second: Bool[np.ndarray, " proposals"],
    log_weights_first: Float64[np.ndarray, " inside_first"],
    log_weights_second: Float64[np.ndarray, " inside_second"],
) -> Estimated:
    r"""Free energy of one set of configurations less that of another, from both ends.

    $$ \Delta F = -\ln \frac{n_A \hat r_A}{n_B \hat r_B}, \qquad
       \sigma^2 = \sigma_A^2 + \sigma_B^2 + \frac{1}{n_A} + \frac{1}{n_B} $$ with $n_A$ the
    proposals inside A whose weight is not zero, and $\hat r_A$ the Bennett acceptance ratio between
    the flow and the target, both restricted to A. Samples inside a set come from dynamics that a
    wall keeps there (`simulation.torsion_wall`): it has to cross nothing, since the flow joins the
    sets. The error is smaller than that of `free_energy_difference` where proposals cover the
    target thinly, as they do a rare basin.

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero.
        first: Which proposals lie in A.
        second: Which lie in B.
        log_weights_first: -u - log q at independent samples of the target inside A, of the same
            generator; of a thinned one log q counts the thinning, at these as at the proposals.
        log_weights_second: Of the target inside B.

    Raises:
        ValueError: Lengths differ, A and B share a proposal, no proposal with a weight above zero
            lies in one of them, or one of the two ratios is refused as in `bennett`.

    Reference:
        Wirnsberger et al., J. Chem. Phys. 153 (2020) 144112, whose learned Bennett acceptance ratio
        it is for each set.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = 1.5 * rng.normal(size=1000), rng.normal(size=1000)
        >>> def log_weight(x):  # q = N(0, 1.5^2), up to a constant; u = x^2 / 2
        ...     return -x**2 / 2 + (x / 1.5)**2 / 2
        >>> low, high = log_weight(y[y < 0]), log_weight(y[y > 0])
        >>> found = bennett_difference(log_weight(x), x < 0, x > 0, low, high)
        >>> abs(found.value) < 3 * found.error < 0.3
        True
    """
    require_length(log_weights, first=first, second=second)
    weights = normalised(log_weights)
    require_sets(weights, first, second)
    sides, doubts = [], []
    for name, inside, sampled in (
        ("first", first & (weights > 0), log_weights_first),
        ("second", second & (weights > 0), log_weights_second),
    ):
        try:
            side = bennett(log_weights[inside], sampled)
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from error
        sides.append(side)
        doubts += [replace(each, reason=f"`{name}`: {each.reason}") for each in side.doubts]
    log_ratios = [side.value + math.log(side.n[0]) for side in sides]
    variance = sum(side.error**2 + 1 / side.n[0] for side in sides)
    return Estimated(
        log_ratios[1] - log_ratios[0],
        math.sqrt(variance),
        "BAR in each set",
        (len(log_weights), *(side.n[1] for side in sides)),
        min(side.n_effective for side in sides),
        min(side.overlap for side in sides if side.overlap is not None),
        tuple(doubts),
    )
