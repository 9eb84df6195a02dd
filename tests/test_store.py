"""A store is the same however it was filled, says what is damaged, and hands each row out once."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracles
import pytest
import zarr
from assertions import assert_mean
from conftest import PowerLosses
from oracles import MOLECULE, GaussianGenerator, half_space, harmonic_state, sampler_state

from openmm_tbg.files import exclusive
from openmm_tbg.folders import LastingStore
from openmm_tbg.move import TBGMove, register_generator
from openmm_tbg.proposals import Proposals
from openmm_tbg.store import COLUMNS, ProposalStore
from openmm_tbg.stored import StoredProposals

N_BATCHES, BATCH = 6, 9


def generator() -> GaussianGenerator:
    return GaussianGenerator(width_nm=0.022, filter=half_space)


def created(path: Path, **changes: int) -> ProposalStore:
    size = {"n_batches": N_BATCHES, "batch_size": BATCH, "seed": 7}
    return ProposalStore.create(path, generator(), **size | changes)


@pytest.fixture
def store(tmp_path: Path) -> ProposalStore:
    return created(tmp_path / "store")


@pytest.fixture
def full(store: ProposalStore) -> ProposalStore:
    store.fill(generator())
    return store


def content(path: Path) -> dict[str, bytes]:
    """All chunks of a store."""
    files = [file for file in path.rglob("c.*") if file.suffix != ".partial"]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_same(left: Proposals, right: Proposals) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


class Counting(GaussianGenerator):
    """Of the law of `generator`, counting its draws."""

    n_drawn = 0

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        self.n_drawn += 1
        return super().propose(n, rng)


def counting() -> Counting:
    return Counting(**dataclasses.asdict(generator()) | {"molecule": MOLECULE})


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- what a store holds ------------------------------------------------------------------------


def test_a_batch_is_drawn_from_the_seed_and_its_number_alone(full: ProposalStore) -> None:
    for number in range(N_BATCHES):
        rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(number,)))
        assert_same(full.read_batch(number), generator().propose(BATCH, rng))
    rows = full.read()
    assert_same(rows[BATCH : 2 * BATCH], full.read_batch(1))
    assert len(rows) == N_BATCHES * BATCH == len(np.unique(rows.log_q))
    assert 0 < rows.passes.sum() < len(rows)  # rows that fail a filter are there


def test_order_and_interruption_leave_no_trace(full: ProposalStore, tmp_path: Path) -> None:
    other = created(tmp_path / "other")
    for batches in ([5, 1], [], [3], [1, 0]):
        other.fill(generator(), batches)
    np.testing.assert_array_equal(other.finished, [True, True, False, True, False, True])
    assert_same(other.read_batch(3), full.read_batch(3))
    assert len(other.read()) == 4 * BATCH
    other = created(other.path)  # the same arguments open what they made
    rest = counting()
    other.fill(rest)
    assert rest.n_drawn == 2
    assert content(other.path) == content(full.path)


def test_seeds_give_different_proposals(full: ProposalStore, tmp_path: Path) -> None:
    other = created(tmp_path / "other", seed=8)
    other.fill(generator())
    both = np.concatenate([full.read().log_q, other.read().log_q])
    assert len(np.unique(both)) == len(both)


def test_the_manifest_tells_what_made_it(store: ProposalStore) -> None:
    manifest = ProposalStore(store.path).manifest
    assert manifest["reference"] == "toy"
    assert manifest["sha256"] == generator().sha256
    assert manifest["names"] == list(MOLECULE.names)
    assert {"numpy", "torch", "zarr", "openmm-tbg"} == manifest["versions"].keys()


def test_a_store_grows_and_keeps_what_it_has(full: ProposalStore, tmp_path: Path) -> None:
    before, file = full.read(), chunk(full, "log_q", 2)
    written = file.stat().st_mtime_ns
    larger = created(full.path, n_batches=9)
    assert larger.finished.tolist() == [True] * N_BATCHES + [False] * 3
    rest = counting()
    larger.fill(rest)
    assert rest.n_drawn == 3
    assert_same(larger.read()[: len(before)], before)
    whole = created(tmp_path / "whole", n_batches=9)
    whole.fill(generator())
    assert_same(larger.read(), whole.read())
    assert created(full.path, n_batches=2).n_batches == 9  # nothing is lost to a smaller number
    full.fill(generator())  # opened before it grew
    assert file.stat().st_mtime_ns == written
    assert_same(ProposalStore(full.path).read(), whole.read())


def test_of_two_that_grow_a_store_none_undoes_the_other(full: ProposalStore) -> None:
    with ThreadPoolExecutor(1) as other, exclusive(full.path / "zarr.json"):
        smaller = other.submit(created, full.path, n_batches=7)  # has seen 6, and waits
        while not smaller.running():
            time.sleep(0.01)
        time.sleep(0.3)
        assert not smaller.done()
        grown = store_arrays(full.path)
        for array in grown:
            array.resize((10 * array.chunks[0], *array.shape[1:]))
    assert smaller.result().n_batches == 10
    assert len(smaller.result().read()) == N_BATCHES * BATCH


@pytest.mark.parametrize("n_resized", range(4))
def test_a_kill_while_a_store_grows_is_made_good(
    full: ProposalStore, n_resized: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, resize, n_done = full.read(), zarr.Array.resize, 0

    def dying(array: zarr.Array, shape: tuple[int, ...]) -> None:
        nonlocal n_done
        if n_done == n_resized:
            raise KeyboardInterrupt
        n_done += 1
        resize(array, shape)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "resize", dying)
        with pytest.raises(KeyboardInterrupt):
            created(full.path, n_batches=8)
    assert ProposalStore(full.path).n_batches == N_BATCHES
    assert_same(ProposalStore(full.path).read(), before)
    assert created(full.path, n_batches=8).n_batches == 8


def store_arrays(path: Path) -> list[zarr.Array]:
    """In the order in which they grow."""
    group = zarr.open_group(LastingStore(path), mode="r+")
    return [group[name] for name in (*COLUMNS, "sha256")]


# --- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed is 7 there and 8 here"),
        ({"batch_size": 4}, "batch_size is 9 there and 4 here"),
    ],
)
def test_other_settings_are_refused(
    full: ProposalStore, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        created(full.path, **changes)
    assert len(full.read()) == N_BATCHES * BATCH


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (GaussianGenerator(width_nm=0.03), "sha256 is '.*' there and '.*' here"),
        (
            dataclasses.replace(
                generator(), molecule=dataclasses.replace(MOLECULE, names=("C", "H", "O", "X"))
            ),
            r"names is \['C', 'H', 'O', 'N'\] there and \['C', 'H', 'O', 'X'\] here",
        ),
    ],
    ids=["model", "molecule"],
)
def test_another_generator_is_refused(
    full: ProposalStore, other: GaussianGenerator, message: str, tmp_path: Path
) -> None:
    before = content(full.path)
    for use in (
        lambda: full.fill(other),
        lambda: ProposalStore.create(full.path, other, N_BATCHES, BATCH, 7),
        lambda: StoredProposals(full, other, tmp_path / "claims"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert content(full.path) == before


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileExistsError, match="is there and no store"):
            created(path)
        with pytest.raises(FileNotFoundError, match=r"no store of proposals: make one with"):
            ProposalStore(path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert not created(tmp_path / "empty").finished.any()


def test_numbers_that_cannot_be_are_refused(store: ProposalStore, tmp_path: Path) -> None:
    for changes in ({"n_batches": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="at least one batch of at least one proposal"):
            created(tmp_path / "other", **changes)
    for number in (-1, N_BATCHES):
        with pytest.raises(IndexError, match=f"batches 0 to 5, but no {number}"):
            store.fill(generator(), [number])
    with pytest.raises(ValueError, match=r"4 rows.*has to keep its row"):
        store.write(0, generator().propose(4, np.random.default_rng(0)))
    with pytest.raises(RuntimeError, match=r"no batch of .* is finished: fill"):
        store.read()
    with pytest.raises(RuntimeError, match=r"batch 2 of .* is not drawn yet"):
        store.read_batch(2)


# --- damage ------------------------------------------------------------------------------------


def chunk(store: ProposalStore, column: str, number: int) -> Path:
    (file,) = [
        file
        for file in (store.path / column).iterdir()
        if file.name.split(".")[:2] == ["c", str(number)]
    ]
    return file


@pytest.mark.parametrize("column", [*COLUMNS, "sha256"])
@pytest.mark.parametrize("how", ["flipped", "cut short", "missing", "swapped"])
def test_damage_is_found_named_and_mended(
    full: ProposalStore, column: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = content(full.path)
    file = chunk(full, column, 2)
    sound = bytearray(file.read_bytes())
    match how:
        case "flipped":
            sound[len(sound) // 2] ^= 1
            file.write_bytes(sound)
        case "cut short":
            file.write_bytes(sound[: len(sound) // 2])
        case "missing":
            file.unlink()
        case "swapped":
            others = (chunk(full, column, number).read_bytes() for number in range(N_BATCHES))
            file.write_bytes(next(other for other in others if other != sound))
    if (column, how) == ("sha256", "missing"):
        assert full.finished.sum() == N_BATCHES - 1  # as if it had not been drawn
    else:
        for read in (full.read, lambda: full.read_batch(2)):
            with pytest.raises(RuntimeError, match=r"batch 2 of .* is damaged: fill the store"):
                read()
        assert len(full.read_batch(4)) == BATCH
    mending = counting()
    full.fill(mending)
    assert mending.n_drawn == 1
    assert content(full.path) == before
    assert ("batch 2 of" in caplog.text) == ((column, how) != ("sha256", "missing"))


def test_a_whole_batch_of_another_store_is_found(full: ProposalStore, tmp_path: Path) -> None:
    other = created(tmp_path / "other", seed=8)
    other.fill(generator())
    for column in (*COLUMNS, "sha256"):
        chunk(full, column, 2).write_bytes(chunk(other, column, 2).read_bytes())
    with pytest.raises(RuntimeError, match=r"batch 2 of .* is damaged"):
        full.read()


# --- ends of all kinds -------------------------------------------------------------------------

FILES_OF_A_BATCH = 4


@pytest.mark.parametrize("n_written", range(2 * FILES_OF_A_BATCH))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_each_step_of_writing_loses_one_batch(
    store: ProposalStore, tmp_path: Path, n_written: int, moment: str
) -> None:
    """The child dies before or after the rename that would be number `n_written` of all."""
    child = os.fork()
    if child == 0:
        replace, n_replaced = Path.replace, 0

        def dying(partial: Path, target: Path) -> Path:
            nonlocal n_replaced
            if n_replaced == n_written and moment == "before":
                kill()
            n_replaced += 1
            path = replace(partial, target)
            if n_replaced > n_written:
                kill()
            return path

        Path.replace = dying  # type: ignore[method-assign]
        store.fill(generator())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    n_sound = (n_written + (moment == "after")) // FILES_OF_A_BATCH
    assert store.finished.sum() == n_sound
    for number in range(n_sound):
        store.read_batch(number)
    rest = counting()
    store.fill(rest)
    assert rest.n_drawn == N_BATCHES - n_sound
    whole = created(tmp_path / "whole")
    whole.fill(generator())
    assert content(store.path) == content(whole.path)


def test_a_loss_of_power_loses_the_batch_at_work_alone(
    store: ProposalStore, power_losses: Callable[[Path], PowerLosses], tmp_path: Path
) -> None:
    store.fill(generator(), [0])
    losses = power_losses(store.path)
    store.fill(generator(), [1])
    n_finished = []
    for folder in losses.outcomes(tmp_path / "found"):
        found = ProposalStore(folder)
        n_finished.append(len(found.read()) // BATCH)
        assert_same(found.read(), store.read()[: len(found.read())])
    assert set(n_finished[:-2]) == {1, 2}
    assert n_finished[-2:] == [2, 2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_batch_that_cannot_be_written_is_said(
    store: ProposalStore, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fill(generator(), [0, 1])
    before = content(store.path)

    async def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(LastingStore, "set", refuse)
        with pytest.raises(OSError, match=f"batch 2 .*{os.strerror(number)}.*fill the store again"):
            store.fill(generator())
    assert content(store.path) == before
    store.fill(generator())
    assert store.finished.all()


def test_a_full_and_a_read_only_disk(small_disk: Path) -> None:
    store = created(small_disk / "store", n_batches=40, batch_size=20)
    with pytest.raises(OSError, match=r"No space left on device.*has room"):
        store.fill(generator())
    n_finished = int(store.finished.sum())
    assert 0 < n_finished < 40
    assert len(store.read()) == 20 * n_finished
    assert not list(store.path.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert len(ProposalStore(store.path).read()) == 20 * n_finished
    with pytest.raises(OSError, match=r"Read-only file system.*may be written"):
        store.fill(generator())
    with pytest.raises(
        OSError, match=r"new cannot be written \(Read-only .*create the store again"
    ):
        created(small_disk / "new")
    subprocess.run(["mount", "-o", "remount,rw,size=4m", small_disk], check=True)
    store.fill(generator())
    assert store.finished.all()


# --- stored proposals in place of a generator --------------------------------------------------


def test_each_row_is_handed_out_once(full: ProposalStore, tmp_path: Path) -> None:
    stored = StoredProposals(full, generator(), tmp_path / "claims")
    rng = np.random.default_rng(0)
    taken = [stored.propose(n, rng) for n in (1, 15, 3, 1)]
    assert_same(Proposals.concatenate(taken), full.read()[:20])
    # A process that goes on, and one beside it, start from batches of their own.
    others = [StoredProposals(full, generator(), tmp_path / "claims") for _ in range(2)]
    rows = [others[k].propose(BATCH, rng) for k in (0, 1, 0)]
    assert_same(Proposals.concatenate(rows), full.read()[3 * BATCH :])
    with pytest.raises(RuntimeError, match=r"exhausted: this run has used all 6 .* of 6"):
        others[0].propose(1, rng)


def test_a_claim_is_on_the_disk_before_its_rows_are_used(
    full: ProposalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = StoredProposals(full, generator(), tmp_path / "claims")
    synced: dict[str, list[str]] = {}

    def recorded(descriptor: int) -> None:
        folder = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[folder] = os.listdir(folder)

    monkeypatch.setattr(os, "fsync", recorded)
    for n_claimed in (1, 2):
        stored.propose(BATCH, np.random.default_rng(0))
        assert len(synced[str(tmp_path / "claims")]) == n_claimed


@pytest.mark.parametrize(
    ("batch_size", "batches_ahead"), [(2, 0), (BATCH, 2), (3 * BATCH, 0), (3 * BATCH, 1)]
)
def test_no_batch_is_claimed_ahead_of_its_use(
    full: ProposalStore, tmp_path: Path, batch_size: int, batches_ahead: int
) -> None:
    """A process that ends loses the rest of one batch, whatever its move draws at a time."""
    claims, state, current = tmp_path / "claims", harmonic_state(), sampler_state()
    cache = oracles.reference_cache()
    for n_used in (8, 2 * BATCH + 7):  # by two processes, one after the other
        before = len(list(claims.glob("*")))
        stored = StoredProposals(full, generator(), claims)
        move = TBGMove(stored, 1, batch_size=batch_size, batches_ahead=batches_ahead, seed=1)
        for n in range(1, n_used + 1):
            move.apply(state, current, context_cache=cache)
            assert len(list(claims.iterdir())) == before + -(-n // BATCH)


def test_an_exhausted_store_says_so_in_the_move(full: ProposalStore, tmp_path: Path) -> None:
    move = TBGMove(StoredProposals(full, generator(), tmp_path / "a"), n_proposals=BATCH, seed=1)
    state, current, cache = harmonic_state(), sampler_state(), oracles.reference_cache()
    for _ in range(N_BATCHES):
        move.apply(state, current, context_cache=cache)
    assert move.statistics["n_proposed"] == N_BATCHES * BATCH
    with pytest.raises(RuntimeError, match=r"is exhausted.*open the store with more of them"):
        move.apply(state, current, context_cache=cache)
    # Another run may use them again; the store need not be whole.
    chunk(full, "sha256", 0).unlink()
    again = StoredProposals(full, generator(), tmp_path / "b")
    rng = np.random.default_rng(0)
    assert_same(again.propose(5 * BATCH, rng), full.read())
    with pytest.raises(RuntimeError, match="used all 5 finished batches of 6"):
        again.propose(1, rng)
    full.fill(generator())
    assert_same(again.propose(BATCH, rng), full.read_batch(0))


def test_a_restored_run_goes_on_where_its_claims_end(
    full: ProposalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> StoredProposals:
        return StoredProposals(full, generator(), tmp_path / "claims")

    state, current, cache = harmonic_state(), sampler_state(), oracles.reference_cache()
    move = TBGMove(stored(), n_proposals=2, seed=1)
    move.apply(state, current, context_cache=cache)
    kept = move.__getstate__()
    oracles.forget_moves(monkeypatch)
    restored = TBGMove.__new__(TBGMove)
    restored.__setstate__(kept)
    with pytest.raises(RuntimeError, match=r"'stored proposals of toy', which no file holds"):
        restored.apply(state, current, context_cache=cache)
    again = stored()
    register_generator(again)
    restored.apply(state, current, context_cache=cache)
    assert restored.statistics["n_proposed"] == 4
    rest = again.propose(BATCH - 2, np.random.default_rng(0))
    assert_same(rest, full.read_batch(1)[2:])  # batch 0 was claimed by the process before


def test_a_chain_from_a_store_has_the_right_law(tmp_path: Path) -> None:
    wide = GaussianGenerator(width_nm=1.05 * oracles.WIDTH_NM)
    store = ProposalStore.create(tmp_path / "store", wide, 25, 100, seed=3)
    store.fill(wide)
    move = TBGMove(StoredProposals(store, wide, tmp_path / "claims"), n_proposals=4, seed=4)
    state, current, cache = harmonic_state(), sampler_state(), oracles.reference_cache()
    u = np.empty(600)
    for step in range(len(u)):
        move.apply(state, current, context_cache=cache)
        centred = oracles.positions_nm(current)
        centred -= centred.mean(axis=0)
        u[step] = np.square((centred - oracles.FRAME) / oracles.WIDTH_NM).sum() / 2
    assert_mean(u, oracles.DIMENSIONS / 2)
