"""Figures of weights against exact identities, Gaussians whose figures are known, and chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
from assertions import assert_mean

from openmm_tbg import analysis
from openmm_tbg.analysis import (
    bootstrap_error,
    clipped_effective_sample_size,
    effective_sample_size,
    independence_acceptance,
    log_mean_weight,
    pareto_k,
    tempering_power,
)
from openmm_tbg.arrays import Scalars
from openmm_tbg.metropolis import independence_metropolis

Statistic = Callable[[Scalars], float]
INF = np.inf


def clipped(log_weights: Scalars) -> float:
    return clipped_effective_sample_size(log_weights, 0.01)


def bootstrapped(log_weights: Scalars) -> float:
    return bootstrap_error(log_mean_weight, log_weights, seed=0, n=3)


STRICT: list[Statistic] = [
    clipped,
    independence_acceptance,
    log_mean_weight,
    pareto_k,
    bootstrapped,
]
EVERY: list[Statistic] = [effective_sample_size, *STRICT]


def gaussian_log_weights(width: float, n: int, seed: int = 1) -> Scalars:
    """Proposals of N(0, width^2) for the target exp(-x^2 / 2)."""
    x = width * np.random.default_rng(seed).normal(size=n)
    log_q = -((x / width) ** 2) / 2 - np.log(width * np.sqrt(2 * np.pi))
    return -(x**2) / 2 - log_q


def with_failures(log_weights: Scalars, n_failed: int) -> Scalars:
    """The log-weights with rows of weight zero strewn among them."""
    every = np.concatenate([log_weights, np.full(n_failed, -INF)])
    return np.random.default_rng(2).permutation(every)


def acceptance_by_pairs(log_weights: Scalars) -> float:
    """The defining double sum, term by term."""
    weights, n = np.exp(log_weights), len(log_weights)
    total = sum(
        weights[i] * min(1.0, weights[j] / weights[i])
        for i in range(n)
        for j in range(n)
        if i != j and weights[i] > 0
    )
    return total / ((n - 1) * weights.sum())


@pytest.mark.parametrize("statistic", EVERY)
@pytest.mark.parametrize(
    ("log_weights", "message"),
    [([], "empty: draw"), ([0.0, np.nan], "must be finite"), ([0.0, INF], "must be finite")],
)
def test_what_is_no_weight_is_refused(
    statistic: Statistic, log_weights: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        statistic(np.array(log_weights))


@pytest.mark.parametrize("statistic", STRICT)
def test_weights_that_are_all_zero_are_refused(statistic: Statistic) -> None:
    with pytest.raises(ValueError, match="every log-weight is -inf: no proposal passes"):
        statistic(np.full(30, -INF))


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="one proposal: an acceptance takes at least two"):
        independence_acceptance(np.zeros(1))
    for share in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            clipped_effective_sample_size(np.zeros(3), share)
    with pytest.raises(ValueError, match="at least two resamples"):
        bootstrap_error(log_mean_weight, np.zeros(3), seed=0, n=1)


@pytest.mark.parametrize("log_weight", [-800.0, 0.0, 800.0])
def test_proposals_from_the_target_itself(log_weight: float) -> None:
    log_weights = np.full(100, log_weight)
    assert effective_sample_size(log_weights) == 1
    assert clipped_effective_sample_size(log_weights, 0.01) == 1
    assert independence_acceptance(log_weights) == pytest.approx(1, abs=1e-14)
    assert log_mean_weight(log_weights) == log_weight
    assert pareto_k(log_weights) == -INF
    assert bootstrap_error(log_mean_weight, log_weights, seed=0) == 0


def test_a_failed_proposal_counts_with_weight_zero() -> None:
    log_weights = np.zeros(80)
    failed = with_failures(log_weights, 20)
    assert effective_sample_size(failed) == pytest.approx(0.8)
    assert independence_acceptance(failed) == pytest.approx(79 / 99)
    assert log_mean_weight(failed) == pytest.approx(np.log(0.8))


@pytest.mark.parametrize("statistic", EVERY[:-1])
def test_the_order_of_proposals_does_not_matter(statistic: Statistic) -> None:
    log_weights = with_failures(gaussian_log_weights(0.8, 300), 50)
    shuffled = np.random.default_rng(3).permutation(log_weights)
    assert statistic(shuffled) == pytest.approx(statistic(log_weights), rel=1e-12)


@pytest.mark.parametrize("n_failed", [0, 1, 37])
def test_the_acceptance_is_the_sum_over_pairs(n_failed: int) -> None:
    log_weights = with_failures(gaussian_log_weights(0.7, 60), n_failed)
    log_weights[:5] = log_weights[5:10]  # ties
    expected = acceptance_by_pairs(log_weights)
    assert independence_acceptance(log_weights) == pytest.approx(expected, rel=1e-12)
    assert independence_acceptance(log_weights - 900) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("failing", [0.0, 0.25])
def test_the_acceptance_is_that_of_a_chain(failing: float) -> None:
    n = 40_000
    log_weights = gaussian_log_weights(1.8, n)
    log_weights = with_failures(log_weights, round(n * failing / (1 - failing)))
    chain = independence_metropolis(log_weights.max(), log_weights, np.random.default_rng(4))
    accepted = chain.accepted[1000:].astype(float)
    # The estimate comes from the same proposals, so that its own error does not add to the chain's.
    assert_mean(accepted, independence_acceptance(log_weights))
    expected = 4 / np.pi * np.arctan(1 / 1.8) * (1 - failing)
    assert_mean(accepted, expected)


@pytest.mark.parametrize("width", [1.3, 2.0])
def test_gaussians_have_the_figures_of_theory(width: float) -> None:
    log_weights = gaussian_log_weights(width, 20_000)
    for statistic, expected in (
        (effective_sample_size, np.sqrt(2 - 1 / width**2) / width),
        (independence_acceptance, 4 / np.pi * np.arctan(1 / width)),
        (log_mean_weight, np.log(2 * np.pi) / 2),
    ):
        error = bootstrap_error(statistic, log_weights, seed=5)
        assert abs(statistic(log_weights) - expected) < 4 * error < 0.05


def test_the_bootstrap_error_is_the_scatter_of_repetitions() -> None:
    for statistic in (effective_sample_size, independence_acceptance, log_mean_weight):
        samples = [gaussian_log_weights(1.5, 400, seed) for seed in range(200)]
        scatter = np.std([statistic(sample) for sample in samples], ddof=1)
        errors = [bootstrap_error(statistic, sample, seed=0, n=50) for sample in samples[:20]]
        assert np.mean(errors) == pytest.approx(scatter, rel=0.25)


def test_columns_are_resampled_with_their_weights() -> None:
    log_weights = gaussian_log_weights(1.5, 100)

    def together(resampled: Scalars, column: Scalars) -> float:
        np.testing.assert_array_equal(column, 2 * resampled)
        return float(column.mean())

    first = bootstrap_error(together, log_weights, 2 * log_weights, seed=1)
    assert first == bootstrap_error(together, log_weights, 2 * log_weights, seed=1)
    assert first != bootstrap_error(together, log_weights, 2 * log_weights, seed=2)


@pytest.mark.parametrize("n", [2, 9])
def test_columns_of_another_length_are_refused(n: int) -> None:
    """A longer one would be cut without a word; users have no jaxtyping to stop them."""
    with pytest.raises(ValueError, match=rf"columns of \[{n}\] rows, log_weights of 3"):
        unwrap(bootstrap_error)(log_mean_weight, np.zeros(3), np.zeros(n), seed=0)


def test_a_statistic_that_is_not_always_finite_has_no_error_bar() -> None:
    def log_of_first(log_weights: Scalars) -> float:
        return float(log_weights[0])

    assert bootstrap_error(log_of_first, np.array([0.0, 1.0, -INF]), seed=0) == INF


def test_resamples_without_weight_are_drawn_again() -> None:
    one_of_three = np.array([0.0, -INF, -INF])
    assert np.isfinite(bootstrap_error(log_mean_weight, one_of_three, seed=0))


def test_clipping_gives_the_largest_weights_the_next_value() -> None:
    log_weights = np.log(np.arange(1.0, 101.0))
    by_hand = np.log(np.minimum(np.arange(1.0, 101.0), 95.0))
    assert clipped_effective_sample_size(log_weights, 0.05) == effective_sample_size(by_hand)
    unclipped = effective_sample_size(log_weights)
    assert clipped_effective_sample_size(log_weights, 0.0) == unclipped
    assert clipped_effective_sample_size(log_weights, 0.004) == unclipped
    failed = with_failures(log_weights, 100)
    by_hand = np.log(np.minimum(np.arange(1.0, 101.0), 90.0))
    expected = effective_sample_size(with_failures(by_hand, 100))
    assert clipped_effective_sample_size(failed, 0.05) == pytest.approx(expected)


def test_clipping_flatters_poor_proposals() -> None:
    log_weights = gaussian_log_weights(0.5, 5000)
    assert clipped_effective_sample_size(log_weights, 0.01) > 1.5 * effective_sample_size(
        log_weights
    )


def test_clipping_all_that_has_weight_leaves_nothing() -> None:
    assert clipped_effective_sample_size(with_failures(np.zeros(1), 99), 0.01) == 0


@pytest.mark.parametrize("width", [0.9, 0.8, 0.6, 0.5])
@pytest.mark.parametrize("n_failed", [0, 30_000])
def test_the_tail_of_gaussian_weights(width: float, n_failed: int) -> None:
    r"""log w = z^2 (1 - s^2) / 2, and P(z^2 / 2 > y) falls as exp(-y): the index is 1 - s^2."""
    log_weights = with_failures(gaussian_log_weights(width, 20_000), n_failed)
    assert pareto_k(log_weights) == pytest.approx(1 - width**2, abs=0.15)


def test_bounded_weights_have_no_heavy_tail() -> None:
    assert pareto_k(gaussian_log_weights(1.5, 20_000)) < 0


def test_too_few_weights_have_no_tail() -> None:
    few = gaussian_log_weights(0.8, analysis.FEWEST_FOR_A_TAIL - 1)
    assert math.isnan(pareto_k(with_failures(few, 100)))
    assert math.isfinite(pareto_k(gaussian_log_weights(0.8, analysis.FEWEST_FOR_A_TAIL)))


def test_the_power_leaves_the_effective_sample_size_that_is_asked_for() -> None:
    log_w = 3 * np.random.default_rng(0).normal(size=4000)
    power = tempering_power(log_w, 0.5)
    assert abs(effective_sample_size(power * log_w) - 0.5) < 1e-9
    # A normal of variance s^2 keeps exp(-b^2 s^2) of the sample size.
    assert abs(power - np.sqrt(np.log(2)) / 3) < 0.02
    assert tempering_power(0.1 * log_w, 0.5) == 1.0


@pytest.mark.parametrize("share", [0.0, 1.0, np.nan])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="give a share between 0 and 1"):
        tempering_power(np.zeros(3), share)


def test_weights_of_zero_have_no_power() -> None:
    with pytest.raises(ValueError, match="leave out rows of weight zero"):
        tempering_power(np.array([0.0, -np.inf]), 0.5)
