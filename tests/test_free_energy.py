"""Free energies with known answers, and errors that the spread of repeats bears out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from alchemlyb.estimators import MBAR
from arviz_stats.base.array import array_stats
from pymbar import FES

from openmm_tbg.arrays import Scalars
from openmm_tbg.free_energy import (
    Estimated,
    average,
    bennett,
    bennett_difference,
    forward_and_reverse,
    free_energy_between,
    free_energy_difference,
    free_energy_difference_of_chain,
    free_energy_profile,
    independent_rows,
    log_normalising_constant,
    multistate,
    u_nk,
)
from openmm_tbg.free_energy import states as states_module
from openmm_tbg.free_energy.estimated import require_length
from openmm_tbg.free_energy.tail import log_mean_error, pareto_tail
from openmm_tbg.verdict import Trust
from openmm_tbg.visits import Visits

INF = np.inf
WIDTH = 1.4  # of the flow, where the target's is 1
REPEATS = 100
Sample = Callable[[np.random.Generator], Estimated]

# The target is exp(-x^2 / 2) on x > EDGE, in one dimension; the flow also proposes beyond the edge,
# as one that breaks bonds does.
EDGE = -0.5


def upper_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


LOG_Z = math.log(math.sqrt(2 * math.pi) * upper_tail(EDGE))
SPLIT = 1.0
DIFFERENCE = -math.log(upper_tail(SPLIT) / (upper_tail(EDGE) - upper_tail(SPLIT)))
SOFTER = 1.1
SOFTENED = -math.log(SOFTER * upper_tail(EDGE / SOFTER) / upper_tail(EDGE))
MEAN = math.exp(-(EDGE**2) / 2) / math.sqrt(2 * math.pi) / upper_tail(EDGE)


def log_density(x: Scalars) -> Scalars:
    return -((x / WIDTH) ** 2) / 2 - math.log(WIDTH * math.sqrt(2 * math.pi))


def log_weight(x: Scalars) -> Scalars:
    return np.where(x > EDGE, -(x**2) / 2 - log_density(x), -INF)


def proposals(n: int, rng: np.random.Generator) -> Scalars:
    return WIDTH * rng.normal(size=n)


def target_samples(n: int, rng: np.random.Generator) -> Scalars:
    x = rng.normal(size=8 * n)
    return x[x > EDGE][:n]


def by_averaging(rng: np.random.Generator) -> Estimated:
    return log_normalising_constant(log_weight(proposals(500, rng)))


def by_bennett(rng: np.random.Generator) -> Estimated:
    return bennett(log_weight(proposals(300, rng)), log_weight(target_samples(200, rng)))


def between_regions(rng: np.random.Generator) -> Estimated:
    x = proposals(500, rng)
    return free_energy_difference(log_weight(x), x > SPLIT, x <= SPLIT)


def from_both_ends(rng: np.random.Generator) -> Estimated:
    """Many more samples of the rare side than its share of the target."""
    x, y = proposals(300, rng), target_samples(600, rng)
    rare, rest = y[y > SPLIT], y[y <= SPLIT][:100]
    return bennett_difference(log_weight(x), x > SPLIT, x <= SPLIT, *map(log_weight, (rare, rest)))


def between_targets(rng: np.random.Generator) -> Estimated:
    """Against exp(-x^2 / 2 SOFTER^2) on the same side of the edge."""
    x = proposals(500, rng)
    softer = np.where(x > EDGE, log_weight(x) + x**2 / 2 * (1 - SOFTER**-2), -INF)
    return free_energy_between(softer, log_weight(x))


def mean_of_x(rng: np.random.Generator) -> Estimated:
    x = proposals(500, rng)
    return average(log_weight(x), x)


def two_state_chain(rng: np.random.Generator) -> Estimated:
    """A chain that enters with probability 0.05 and leaves with 0.2: a fifth of it is inside."""
    coins, inside = rng.random(4000), np.zeros(4000, dtype=bool)
    for step in range(1, len(inside)):
        inside[step] = coins[step] < 0.05 if not inside[step - 1] else coins[step] >= 0.2
    return free_energy_difference_of_chain(inside)


QUESTIONS = {
    "chain": (two_state_chain, math.log(4)),
    "exponential averaging": (by_averaging, LOG_Z),
    "Bennett": (by_bennett, LOG_Z),
    "regions": (between_regions, DIFFERENCE),
    "regions from both ends": (from_both_ends, DIFFERENCE),
    "targets": (between_targets, SOFTENED),
    "average": (mean_of_x, MEAN),
}
each_question = pytest.mark.parametrize("name", QUESTIONS)


def z_scores(sample: Sample, truth: float) -> Scalars:
    found = [sample(np.random.default_rng(seed)) for seed in range(REPEATS)]
    return np.array([(each.value - truth) / each.error for each in found])


@each_question
def test_errors_are_those_of_repeats(name: str) -> None:
    """Mean 0 and standard deviation 1 of the z-scores, each within four of its errors."""
    scores = z_scores(*QUESTIONS[name])
    assert abs(scores.mean()) < 4 / math.sqrt(REPEATS)
    assert abs(scores.std(ddof=1) - 1) < 4 / math.sqrt(2 * (REPEATS - 1))


@each_question
def test_many_samples_find_the_truth(name: str) -> None:
    sample, truth = QUESTIONS[name]
    found = [sample(np.random.default_rng(1000 + seed)) for seed in range(REPEATS)]
    values = np.array([each.value for each in found])
    error = math.sqrt(sum(each.error**2 for each in found)) / REPEATS
    assert abs(values.mean() - truth) < 4 * error
    assert all(each.is_trusted for each in found)


def test_sets_from_both_ends_have_a_smaller_error() -> None:
    rng = np.random.default_rng(21)
    x, y = proposals(400, rng), target_samples(2000, rng)
    weights, sides = log_weight(x), (x > SPLIT, x <= SPLIT)
    alone = free_energy_difference(weights, *sides)
    both = bennett_difference(weights, *sides, log_weight(y[y > SPLIT]), log_weight(y[y <= SPLIT]))
    assert both.error < alone.error
    assert abs(both.value - alone.value) < 4 * alone.error


def test_rows_without_weight_change_nothing_in_a_set() -> None:
    """As those that a filter or the thinning left out, wherever they lie."""
    rng = np.random.default_rng(22)
    x, y = proposals(400, rng), target_samples(400, rng)
    inside = log_weight(y[y > SPLIT]), log_weight(y[y <= SPLIT])
    weights, more = log_weight(x), np.full(900, -INF)
    found = bennett_difference(weights, x > SPLIT, x <= SPLIT, *inside)
    first = np.concatenate([x > SPLIT, rng.random(900) < 0.5])
    padded = bennett_difference(np.concatenate([weights, more]), first, ~first, *inside)
    assert (padded.value, padded.error) == pytest.approx((found.value, found.error), rel=1e-9)
    assert padded.overlap == found.overlap > 0.1


def test_doubts_of_a_set_name_it() -> None:
    first = np.arange(100) < 95
    found = bennett_difference(np.zeros(100), first, ~first, np.zeros(40), np.zeros(40))
    assert [str(each)[:9] for each in found.doubts] == ["`second`:"]


def test_sets_of_a_flow_equal_to_the_target_are_counted() -> None:
    """Nothing is left but the error of 30 proposals in A and 70 in B."""
    first = np.arange(100) < 30
    found = bennett_difference(np.full(100, -2.5), first, ~first, *np.full((2, 40), -2.5))
    assert found.value == pytest.approx(math.log(70 / 30))
    assert found.error == pytest.approx(math.sqrt(1 / 30 + 1 / 70), rel=1e-6)
    assert found.overlap == pytest.approx(40 / 110)  # of the larger set


def test_proposals_outside_the_target_count() -> None:
    """Leaving out the rows that fail would find ln Z less ln P(x > EDGE) of the flow: 0.44 more."""
    log_weights = log_weight(proposals(20_000, np.random.default_rng(3)))
    dropped = log_weights[log_weights > -INF]
    for find in (
        log_normalising_constant,
        lambda each: bennett(each, log_weight(target_samples(5000, np.random.default_rng(4)))),
    ):
        assert abs(find(log_weights).value - LOG_Z) < 4 * find(log_weights).error
        assert find(dropped).value - LOG_Z > 0.3


def test_a_flow_equal_to_the_target_has_no_error() -> None:
    constant = np.full(40, -3.25)
    found = log_normalising_constant(constant)
    assert (found.value, found.n_effective) == pytest.approx((-3.25, 40.0))
    assert found.error < 1e-7
    both = bennett(constant, constant)
    assert both.value == pytest.approx(-3.25, abs=1e-9)
    assert both.overlap == pytest.approx(0.5)


def test_a_constant_energy_shifts_the_free_energy_alone() -> None:
    rng = np.random.default_rng(5)
    at_flow, at_target = log_weight(proposals(300, rng)), log_weight(target_samples(300, rng))
    for shift in (1e5, -1e5):
        moved = bennett(at_flow - shift, at_target - shift)
        here = bennett(at_flow, at_target)
        assert moved.value + shift == pytest.approx(here.value, abs=1e-6)
        assert moved.error == pytest.approx(here.error, rel=1e-5)


def test_a_target_equal_to_the_flow_tells_the_normalising_constant() -> None:
    """Without a spread of its own, the second target leaves the error of ln Z of the first."""
    log_weights = log_weight(proposals(300, np.random.default_rng(14)))
    alone = log_normalising_constant(log_weights)
    between = free_energy_between(log_weights, np.full(300, 1.5))
    assert between.value == pytest.approx(1.5 - alone.value, rel=1e-12)
    assert between.error == pytest.approx(alone.error, rel=1e-12)


def test_targets_alike_share_their_errors() -> None:
    log_weights = log_weight(proposals(300, np.random.default_rng(15)))
    shifted = free_energy_between(log_weights - 2.5, log_weights)
    assert shifted.value == pytest.approx(2.5, rel=1e-12)
    assert shifted.error < 1e-12


def test_a_target_that_few_proposals_reach_is_doubted() -> None:
    log_weights = log_weight(proposals(300, np.random.default_rng(15)))
    heavy = np.where(np.arange(300) < 3, 0.0, -INF)
    doubts = free_energy_between(log_weights, heavy).doubts
    reasons = ["`second`: 3 effective proposals in the target, fewer than 10"]
    assert [doubt.reason for doubt in doubts if doubt.trust == Trust.NO] == reasons


def harmonic_states(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussians, the last not sampled: f_j - f_i = ln(width_i / width_j)."""
    widths = np.array([1.0, 1.5, 1.2])
    x = np.concatenate([widths[0] * rng.normal(size=n), widths[1] * rng.normal(size=2 * n)])
    return (x / widths[:, np.newaxis]) ** 2 / 2, np.array([n, 2 * n, 0])


