"""Frames follow the Boltzmann distribution, come again with their seed, and survive a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from assertions import assert_mean
from scipy.integrate import quad
from toys import LENGTH_NM, WIDTH_NM, backbone, diatomic

from openmm_tbg.frames import Frames, FrameStore, load_frames
from openmm_tbg.progress import SECONDS_BETWEEN_LOG_LINES
from openmm_tbg.reference import ReferenceSystem, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, repartition_hydrogen_mass, simulate, trajectory, walkers

SHORT = Dynamics(interval_ps=0.02, equilibration_ps=0.1)
LONG = {
    "dynamics": Dynamics(interval_ps=0.1, equilibration_ps=1.0),
    "n_frames": 12_000,
    "n_walkers": 2,
    "seed": 7,
}


@pytest.fixture(scope="module")
def alanine() -> ReferenceSystem:
    return alanine_dipeptide()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Frames]:
    def run(name: str = "frames", **changes: object) -> Frames:
        settings = {"dynamics": SHORT, "n_frames": 8, "n_walkers": 2, "seed": 7} | changes
        return simulate(diatomic(), tmp_path / name, **settings)

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
    first, again = run("a", n_walkers=4), run("b", n_walkers=4)  # two from each start
    other = run("c", n_walkers=4, seed=8)
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
    alone, shared = run("alone"), run("shared", n_processes=2)
    np.testing.assert_array_equal(shared.positions_nm, alone.positions_nm)


def test_frames_are_stored_centred_with_their_history(
    run: Callable[..., Frames], tmp_path: Path
) -> None:
    frames = run()
    stored = load_frames(tmp_path / "frames")
    np.testing.assert_array_equal(stored.positions_nm, frames.positions_nm)
    assert stored.metadata == frames.metadata
    assert stored.positions_nm.dtype == np.float32
    np.testing.assert_allclose(stored.positions_nm.mean(axis=1), 0, atol=1e-8)
    history = stored.metadata
    assert history["hydrogen_mass_amu"] == history["masses_amu"][1] == 4.0
    assert (history["temperature_K"], history["seed"], history["timestep_fs"]) == (300.0, 7, 2.0)


def test_an_explosion_is_said(run: Callable[..., Frames]) -> None:
    coarse = Dynamics(interval_ps=0.1, timestep_fs=50.0, equilibration_ps=10.0)
    with pytest.raises(RuntimeError, match=r"walker 0 of frames blew up .* timestep_fs below 50"):
        run(dynamics=coarse)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_frames": 9}, ValueError, "n_frames a multiple of n_walkers"),
        ({"n_walkers": 0}, ValueError, "at least 1"),
        ({"name": "frames.npz"}, ValueError, r"name it without \.npz"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    run: Callable[..., Frames], changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(**changes)


def test_another_simulation_goes_elsewhere(run: Callable[..., Frames]) -> None:
    run()
    with pytest.raises(ValueError, match=r"timestep_fs is 2\.0 there, 1\.0 here.* another folder"):
        run(dynamics=dataclasses.replace(SHORT, timestep_fs=1.0))


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


def test_a_log_file_gets_few_lines(
    run: Callable[..., Frames], capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    assert SECONDS_BETWEEN_LOG_LINES > 1
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"walker {k}: frame {n}/4" for k in (0, 1) for n in (0, 4)]


def test_a_stop_leaves_no_trace(
    run: Callable[..., Frames], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    monkeypatch.setattr(trajectory, "FRAMES_PER_CHUNK", 3)
    written: list[Path] = []

    def stop_after_three(path: Path, content: bytes) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        FrameStore(tmp_path / "cut")  # readable at every moment
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "write_atomically", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    assert len(load_frames(tmp_path / "cut")) == 7
    resumed = run("cut")
    for column in ("positions_nm", "forces_per_nm", "bias_kT"):
        np.testing.assert_array_equal(getattr(resumed, column), getattr(whole, column))
    assert resumed.metadata == whole.metadata


def test_frames_without_their_checkpoint_are_left_alone(
    run: Callable[..., Frames], tmp_path: Path
) -> None:
    whole = run()
    for checkpoint in (tmp_path / "frames").glob("*.checkpoint"):
        checkpoint.unlink()
    np.testing.assert_array_equal(run().positions_nm, whole.positions_nm)
    FrameStore(tmp_path / "frames", "r+").finish(0, 3)
    with pytest.raises(FileNotFoundError, match="is gone, without which walker 0 cannot go on"):
        run()


@pytest.mark.parametrize("how", ["flipped", "cut short"])
def test_a_damaged_checkpoint_is_found(
    run: Callable[..., Frames], tmp_path: Path, how: str
) -> None:
    run()
    checkpoint = tmp_path / "frames" / "walker_0000.checkpoint"
    stored = bytearray(checkpoint.read_bytes())
    stored[len(stored) // 2] ^= 1
    checkpoint.write_bytes(stored if how == "flipped" else stored[: len(stored) // 2])
    assert len(run()) == 8  # they are whole without it
    FrameStore(tmp_path / "frames", "r+").finish(0, 3)
    with pytest.raises(RuntimeError, match=r"walker_0000.checkpoint is damaged, .* load_frames"):
        run()


def test_frames_that_are_cut_short_are_said(run: Callable[..., Frames], tmp_path: Path) -> None:
    run()
    file = tmp_path / "frames" / "positions_nm.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match=r"positions_nm.npy is damaged \(.*\): put a copy"):
        load_frames(tmp_path / "frames")


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_walker_that_fails_is_said_and_the_others_go_on(
    tmp_path: Path, n_processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    reference = diatomic()
    torn_nm = np.stack([1e200 * reference.starts_nm[0], reference.starts_nm[1]])
    arguments = {"dynamics": SHORT, "n_frames": 12, "n_walkers": 3, "seed": 7}
    with pytest.raises(RuntimeError, match="walker 0 of frames blew up before frame 0"):
        simulate(
            dataclasses.replace(reference, starts_nm=torn_nm), tmp_path / "frames",
            n_processes=n_processes, **arguments,
        )  # fmt: skip
    assert FrameStore(tmp_path / "frames").n_done.tolist() == [0, 4, 0]  # 2 starts as 0
    assert [line.split(" blew")[0] for line in caplog.messages] == [
        f"walker {k} failed: walker {k} of frames" for k in (0, 2)
    ]


class Deadly(str):
    """The name of a trajectory that ends the process that it is sent to."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (137,)


