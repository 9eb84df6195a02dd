"""Frames follow the Boltzmann distribution, come again with their seed, and are stored whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
from assertions import assert_mean
from openmm import app, unit
from scipy.integrate import quad

from openmm_tbg import simulation
from openmm_tbg.reference import ReferenceSystem, alanine_dipeptide
from openmm_tbg.simulation import (
    Dynamics,
    Frames,
    load_frames,
    repartition_hydrogen_mass,
    simulate,
)

LENGTH_NM = 0.11
WIDTH_NM = 0.01
KT = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
SHORT = Dynamics(interval_ps=0.02, equilibration_ps=0.1)


@pytest.fixture
def diatomic() -> ReferenceSystem:
    """A C-H bond in empty space: p(r) is r^2 exp(-(r - r0)^2 / 2 w^2)."""
    topology = app.Topology()
    residue = topology.addResidue("CH", topology.addChain())
    carbon = topology.addAtom("C", app.element.carbon, residue)
    hydrogen = topology.addAtom("H", app.element.hydrogen, residue)
    topology.addBond(carbon, hydrogen)
    system = openmm.System()
    for atom in (carbon, hydrogen):
        system.addParticle(atom.element.mass)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, LENGTH_NM, KT / WIDTH_NM**2)
    system.addForce(bond)
    starts_nm = np.array([[[0.0, 0, 0], [LENGTH_NM, 0, 0]], [[0.0, 0, 0], [0, 0.12, 0]]])
    return ReferenceSystem(topology, system, starts_nm, 300.0, ("harmonic",))


@pytest.fixture(scope="module")
def alanine() -> ReferenceSystem:
    return alanine_dipeptide()


@pytest.fixture
def run(diatomic: ReferenceSystem, tmp_path: Path) -> Callable[..., Frames]:
    def run(name: str = "frames.npz", **changes: object) -> Frames:
        settings = {"dynamics": SHORT, "n_frames": 8, "n_walkers": 2, "seed": 7} | changes
        return simulate(diatomic, tmp_path / name, **settings)

    return run


def boltzmann_mean(observable: Callable[[float], float]) -> float:
    def weight(r: float) -> float:
        return r**2 * np.exp(-((r - LENGTH_NM) ** 2) / (2 * WIDTH_NM**2))

    ends = (LENGTH_NM - 8 * WIDTH_NM, LENGTH_NM + 8 * WIDTH_NM)
    return quad(lambda r: observable(r) * weight(r), *ends)[0] / quad(weight, *ends)[0]


def assert_bond_is_thermal(run: Callable[..., Frames]) -> None:
    dynamics = Dynamics(interval_ps=0.1, friction_per_ps=20.0, equilibration_ps=1.0)
    frames = run(dynamics=dynamics, n_frames=4000, n_walkers=4)
    lengths = np.linalg.norm(np.diff(frames.positions_nm.astype(float), axis=1)[:, 0], axis=1)
    assert_mean(lengths, boltzmann_mean(lambda r: r))
    stretches = (lengths - LENGTH_NM) ** 2
    assert_mean(stretches, boltzmann_mean(lambda r: (r - LENGTH_NM) ** 2))


def test_a_bond_has_its_boltzmann_width(run: Callable[..., Frames]) -> None:
    assert_bond_is_thermal(run)


@pytest.mark.parametrize("factor", [0.75, 1.3], ids=["too cold", "too hot"])
def test_the_width_shows_a_wrong_temperature(
    run: Callable[..., Frames], monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    right = openmm.LangevinMiddleIntegrator
    monkeypatch.setattr(
        openmm,
        "LangevinMiddleIntegrator",
        lambda temperature, *others: right(factor * temperature, *others),
    )
    with pytest.raises(AssertionError, match="sigma from"):
        assert_bond_is_thermal(run)


def energy(system: openmm.System, positions_nm: np.ndarray) -> float:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions_nm)
    return context.getState(energy=True).getPotentialEnergy()._value


def masses_amu(system: openmm.System) -> np.ndarray:
    return np.array([system.getParticleMass(k)._value for k in range(system.getNumParticles())])


def test_heavier_hydrogens_change_neither_total_mass_nor_energy(
    alanine: ReferenceSystem,
) -> None:
    before = masses_amu(alanine.system)
    heavier = repartition_hydrogen_mass(alanine.system, alanine.topology, 4.0)
    after = masses_amu(heavier)
    hydrogens = [atom.element.symbol == "H" for atom in alanine.topology.atoms()]
    np.testing.assert_array_equal(after[hydrogens], 4.0)
    assert after.sum() == pytest.approx(before.sum(), rel=1e-14)
    assert after.min() > 3.0
    assert energy(heavier, alanine.positions_nm) == energy(alanine.system, alanine.positions_nm)
    np.testing.assert_array_equal(masses_amu(alanine.system), before)


def test_hydrogens_cannot_take_more_than_there_is(alanine: ReferenceSystem) -> None:
    with pytest.raises(ValueError, match=r"hydrogen_mass_amu=6\.0 leaves -2\.97 amu.*lighter"):
        repartition_hydrogen_mass(alanine.system, alanine.topology, 6.0)


def test_a_seed_gives_the_same_frames_and_walkers_differ(run: Callable[..., Frames]) -> None:
    first, again, other = run("a.npz"), run("b.npz"), run("c.npz", seed=8)
    np.testing.assert_array_equal(first.positions_nm, again.positions_nm)
    assert first.metadata == again.metadata
    assert not np.isin(other.positions_nm, first.positions_nm).any()
    assert len(np.unique(first.positions_nm[:, 0, 0])) == 8


def test_walkers_take_the_starts_in_turn(run: Callable[..., Frames]) -> None:
    frozen = Dynamics(interval_ps=1e-9, timestep_fs=1e-6, equilibration_ps=0.0)
    frames = run(dynamics=frozen, n_frames=3, n_walkers=3)
    lengths = np.linalg.norm(np.diff(frames.positions_nm, axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(lengths, [0.11, 0.12, 0.11], atol=1e-6)
    assert frames.metadata["start_of_walker"] == [0, 1, 0]


def test_processes_share_the_walkers_without_a_trace(run: Callable[..., Frames]) -> None:
    alone, shared = run("alone.npz"), run("shared.npz", n_processes=2)
    np.testing.assert_array_equal(shared.positions_nm, alone.positions_nm)


def test_frames_are_stored_centred_with_their_history(
    run: Callable[..., Frames], tmp_path: Path
) -> None:
    frames = run()
    stored = load_frames(tmp_path / "frames.npz")
    np.testing.assert_array_equal(stored.positions_nm, frames.positions_nm)
    assert stored.metadata == frames.metadata
    assert stored.positions_nm.dtype == np.float32
    np.testing.assert_allclose(stored.positions_nm.mean(axis=1), 0, atol=1e-8)
    history = stored.metadata
    assert history["hydrogen_mass_amu"] == history["masses_amu"][1] == 4.0
    assert (history["temperature_K"], history["seed"], history["timestep_fs"]) == (300.0, 7, 2.0)


def test_a_write_that_fails_leaves_nothing(
    run: Callable[..., Frames], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(file: object, **arrays: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space left"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_an_explosion_is_said(run: Callable[..., Frames]) -> None:
    coarse = Dynamics(interval_ps=0.1, timestep_fs=50.0, equilibration_ps=10.0)
    with pytest.raises(RuntimeError, match=r"walker 0 blew up .* timestep_fs below 50"):
        run(dynamics=coarse)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_frames": 9}, ValueError, "n_frames a multiple of n_walkers"),
        ({"n_walkers": 0}, ValueError, "at least 1"),
        ({"name": "frames.dcd"}, ValueError, r"ends in \.npz"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    run: Callable[..., Frames], changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(**changes)


def test_nothing_is_overwritten(run: Callable[..., Frames]) -> None:
    run()
    with pytest.raises(FileExistsError, match="choose another name"):
        run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interval_ps": 0.003}, "take a multiple of 0.002 ps"),
        ({"interval_ps": 0.0}, "whole number of steps"),
        ({"timestep_fs": 0.0}, "must be above 0"),
        ({"equilibration_ps": -1.0}, "cannot be negative"),
    ],
)
def test_dynamics_that_cannot_be_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **change)


def test_a_file_without_positions_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", energies=np.zeros(3))
    with pytest.raises(ValueError, match=r"\['energies'\], but no positions_nm"):
        load_frames(tmp_path / "other.npz")


def test_a_log_file_gets_few_lines(
    run: Callable[..., Frames], capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    assert simulation.SECONDS_BETWEEN_LOG_LINES > 1
    assert "\x1b" not in capsys.readouterr().err