def test_states_that_are_not_sampled_are_reweighted_to() -> None:
    u_kn, n_k = harmonic_states(2000, np.random.default_rng(6))
    found = multistate(u_kn, n_k)
    truth = np.log(np.array([1.0, 1.5, 1.2]))
    expected = truth[:, np.newaxis] - truth
    away = np.abs(found.differences_kT - expected)
    assert (away <= 4 * found.errors_kT + 1e-12).all()
    assert found.errors_kT[0, 1] < 0.03
    variance = found.average(u_kn[0] * 2, state=2)
    assert abs(variance.value - 1.2**2) < 4 * variance.error < 0.2


@pytest.mark.parametrize(
    ("sampled", "largest", "start"),
    [([300, 200, 400], INF, "BAR"), ([300, 0, 400], 2.0, None)],
    ids=["all sampled", "one not sampled, one bounded"],
)
def test_alchemlyb_finds_the_same_free_energies(
    sampled: list[int], largest: float, start: str | None
) -> None:
    """Three Gaussians, of which the first holds nothing above `largest`."""
    widths, n_k = np.array([1.0, 1.1, 1.5]), np.array(sampled)
    x = np.repeat(widths, n_k) * np.random.default_rng(16).normal(size=n_k.sum())
    x[: n_k[0]] = np.minimum(x[: n_k[0]], largest)
    u_kn = (x / widths[:, np.newaxis]) ** 2 / 2
    u_kn[0, x > largest] = INF
    expected = multistate(u_kn, n_k)
    found = MBAR(initial_f_k=start).fit(u_nk(u_kn, n_k, temperature_K=300.0))
    assert np.allclose(found.delta_f_, expected.differences_kT, rtol=0, atol=1e-6)
    assert np.allclose(found.d_delta_f_, expected.errors_kT, rtol=0, atol=1e-6)
    assert found.delta_f_.attrs == {"temperature": 300.0, "energy_unit": "kT"}


