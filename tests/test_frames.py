"""A store shows finished frames only, of one simulation only, and none that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from openmm_tbg.files import exclusive
from openmm_tbg.frames import FrameStore, load_frames

MANIFEST = {
    "walkers": 2,
    "frames_per_walker": 4,
    "atoms": 3,
    "bonds": [[0, 1], [1, 2]],
    "temperature_K": 300.0,
    "seed": 1,
    "versions": {"openmm": "8.6"},
}


def some_frames(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    positions = np.array([[-0.1, 0, 0], [0, 0, 0], [0.1, 0, 0]]) + rng.normal(0, 0.003, (n, 3, 3))
    return positions, rng.normal(size=(n, 3, 3)), rng.normal(size=n)


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore.create(tmp_path / "frames", MANIFEST)


def fill(store: FrameStore, walker: int, columns: tuple[np.ndarray, ...]) -> None:
    store.write(walker, 0, *columns)
    store.finish(walker, len(columns[0]))


def test_only_finished_frames_are_seen(store: FrameStore) -> None:
    first, second = some_frames(3), some_frames(4)
    store.write(0, 0, *first)
    assert len(load_frames(store.path)) == 0
    fill(store, 1, second)
    store.finish(0, 2)
    frames = load_frames(store.path)
    for column, of_first, of_second in zip(
        (frames.positions_nm, frames.forces_per_nm, frames.bias_kT), first, second, strict=True
    ):
        expected = np.concatenate([of_first[:2], of_second]).astype(np.float32)
        np.testing.assert_array_equal(column, expected)
    np.testing.assert_array_equal(store.n_done, [2, 4])
    assert (store.complete, frames.n_skipped) == (False, 0)
    assert frames.metadata == MANIFEST


def test_a_frame_has_the_weight_that_undoes_its_bias(store: FrameStore) -> None:
    positions, forces, bias = some_frames(4)
    fill(store, 0, (positions, forces, bias))
    weights = load_frames(store.path).log_weights
    assert weights is not None
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, bias.astype(np.float32))


def test_the_same_manifest_opens_what_it_made(store: FrameStore) -> None:
    fill(store, 0, some_frames(4))
    again = FrameStore.create(store.path, dict(reversed(MANIFEST.items())))
    np.testing.assert_array_equal(again.n_done, [4, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature_K": 310.0}, r"temperature_K is 300\.0 there, 310\.0 here"),
        ({"seed": 2}, "seed is 1 there, 2 here"),
        ({"atoms": 4}, "atoms is 3 there, 4 here"),
        ({"bias": {"grid": 24}}, r'bias is null there, \{"grid": 24\} here'),
        ({"seed": 3, "versions": {}}, "seed is .*; versions is .*another folder"),
    ],
)
def test_another_simulation_is_refused(
    store: FrameStore, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FrameStore.create(store.path, MANIFEST | change)


def test_another_version_may_read_but_not_go_on(store: FrameStore) -> None:
    newer = MANIFEST | {"versions": {"openmm": "9.0"}}
    with pytest.raises(ValueError, match=r"versions is .*8\.6.* there"):
        FrameStore.create(store.path, newer)
    for walker in (0, 1):
        fill(store, walker, some_frames(4))
    assert FrameStore.create(store.path, newer).complete


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(FileExistsError, match=r"\['thesis.tex'\], but no manifest.json"):
        FrameStore.create(tmp_path, MANIFEST)
    with pytest.raises(FileExistsError, match=r"thesis.tex is a file: give the name of a folder"):
        FrameStore.create(tmp_path / "thesis.tex", MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_creation_that_was_cut_off_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "frames"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_disk)
        with pytest.raises(OSError, match="no space left"):
            FrameStore.create(path, MANIFEST)
    with pytest.raises(FileNotFoundError, match="holds no frames yet: start its simulation again"):
        load_frames(path)
    fill(FrameStore.create(path, MANIFEST), 0, some_frames(4))
    assert len(load_frames(path)) == 4


def test_the_disk_is_claimed_at_once(store: FrameStore) -> None:
    claimed = (store.path / "positions_nm.npy").stat()
    assert 512 * claimed.st_blocks >= claimed.st_size == 128 + 8 * 3 * 3 * 4


def test_broken_frames_are_skipped_and_counted(
    store: FrameStore, caplog: pytest.LogCaptureFixture
) -> None:
    positions, forces, bias = some_frames(4)
    positions[1, 2, 0] += 0.15  # 2.5 times its length
    fill(store, 0, (positions, forces, bias))
    positions, forces, bias = some_frames(4)
    positions[0, 1, 1] = np.nan
    forces[1, 0, 0] = np.inf
    bias[2] = -np.inf
    positions[3, 2, 0] += 0.07
    fill(store, 1, (positions, forces, bias))
    frames = load_frames(store.path)
    assert (len(frames), frames.n_skipped) == (4, 4)
    assert frames.forces_per_nm is not None
    np.testing.assert_array_equal(frames.forces_per_nm[3], forces[3].astype(np.float32))
    assert "4 of 8 frames are skipped" in caplog.text


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        load_frames(tmp_path)


def test_older_files_are_read(tmp_path: Path) -> None:
    positions = some_frames(3)[0].astype(np.float32)
    metadata = json.dumps({"temperature_K": 300.0})
    np.savez(tmp_path / "old.npz", positions_nm=positions, metadata=metadata)
    frames = load_frames(tmp_path / "old.npz")
    np.testing.assert_array_equal(frames.positions_nm, positions)
    assert (frames.forces_per_nm, frames.bias_kT, frames.log_weights) == (None, None, None)
    assert frames.metadata == {"temperature_K": 300.0}


def test_a_file_without_positions_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", energies=np.zeros(3))
    with pytest.raises(ValueError, match=r"\['energies'\], but no positions_nm"):
        load_frames(tmp_path / "other.npz")


def test_a_lock_makes_the_next_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    def enter() -> None:
        with exclusive(tmp_path / "lock"):
            entered.set()

    with exclusive(tmp_path / "lock"):
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()
    assert "waiting until it ends" in caplog.text


def test_reading_frames_takes_numpy_only() -> None:
    code = "import sys, openmm_tbg.frames; print({'openmm', 'torch'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"
