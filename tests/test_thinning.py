"""Proposals that are dropped by an estimate: weights stay unbiased, chains keep their law."""

from __future__ import annotations

import dataclasses

import miniatures
import numpy as np
import openmm
import oracles
import pytest
import torch
from assertions import assert_mean
from openmm import unit
from openmmtools.mcmc import SequenceMove
from openmmtools.states import ThermodynamicState
from oracles import FRAME, WIDTH_NM, GaussianGenerator, harmonic_state
from test_move import assert_harmonic, hmc, trajectory

from openmm_tbg.arrays import Cause, Positions, Scalars
from openmm_tbg.draw import log_begin as log_begin_from
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.metropolis import KERNELS, log_weights
from openmm_tbg.move import TBGMove, register_generator
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.proposals import Proposals, Thinning
from openmm_tbg.thinning import LogImportance, ThinnedGenerator

LOG_Z = oracles.DIMENSIONS * np.log(np.sqrt(2 * np.pi) * WIDTH_NM)


def rough_error(positions: Positions) -> Scalars:
    """An estimate's error of up to 1 kT that depends on the configuration alone."""
    error: Scalars = np.sin(positions[:, 0, 0] / WIDTH_NM + positions[:, 1, 1] / WIDTH_NM)
    return error


@dataclasses.dataclass
class EstimatingGaussian(GaussianGenerator):
    """The Gaussian with an estimate of its density, and foresight that errs."""

    def propose(
        self, n: int, rng: np.random.Generator, thinning: Thinning | None = None
    ) -> Proposals:
        rows = super().propose(n, rng)
        if thinning is None:
            return rows
        log_kept = self._log_kept(rows, thinning)
        dropped = rows.passes & (-rng.exponential(size=n) > log_kept)
        cause = np.where(dropped, Cause.THINNED, rows.cause).astype(np.int8)
        log_q = np.where(dropped, np.nan, rows.log_q + log_kept)
        return Proposals(rows.positions_nm, log_q, cause)

    def evaluate(self, positions_nm: Positions, thinning: Thinning | None = None) -> Proposals:
        rows = super().evaluate(positions_nm)
        if thinning is None:
            return rows
        return dataclasses.replace(rows, log_q=rows.log_q + self._log_kept(rows, thinning))

    @staticmethod
    def _log_kept(rows: Proposals, thinning: Thinning) -> Scalars:
        log_kept, inside = np.zeros(len(rows)), rows[rows.passes]
        if len(inside):
            positions, error = inside.positions_nm, rough_error(inside.positions_nm)
            log_kept[rows.passes] = thinning.log_keep(positions, inside.log_q + error)
            if thinning.log_begin is not None:
                foreseen = positions + 0.2 * WIDTH_NM * error[:, None, None]
                log_kept[rows.passes] += thinning.log_begin(foreseen)
        return log_kept


class ForgetsTheCurrent(ThinnedGenerator):
    """Wrong: counts the chance to be kept in proposals alone."""

    def evaluate(self, positions_nm: Positions) -> Proposals:
        return self.generator.evaluate(positions_nm)


class ForgetsTheKept(ThinnedGenerator):
    """Wrong: drops rows, and counts it nowhere."""

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        rows = super().propose(n, rng)
        known = self.generator.evaluate(rows.positions_nm)
        return Proposals(rows.positions_nm, known.log_q, rows.cause)

    def evaluate(self, positions_nm: Positions) -> Proposals:
        return self.generator.evaluate(positions_nm)


def potential_of(state: ThermodynamicState) -> ReducedPotential:
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


def thinned_gaussian(
    kind: type[ThinnedGenerator] = ThinnedGenerator, log_importance: LogImportance | None = None
) -> ThinnedGenerator:
    """A Gaussian that is too wide, of which a fifth is kept."""
    generator = EstimatingGaussian(width_nm=1.25 * WIDTH_NM)
    potential = potential_of(harmonic_state())
    rng = np.random.default_rng(1)
    return kind.from_pilot(generator, potential, 0.2, rng, 500, log_importance)