def random_walk(n: int, rng: np.random.Generator) -> Scalars:
    """A Metropolis chain in the target, with correlated states."""
    x, steps, coins = np.zeros(n), rng.normal(size=n), np.log(rng.random(n))
    for k in range(1, n):
        there = x[k - 1] + steps[k]
        accepted = there > EDGE and coins[k] < (x[k - 1] ** 2 - there**2) / 2
        x[k] = there if accepted else x[k - 1]
    return x


def test_a_flow_targets_and_a_chain_tell_of_each_other() -> None:
    """The flow's u is -log q, so that its f is 0 and those of the others are absolute."""
    rng, colder, shift = np.random.default_rng(22), 1.25, 0.3
    chain = random_walk(8000, rng)
    chain = chain[independent_rows(chain)]
    x = np.concatenate([proposals(600, rng), chain])
    u = np.where(x > EDGE, x**2 / 2, INF)
    other = np.where(x > EDGE, (x - shift) ** 2 / 2, INF)
    u_kn = np.stack([-log_density(x), u, colder * u, other])
    found = multistate(u_kn, np.array([600, len(chain), 0, 0]))
    z = [
        math.sqrt(2 * math.pi) * upper_tail(EDGE),
        math.sqrt(2 * math.pi / colder) * upper_tail(EDGE * math.sqrt(colder)),
        math.sqrt(2 * math.pi) * upper_tail(EDGE - shift),
    ]
    errors = found.errors_kT[0, 1:]
    assert (np.abs(found.differences_kT[0, 1:] + np.log(z)) < 4 * errors).all()
    assert errors.max() < 0.06
    # The weights of MBAR bring the chain and the proposals into one profile.
    edges = np.array([EDGE, 0.0, 0.5, 1.0, 2.0])
    profile = free_energy_profile(found.log_weights(2), x[:, np.newaxis], [edges])
    below = np.array([upper_tail(edge * math.sqrt(colder)) for edge in edges])
    expected = -np.log((below[:-1] - below[1:]) / np.diff(edges))
    away = np.abs(profile.free_energy_kT - expected + expected.min())
    assert (away < 4 * profile.error_kT).all()
    assert profile.error_kT.max() < 0.1


