"""The kernels leave the target invariant: exactly where states can be counted, else in law."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import unwrap
from itertools import product

import numpy as np
import pytest
from assertions import assert_mean
from jaxtyping import Float64

from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.metropolis import (
    KERNELS,
    independence_metropolis,
    log_acceptance,
    log_weights,
    multiple_proposal,
    selection_probabilities,
)

Matrix = Float64[np.ndarray, "states states"]
INF = np.inf

each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


# --- weights ---------------------------------------------------------------------------------


def test_weights_vanish_where_a_row_fails_or_has_no_finite_energy() -> None:
    u = np.array([1.0, 1.0, np.nan, INF, -INF])
    passes = np.array([True, False, True, True, True])
    result = log_weights(u, np.full(5, -2.0), passes)
    np.testing.assert_array_equal(result, [1.0, -INF, -INF, -INF, -INF])


def test_weights_refuse_a_density_that_is_not_finite() -> None:
    failing = np.array([False])
    assert log_weights(np.zeros(1), np.array([np.nan]), failing) == -INF
    for log_q in (np.nan, INF, -INF):
        with pytest.raises(ValueError, match="log_q is not finite"):
            log_weights(np.zeros(1), np.array([log_q]), ~failing)


@pytest.mark.parametrize("lengths", [(1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_weights_refuse_columns_of_unequal_lengths(lengths: tuple[int, int, int]) -> None:
    """Users have no jaxtyping to stop them."""
    u, log_q, passes = (np.ones(length) for length in lengths)
    with pytest.raises(ValueError, match=r"u has . rows, log_q ., passes .: give one row for each"):
        unwrap(log_weights)(u, log_q, passes > 0)


# --- detailed balance ------------------------------------------------------------------------


def test_detailed_balance_of_independence_metropolis() -> None:
    r"""$p(x) q(x') a(x \to x') = p(x') q(x) a(x' \to x)$, in logs, for all kinds of states."""
    rng = np.random.default_rng(1)
    u = rng.normal(scale=20, size=(4000, 2))
    u[rng.random(u.shape) < 0.1] = INF
    u[rng.random(u.shape) < 0.1] = np.nan
    log_q = rng.normal(scale=20, size=u.shape)
    passes = rng.random(u.shape) < 0.8
    for row in range(len(u)):
        (x, y) = log_weights(u[row], log_q[row], passes[row])
        flux_to_y = x + log_q[row, 0] + log_q[row, 1] + log_acceptance(x, y)
        flux_to_x = y + log_q[row, 1] + log_q[row, 0] + log_acceptance(y, x)
        if np.isinf(flux_to_y):
            assert flux_to_y == flux_to_x == -INF
        else:
            assert flux_to_y == pytest.approx(flux_to_x, abs=1e-12)
        assert np.exp(log_acceptance(x, y)) <= 1


def test_no_state_outside_is_left_and_none_is_entered() -> None:
    assert log_acceptance(-INF, 100.0) == log_acceptance(100.0, -INF) == -INF
    assert log_acceptance(-INF, -INF) == -INF


@each_kernel
def test_a_chain_outside_the_filters_stays(kernel: Callable) -> None:
    chain = kernel(-INF, np.full(20, 5.0), np.random.default_rng(2))
    assert chain.last == -1
    assert not chain.accepted.any()


# --- exact transition matrices on small state spaces --------------------------------------------


def spaces() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(u, q, passes) of random discrete state spaces, some with states that may not be entered."""
    rng = np.random.default_rng(3)
    for n_states in (2, 3, 4):
        for n_outside in range(n_states):
            u = rng.normal(scale=2, size=n_states)
            u[rng.random(n_states) < 0.1] = INF
            q = rng.dirichlet(np.full(n_states, 2.0))
            yield u, q, rng.permutation(n_states) >= n_outside


def select_among_proposals(log_weight_current: float, proposed: np.ndarray) -> np.ndarray:
    """Wrong: resamples among the proposals and forgets the current state."""
    return np.concatenate([[0.0], selection_probabilities(proposed[0], proposed[1:])])


def multiple_proposal_matrix(
    log_w: np.ndarray, q: np.ndarray, n: int, select: Callable = selection_probabilities
) -> Matrix:
    """Transition probabilities, summed over all n-tuples of proposals."""
    matrix = np.zeros((len(q), len(q)))
    for current, *proposed in product(range(len(q)), repeat=n + 1):
        probabilities = select(log_w[current], log_w[proposed])
        np.add.at(matrix[current], [current, *proposed], q[proposed].prod() * probabilities)
    return matrix


def metropolis_matrix(log_w: np.ndarray, q: np.ndarray) -> Matrix:
    size = len(q)
    matrix = np.array(
        [
            [q[y] * np.exp(log_acceptance(log_w[x], log_w[y])) for y in range(size)]
            for x in range(size)
        ]
    )
    return matrix + np.diag(1 - matrix.sum(axis=1))


