"""A run in a folder: what it records, how it goes on after any end, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import oracles
import pytest
from assertions import assert_mean
from conftest import PowerLosses
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.mcmc import HMCMove, MCMCMove, SequenceMove, WeightedMove
from openmmtools.states import ThermodynamicState
from oracles import (
    DIMENSIONS,
    GaussianGenerator,
    half_space,
    harmonic_state,
    harmonic_system,
    positions_nm,
    sampler_state,
)
from toys import topology_of

from openmm_tbg.arrays import Cause
from openmm_tbg.move import TBGMove
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.run import MCMCRun
from openmm_tbg.run_record import RunRecord
from openmm_tbg.run_store import COLUMNS, RunStore, read_run

BLOCK = 5
TOPOLOGY = topology_of("CHON")


def generator(**changes: Any) -> GaussianGenerator:
    return GaussianGenerator(**{"width_nm": 0.025} | changes)


def hmc(n_steps: int = 4) -> HMCMove:
    return HMCMove(timestep=3.0 * unit.femtosecond, n_steps=n_steps)


def mixed(n_proposals: int = 2, **changes: Any) -> MCMCMove:
    return SequenceMove([hmc(), TBGMove(generator(**changes), n_proposals, seed=3)])


def started(path: Path, move: MCMCMove | None = None, **changes: Any) -> MCMCRun:
    """The run of these tests in a folder, new or old."""
    arguments = {
        "thermodynamic_state": harmonic_state(),
        "sampler_state": sampler_state(velocities=False),
        "topology": TOPOLOGY,
        "seed": 5,
        "block_size": BLOCK,
    }
    return MCMCRun(path, move=move or mixed(), **arguments | changes)


@pytest.fixture(scope="module")
def cache() -> ContextCache:
    return oracles.reference_cache()


@pytest.fixture
def run(tmp_path: Path, cache: ContextCache) -> MCMCRun:
    """One of three blocks."""
    run = started(tmp_path / "run")
    run.run(3 * BLOCK, cache)
    return run


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make this process like a new one, for moves."""
    return partial(oracles.forget_moves, monkeypatch)


def reduced_potentials(record: RunRecord) -> np.ndarray:
    context, _ = oracles.reference_cache().get_context(harmonic_state())
    return ReducedPotential(harmonic_state(), context)(record.positions_nm)