def test_averages_are_those_of_the_weights_of_the_state() -> None:
    u_kn, n_k = harmonic_states(500, np.random.default_rng(23))
    found = multistate(u_kn, n_k)
    for state in range(3):
        weights = np.exp(found.log_weights(state))
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        expected = found.average(u_kn[0], state).value
        assert weights @ u_kn[0] == pytest.approx(expected, rel=1e-9)


def test_the_profile_is_that_of_pymbar() -> None:
    """Of bins of equal width, whose volume pymbar leaves out."""
    x = proposals(3000, np.random.default_rng(24))
    edges = np.linspace(-7.0, 7.0, 15)
    x = x[np.abs(x) < 4.9]  # pymbar refuses to be asked for an empty bin
    log_w = -(x**2) / 2 * (1 - WIDTH**-2)
    u_kn = np.stack([x**2 / 2 / WIDTH**2, x**2 / 2])
    surface = FES(u_kn, np.array([len(x), 0]))
    surface.generate_fes(
        x**2 / 2, x, fes_type="histogram", histogram_parameters={"bin_edges": edges}
    )
    found = free_energy_profile(log_w, x[:, np.newaxis], [edges])
    seen = np.isfinite(found.free_energy_kT)
    centres = ((edges[1:] + edges[:-1]) / 2)[seen]
    expected = surface.get_fes(centres, reference_point="from-lowest")["f_i"]
    assert seen.sum() == 10
    assert found.free_energy_kT[seen] == pytest.approx(expected, abs=1e-6)


