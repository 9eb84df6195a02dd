"""Each threshold from both sides, and verdicts of weights whose tail is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openmm_tbg.analysis import pareto_k
from openmm_tbg.arrays import Cause
from openmm_tbg.metropolis import Chain
from openmm_tbg.tally import Tally
from openmm_tbg.verdict import (
    ADVICE,
    Doubt,
    Trust,
    Verdict,
    doubts_of_chain,
    doubts_of_number,
    doubts_of_overlap,
    doubts_of_proposals,
    doubts_of_round_trips,
    doubts_of_tail,
    doubts_of_visits,
    doubts_of_weights,
    largest_pareto_k,
)
from openmm_tbg.visits import Visits

INF = np.inf


GRAVITY = (Trust.NO, Trust.CARE, Trust.YES).index


def trust(doubts: tuple[Doubt, ...]) -> Trust:
    return Verdict(doubts).trust


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (9.9, Trust.NO),
        (10, Trust.CARE),
        (49.9, Trust.CARE),
        (50, Trust.YES),
        (0, Trust.NO),
        (1e9, Trust.YES),
    ],
)
def test_numbers_of_samples(n: float, expected: Trust) -> None:
    assert trust(doubts_of_number(n, "samples", "draw more")) == expected


def test_a_number_is_not_rounded_up_to_its_threshold() -> None:
    (doubt,) = doubts_of_number(9.97, "samples", "draw more")
    assert doubt.reason == "9.9 samples, fewer than 10"


def test_the_thresholds_are_those_at_which_a_standard_error_is_known_so_well() -> None:
    """The spread of the standard error of n normal samples: 24 % and 10 %, as the table has it."""
    rng = np.random.default_rng(0)
    for n, expected in ((10, 0.24), (50, 0.10)):
        errors = rng.normal(size=(40_000, n)).std(axis=1, ddof=1)
        assert errors.std() / errors.mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("n", "largest"), [(100, 0.5), (320, 0.6), (1000, 2 / 3), (10_000, 0.7)])
def test_the_largest_k_is_the_published_one(n: int, largest: float) -> None:
    assert largest_pareto_k(n) == pytest.approx(largest, abs=0.002)
    assert trust(doubts_of_tail(largest - 0.01, n)) != Trust.NO
    assert trust(doubts_of_tail(largest + 0.01, n)) == Trust.NO


def test_a_tail_needs_more_than_one_weight() -> None:
    with pytest.raises(ValueError, match="at least two weights"):
        largest_pareto_k(1)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(-INF, Trust.YES), (0.5, Trust.YES), (0.51, Trust.CARE), (INF, Trust.NO)],
)
def test_weights_without_a_variance_ask_for_care(k: float, expected: Trust) -> None:
    assert trust(doubts_of_tail(k, 5000)) == expected


def test_a_tail_that_cannot_be_seen_asks_for_care() -> None:
    (doubt,) = doubts_of_tail(math.nan, 24)
    assert (doubt.trust, doubt.reason) == (
        Trust.CARE,
        "24 weights above zero are too few to see their tail",
    )


def test_the_same_k_is_judged_by_the_number_of_weights_above_zero() -> None:
    """Zeros neither lengthen the tail nor make it more reliable."""
    x = 0.5 * np.random.default_rng(4).normal(size=90)
    log_weights = x**2 / 2 * (1 / 0.5**2 - 1)
    k = pareto_k(log_weights)
    assert largest_pareto_k(90) < k < largest_pareto_k(2000)
    padded = np.concatenate([log_weights, np.full(1910, -INF)])
    everything = {"the target": padded > -INF}
    assert trust(doubts_of_weights(padded, everything)) == Trust.NO
    assert trust(doubts_of_tail(k, 2000)) == Trust.CARE


def test_few_weights_are_one_doubt() -> None:
    log_weights = np.array([0.0, 0.0, -INF])
    (doubt,) = doubts_of_weights(log_weights, {"the target": log_weights > -INF})
    assert "2 effective proposals in the target" in doubt.reason
    twelve = doubts_of_weights(np.zeros(12), {"all": np.ones(12, bool)})
    assert [each.trust for each in twelve] == [Trust.CARE, Trust.CARE]


def test_a_set_without_proposals_is_not_trusted() -> None:
    doubts = doubts_of_weights(np.zeros(100), {"`first`": np.zeros(100, dtype=bool)})
    assert [doubt.reason for doubt in doubts] == ["0 effective proposals in `first`, fewer than 10"]


@pytest.mark.parametrize(("weakest", "expected"), [(0.0299, Trust.NO), (0.03, Trust.YES)])
def test_overlap(weakest: float, expected: Trust) -> None:
    assert trust(doubts_of_overlap(weakest)) == expected


@pytest.mark.parametrize(
    ("accepted", "longest", "expected"),
    [
        (500, 141, Trust.YES),
        (500, 142, Trust.CARE),
        (500, 316, Trust.CARE),
        (500, 317, Trust.NO),
        (49, 100, Trust.CARE),
        (9, 100, Trust.NO),
    ],
)
def test_chains_of_a_thousand_steps(accepted: int, longest: int, expected: Trust) -> None:
    assert trust(doubts_of_chain(1000, accepted, longest)) == expected


@pytest.mark.parametrize(
    ("n", "expected"), [(9, Trust.NO), (10, Trust.CARE), (49, Trust.CARE), (50, Trust.YES)]
)
def test_a_free_energy_of_few_round_trips_is_doubted(n: int, expected: Trust) -> None:
    assert trust(doubts_of_round_trips(n)) == expected


@pytest.mark.parametrize(
    ("share", "n_crossings", "expected"),
    [
        (0.5, 9, Trust.NO),
        (0.5, 10, Trust.CARE),
        (0.5, 49, Trust.CARE),
        (0.5, 50, Trust.YES),
        (0.02, 1, Trust.CARE),  # a rare basin is a small part of every average
        (0.02, 4, Trust.YES),
        (0.98, 4, Trust.YES),
        (0.0, 0, Trust.CARE),
        (1.0, 0, Trust.CARE),
    ],
)
def test_a_chain_that_hardly_crossed_is_doubted(
    share: float, n_crossings: int, expected: Trust
) -> None:
    visits = Visits("here", share, n_crossings)
    assert trust(doubts_of_visits(visits)) == expected
    assert trust(doubts_of_chain(1000, 500, 100, visits)) == expected
    assert trust(doubts_of_chain(1000, 9, 100, visits)) == Trust.NO
    assert trust(doubts_of_chain(1000, 500, 142, visits)) == min(expected, Trust.CARE, key=GRAVITY)
    assert trust(doubts_of_chain(1000, 500, 100)) == Trust.YES


@pytest.mark.parametrize(("share", "said"), [(0.0, "never was at"), (1.0, "never left")])
def test_a_chain_without_a_crossing_is_told_apart(share: float, said: str) -> None:
    (doubt,) = doubts_of_visits(Visits("0 < phi < 2 rad", share, 0))
    assert doubt.reason == f"the chain {said} 0 < phi < 2 rad"


@pytest.mark.parametrize(("n", "expected_kT"), [(10, 0.45), (50, 0.2)])
def test_the_error_after_so_many_round_trips_is_the_stated_one(n: int, expected_kT: float) -> None:
    """Stays of exponential length on either side, of different means."""
    stays = np.random.default_rng(0).exponential(size=(2, 20_000, n)) * [[[1.0]], [[7.0]]]
    differences = np.log(stays[1].sum(axis=-1) / stays[0].sum(axis=-1))
    assert differences.std() == pytest.approx(expected_kT, abs=0.015)


def test_a_long_run_bounds_the_effective_number_of_states() -> None:
    """A chain of 1000 steps that stays 317 of them in one state, and visits 683 others once."""
    visits = np.array([317.0, *[1.0] * 683])
    assert visits.sum() ** 2 / np.square(visits).sum() < (1000 / 317) ** 2 < 10


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause != Cause.NONE])
def test_the_main_cause_of_rejection_gives_the_advice(cause: Cause) -> None:
    rejected = dict.fromkeys(ADVICE, 0.1) | {cause: 0.6}
    (doubt,) = doubts_of_proposals(2.0, rejected, 100)
    assert doubt.advice == f"draw more; if that does not help, {ADVICE[cause]}"


def test_the_gravest_doubt_decides_and_tells_the_next_step() -> None:
    care, no = Doubt(Trust.CARE, "a", "b"), Doubt(Trust.NO, "c", "d")
    for doubts in ((care, no), (no, care)):
        assert Verdict(doubts).gravest is no
        assert str(Verdict(doubts)) == "do not trust: c: d"
    assert Verdict(()).gravest is None


def test_a_move_that_got_stuck_is_not_trusted_though_its_weights_are_equal() -> None:
    cause, log_weights = np.zeros(100, dtype=np.int8), np.zeros(100)
    selected = np.concatenate([np.arange(60), np.full(40, 59)])
    stuck = Tally().record(Chain(selected), cause, log_weights, 1.0).summary()
    assert stuck.verdict.trust == Trust.NO
    assert "40 steps in a row, of 100, kept the state" in str(stuck)
    moving = Tally().record(Chain(np.arange(100)), cause, log_weights, 1.0).summary()
    assert moving.verdict.trust == Trust.YES