def content(path: Path) -> dict[str, bytes]:
    """All that blocks wrote."""
    files = [*path.rglob("c.*"), *path.glob("blocks/*.json")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_sound(record: RunRecord) -> None:
    """Rows belong together: u and log q to the state, and each proposal to one fate."""
    np.testing.assert_array_equal(record.u, reduced_potentials(record))
    centred = record.positions_nm - record.positions_nm.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(record.log_q, generator().evaluate(centred).log_q, atol=1e-9)
    assert (record.n_proposed == 2).all()
    fates = record.n_accepted + sum(record.n_rejected(cause) for cause in list(Cause)[1:])
    np.testing.assert_array_equal(fates, record.n_proposed)


# --- what is recorded --------------------------------------------------------------------------


def test_a_row_is_the_state_after_its_iteration(run: MCMCRun) -> None:
    record = read_run(run.path)
    assert len(record) == run.n_iterations == 3 * BLOCK
    assert_sound(record)
    np.testing.assert_array_equal(record.positions_nm[-1], positions_nm(run.sampler_state))
    tally = run.move.statistics[1]
    assert tally["n_accepted"] == record.n_accepted.sum() > 0
    assert tally["n_rejected_metropolis"] == record.n_rejected(Cause.METROPOLIS).sum() > 0


def test_the_folder_holds_its_system(run: MCMCRun) -> None:
    xml = (run.path / "system.xml").read_text()
    assert openmm.XmlSerializer.serialize(openmm.XmlSerializer.deserialize(xml)) == xml
    system = harmonic_state().get_system(remove_thermostat=True)
    assert xml == openmm.XmlSerializer.serialize(system)
    digest = sha256(xml.encode()).hexdigest()
    assert digest == read_run(run.path).metadata["system_sha256"]


def test_what_kills_left_half_written_goes(run: MCMCRun, cache: ContextCache) -> None:
    leftover = run.path / "u" / "c.3.0123.partial"
    leftover.write_bytes(b"half")
    read_run(run.path)
    assert leftover.exists()  # it may be that of a process at work
    run.run(4 * BLOCK, cache)
    assert not leftover.exists()
    assert_sound(read_run(run.path))


def test_counts_are_of_all_moves_with_proposals(tmp_path: Path, cache: ContextCache) -> None:
    filtered = TBGMove(GaussianGenerator(filter=half_space), n_proposals=3, seed=1)
    filtered.statistics = filtered.statistics | {"n_proposed": 1000}
    inner = WeightedMove([(filtered, 1.0)])
    run = started(tmp_path / "run", SequenceMove([inner, filtered, hmc(), filtered]))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        run.run(8 * BLOCK, cache)
    record = read_run(run.path)
    assert (record.n_proposed == 9).all()
    assert 0 < record.n_rejected(Cause.CHIRALITY).sum() < record.n_proposed.sum()


def test_log_q_is_recorded_only_where_it_is_known(tmp_path: Path, cache: ContextCache) -> None:
    move = SequenceMove([TBGMove(generator(), seed=1), hmc()])
    run = started(tmp_path / "run", move)
    run.run(BLOCK, cache)
    assert np.isnan(read_run(run.path).log_q).all()


@pytest.mark.parametrize("ending", ["xtc", "dcd", "pdb"])
def test_mdtraj_reads_the_export(run: MCMCRun, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{ending}"
    record = read_run(run.path)
    record.export(file)
    topology = mdtraj.Topology.from_openmm(TOPOLOGY)
    assert record.trajectory().topology == topology
    loaded = mdtraj.load(str(file), top=topology)
    np.testing.assert_allclose(loaded.xyz, record.positions_nm, atol=6e-4)


def test_progress_in_a_log_says_where_the_run_stands(
    run: MCMCRun, cache: ContextCache, capsys: pytest.CaptureFixture[str]
) -> None:
    run.run(4 * BLOCK, cache)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("run: iteration 15/20, ")
    assert last.startswith("run: iteration 20/20, ")


# --- going on ----------------------------------------------------------------------------------


def test_the_law_survives_interruptions_and_no_proposal_serves_twice(
    tmp_path: Path, cache: ContextCache, forget: Callable[[], None]
) -> None:
    """Each block belongs to a new process: a seed that starts anew would repeat proposals."""
    for number in range(1, 21):
        forget()
        move = TBGMove(generator(width_nm=0.021), n_proposals=2, seed=3)
        started(tmp_path / "run", move, block_size=25).run(25 * number, cache)
    record = read_run(tmp_path / "run")
    assert_mean(record.u, DIMENSIONS / 2)
    changes = 1 + np.count_nonzero(np.diff(record.u))
    assert len(np.unique(record.u)) == changes
    assert changes > 300


def test_the_length_is_that_of_the_whole_chain(run: MCMCRun, cache: ContextCache) -> None:
    before = content(run.path)
    for n in (3 * BLOCK, BLOCK):
        run.run(n, cache)
    assert content(run.path) == before
    run.run(5 * BLOCK, cache)
    assert len(read_run(run.path)) == 5 * BLOCK
    assert before.items() < content(run.path).items()
    for n in (0, -BLOCK, BLOCK + 1):
        with pytest.raises(ValueError, match=f"n_iterations is {n}: give a multiple .* {BLOCK}"):
            run.run(n, cache)


def test_a_checkpoint_is_the_state_bit_for_bit(run: MCMCRun, cache: ContextCache) -> None:
    again = started(run.path)
    there, here = again.sampler_state, run.sampler_state
    np.testing.assert_array_equal(positions_nm(there), positions_nm(here))
    np.testing.assert_array_equal(there.velocities._value, here.velocities._value)
    assert again.move.statistics == run.move.statistics


def test_in_one_piece_a_seed_gives_the_same_numbers(tmp_path: Path, cache: ContextCache) -> None:
    def chain(name: str, seed: int) -> RunRecord:
        moves = [TBGMove(generator(width_nm=width), 1, seed=3) for width in (0.019, 0.022)]
        run = started(tmp_path / name, WeightedMove([(move, 0.5) for move in moves]), seed=seed)
        run.run(4 * BLOCK, cache)
        return read_run(run.path)

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = chain("a", 5), chain("b", 5), chain("c", 6)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.u, other.u)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_model_may_have_moved(
    run: MCMCRun, cache: ContextCache, forget: Callable[[], None]
) -> None:
    forget()
    again = started(run.path, mixed(reference="/elsewhere/toy"))
    again.run(4 * BLOCK, cache)
    assert again.move.statistics[1]["n_moves"] == 4 * BLOCK


# --- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": topology_of("CHOP")}, "topology.atoms.element.3 is 'N' there and 'P' here"),
        ({"thermodynamic_state": harmonic_state(harmonic_system(1.0))}, "system_sha256 is"),
        (
            {"thermodynamic_state": ThermodynamicState(harmonic_system(), 310 * unit.kelvin)},
            r"temperature_K is 300.0 there and 310.0 here. Choose another folder",
        ),
        ({"move": mixed(width_nm=0.03)}, r"run: move.move_list.1.sha256 is '.*' there and '.*'"),
        ({"move": mixed(n_proposals=4)}, "n_proposals is 2 there and 4 here"),
        ({"move": SequenceMove([hmc(n_steps=9), TBGMove(generator(), 2, seed=3)])}, "n_steps is 4"),
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"block_size": 3}, "block_size is 5 there and 3 here"),
    ],
    ids=["topology", "system", "temperature", "model", "move", "inner move", "seed", "block size"],
)
def test_another_run_is_refused_by_name(
    run: MCMCRun, changes: dict[str, Any], message: str
) -> None:
    before = content(run.path)
    with pytest.raises(ValueError, match=message):
        started(run.path, **changes)
    assert content(run.path) == before