def test_the_profile_is_the_density_in_every_bin() -> None:
    x = proposals(40_000, np.random.default_rng(7))
    edges = np.array([EDGE, 0.0, 0.25, 1.0, 2.0])
    found = free_energy_profile(log_weight(x), x[:, np.newaxis], [edges])
    below = np.array([upper_tail(edge) for edge in edges])
    expected = -np.log((below[:-1] - below[1:]) / np.diff(edges))
    assert (np.abs(found.free_energy_kT - expected + expected.min()) < 4 * found.error_kT).all()
    assert found.error_kT.max() < 0.05


def test_errors_of_a_profile_are_those_of_the_probability() -> None:
    """One bin against all else is an average of an indicator."""
    x = proposals(400, np.random.default_rng(8))
    found = free_energy_profile(log_weight(x), x[:, np.newaxis], [np.array([0.0, 1.0])])
    inside = average(log_weight(x), ((x >= 0) & (x <= 1)).astype(float))
    assert found.error_kT[0] == pytest.approx(inside.error / inside.value, rel=1e-9)


def test_a_surface_of_two_coordinates_adds_what_is_independent() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(200_000, 2)) * [1.0, 0.5]
    edges = [np.array([-1.0, 0.0, 1.5]), np.array([-1.0, 0.0, 0.5])]
    both = free_energy_profile(np.zeros(len(x)), x, edges)
    alone = [free_energy_profile(np.zeros(len(x)), x[:, [k]], [edges[k]]) for k in (0, 1)]
    together = alone[0].free_energy_kT[:, np.newaxis] + alone[1].free_energy_kT
    assert (np.abs(both.free_energy_kT - together) < 4 * both.error_kT).all()


def test_empty_bins_are_infinitely_high() -> None:
    found = free_energy_profile(np.zeros(3), np.full((3, 1), 0.5), [np.array([0.0, 1.0, 2.0])])
    assert found.free_energy_kT.tolist() == [0.0, INF]
    assert found.error_kT[1] == INF


def test_few_heavy_weights_are_doubted() -> None:
    found = log_normalising_constant(np.array([0.0, 0.0, 50.0]))
    assert not found.is_trusted
    assert "do not trust: 1 effective proposals in the target, fewer than 10: draw more" in str(
        found
    )
    x = 0.35 * np.random.default_rng(10).normal(
        size=10_000
    )  # k = 1 - 0.35^2 for a target of width 1
    heavy = log_normalising_constant(x**2 / 2 * (1 / 0.35**2 - 1))
    assert any("Pareto k" in doubt.reason for doubt in heavy.doubts)


def test_a_region_of_few_proposals_is_doubted() -> None:
    inside = np.arange(100) < 3
    found = free_energy_difference(np.zeros(100), inside, ~inside)
    assert [str(doubt) for doubt in found.doubts] == [
        "3 effective proposals in `first`, fewer than 10: draw more"
    ]
    assert not found.is_trusted


def test_states_that_hardly_overlap_are_doubted_and_others_refused() -> None:
    rng = np.random.default_rng(11)

    def apart(distance: float) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate([rng.normal(size=300), distance + rng.normal(size=300)])
        return np.stack([x**2, (x - distance) ** 2]) / 2, np.array([300, 300])

    assert multistate(*apart(1.0)).doubts == ()
    assert "the states hardly overlap" in multistate(*apart(5.5)).doubts[0].reason
    with pytest.raises(ValueError, match="the states do not overlap"):
        multistate(*apart(60.0))


def test_a_state_of_which_nothing_was_drawn_is_judged_by_its_tail() -> None:
    """Samples of width 0.35 for a target of width 1: k = 1 - 0.35^2, whatever the effective number.

    Samples of the target itself bound the weights, and the doubt is gone.
    """
    rng = np.random.default_rng(26)
    x = np.concatenate([0.35 * rng.normal(size=10_000), rng.normal(size=300)])
    u_kn = np.stack([(x / 0.35) ** 2 / 2, x**2 / 2])
    alone = multistate(u_kn[:, :10_000], np.array([10_000, 0]))
    assert alone.n_effective.min() > 50
    assert [str(each.trust) for each in alone.doubts] == ["do not trust"]
    assert alone.doubts[0].reason.startswith("state 1: Pareto k of 10000 weights is 0.")
    both = multistate(u_kn, np.array([10_000, 300]))
    assert not any("Pareto" in doubt.reason for doubt in both.doubts)