def assert_reversible(matrix: Matrix, u: np.ndarray, passes: np.ndarray) -> None:
    """Stochastic and reversible, for the target on the filtered set and for the whole target."""
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    for target in (np.where(passes, np.exp(-u), 0), np.exp(-u)):
        flux = target[:, np.newaxis] * matrix
        np.testing.assert_allclose(flux, flux.T, atol=1e-12)
        np.testing.assert_allclose(target @ matrix, target, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_multiple_proposal_is_reversible(n: int) -> None:
    for u, q, passes in spaces():
        log_w = log_weights(u, np.log(q), passes)
        assert_reversible(multiple_proposal_matrix(log_w, q, n), u, passes)


def test_independence_metropolis_is_reversible() -> None:
    for u, q, passes in spaces():
        log_w = log_weights(u, np.log(q), passes)
        assert_reversible(metropolis_matrix(log_w, q), u, passes)


def test_reversibility_fails_for_wrong_rules() -> None:
    u, q, passes = (
        np.array([0.0, 1.0, 2.0]),
        np.array([0.5, 0.2, 0.3]),
        np.array([True, True, False]),
    )
    right, no_density = log_weights(u, np.log(q), passes), log_weights(u, np.zeros(3), passes)
    unfiltered_current = np.where(passes, right, -u - np.log(q))
    enters_only = metropolis_matrix(right, q)
    enters_only[2] = metropolis_matrix(unfiltered_current, q)[2]
    for wrong in (
        multiple_proposal_matrix(right, q, 2, select_among_proposals),
        multiple_proposal_matrix(no_density, q, 2),
        metropolis_matrix(no_density, q),
        enters_only,
    ):
        with pytest.raises(AssertionError):
            assert_reversible(wrong, u, passes)


def test_metropolis_leaves_a_state_at_least_as_often() -> None:
    rng = np.random.default_rng(4)
    for log_w in rng.normal(scale=3, size=(500, 6)):
        stays = [1 - np.exp(log_acceptance(log_w[0], proposed)) for proposed in log_w[1:]]
        assert np.prod(stays) <= selection_probabilities(log_w[0], log_w[1:])[0] + 1e-12


# --- the random kernels follow their probabilities -----------------------------------------------


def test_multiple_proposal_selects_by_its_probabilities() -> None:
    rng = np.random.default_rng(5)
    proposed = np.array([-INF, 0.5, -1.0])
    expected = selection_probabilities(0.2, proposed)
    selected = np.array([multiple_proposal(0.2, proposed, rng).last for _ in range(2_000)])
    assert not (selected == 0).any()
    for row in (-1, 1, 2):
        assert_mean((selected == row).astype(float), expected[row + 1])


def test_independence_metropolis_accepts_by_its_probabilities() -> None:
    """After two steps the row is known in law from the two acceptance probabilities."""
    rng = np.random.default_rng(6)
    current, proposed = 0.0, np.array([-0.7, -1.5])
    first, second, last = np.exp([-0.7, -1.5, -0.8])
    chains = [independence_metropolis(current, proposed, rng).selected for _ in range(2_000)]
    assert_mean(np.array([chain[0] == 0 for chain in chains], dtype=float), first)
    ends = np.array([chain[1] for chain in chains])
    assert_mean((ends == 1).astype(float), first * last + (1 - first) * second)
    assert_mean((ends == -1).astype(float), (1 - first) * (1 - second))


@each_kernel
def test_weights_may_differ_by_more_than_a_float_can_hold(kernel: Callable) -> None:
    chain = kernel(-1e5, np.array([1e5, -1e5]), np.random.default_rng(7))
    assert chain.last == 0


def test_equal_weights_are_always_accepted() -> None:
    chain = independence_metropolis(3.0, np.full(20_000, 3.0), np.random.default_rng(8))
    assert chain.accepted.all()


# --- law: a filtered target, together with a local move ----------------------------------------

CUT = -1.0
N_ITERATIONS = 3_000
INSIDE = 0.8413447460685429  # P(x > CUT) of a standard normal


def chain_with_local_moves(rule: str, kernel: Callable) -> np.ndarray:
    """x of a standard normal target, filter x > CUT, q = N(0.4, 0.8), and an exact local move.

    The local move knows nothing of the filter, so the target is the whole normal.
    """
    rng = np.random.default_rng(9)
    x, trajectory = 0.0, np.empty(N_ITERATIONS)
    for iteration in range(N_ITERATIONS):
        x = 0.8 * x + 0.6 * rng.normal()
        proposed = 0.4 + 0.8 * rng.normal(size=3)
        while rule == "redraw until pass" and (outside := proposed <= CUT).any():
            proposed[outside] = 0.4 + 0.8 * rng.normal(size=outside.sum())
        states = np.append(proposed, x)
        log_q = -np.square((states - 0.4) / 0.8) / 2
        passes = states > CUT
        if rule in ("redraw until pass", "test only the proposal"):
            passes[-1] = True
        if rule == "forget log q":
            log_q[:] = 0
        log_w = log_weights(np.square(states) / 2, log_q, passes)
        x = states[kernel(log_w[-1], log_w[:-1], rng).last]
        trajectory[iteration] = x
    return trajectory


def assert_standard_normal(x: np.ndarray) -> None:
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0)):
        assert_mean(x**power, moment)
    assert_mean((x > CUT).astype(float), INSIDE)


@each_kernel
def test_a_filtered_kernel_with_a_local_move_is_unbiased(kernel: Callable) -> None:
    assert_standard_normal(chain_with_local_moves("right", kernel))


@each_kernel
@pytest.mark.parametrize("rule", ["redraw until pass", "test only the proposal", "forget log q"])
def test_wrong_rules_are_seen(rule: str, kernel: Callable) -> None:
    with pytest.raises(AssertionError, match="sigma from"):
        assert_standard_normal(chain_with_local_moves(rule, kernel))


# --- effective sample size ---------------------------------------------------------------------


def test_effective_sample_size_counts_rows_of_weight_zero() -> None:
    weights = np.array([1.0, 3.0, 0.0, 2.0])
    with np.errstate(divide="ignore"):
        share = effective_sample_size(np.log(weights) + 5000.0)
    assert share == pytest.approx(36 / (4 * 14), rel=1e-12)
    assert effective_sample_size(np.full(3, -INF)) == 0.0
    assert effective_sample_size(np.full(7, -2.5)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("bad", [[], [np.nan, 0.0], [INF, 0.0]])
def test_effective_sample_size_refuses_what_is_no_weight(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="log_weights"):
        effective_sample_size(np.array(bad))
