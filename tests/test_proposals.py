"""Columns stay together; each proposal and each random stream is handed out once."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from oracles import MOLECULE, GaussianGenerator

from openmm_tbg.arrays import Cause
from openmm_tbg.proposals import ProposalPool, Proposals
from openmm_tbg.ranks import LAUNCHERS


def numbered(n: int, start: int = 0) -> Proposals:
    """Rows whose columns all tell the row's number."""
    rows = np.arange(start, start + n)
    positions = np.broadcast_to(rows[:, np.newaxis, np.newaxis], (n, 2, 3)).astype(float)
    return Proposals(positions, rows.astype(float), (rows % 4).astype(np.int8))


def assert_rows(proposals: Proposals, rows: list[int]) -> None:
    np.testing.assert_array_equal(proposals.positions_nm[:, 0, 0], rows)
    np.testing.assert_array_equal(proposals.log_q, rows)
    np.testing.assert_array_equal(proposals.cause, np.array(rows) % 4)


class Counting:
    """Draws rows numbered without end."""

    molecule, reference, sha256 = MOLECULE, "counting", "0"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        self.batches.append(n)
        return numbered(n, sum(self.batches[:-1]))

    def evaluate(self, positions_nm: np.ndarray) -> Proposals:
        raise NotImplementedError


def test_all_columns_are_indexed_together() -> None:
    proposals = numbered(6)
    assert_rows(proposals[2:5], [2, 3, 4])
    assert_rows(proposals[np.array([5, 0, 5])], [5, 0, 5])
    assert_rows(proposals[proposals.passes], [0, 4])
    assert_rows(Proposals.concatenate([proposals[4:], proposals[:1]]), [4, 5, 0])


def test_columns_of_different_length_are_refused() -> None:
    proposals = numbered(3)
    uneven = {**vars(proposals), "log_q": proposals.log_q[:2]}
    with pytest.raises(ValueError, match=r"\(3, 2, 3\) rows: keep the rows that fail"):
        # Not the constructor, where the type checker of the tests would speak first.
        Proposals.__post_init__(SimpleNamespace(**uneven))


def test_only_rows_without_a_cause_pass() -> None:
    causes = np.array(list(Cause), dtype=np.int8)
    proposals = Proposals(np.zeros((len(causes), 1, 3)), np.zeros(len(causes)), causes)
    np.testing.assert_array_equal(proposals.passes, causes == 0)


def test_each_proposal_is_handed_out_once_and_in_order() -> None:
    generator = Counting()
    pool = ProposalPool(generator, batch_size=4)
    taken = [pool.take(n) for n in (1, 2, 6, 4, 1)]
    assert [len(proposals) for proposals in taken] == [1, 2, 6, 4, 1]
    assert_rows(Proposals.concatenate(taken), list(range(14)))
    assert generator.batches == [4] * 4


@pytest.mark.parametrize("batches_ahead", [1, 3])
def test_batches_drawn_ahead_are_the_same_in_the_same_order(batches_ahead: int) -> None:
    pools = [ProposalPool(GaussianGenerator(), 4, 5, batches_ahead=n) for n in (0, batches_ahead)]
    for n in (1, 9, 2):
        at_once, ahead = (pool.take(n) for pool in pools)
        np.testing.assert_array_equal(at_once.positions_nm, ahead.positions_nm)
        np.testing.assert_array_equal(at_once.log_q, ahead.log_q)


def test_the_next_batch_is_drawn_while_the_last_is_used() -> None:
    in_the_second = threading.Event()
    used = threading.Event()

    class Waits(Counting):
        def propose(self, n: int, rng: np.random.Generator) -> Proposals:
            if self.batches:
                in_the_second.set()
                assert used.wait(timeout=60)
            return super().propose(n, rng)

    pool = ProposalPool(Waits(), batch_size=2, batches_ahead=1)
    assert_rows(pool.take(2), [0, 1])
    assert in_the_second.wait(timeout=60)
    used.set()
    assert_rows(pool.take(2), [2, 3])


def test_an_error_in_a_batch_ahead_reaches_who_takes_it() -> None:
    class Fails(Counting):
        def propose(self, n: int, rng: np.random.Generator) -> Proposals:
            if self.batches:
                raise FloatingPointError("in the second batch")
            return super().propose(n, rng)

    pool = ProposalPool(Fails(), batch_size=2, batches_ahead=1)
    assert_rows(pool.take(2), [0, 1])
    with pytest.raises(FloatingPointError, match="in the second batch"):
        pool.take(1)


def test_one_seed_determines_proposals_and_streams() -> None:
    first, second = (ProposalPool(GaussianGenerator(), 8, seed=5) for _ in range(2))
    for _ in range(3):
        np.testing.assert_array_equal(first.take(5).positions_nm, second.take(5).positions_nm)
        assert first.spawn_rng().random() == second.spawn_rng().random()


def test_the_batch_size_does_not_change_the_law_of_the_stream() -> None:
    small, large = (ProposalPool(GaussianGenerator(), size, seed=5) for size in (3, 12))
    np.testing.assert_array_equal(small.take(12).log_q, large.take(12).log_q)


def test_streams_differ_by_call_seed_process_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in itertools.chain(*LAUNCHERS.values()):
        monkeypatch.delenv(variable, raising=False)
    generator = GaussianGenerator()
    pools = [ProposalPool(generator, 2, seed=5), ProposalPool(generator, 2, seed=6)]
    pools += [ProposalPool(generator, 2, seed=5, n_drawn=64), ProposalPool(generator, 2)]
    for number, size, _ in LAUNCHERS.values():
        with monkeypatch.context() as process:
            process.setenv(number, "3")
            process.setenv(size, "4")
            pools.append(ProposalPool(generator, 2, seed=5))
    draws = [pool.spawn_rng().random() for pool in pools for _ in range(2)]
    draws += [pool.take(1).log_q[0] for pool in pools]
    # The ways to learn the same rank give the same streams; all else differs.
    assert len(set(draws)) == len(draws) - 3 * (len(LAUNCHERS) - 1)


@pytest.mark.parametrize("n", [0, -3])
def test_nothing_cannot_be_drawn(n: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {n}"):
        ProposalPool(GaussianGenerator(), n)
    with pytest.raises(ValueError, match=f"cannot take {n} proposals"):
        ProposalPool(GaussianGenerator(), 1).take(n)
    with pytest.raises(ValueError, match="batches_ahead is -1: give a number"):
        ProposalPool(GaussianGenerator(), 1, batches_ahead=-1)


def test_a_generator_that_drops_rows_is_refused() -> None:
    class Drops(GaussianGenerator):
        def propose(self, n: int, rng: np.random.Generator) -> Proposals:
            return super().propose(n, rng)[1:]

    with pytest.raises(RuntimeError, match="returned 7 rows where 8 were asked for"):
        ProposalPool(Drops(), 8).take(1)