def test_arguments_that_cannot_be_are_refused(tmp_path: Path) -> None:
    constrained = harmonic_system()
    oracles.constrain(constrained)
    for changes, message in (
        ({"seed": -1}, "seed is -1 and block_size 5"),
        ({"block_size": 0}, "blocks of at least one iteration"),
        ({"thermodynamic_state": harmonic_state(constrained)}, "constraints=None"),
        ({"topology": topology_of("CHO")}, "4 particles"),
    ):
        with pytest.raises(ValueError, match=message):
            started(tmp_path / "run", **changes)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileExistsError, match="is there and no run"):
            started(path)
        with pytest.raises(FileNotFoundError, match="holds no run: start one"):
            read_run(path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RuntimeError, match=r"no block of .* is finished yet"):
        read_run(started(tmp_path / "new").path)


def test_an_energy_that_is_not_finite_is_not_stored(
    run: MCMCRun, cache: ContextCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = started(run.path.with_name("other"), hmc())
    monkeypatch.setattr(ReducedPotential, "__call__", lambda _, x: np.full(len(x), np.nan))
    with pytest.raises(RuntimeError, match="potential is nan in the block that is lost: shorten"):
        again.run(BLOCK, cache)
    assert again.n_iterations == 0


# --- damage and ends of all kinds --------------------------------------------------------------


@pytest.mark.parametrize("file", [*(f"{name}/c.1*" for name in COLUMNS), "blocks/000001.json"])
@pytest.mark.parametrize("how", ["flipped", "cut short", "missing"])
def test_damage_is_found_and_named(run: MCMCRun, file: str, how: str, cache: ContextCache) -> None:
    (damaged,) = run.path.glob(file)
    sound = bytearray(damaged.read_bytes())
    match how:
        case "flipped":
            sound[len(sound) // 2] ^= 1
            damaged.write_bytes(sound)
        case "cut short":
            damaged.write_bytes(sound[: len(sound) // 2])
        case "missing":
            damaged.unlink()
    with pytest.raises(RuntimeError, match=r"block 1 of .* is damaged: .* delete blocks/000001"):
        read_run(run.path)
    (run.path / "blocks/000002.json").unlink()
    if (last := run.path / "blocks/000001.json").exists():
        with pytest.raises(RuntimeError, match="block 1"):
            started(run.path)
        last.unlink()
    started(run.path).run(3 * BLOCK, cache)
    assert_sound(read_run(run.path))


def test_a_block_in_the_place_of_another_is_found(run: MCMCRun) -> None:
    for file in [*run.path.glob("*/c.0*"), run.path / "blocks/000000.json"]:
        name = file.name.replace("c.0", "c.1", 1).replace("000000", "000001")
        (file.parent / name).write_bytes(file.read_bytes())
    with pytest.raises(RuntimeError, match="block 1 "):
        read_run(run.path)


def child(path: Path, n_blocks: int, sabotage: Callable[[], None] = lambda: None) -> int:
    """A process that runs the chain."""
    if not (pid := os.fork()):
        status = 1
        try:
            sabotage()
            started(path).run(n_blocks * BLOCK, oracles.reference_cache())
            status = 0
        finally:
            os._exit(status)
    return pid


def test_kills_at_random_instants_lose_the_block_at_work_alone(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    rng = np.random.default_rng(0)
    for _ in range(8):
        n_before = run.n_iterations
        pid = child(run.path, 10_000)
        while run.n_iterations == n_before:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.1))
        n_seen = run.n_iterations
        assert_sound(read_run(run.path))  # while it goes on
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert run.n_iterations >= n_seen
        assert_sound(read_run(run.path))
    n_blocks = run.n_iterations // BLOCK + 1
    assert os.waitpid(child(run.path, n_blocks), 0)[1] == 0
    assert_sound(read_run(run.path))
    assert len(read_run(run.path)) == n_blocks * BLOCK


RENAMES_OF_A_BLOCK = 2 * len(COLUMNS) + 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_each_rename_loses_the_block_alone(run: MCMCRun, moment: str) -> None:
    before = content(run.path)
    for n_done in range(RENAMES_OF_A_BLOCK):
        assert os.waitpid(child(run.path, 4, partial(die_at, n_done, moment)), 0)[1]
        last = (moment, n_done) == ("after", RENAMES_OF_A_BLOCK - 1)
        record = read_run(run.path)
        assert len(record) == (4 if last else 3) * BLOCK
        assert before.items() <= content(run.path).items()
    if not last:
        assert os.waitpid(child(run.path, 4), 0)[1] == 0
    assert_sound(read_run(run.path))
    assert len(read_run(run.path)) == 4 * BLOCK


def die_at(number: int, moment: str) -> None:
    """Kill this process before or after its rename of this number."""
    replace, n_replaced = Path.replace, 0

    def dying(partial: Path, target: Path) -> Path:
        nonlocal n_replaced
        if n_replaced == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        n_replaced += 1
        path = replace(partial, target)
        if n_replaced > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    Path.replace = dying  # type: ignore[method-assign]


def test_a_loss_of_power_loses_the_block_at_work_alone(
    run: MCMCRun,
    cache: ContextCache,
    power_losses: Callable[[Path], PowerLosses],
    tmp_path: Path,
) -> None:
    losses = power_losses(run.path)
    run.run(4 * BLOCK, cache)
    lengths = []
    for folder in losses.outcomes(tmp_path / "found"):
        record = read_run(folder)
        assert_sound(record)
        lengths.append(len(record) // BLOCK)
    assert set(lengths[:-2]) == {3, 4}
    assert lengths[-2:] == [4, 4]
    assert content(folder) == content(run.path)  # all that was written is known to the test


def test_a_new_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[int | str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def recorded_rename(folder: Path, name: Path) -> Path:
        events.append("rename")
        return rename(folder, name)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    path = started(tmp_path / "run").path
    named = events.index("rename")
    assert {part.stat().st_ino for part in (path, *path.rglob("*"))} <= set(events[:named])
    assert tmp_path.stat().st_ino in events[named:]


def test_a_second_process_waits_for_the_first(run: MCMCRun, tmp_path: Path) -> None:
    held, left = tmp_path / "held", tmp_path / "left"
    if not (first := os.fork()):
        with RunStore(run.path).writing():
            held.touch()
            time.sleep(1)
            left.touch()
        os._exit(0)
    while not held.exists():
        time.sleep(0.01)
    second = child(run.path, 4)
    assert [os.waitpid(pid, 0)[1] for pid in (first, second)] == [0, 0]
    written = (run.path / "blocks/000003.json").stat().st_mtime_ns
    assert written > left.stat().st_mtime_ns


def test_a_full_and_a_read_only_disk(small_disk: Path, cache: ContextCache) -> None:
    run = started(small_disk / "run")
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*has room"):
        run.run(40 * BLOCK, cache)
    n_done = run.n_iterations
    assert n_done > 0
    assert_sound(read_run(run.path))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    again = started(run.path)
    assert_sound(read_run(run.path))
    with pytest.raises(OSError, match=r"Read-only file system.*are sound"):
        again.run(40 * BLOCK, cache)
    with pytest.raises(
        OSError, match=r"new cannot be written \(Read-only file system\).*run again"
    ):
        started(small_disk / "new")
    subprocess.run(["mount", "-o", "remount,rw,size=4m", small_disk], check=True)
    again.run(40 * BLOCK, cache)
    assert_sound(read_run(run.path))
    assert run.n_iterations == 40 * BLOCK > n_done
