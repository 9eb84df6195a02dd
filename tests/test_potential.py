"""Batches agree with single evaluations; Systems without a Cartesian density are refused."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools.states import ThermodynamicState
from openmmtools.testsystems import AlanineDipeptideVacuum
from oracles import (
    DIMENSIONS,
    FRAME,
    N_ATOMS,
    REFUSALS,
    WIDTH_NM,
    Spoil,
    harmonic_state,
    harmonic_system,
    mean_free_normal,
)

from openmm_tbg.arrays import Positions
from openmm_tbg.potential import ReducedPotential, require_supported


def verlet() -> openmm.VerletIntegrator:
    return openmm.VerletIntegrator(1.0 * unit.femtosecond)


def context_of(state: ThermodynamicState, platform: str) -> openmm.Context:
    return state.create_context(verlet(), openmm.Platform.getPlatformByName(platform))


def frames(n: int) -> Positions:
    return FRAME + WIDTH_NM * mean_free_normal(n, np.random.default_rng(1))


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_a_batch_equals_single_evaluations(platform: str) -> None:
    alanine = AlanineDipeptideVacuum(constraints=None)
    state = ThermodynamicState(alanine.system, 310 * unit.kelvin)
    reference = alanine.positions.value_in_unit(unit.nanometer)
    noise = np.random.default_rng(2).normal(scale=0.005, size=(5, *reference.shape))
    batch = ReducedPotential(state, context_of(state, platform))(reference + noise)

    alone = openmm.Context(alanine.system, verlet(), openmm.Platform.getPlatformByName(platform))
    kt = unit.MOLAR_GAS_CONSTANT_R * state.temperature
    for u, positions in zip(batch, reference + noise, strict=True):
        alone.setPositions(positions)
        assert u == pytest.approx(
            alone.getState(getEnergy=True).getPotentialEnergy() / kt, rel=1e-10
        )


def test_threads_take_turns() -> None:
    state = harmonic_state(harmonic_system())
    potential = ReducedPotential(state, context_of(state, "CPU"))
    batches = [frames(200) * scale for scale in (1.0, 1.1)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(potential, batches * 5))
    for u, batch in zip(found, batches * 5, strict=True):
        np.testing.assert_array_equal(u, potential(batch))


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_the_harmonic_molecule_has_its_closed_form(platform: str) -> None:
    state = harmonic_state()
    positions = frames(10)
    expected = np.square(positions - FRAME).sum(axis=(1, 2)) / (2 * WIDTH_NM**2)
    u = ReducedPotential(state, context_of(state, platform))(positions + [1.0, -2.0, 3.0])
    np.testing.assert_allclose(u, expected, rtol=1e-9)


def test_the_temperature_is_that_of_the_state() -> None:
    state = harmonic_state()
    context = context_of(state, "Reference")
    hot = ThermodynamicState(harmonic_system(), 2 * state.temperature)
    positions = frames(3)
    cold_u, hot_u = (ReducedPotential(each, context)(positions) for each in (state, hot))
    np.testing.assert_allclose(hot_u, cold_u / 2, rtol=1e-12)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_row_is_nan_and_spoils_no_other(platform: str, broken: float) -> None:
    state = harmonic_state()
    potential = ReducedPotential(state, context_of(state, platform))
    positions = frames(3)
    expected = potential(positions)
    positions[1, 2, 0] = broken
    u = potential(positions)
    assert not np.isfinite(u[1])
    np.testing.assert_array_equal(u[[0, 2]], expected[[0, 2]])


def test_a_context_that_fails_is_said_and_the_rest_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = harmonic_state()
    context = context_of(state, "Reference")
    potential, positions = ReducedPotential(state, context), frames(4)
    expected, forces = potential(positions), potential.forces(positions)
    get_state, calls = context.getState, itertools.count()

    def failing(**what: bool) -> openmm.State:
        if next(calls) % 4 == 1:
            raise openmm.OpenMMException("Error invoking kernel: CUDA_ERROR_LAUNCH_FAILED (719)")
        return get_state(**what)

    monkeypatch.setattr(context, "getState", failing)
    for found, correct in ((potential, expected), (potential.forces, forces)):
        with pytest.warns(RuntimeWarning, match=r"could not evaluate .* CUDA_ERROR_LAUNCH_FAILED"):
            u = found(positions)
        assert np.isnan(u[1]).all()
        np.testing.assert_array_equal(u[[0, 2, 3]], correct[[0, 2, 3]])


def test_no_rows_have_no_energies() -> None:
    state = harmonic_state()
    potential = ReducedPotential(state, context_of(state, "Reference"))
    assert potential(np.empty((0, N_ATOMS, 3))).shape == (0,)


def test_a_temperature_without_a_unit_is_refused() -> None:
    state = harmonic_state()
    context = context_of(state, "Reference")
    state.temperature = 300.0
    with pytest.raises(ValueError, match=r"no unit: set it to 300.0 \* unit.kelvin"):
        ReducedPotential(state, context)


def test_the_oracle_is_normalised() -> None:
    """<u> of a Gaussian in d dimensions is d/2: the oracle's width is that of its potential."""
    u = np.square(frames(20_000) - FRAME).sum(axis=(1, 2)) / (2 * WIDTH_NM**2)
    assert abs(u.mean() - DIMENSIONS / 2) < 4 * np.sqrt(DIMENSIONS / 2 / len(u))


@pytest.mark.parametrize(("spoil", "message"), REFUSALS, ids=lambda x: getattr(x, "__name__", ""))
def test_unsupported_systems_are_refused(spoil: Spoil, message: str) -> None:
    system = harmonic_system()
    require_supported(system, N_ATOMS)
    spoil(system)
    with pytest.raises(ValueError, match=message):
        require_supported(system, N_ATOMS)


def test_forces_are_minus_the_gradient_of_the_reduced_potential() -> None:
    state = harmonic_state()
    platform = openmm.Platform.getPlatformByName("Reference")
    context = state.create_context(openmm.VerletIntegrator(0.001), platform)
    potential = ReducedPotential(state, context)
    x = FRAME + 0.01 * mean_free_normal(2, np.random.default_rng(0))
    moved = x + 1e-6 * (steps := np.random.default_rng(1).normal(size=x.shape))
    forces = potential.forces((x + moved) / 2)
    expected = -(potential(moved) - potential(x)) / 1e-6
    np.testing.assert_allclose((forces * steps).sum(axis=(1, 2)), expected, rtol=1e-6)
    x[0, 0, 0] = np.nan
    assert np.isnan(potential.forces(x)[0]).any()