@dataclasses.dataclass(frozen=True)
class OneSide:
    """Configurations whose first atom lies below a plane count less, as beside a toy's basin."""

    log_importance: float = -2.0

    def __call__(self, positions_nm: Positions) -> Scalars:
        return self.log_importance * ~self.holds(positions_nm)

    @staticmethod
    def holds(positions_nm: Positions) -> np.ndarray:
        above: np.ndarray = (positions_nm[:, 0, 0] - FRAME[0, 0]) / WIDTH_NM > 0.5
        return above


class ForgetsTheImportance(ThinnedGenerator):
    """Wrong: drops by importance, and counts the chance without it."""

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        rows = super().propose(n, rng)
        return Proposals(rows.positions_nm, rows.log_q - OneSide()(rows.positions_nm), rows.cause)


@pytest.fixture
def miniature() -> BoltzmannGenerator:
    return BoltzmannGenerator(miniatures.trained(sees_hand=True).model, "miniature", "0")


def weights_of(generator: ThinnedGenerator, n: int) -> Scalars:
    proposals = generator.propose(n, np.random.default_rng(2))
    u = potential_of(harmonic_state())(proposals.positions_nm)
    weights: Scalars = np.exp(log_weights(u, proposals.log_q, proposals.passes) - LOG_Z)
    return weights


def test_weights_of_all_rows_stay_unbiased() -> None:
    weights = weights_of(thinned_gaussian(), 4_000)
    assert 0.15 < (weights > 0).mean() < 0.25
    assert_mean(weights, 1.0)


def test_weights_that_do_not_count_the_thinning_are_seen() -> None:
    with pytest.raises(AssertionError, match="sigma from"):
        assert_mean(weights_of(thinned_gaussian(ForgetsTheKept), 4_000), 1.0)


def test_importance_spares_what_matters_little_and_moves_no_weight() -> None:
    plain, weighted = thinned_gaussian(), thinned_gaussian(log_importance=OneSide())
    drawn = weighted.propose(4_000, np.random.default_rng(2))
    assert_mean(weights_of(weighted, 4_000), 1.0)
    there = OneSide.holds(drawn.positions_nm)
    before = plain.propose(4_000, np.random.default_rng(2)).passes
    assert drawn.passes[there].mean() > 0.8 * before[there].mean()
    assert drawn.passes[~there].mean() < 0.3 * before[~there].mean()


def test_weights_that_do_not_count_the_importance_are_seen() -> None:
    wrong = thinned_gaussian(ForgetsTheImportance, OneSide())
    with pytest.raises(AssertionError, match="sigma from"):
        assert_mean(weights_of(wrong, 4_000), 1.0)


def test_a_chain_of_proposals_thinned_by_importance_keeps_its_law() -> None:
    generator = EstimatingGaussian()
    potential = potential_of(harmonic_state())
    thinned = ThinnedGenerator(generator, potential, LOG_Z + 2.0, OneSide())
    both = SequenceMove([hmc(), TBGMove(thinned, n_proposals=4, seed=3)])
    assert_harmonic(trajectory(both, harmonic_state(), oracles.reference_cache(), 600))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_chain_of_thinned_proposals_keeps_its_law(kernel: str) -> None:
    move = TBGMove(thinned_gaussian(), n_proposals=16, kernel=kernel, seed=3)
    frames = trajectory(move, harmonic_state(), oracles.reference_cache(), 800)
    assert_harmonic(frames)
    counts = move.statistics
    assert 0.75 < counts["n_rejected_thinned"] / counts["n_proposed"] < 0.85
    assert counts["n_rejected_energy_not_finite"] == 0


def mixed_with_a_local_move(kind: type[ThinnedGenerator]) -> Positions:
    """q is p, and the estimate alone drops rows; the density of each current state is evaluated."""
    generator = kind(EstimatingGaussian(), potential_of(harmonic_state()), LOG_Z + 1.0)
    both = SequenceMove([hmc(), TBGMove(generator, n_proposals=4, seed=3)])
    return trajectory(both, harmonic_state(), oracles.reference_cache(), 600)


def test_a_chain_with_a_local_move_keeps_its_law() -> None:
    assert_harmonic(mixed_with_a_local_move(ThinnedGenerator))


