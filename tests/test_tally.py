"""Counts add up, and two running sums know the effective sample size of all weights."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.arrays import Cause
from openmm_tbg.metropolis import KERNELS, Chain
from openmm_tbg.tally import Tally

INF = np.inf


def chain(*selected: int) -> Chain:
    return Chain(np.array(selected, dtype=np.int64))


def causes(*names: Cause) -> np.ndarray:
    return np.array(names, dtype=np.int8)


def n_rejected(tally: Tally) -> int:
    return sum(count for key, count in tally.to_dict().items() if key.startswith("n_rejected"))


def test_each_proposal_has_one_fate() -> None:
    cause = causes(Cause.NONE, Cause.CHIRALITY, Cause.NONE, Cause.NONE, Cause.BOND_GRAPH)
    log_weights = np.array([0.0, -INF, -INF, 1.0, -INF])
    tally = Tally().record(chain(0, 0, 0, 0, 0), cause, log_weights, seconds=2.0)
    assert tally.to_dict() == {
        "n_moves": 1,
        "n_steps": 5,
        "n_proposed": 5,
        "n_accepted": 1,
        "n_rejected_bond_graph": 1,
        "n_rejected_chirality": 1,
        "n_rejected_energy_not_finite": 1,
        "n_rejected_metropolis": 1,
        "n_rejected_thinned": 0,
        "rejection_run": 4,
        "longest_rejection_run": 4,
        "log_sum_weights": pytest.approx(np.log(1 + np.e)),
        "log_sum_squared_weights": pytest.approx(np.log(1 + np.e**2)),
        "seconds": 2.0,
    }
    np.testing.assert_array_equal(cause[2], Cause.NONE)  # the proposals are left as they are


def test_the_multiple_proposal_kernel_takes_one_step() -> None:
    tally = Tally().record(chain(2), causes(*[Cause.NONE] * 3), np.zeros(3), 0.0)
    tally = tally.record(chain(-1), causes(*[Cause.NONE] * 3), np.zeros(3), 0.0)
    assert (tally.n_moves, tally.n_steps, tally.n_proposed) == (2, 2, 6)
    assert (tally.n_accepted, tally.n_rejected_metropolis) == (1, 5)
    assert tally.summary().acceptance == 0.5


def test_runs_of_rejections_go_on_from_move_to_move() -> None:
    tally = Tally()
    for selected, run, longest in (
        ((-1, -1), 2, 2),
        ((-1, 1, 1), 1, 3),
        ((0, 1), 0, 3),
        ((-1, -1, -1, -1), 4, 4),
    ):
        n = len(selected)
        tally = tally.record(chain(*selected), causes(*[Cause.NONE] * n), np.zeros(n), 0.0)
        assert (tally.rejection_run, tally.longest_rejection_run) == (run, longest)


@pytest.mark.parametrize("kernel", KERNELS)
def test_counts_and_weights_add_up_over_many_moves(kernel: str) -> None:
    rng = np.random.default_rng(1)
    tally, every = Tally(), []
    for _ in range(50):
        log_weights = rng.normal(loc=3000, scale=2, size=8)
        cause = rng.choice([Cause.NONE, Cause.CHIRALITY], p=[0.8, 0.2], size=8).astype(np.int8)
        log_weights[(cause != Cause.NONE) | (rng.random(8) < 0.1)] = -INF
        steps = KERNELS[kernel](3001.0, log_weights, rng)
        tally = tally.record(steps, cause, log_weights, seconds=0.5)
        every.append(log_weights)
    assert tally.n_proposed == 400 == tally.n_accepted + n_rejected(tally)
    summary = tally.summary()
    expected = effective_sample_size(np.concatenate(every))
    assert summary.effective_sample_size == pytest.approx(expected, rel=1e-9)
    assert summary.seconds_per_proposal == pytest.approx(25 / 400)
    assert sum(summary.rejected.values()) == pytest.approx(n_rejected(tally) / 400)


def test_counts_survive_storage_as_plain_numbers() -> None:
    tally = Tally().record(chain(-1), causes(Cause.NONE), np.array([-INF]), seconds=0.1)
    stored = yaml.safe_load(yaml.safe_dump(tally.to_dict()))
    assert Tally.from_dict(stored) == tally
    numpy_scalars = {key: np.float64(value) for key, value in stored.items()}
    restored = Tally.from_dict(numpy_scalars)
    assert restored == tally
    assert {type(value) for value in restored.to_dict().values()} == {int, float}


def test_counts_of_another_version_are_read_as_far_as_known() -> None:
    assert Tally.from_dict({"n_moves": 3, "forgotten": 1}) == Tally(n_moves=3)


def test_the_summary_speaks_before_the_first_proposal() -> None:
    assert "apply the move first" in str(Tally().summary())
    assert Tally().summary().effective_sample_size == 0.0


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (Cause.BOND_GRAPH, "breaks bonds"),
        (Cause.CHIRALITY, "mixes the hands"),
        (Cause.ENERGY_NOT_FINITE, "order of the generator's topology"),
    ],
)
def test_where_nothing_is_accepted_the_summary_says_why(cause: Cause, advice: str) -> None:
    tally = Tally().record(chain(*[-1] * 20), causes(*[cause] * 20), np.full(20, -INF), 1.0)
    text = str(tally.summary())
    assert advice in text
    assert f"{cause.name.lower().replace('_', ' ')} 100.0%" in text
    assert "longest rejection run   20 steps" in text


def test_the_summary_tells_good_proposals_from_bad_ones() -> None:
    accepted = chain(*range(60))
    good = Tally().record(accepted, causes(*[Cause.NONE] * 60), np.zeros(60), 1.0)
    assert str(good.summary()).endswith("verdict                 trust")
    assert "60.0, 100.00% of all proposals" in str(good.summary())
    one_of_twenty = np.array([0.0, *[-50.0] * 19])
    poor = Tally().record(chain(*[-1] * 20), causes(*[Cause.NONE] * 20), one_of_twenty, 1.0)
    assert "weights spread too widely" in str(poor.summary())