def test_a_ladder_is_as_good_as_its_weakest_link() -> None:
    """Ends of a ladder need not overlap; taking a rung out leaves a gap."""
    rng = np.random.default_rng(14)

    def ladder(centres: list[float]) -> float:
        x = np.concatenate([centre + rng.normal(size=200) for centre in centres])
        u_kn = (x - np.array(centres)[:, np.newaxis]) ** 2 / 2
        return multistate(u_kn, np.full(len(centres), 200)).weakest_link

    whole, gap = ladder([0.0, 2.0, 4.0, 6.0, 8.0]), ladder([0.0, 2.0, 6.0, 8.0])
    assert whole > 0.08
    assert gap < whole / 3


def test_the_average_of_an_observable_that_is_often_zero() -> None:
    u_kn, n_k = harmonic_states(2000, np.random.default_rng(15))
    outside = (np.sqrt(2 * u_kn[0]) > 1.0).astype(float)
    found = multistate(u_kn, n_k).average(outside, state=0)
    assert abs(found.value - 2 * upper_tail(1.0)) < 4 * found.error < 0.1


def test_a_chain_is_thinned_to_what_is_independent() -> None:
    rng = np.random.default_rng(12)
    chain = np.zeros(20_000)
    for step in range(1, len(chain)):
        chain[step] = 0.9 * chain[step - 1] + rng.normal()
    kept = independent_rows(chain)
    assert len(chain) / len(kept) == pytest.approx(19.0, rel=0.25)  # (1 + 0.9) / (1 - 0.9)
    with pytest.raises(ValueError, match="constant or not finite"):
        independent_rows(np.ones(100))


@pytest.mark.parametrize(
    ("states", "expected"), [("1", 0), ("0111", 0), ("01100", 1), ("10101", 2)]
)
def test_round_trips_are_pairs_of_crossings(states: str, expected: int) -> None:
    assert Visits.of(np.array([each == "1" for each in states]), "").n_round_trips == expected


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_effective_states_of_a_share_are_those_of_its_error(share: float) -> None:
    """Chains of two states that change at rates whose share is known."""
    rng, leaving, n = np.random.default_rng(3), 0.05, 2500
    stays = 1 / np.array([leaving, leaving * share / (1 - share)])
    found = []
    for _ in range(200):
        lengths = rng.exponential(size=(2, n)) * stays[:, np.newaxis]
        ends = np.cumsum(lengths.T.ravel())
        found.append(Visits.of(np.searchsorted(ends, np.arange(0, 40_000, 1.0)) % 2 == 0, ""))
    shares = np.array([each.share for each in found])
    assert shares.mean() == pytest.approx(share, abs=4 * shares.std() / math.sqrt(200))
    effective = share * (1 - share) / shares.var(ddof=1)
    spread = math.sqrt(2 / 199)
    expected = np.mean([each.n_effective for each in found])
    assert effective == pytest.approx(expected, rel=4 * spread)


def test_a_chain_of_few_crossings_is_doubted_and_one_without_refused() -> None:
    inside = np.arange(100) < 40
    (doubt,) = free_energy_difference_of_chain(inside).doubts
    assert str(doubt) == (
        "0 round trips between the basin and the rest, fewer than 10: run longer, or take a "
        "generator that reaches the basin more often"
    )
    for stuck in (inside[:40], inside[40:]):
        with pytest.raises(ValueError, match="never crossed between the sets"):
            free_energy_difference_of_chain(stuck)


GOOD = np.zeros(10)
FIVE = np.arange(10) < 5