def test_a_process_that_dies_is_said_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotaged(trajectories: list[trajectory.Trajectory], n_processes: int) -> None:
        first, *others = trajectories
        trajectory.run_all([dataclasses.replace(first, name=Deadly("it")), *others], n_processes)

    monkeypatch.setattr(walkers, "run_all", sabotaged)
    arguments = {"dynamics": SHORT, "n_frames": 12, "n_walkers": 3, "seed": 7, "n_processes": 2}
    with pytest.raises(RuntimeError, match=r"process of it was ended from outside.* again, which"):
        simulate(diatomic(), tmp_path / "frames", **arguments)
    assert FrameStore(tmp_path / "frames").n_done.tolist() == [0, 4, 4]
    monkeypatch.undo()
    assert len(simulate(diatomic(), tmp_path / "frames", **arguments)) == 12


def test_a_full_and_a_read_only_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = Dynamics(interval_ps=0.002, equilibration_ps=0.0)

    def run(name: str = "frames", n_frames: int = 800) -> Frames:
        out, settings = small_disk / name, {"n_frames": n_frames, "n_walkers": 1, "seed": 7}
        return simulate(diatomic(), out, dynamics=dynamics, **settings)

    with pytest.raises(OSError, match=r"large cannot be written \(No space left.*has room"):
        run("large", 2000)
    subprocess.run(["rm", "-r", small_disk / "large"], check=True)
    chunk, filler = trajectory._chunk, small_disk / "filler"

    def chunk_on_a_full_disk(*arguments: Any) -> Any:
        if arguments[2]:
            with contextlib.suppress(OSError), filler.open("wb") as file:
                file.write(bytes(10**6))
        return chunk(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "_chunk", chunk_on_a_full_disk)
        with pytest.raises(OSError, match=r"state of walker 0 cannot .*No space .*are sound"):
            run()
    assert len(load_frames(small_disk / "frames")) == 500
    gc.collect()  # what is mapped keeps the disk busy
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert len(load_frames(small_disk / "frames")) == 500
    with pytest.raises(OSError, match=r"frames cannot be written \(Read-only file system\)"):
        run()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    filler.unlink()
    whole = simulate(
        diatomic(), small_disk.parent / "whole",
        dynamics=dynamics, n_frames=800, n_walkers=1, seed=7,
    )  # fmt: skip
    np.testing.assert_array_equal(run().positions_nm, whole.positions_nm)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return simulate(backbone(), tmp_path_factory.mktemp("whole"), **LONG)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_kill_leaves_no_trace(tmp_path: Path, whole: Frames, n_processes: int) -> None:
    out = tmp_path / "killed"
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_simulation import LONG, backbone, simulate\n"
        "if __name__ == '__main__':\n"
        f"    simulate(backbone(), Path({str(out)!r}), **LONG, n_processes={n_processes})\n"
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
        if (out / "done.npy").exists() and FrameStore(out).n_done.sum() >= 1000:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)  # the pipe closes when the last worker has ended
    assert 1000 <= len(load_frames(out)) < LONG["n_frames"]
    resumed = simulate(backbone(), out, **LONG)
    np.testing.assert_array_equal(resumed.positions_nm, whole.positions_nm)
    np.testing.assert_array_equal(resumed.forces_per_nm, whole.forces_per_nm)


def test_stiff_terms_are_kept(run: Callable[..., Frames]) -> None:
    history = run().metadata
    assert history["bonds"] == [[0, 1]]
    assert history["bond_lengths_nm"] == [LENGTH_NM]
    assert history["bond_stiffness_kT_per_nm2"] == pytest.approx([WIDTH_NM**-2])
    assert history["angles"] == []
    assert history["rare_states_by"] == ["starts"]


def test_stored_forces_pull_back_to_the_rest_length(run: Callable[..., Frames]) -> None:
    frames = run()
    assert frames.forces_per_nm is not None
    bond = np.diff(frames.positions_nm.astype(float), axis=1)[:, 0]
    length = np.linalg.norm(bond, axis=1, keepdims=True)
    expected = -(length - LENGTH_NM) / WIDTH_NM**2 * bond / length
    np.testing.assert_allclose(frames.forces_per_nm[:, 1], expected, atol=1e-2)