@pytest.mark.parametrize("wrong", [ForgetsTheCurrent, ForgetsTheKept])
def test_chains_that_do_not_count_the_thinning_are_seen(wrong: type[ThinnedGenerator]) -> None:
    with pytest.raises(AssertionError, match="sigma from"):
        assert_harmonic(mixed_with_a_local_move(wrong))


def test_the_target_need_not_be_that_of_the_estimate() -> None:
    """At 330 K with weights estimated at 300 K: the same Gaussian, wider by sqrt(1.1)."""
    state = harmonic_state()
    warmer = ThermodynamicState(state.system, 330 * unit.kelvin)
    move = TBGMove(thinned_gaussian(), n_proposals=16, seed=4)
    frames = trajectory(move, warmer, oracles.reference_cache(), 800)
    assert_harmonic(FRAME + (frames - FRAME) / np.sqrt(1.1))


def log_keep(positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
    by_place: Scalars = -np.abs(positions_nm[:, 0, 0]) / 0.1 - 1e-3 * np.abs(log_q_estimate)
    return by_place


def log_begin(positions_nm: Positions) -> Scalars:
    """By place, and not the same for the mirror image."""
    one_sided: Scalars = -1.5 * (1 + np.tanh(positions_nm[:, 1, 1] / 0.01))
    return one_sided


ROUND_TRIP = 1e-2  # of what depends on the noise, on the few nodes of the miniature
BY_PLACE = Thinning(log_keep)
BEFORE_AND_AFTER = Thinning(log_keep, log_begin)


def test_a_flow_drops_rows_at_the_stated_rate_and_counts_it(miniature: BoltzmannGenerator) -> None:
    plain = miniature.propose(600, np.random.default_rng(5))
    rows = miniature.propose(600, np.random.default_rng(5), BY_PLACE)
    np.testing.assert_array_equal(rows.positions_nm, plain.positions_nm)
    dropped = rows.cause == Cause.THINNED
    np.testing.assert_array_equal(rows.passes | dropped, plain.passes)
    assert np.isnan(rows.log_q[~rows.passes]).all()
    assert_counted(miniature, BY_PLACE, plain, rows)


def test_a_flow_spares_what_it_foresees_to_matter_little(miniature: BoltzmannGenerator) -> None:
    plain = miniature.propose(600, np.random.default_rng(5))
    rows = miniature.propose(600, np.random.default_rng(5), BEFORE_AND_AFTER)
    begun = np.isfinite(rows.positions_nm).all(axis=(1, 2))
    assert (rows.cause[~begun] == Cause.THINNED).all()
    assert 0.2 < begun.mean() < 0.8
    np.testing.assert_allclose(rows.positions_nm[begun], plain.positions_nm[begun], atol=1e-6)
    assert_counted(miniature, BEFORE_AND_AFTER, plain, rows)


def assert_counted(
    miniature: BoltzmannGenerator, thinning: Thinning, plain: Proposals, rows: Proposals
) -> None:
    """log q of kept rows, and how many are kept, is what `evaluate` says of all of them."""
    known = miniature.evaluate(plain.positions_nm[plain.passes])
    again = miniature.evaluate(plain.positions_nm[plain.passes], thinning)
    log_kept = again.log_q - known.log_q
    kept = rows.passes[plain.passes]
    assert_mean(kept - np.exp(log_kept), 0.0)
    np.testing.assert_allclose(
        rows.log_q[rows.passes], plain.log_q[rows.passes] + log_kept[kept], atol=ROUND_TRIP
    )
    assert 0.1 < kept.mean() < 0.9


def test_foresight_is_the_same_for_images_that_are_folded() -> None:
    """A field of distances alone: a proposal that is mirrored had the mirror image of its noise."""
    folded = BoltzmannGenerator(miniatures.trained(sees_hand=False).model, "miniature", "0")
    noise = folded.flow.noise(64, torch.Generator().manual_seed(1))
    one, other = (
        log_begin_from(folded.flow, folded._filter, log_begin, each) for each in (noise, -noise)
    )
    np.testing.assert_allclose(one, other, atol=1e-9)
    assert (one < 0).mean() > 0.5


def test_nothing_is_drawn_where_nothing_is_begun(miniature: BoltzmannGenerator) -> None:
    """One row at a time; those of which nothing is foreseen are drawn."""
    never = Thinning(log_keep, lambda x: np.full(len(x), -1e9))
    each = [miniature.propose(1, np.random.default_rng(seed), never) for seed in range(8)]
    rows = Proposals.concatenate(each)
    dropped = rows.cause == Cause.THINNED
    assert 0 < np.count_nonzero(dropped) < 8
    assert np.isnan(rows.positions_nm[dropped]).all()
    assert np.isnan(rows.log_q).all()
    assert not rows.passes.any()


def test_chunks_do_not_change_which_rows_are_dropped(miniature: BoltzmannGenerator) -> None:
    whole = miniature.propose(30, np.random.default_rng(6), BEFORE_AND_AFTER)
    miniature.flow.memory_limit_bytes = 7 * miniature.flow.field.bytes_per_divergence
    cut = miniature.propose(30, np.random.default_rng(6), BEFORE_AND_AFTER)
    np.testing.assert_array_equal(cut.cause, whole.cause)
    np.testing.assert_allclose(cut.log_q, whole.log_q, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_pilot_finds_the_threshold(share: float) -> None:
    generator, potential = (
        EstimatingGaussian(width_nm=1.1 * WIDTH_NM),
        potential_of(harmonic_state()),
    )
    rng = np.random.default_rng(7)
    thinned = ThinnedGenerator.from_pilot(generator, potential, share, rng, n=2_000)
    passes = thinned.propose(2_000, rng).passes
    assert abs(passes.mean() - share) < 4 * np.sqrt(2 * share * (1 - share) / 2_000)


def test_a_share_beyond_those_that_pass_drops_none() -> None:
    generator = EstimatingGaussian(filter=oracles.half_space)
    thinned = ThinnedGenerator.from_pilot(
        generator, potential_of(harmonic_state()), 1.0, np.random.default_rng(8)
    )
    assert thinned.log_weight_threshold == -np.inf
    assert (thinned.propose(100, np.random.default_rng(8)).cause != Cause.THINNED).all()


def test_its_digest_tells_model_potential_threshold_and_importance_apart() -> None:
    state = harmonic_state()
    warmer = ThermodynamicState(state.system, 330 * unit.kelvin)
    digests = {
        ThinnedGenerator(generator, potential_of(target), threshold, importance).sha256
        for generator in (EstimatingGaussian(), EstimatingGaussian(width_nm=2 * WIDTH_NM))
        for target in (state, warmer)
        for threshold in (0.0, 1.0)
        for importance in (None, OneSide(-1.0), OneSide(-2.0))
    }
    assert len(digests) == 24


def test_a_restored_move_asks_for_what_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = thinned_gaussian()
    generator.generator.reference = "/models/toy.safetensors"
    stored = TBGMove(generator, n_proposals=2, seed=5).__getstate__()
    oracles.forget_moves(monkeypatch)
    move = TBGMove.__new__(TBGMove)
    move.__setstate__(stored)
    with pytest.raises(RuntimeError, match=r"toy.safetensors', which no file holds: build it"):
        _ = move.generator
    register_generator(generator)
    assert move.generator.sha256 == generator.sha256


def test_bad_arguments_are_refused() -> None:
    generator, potential = EstimatingGaussian(), potential_of(harmonic_state())
    rng = np.random.default_rng(0)
    for threshold in (np.nan, np.inf):
        with pytest.raises(ValueError, match="log_weight_threshold is"):
            ThinnedGenerator(generator, potential, threshold)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"share is {share}"):
            ThinnedGenerator.from_pilot(generator, potential, share, rng)
    for wrong in (
        lambda x: np.full(len(x), -np.inf),
        lambda x: np.zeros(1),
        lambda x: x[:, 0, 0] ** 2,
    ):
        with pytest.raises(ValueError, match="log_importance: give a finite number, 0 at most"):
            ThinnedGenerator(generator, potential, 0.0, wrong).propose(9, rng)
    hopeless = EstimatingGaussian(filter=oracles.reject_all)
    with pytest.raises(ValueError, match="none of 64 proposals passes"):
        ThinnedGenerator.from_pilot(hopeless, potential, 0.5, rng)