def from_sets(first: np.ndarray, second: np.ndarray, inside: Scalars = GOOD) -> Estimated:
    return bennett_difference(GOOD, first, second, inside, GOOD)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: log_normalising_constant(np.zeros(1)), "1 log-weights: an error takes"),
        (lambda: log_normalising_constant(np.array([0.0, np.nan])), "must be finite, or -inf"),
        (lambda: average(np.array([0.0, INF]), np.zeros(2)), "must be finite, or -inf"),
        (lambda: average(np.full(3, -INF), np.zeros(3)), "every log-weight is -inf"),
        (
            lambda: require_length(GOOD, observable=np.zeros(9)),
            "observable has 9 rows, log_weights 10",
        ),
        (lambda: free_energy_between(np.full(10, -INF), GOOD), "every log-weight is -inf"),
        (lambda: free_energy_between(GOOD, np.full(10, -INF)), "every log-weight is -inf"),
        (lambda: average(GOOD, np.full(10, np.nan)), "observable is not finite"),
        (lambda: average(np.zeros(1), np.zeros(1)), "1 log-weights: an error takes"),
        (lambda: bennett(GOOD, np.zeros(1)), "1 log-weights: an error takes"),
        (lambda: bennett(np.array([0.0, np.nan]), GOOD), "must be finite, or -inf"),
        (lambda: free_energy_between(np.array([0.0, INF]), np.zeros(2)), "must be finite, or -inf"),
        (
            lambda: free_energy_profile(np.zeros(1), np.zeros((1, 1)), [np.array([-1.0, 1.0])]),
            "1 log-weights: an error takes",
        ),
        (lambda: independent_rows(np.array([0.0, np.nan])), "constant or not finite"),
        (lambda: independent_rows(np.zeros(1)), "holds one independent sample at most"),
        (lambda: free_energy_difference(GOOD, GOOD == 0, GOOD == 0), "share a proposal"),
        (lambda: free_energy_difference(GOOD, GOOD == 0, GOOD > 0), "lies in `second`"),
        (
            lambda: free_energy_profile(GOOD, np.zeros((10, 1)), [np.array([1.0, 0.0])]),
            "give rising edges for each of the 1 coordinates",
        ),
        (
            lambda: free_energy_profile(GOOD, np.zeros((10, 1)), [np.array([1.0, 2.0])]),
            "no proposal with a weight above zero lies in a bin",
        ),
        (lambda: bennett(GOOD, np.array([0.0, -INF])), "leave out frames that fail them"),
        (lambda: bennett(np.full(9, -INF), GOOD), "every log-weight is -inf"),
        (lambda: from_sets(GOOD == 0, GOOD == 0), "share a proposal"),
        (lambda: from_sets(GOOD == 0, GOOD > 0), "lies in `second`"),
        (lambda: from_sets(FIVE, ~FIVE, np.array([0.0, -INF])), "`first`: log_weights_target: not"),
        (lambda: from_sets(FIVE, ~FIVE, np.zeros(1)), "`first`: 1 log-weights: an error takes"),
        (lambda: multistate(np.zeros((2, 9)), np.array([5, 5])), r"asks for \(2, 10\)"),
        (lambda: multistate(np.full((2, 4), np.nan), np.array([2, 2])), "u_kn: NaN or -inf"),
        (lambda: u_nk(np.zeros((2, 9)), np.array([5, 5]), 300.0), r"asks for \(2, 10\)"),
        (lambda: u_nk(np.zeros((1, 2)), np.array([2]), 0.0), "temperature_K is 0.0: give one"),
        (
            lambda: multistate(np.array([[INF, 0.0], [0.0, 0.0]]), np.array([1, 1])),
            "u = inf in the state that it was drawn from",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


def test_an_error_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_module, "NO_OVERLAP", 2.0)
    with pytest.raises(ValueError, match="put states between them"):
        bennett(log_weight(proposals(50, np.random.default_rng(0))), np.zeros(50))


def test_the_error_of_an_average_of_weights_is_the_textbook_one() -> None:
    log_weights = log_weight(proposals(200, np.random.default_rng(13)))
    weights = np.exp(log_weights)
    expected = weights.std(ddof=1) / math.sqrt(len(weights)) / weights.mean()
    assert log_normalising_constant(log_weights).error == pytest.approx(expected, rel=1e-9)


