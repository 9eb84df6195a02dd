"""The move inside openmmtools: its law, what it leaves alone, its copies and what it refuses."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracles
import pytest
import yaml
from assertions import assert_mean
from openmm import unit
from openmmtools import utils
from openmmtools.cache import ContextCache
from openmmtools.mcmc import HMCMove, MCMCMove, MCMCSampler, SequenceMove, WeightedMove
from openmmtools.multistate import MultiStateReporter, ReplicaExchangeSampler
from openmmtools.states import SamplerState, ThermodynamicState
from oracles import (
    CUT,
    DIMENSIONS,
    FIRST_WIDTH_NM,
    FRAME,
    KT,
    MASSES,
    N_ATOMS,
    REFUSALS,
    WIDTH_NM,
    GaussianGenerator,
    Spoil,
    first_coordinate,
    forget_moves,
    harmonic_state,
    harmonic_system,
    positions_nm,
    sampler_state,
)

from openmm_tbg.arrays import Cause, Frame, Positions
from openmm_tbg.metropolis import KERNELS
from openmm_tbg.move import TBGMove, register_generator
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.proposals import Proposals

INSIDE = 0.6914624612740131  # P(first coordinate > CUT)
SHIFT_NM = 0.008 * np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
NARROW_NM = 0.93 * WIDTH_NM

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture
def state() -> ThermodynamicState:
    return harmonic_state()


@pytest.fixture(scope="module")
def cache() -> ContextCache:
    return oracles.reference_cache()


def hmc() -> HMCMove:
    return HMCMove(timestep=3.0 * unit.femtosecond, n_steps=10)


def shifted_and_narrow() -> GaussianGenerator:
    return GaussianGenerator(width_nm=NARROW_NM, shift_nm=SHIFT_NM)


def trajectory(move: MCMCMove, state: ThermodynamicState, cache: ContextCache, n: int) -> Positions:
    """Centred positions after each of n applications of the move."""
    sampler = MCMCSampler(state, sampler_state(), move=move)
    frames = np.empty((n, N_ATOMS, 3))
    for iteration in range(n):
        sampler.run(1, context_cache=cache)
        frames[iteration] = positions_nm(sampler.sampler_state)
    return frames - frames.mean(axis=1, keepdims=True)


def assert_harmonic(frames: Positions) -> None:
    """The law of the harmonic molecule: means, variances and <u> = (3N - 3) / 2."""
    deviations = (frames - FRAME) / FIRST_WIDTH_NM
    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        assert_mean(deviations[:, atom, axis], 0.0)
        assert_mean(deviations[:, atom, axis] ** 2, 1.0)
    u = np.square(frames - FRAME).sum(axis=(1, 2)) / (2 * WIDTH_NM**2)
    assert_mean(u, DIMENSIONS / 2)


# --- law ------------------------------------------------------------------------------------


def test_if_q_is_p_metropolis_accepts_every_proposal(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    move = TBGMove(GaussianGenerator(), n_proposals=10, seed=1)
    frames = trajectory(move, state, cache, 400)
    assert move.statistics["n_accepted"] == move.statistics["n_proposed"] == 4_000
    assert move.statistics["longest_rejection_run"] == 0
    assert move.summary().effective_sample_size == pytest.approx(1.0, abs=1e-9)
    assert_harmonic(frames)


def test_if_q_is_p_multiple_proposals_are_chosen_evenly(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    """All weights are equal, so the current state is kept with probability 1 / (n + 1)."""
    move = TBGMove(GaussianGenerator(), n_proposals=3, kernel="multiple", seed=2)
    frames = trajectory(move, state, cache, 600)
    changed = np.any(np.diff(frames, axis=0) != 0, axis=(1, 2)).astype(float)
    assert_mean(changed, 3 / 4)
    assert move.statistics["n_accepted"] in (changed.sum(), changed.sum() + 1)
    assert_harmonic(frames)


@each_kernel
def test_a_shifted_narrower_q_gives_the_right_law(
    kernel: str, state: ThermodynamicState, cache: ContextCache
) -> None:
    move = TBGMove(shifted_and_narrow(), n_proposals=4, kernel=kernel, seed=3)
    assert_harmonic(trajectory(move, state, cache, 600))
    assert 0.3 < move.summary().effective_sample_size < 0.9


def assert_ladder_is_harmonic(cache: ContextCache) -> None:
    """Copies of one move at two temperatures, in one Context, with exchanges between them."""
    rng, kT = np.random.default_rng(0), np.array([1.0, 1.5])
    states = [ThermodynamicState(harmonic_system(), T * oracles.TEMPERATURE) for T in kT]
    move = TBGMove(GaussianGenerator(width_nm=1.15 * WIDTH_NM), n_proposals=2, seed=20)
    moves, replicas = [copy.deepcopy(move) for _ in kT], [sampler_state() for _ in kT]
    u, n_exchanges = np.empty((1200, len(kT))), 0
    for row in u:
        for step in zip(moves, states, replicas, strict=True):
            step[0].apply(*step[1:], context_cache=cache)
        energies = []
        for replica in replicas:
            centred = positions_nm(replica) - positions_nm(replica).mean(axis=0)
            energies.append(np.square(centred - FRAME).sum() / (2 * WIDTH_NM**2))
        if np.log(rng.random()) < np.diff(1 / kT)[0] * np.diff(energies)[0]:
            replicas.reverse()
            energies.reverse()
            n_exchanges += 1
        row[:] = energies / kT
    assert n_exchanges > 250
    for at_one_temperature in u.T:
        assert_mean(at_one_temperature, DIMENSIONS / 2)


def test_each_rung_of_a_ladder_has_its_law(cache: ContextCache) -> None:
    assert_ladder_is_harmonic(cache)


class KeepsDensity(TBGMove):
    """Takes the density of the state before an exchange for that of the state after it."""

    def _log_weight_current(self, potential: ReducedPotential, current: Frame) -> float:
        if self._known is not None:
            self._known = current, self._known[1]
        return super()._log_weight_current(potential, current)


class Forgets(TBGMove):
    """Takes the temperature of the first rung for that of the others."""

    def apply(self, thermodynamic_state: ThermodynamicState, *others: Any, **named: Any) -> None:
        super().apply(harmonic_state(), *others, **named)


@pytest.mark.parametrize("wrong", [KeepsDensity, Forgets])
def test_a_ladder_shows_a_wrong_ratio(
    wrong: type[TBGMove], cache: ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TBGMove", wrong)
    with pytest.raises(AssertionError, match=r"sigma from|does not mix"):
        assert_ladder_is_harmonic(cache)


@each_kernel
def test_forgetting_log_q_is_seen(
    kernel: str, state: ThermodynamicState, cache: ContextCache
) -> None:
    wrong = oracles.ForgetsDensity(width_nm=NARROW_NM, shift_nm=SHIFT_NM)
    move = TBGMove(wrong, n_proposals=4, kernel=kernel, seed=3)
    with pytest.raises(AssertionError, match="sigma from"):
        assert_harmonic(trajectory(move, state, cache, 600))


@pytest.mark.parametrize(
    "contain",
    [
        lambda move: SequenceMove([move, hmc()]),
        lambda move: WeightedMove([(move, 0.75), (hmc(), 0.25)]),
    ],
    ids=["sequence", "weighted"],
)
def test_containers_keep_the_law(
    contain: Callable[[TBGMove], MCMCMove], state: ThermodynamicState, cache: ContextCache
) -> None:
    np.random.seed(4)  # noqa: NPY002 (WeightedMove draws from the global stream)
    move = TBGMove(shifted_and_narrow(), n_proposals=4, seed=4)
    assert_harmonic(trajectory(contain(move), state, cache, 1000))


def filtered_chain(
    generator: type[GaussianGenerator], state: ThermodynamicState, cache: ContextCache
) -> np.ndarray:
    """First coordinate under the filtered move and a local move that knows nothing of filters."""
    proposals = generator(width_nm=1.1 * WIDTH_NM, filter=oracles.half_space)
    move = TBGMove(proposals, n_proposals=2, seed=5)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return first_coordinate(trajectory(SequenceMove([hmc(), move]), state, cache, 1000))


def assert_standard_normal(x: np.ndarray) -> None:
    assert_mean(x, 0.0)
    assert_mean((x > CUT).astype(float), INSIDE)


def test_a_filtered_move_with_a_local_move_is_unbiased(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    assert_standard_normal(filtered_chain(GaussianGenerator, state, cache))


@pytest.mark.parametrize("wrong", [oracles.RedrawsUntilPass, oracles.TestsOnlyTheProposal])
def test_wrong_rules_for_filters_are_seen(
    wrong: type[GaussianGenerator], state: ThermodynamicState, cache: ContextCache
) -> None:
    with pytest.raises(AssertionError, match="sigma from"):
        assert_standard_normal(filtered_chain(wrong, state, cache))


def tethered_mean(cache: ContextCache) -> tuple[np.ndarray, float]:
    """x of the first atom, tethered to the origin with the molecule's centre held beside it.

    A spring to the centred frame (precision 4/3) and the tether (precision 1) share the stretch.
    """
    stretch = 0.04
    centre = np.array([stretch, 0.0, 0.0]) - FRAME[0]
    tethered = harmonic_state(harmonic_system(tether=1.0))
    current = sampler_state(FRAME + centre)
    move = TBGMove(GaussianGenerator(), n_proposals=4, seed=6)
    x = np.empty(600)
    for iteration in range(len(x)):
        move.apply(tethered, current, context_cache=cache)
        x[iteration] = positions_nm(current)[0, 0]
    return x, stretch * (1 - 1 / (N_ATOMS / (N_ATOMS - 1) + 1))


def test_the_energy_is_that_of_the_place_where_the_molecule_is(cache: ContextCache) -> None:
    assert_mean(*tethered_mean(cache))


def test_energies_at_the_origin_are_seen(
    cache: ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ReducedPotential.__call__
    monkeypatch.setattr(
        ReducedPotential,
        "__call__",
        lambda self, positions: right(self, positions - positions.mean(axis=1, keepdims=True)),
    )
    with pytest.raises(AssertionError, match="sigma from"):
        assert_mean(*tethered_mean(cache))


# --- what an application does to the state ------------------------------------------------------


def accepted_velocities(state: ThermodynamicState, cache: ContextCache) -> np.ndarray:
    """Velocities after each acceptance, each in units of its own thermal width."""
    move = TBGMove(GaussianGenerator(), n_proposals=1, seed=7)
    current = sampler_state()
    velocities = np.empty((400, N_ATOMS, 3))
    for iteration in range(len(velocities)):
        move.apply(state, current, context_cache=cache)
        velocities[iteration] = current.velocities.value_in_unit(unit.nanometer / unit.picosecond)
    return velocities * np.sqrt(np.array(MASSES) / KT)[:, np.newaxis]


def assert_maxwell_boltzmann(velocities: np.ndarray) -> None:
    for atom in range(N_ATOMS):
        components = velocities[:, atom].ravel()
        assert_mean(components, 0.0)
        assert_mean(components**2, 1.0)
    assert_mean(velocities[:, 0, 0] * velocities[:, 1, 0], 0.0)


def test_velocities_after_acceptance_are_maxwell_boltzmann(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    velocities = accepted_velocities(state, cache)
    assert_maxwell_boltzmann(velocities)
    with pytest.raises(AssertionError, match="sigma from"):
        assert_maxwell_boltzmann(1.15 * velocities)


@each_kernel
def test_the_centre_stays_where_it_is(
    kernel: str, state: ThermodynamicState, cache: ContextCache
) -> None:
    current = sampler_state(FRAME + [1.0, -2.0, 3.0])
    move = TBGMove(GaussianGenerator(), n_proposals=5, kernel=kernel, seed=8)
    for _ in range(20):
        move.apply(state, current, context_cache=cache)
    assert move.statistics["n_accepted"] > 0
    np.testing.assert_allclose(positions_nm(current).mean(axis=0), [1.0, -2.0, 3.0], atol=1e-12)


def assert_energy_is_fresh(
    current: SamplerState, state: ThermodynamicState, cache: ContextCache
) -> None:
    context, _ = cache.get_context(state)
    context.setPositions(positions_nm(current))
    assert current.potential_energy == context.getState(getEnergy=True).getPotentialEnergy()


def test_acceptance_changes_positions_velocities_and_energy(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    current = sampler_state()
    TBGMove(GaussianGenerator(), n_proposals=1).apply(state, current, context_cache=cache)
    assert not np.any(positions_nm(current) == FRAME)
    assert not np.any(current.velocities == 0 * current.velocities.unit)
    assert_energy_is_fresh(current, state, cache)


def test_rejection_leaves_positions_and_velocities_alone(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    current = sampler_state(FRAME + 0.3)
    before = copy.deepcopy(current)
    move = TBGMove(GaussianGenerator(filter=lambda x: keep_only(FRAME, x)), n_proposals=5)
    move.apply(state, current, context_cache=cache)
    assert move.statistics["n_rejected_bond_graph"] == 5
    np.testing.assert_array_equal(positions_nm(current), positions_nm(before))
    np.testing.assert_array_equal(current.velocities, before.velocities)
    assert_energy_is_fresh(current, state, cache)


def keep_only(frame: np.ndarray, positions: Positions) -> np.ndarray:
    passes = np.isclose(positions, frame, atol=1e-9).all(axis=(1, 2))
    return np.where(passes, Cause.NONE, Cause.BOND_GRAPH).astype(np.int8)


def test_velocities_are_drawn_where_there_are_none(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    current = sampler_state(velocities=False)
    move = TBGMove(GaussianGenerator(filter=lambda x: keep_only(FRAME, x)), n_proposals=5, seed=9)
    move.apply(state, current, context_cache=cache)
    assert move.statistics["n_accepted"] == 0
    speeds = current.velocities.value_in_unit(unit.nanometer / unit.picosecond)
    assert np.ptp(speeds * np.sqrt(np.array(MASSES) / KT)[:, np.newaxis]) > 1


# --- the current state ----------------------------------------------------------------------


def test_log_q_of_the_current_state_is_trusted_only_for_the_same_positions(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    generator = shifted_and_narrow()
    move = TBGMove(generator, n_proposals=1, seed=10)
    current = sampler_state()
    for _ in range(20):
        move.apply(state, current, context_cache=cache)
    assert 0 < move.statistics["n_accepted"] < 20
    assert generator.n_evaluations == 1
    current.positions = current.positions * (1 + 1e-15)
    move.apply(state, current, context_cache=cache)
    assert generator.n_evaluations == 2
    copy.deepcopy(move).apply(state, current, context_cache=cache)
    assert generator.n_evaluations == 3


def test_a_current_state_without_a_finite_energy_is_an_error(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    current = sampler_state(np.full((N_ATOMS, 3), np.nan))
    with pytest.raises(RuntimeError, match="current state is nan: minimize"):
        TBGMove(GaussianGenerator()).apply(state, current, context_cache=cache)


@each_kernel
def test_a_current_state_outside_the_filters_is_said_and_kept(
    kernel: str, state: ThermodynamicState, cache: ContextCache
) -> None:
    outside = FRAME + (CUT - 1) * FIRST_WIDTH_NM * np.eye(N_ATOMS, 3)
    current = sampler_state(outside)
    move = TBGMove(GaussianGenerator(filter=oracles.half_space), n_proposals=8, kernel=kernel)
    with pytest.warns(RuntimeWarning, match=r"fails a filter \(CHIRALITY\)"):
        move.apply(state, current, context_cache=cache)
    assert move.statistics["n_accepted"] == 0
    np.testing.assert_array_equal(positions_nm(current), outside)


class EveryThirdIsBroken(GaussianGenerator):
    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        rows = super().propose(n, rng)
        rows.positions_nm[::3] = np.nan
        return rows


@pytest.mark.parametrize("platform_cache", [oracles.reference_cache, ContextCache])
@each_kernel
def test_energies_that_are_nan_are_rejections(
    kernel: str, platform_cache: Callable[[], ContextCache], state: ThermodynamicState
) -> None:
    move = TBGMove(EveryThirdIsBroken(), n_proposals=9, kernel=kernel)
    current = sampler_state()
    for _ in range(5):
        move.apply(state, current, context_cache=platform_cache())
    counts = move.statistics
    assert counts["n_rejected_energy_not_finite"] == 15
    assert counts["n_accepted"] > 0
    assert (
        counts["n_proposed"]
        == 45
        == counts["n_accepted"]
        + sum(count for key, count in counts.items() if key.startswith("n_rejected"))
    )
    assert np.isfinite(positions_nm(current)).all()


# --- copies, storage, randomness ---------------------------------------------------------------


def through_yaml(move: MCMCMove) -> MCMCMove:
    return utils.deserialize(yaml.load(yaml.dump(utils.serialize(move)), Loader=yaml.Loader))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_yaml], ids=["deepcopy", "yaml"])
@each_kernel
def test_copies_have_the_same_settings_and_counts(
    kernel: str, copied: Callable[[Any], Any], state: ThermodynamicState, cache: ContextCache
) -> None:
    move = TBGMove(shifted_and_narrow(), n_proposals=3, kernel=kernel, batch_size=7, seed=11)
    trajectory(move, state, cache, 5)
    twin = copied(move)
    assert twin.generator is move.generator
    assert twin.__getstate__() == move.__getstate__()
    trajectory(twin, state, cache, 2)
    assert (move.statistics["n_moves"], twin.statistics["n_moves"]) == (5, 7)
    nested = copied(SequenceMove([move, hmc()]))
    assert nested.statistics[0] == move.statistics


def test_copies_propose_different_configurations(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    move = TBGMove(GaussianGenerator(), n_proposals=1, batch_size=16, seed=12)
    move.apply(state, sampler_state(), context_cache=cache)
    first, second = copy.deepcopy(move), through_yaml(move)
    frames = [trajectory(each, state, cache, 4) for each in (move, first, second)]
    assert len(np.unique(np.concatenate(frames)[:, 0, 0])) == 12


@each_kernel
def test_one_seed_gives_the_same_run_twice(
    kernel: str, state: ThermodynamicState, cache: ContextCache
) -> None:
    def run(seed: int | None, ahead: int = 0) -> tuple[np.ndarray, np.ndarray]:
        move = TBGMove(shifted_and_narrow(), 3, kernel, seed=seed, batches_ahead=ahead)
        current = sampler_state(velocities=False)
        for _ in range(10):
            move.apply(state, current, context_cache=cache)
        return positions_nm(current), np.array(current.velocities._value)

    for first, second, ahead in zip(run(13), run(13), run(13, ahead=2), strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, ahead)
    for other in (run(14), run(None), run(None)):
        assert not np.any(run(13)[0] == other[0])
        assert not np.any(run(13)[1] == other[1])


def test_the_stored_state_stays_below_one_kilobyte(
    state: ThermodynamicState, cache: ContextCache
) -> None:
    generator = shifted_and_narrow()
    generator.reference = "/home/user/projects/peptides/" + "x" * 100 + ".safetensors"
    move = TBGMove(generator, n_proposals=64, seed=2**63)
    move.statistics = dict.fromkeys(move.statistics, 123_456_789)
    trajectory(move, state, cache, 2)
    assert len(yaml.dump(utils.serialize(move))) < 1000


def test_a_new_process_finds_a_registered_generator(
    monkeypatch: pytest.MonkeyPatch, state: ThermodynamicState, cache: ContextCache
) -> None:
    move = TBGMove(GaussianGenerator(), n_proposals=2, seed=15)
    before = trajectory(move, state, cache, 3)
    stored = move.__getstate__()
    forget_moves(monkeypatch)
    restored = TBGMove.__new__(TBGMove)
    restored.__setstate__(stored)
    assert restored.statistics == stored["statistics"]
    register_generator(GaussianGenerator())
    after = trajectory(restored, state, cache, 3)
    assert restored.statistics["n_moves"] == 6
    assert not np.isin(after, before).any()  # the same seed goes on, it does not start anew


def test_restarts_begun_by_different_copies_share_no_proposal(
    monkeypatch: pytest.MonkeyPatch, state: ThermodynamicState, cache: ContextCache
) -> None:
    """In SAMS each process may begin with the copy of another thermodynamic state."""
    move = TBGMove(GaussianGenerator(), n_proposals=1, seed=15)
    stored = [utils.serialize(copy.deepcopy(move)) for _ in range(4)]
    frames = []
    for begins in range(4):
        forget_moves(monkeypatch)
        register_generator(GaussianGenerator())
        copies = [utils.deserialize(each) for each in stored]
        frames.append(trajectory(copies[begins], state, cache, 4))
        stored = [utils.serialize(each) for each in copies]
    assert len(np.unique(np.concatenate(frames)[:, 0, 0])) == 16


def test_proposals_of_other_ranks_count(state: ThermodynamicState, cache: ContextCache) -> None:
    """openmmtools tells each rank what the moves of the others have counted, and stores rank 0."""
    idle, busy = (TBGMove(GaussianGenerator(), n_proposals=2, seed=16) for _ in range(2))
    untouched = copy.deepcopy(idle)
    trajectory(busy, state, cache, 3)
    idle.statistics = busy.statistics
    assert untouched.__getstate__()["statistics"]["n_drawn"] == 6
    idle.statistics = idle.statistics | {"n_drawn": 4}  # of a rank that has drawn less
    assert idle.statistics["n_drawn"] == 6


def test_a_new_process_loads_the_generator_once_and_late(
    monkeypatch: pytest.MonkeyPatch, state: ThermodynamicState, cache: ContextCache
) -> None:
    stored = TBGMove(GaussianGenerator()).__getstate__()
    forget_moves(monkeypatch)
    calls = []

    def load_generator(reference: str, sha256: str) -> GaussianGenerator:
        calls.append((reference, sha256))
        return GaussianGenerator()

    generator_module = SimpleNamespace(load_generator=load_generator)
    monkeypatch.setitem(sys.modules, "openmm_tbg.generator", generator_module)
    moves = [TBGMove.__new__(TBGMove) for _ in range(3)]
    for move, pool_id in zip(moves, ("one", "one", "two"), strict=True):
        move.__setstate__(stored | {"pool_id": pool_id})
        assert move.summary().n_proposed == 0
    assert calls == []
    for move in moves:
        move.apply(state, sampler_state(), context_cache=cache)
    assert calls == [("toy", GaussianGenerator().sha256)]
    assert moves[0].generator is moves[2].generator


def test_a_state_of_another_version_is_refused() -> None:
    stored = TBGMove(GaussianGenerator()).__getstate__()
    with pytest.raises(RuntimeError, match="has version 99, this openmm_tbg reads 3"):
        TBGMove.__new__(TBGMove).__setstate__(stored | {"version": 99})


def test_statistics_can_be_set() -> None:
    move = TBGMove(GaussianGenerator())
    counts = dict.fromkeys(move.statistics, 3) | {"seconds": 1.5}
    move.statistics = counts
    assert move.statistics == counts
    assert len(move.statistics) == 15


def test_replica_exchange_counts_each_state_and_shares_no_proposal(
    tmp_path: Any, cache: ContextCache
) -> None:
    states = [ThermodynamicState(harmonic_system(), T * unit.kelvin) for T in (300, 330, 360)]
    move = SequenceMove([TBGMove(shifted_and_narrow(), n_proposals=2, seed=16), hmc()])
    sampler = ReplicaExchangeSampler(
        mcmc_moves=move, number_of_iterations=4, online_analysis_interval=None
    )
    sampler.sampler_context_cache = sampler.energy_context_cache = cache
    sampler.create(states, [sampler_state()] * 3, MultiStateReporter(str(tmp_path / "run.nc")))
    sampler.run()
    tallies = [moves.statistics[0] for moves in sampler.mcmc_moves]
    assert [tally["n_proposed"] for tally in tallies] == [8, 8, 8]
    assert len({tally["log_sum_weights"] for tally in tallies}) == 3


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "message"), REFUSALS, ids=lambda x: getattr(x, "__name__", ""))
def test_unsupported_systems_are_refused(spoil: Spoil, message: str, cache: ContextCache) -> None:
    system = harmonic_system()
    spoil(system)
    move = TBGMove(GaussianGenerator())
    with pytest.raises(ValueError, match=message):
        move.apply(harmonic_state(system), sampler_state(), context_cache=cache)
    assert move.statistics["n_proposed"] == 0


def test_arguments_out_of_range_are_refused() -> None:
    for arguments, message in (
        ({"n_proposals": 0}, "n_proposals is 0: propose at least one"),
        ({"batch_size": 0}, "batch_size is 0: draw at least one"),
        ({"batches_ahead": -1}, "batches_ahead is -1: give a number"),
        ({"kernel": "gibbs"}, "'gibbs' is unknown: choose one of metropolis, multiple"),
    ):
        with pytest.raises(ValueError, match=message):
            TBGMove(GaussianGenerator(), **arguments)


def test_openmmtools_takes_the_move_for_what_it_is() -> None:
    """Containers iterate over what is iterable, and count the MD time of `timestep`, `n_steps`."""
    move = TBGMove(GaussianGenerator())
    for name in ("__iter__", "__len__", "__getitem__", "timestep", "n_steps"):
        assert not hasattr(move, name)