def test_errors_of_few_heavy_weights_are_those_of_repeats() -> None:
    """Lognormal weights of width 2, ln Z = 0, some twenty of 256 effective."""
    rng, n, repeats = np.random.default_rng(17), 256, 300
    found = [log_normalising_constant(2 * rng.normal(size=n) - 2.0) for _ in range(repeats)]
    values, errors = np.array([(each.value, each.error) for each in found]).T
    assert abs((values / errors).std(ddof=1) - 1) < 4 / math.sqrt(2 * (repeats - 1))
    textbook = np.array([math.sqrt((n / each.n_effective - 1) / (n - 1)) for each in found])
    assert (values / textbook).std(ddof=1) > 1.3


def test_the_tail_of_pareto_weights() -> None:
    """Above t, weights u^-k of uniform u have the scale k t; k is drawn to 1/2 by ten weights."""
    k, log_weights = 0.3, -0.3 * np.log(np.random.default_rng(18).random(100_000))
    tail = pareto_tail(log_weights)
    assert tail is not None
    assert tail.n == 948  # 3 sqrt(100,000)
    assert tail.threshold == np.sort(np.exp(log_weights - log_weights.max()))[-949]
    assert tail.k == pytest.approx(k, abs=4 * (1 + k) / math.sqrt(tail.n))
    assert tail.scale == pytest.approx(k * tail.threshold, rel=4 * math.sqrt(2 / tail.n) * (1 + k))


@pytest.mark.parametrize("n_zero", [0, 40])
def test_the_tail_is_the_one_that_smooths_the_weights(n_zero: int) -> None:
    """Its scale follows from one quantile; arviz-stats keeps the fit to itself."""
    log_weights = np.random.default_rng(25).normal(size=60)
    tail = pareto_tail(np.concatenate([log_weights, np.full(n_zero, -INF)]))
    weights = np.sort(np.exp(log_weights - log_weights.max()))
    k, scale = array_stats._gpdfit(weights[-12:] - weights[-13])
    expected = (k, scale, weights[-13], 12)
    assert tail is not None
    assert (tail.k, tail.scale, tail.threshold, tail.n) == pytest.approx(expected, rel=1e-9)


def test_errors_do_not_depend_on_the_unit_of_weights() -> None:
    log_weights = 2 * np.random.default_rng(20).normal(size=200)
    error = log_mean_error(log_weights)
    assert log_mean_error(
        np.random.default_rng(21).permutation(log_weights - 1e4)
    ) == pytest.approx(error, rel=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of arviz-stats, which finds no tail
def test_weights_that_no_float_holds_beside_the_largest_are_as_good_as_none() -> None:
    assert log_mean_error(np.linspace(-3e4, 0, 100)) == pytest.approx(1.0, abs=1e-9)


def test_two_samples_give_no_figure_to_be_trusted() -> None:
    """They have a spread of their own, which says nothing of the next."""
    pair, sides = np.array([0.0, 0.1]), np.array([True, False])
    for found in (
        log_normalising_constant(pair),
        average(pair, pair),
        free_energy_difference(pair, sides, ~sides),
        free_energy_between(pair, -pair),
        bennett(pair, pair),
        multistate(np.stack([pair, -pair]), np.array([1, 1])),
        free_energy_difference_of_chain(sides),
    ):
        assert found.verdict.trust == Trust.NO


def test_convergence_repeats_the_estimate_from_both_ends() -> None:
    log_weights = np.random.default_rng(5).normal(size=47)
    log_weights[:10] = -INF  # the first part tells nothing

    def estimate(rows: slice) -> Estimated:
        return log_normalising_constant(log_weights[rows])

    found = forward_and_reverse(estimate, 47, n_parts=5)
    assert found.n.tolist() == [9, 18, 28, 37, 47]
    assert np.isnan([found.forward[0], found.forward_error[0]]).all()
    for part, n in enumerate(found.n):
        last = estimate(slice(47 - n, None))
        assert (found.reverse[part], found.reverse_error[part]) == (last.value, last.error)
    for part, n in enumerate(found.n[1:], start=1):
        first = estimate(slice(0, n))
        assert (found.forward[part], found.forward_error[part]) == (first.value, first.error)
    with pytest.raises(ValueError, match="at least one sample for each part"):
        forward_and_reverse(estimate, 4, n_parts=5)
