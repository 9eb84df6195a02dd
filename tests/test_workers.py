"""A store comes out the same whoever draws its batches: ranks, processes, dask, MPI."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from light import DiesAtThird, LightGenerator, loaded_once
from test_store import content

from openmm_tbg.proposals import Proposals
from openmm_tbg.ranks import LAUNCHERS, Rank, own_device
from openmm_tbg.store import ProposalStore
from openmm_tbg.workers import fill_with

TESTS = Path(__file__).parent
N_BATCHES, BATCH = 12, 4
FILL_BY_RANK = """
import sys
from pathlib import Path
from light import LightGenerator, loaded_once
from openmm_tbg.ranks import Rank
from openmm_tbg.store import ProposalStore

generator = LightGenerator(seconds=float(sys.argv[2]))
store = ProposalStore.create(Path(sys.argv[1]), generator, 12, batch_size=4, seed=5)
store.fill(generator, Rank.here().share(store.n_batches))
"""


def created(path: Path) -> ProposalStore:
    return ProposalStore.create(path, LightGenerator(), N_BATCHES, BATCH, seed=5)


@pytest.fixture
def store(tmp_path: Path) -> ProposalStore:
    return created(tmp_path / "store")


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    undisturbed = created(tmp_path / "undisturbed")
    undisturbed.fill(LightGenerator())
    return content(undisturbed.path)


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in itertools.chain(*LAUNCHERS.values()):
        monkeypatch.delenv(variable, raising=False)


def environment(**variables: str) -> dict[str, str]:
    launched = set(itertools.chain(*LAUNCHERS.values()))
    plain = {name: value for name, value in os.environ.items() if name not in launched}
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return plain | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | variables


# --- ranks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_tells_the_rank(
    launcher: str, no_launcher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Rank.here() == Rank(0, 1, 0)
    for variable, value in zip(LAUNCHERS[launcher], (5, 8, 1), strict=True):
        monkeypatch.setenv(variable, str(value))
    assert Rank.here() == Rank(5, 8, 1)


def test_a_batch_script_is_one_process(no_launcher: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside srun, SLURM tells the tasks of the job, none of which is this process."""
    for variable, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")):
        monkeypatch.setenv(variable, value)
    assert Rank.here() == Rank(0, 1, 0)


def test_the_innermost_launcher_counts(no_launcher: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for launcher, values in (("srun", (1, 2, 0)), ("torchrun", (6, 8, 2))):
        for variable, value in zip(LAUNCHERS[launcher], values, strict=True):
            monkeypatch.setenv(variable, str(value))
    assert Rank.here() == Rank(6, 8, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_each_piece_of_work_belongs_to_one_rank(size: int) -> None:
    shares = [list(Rank(number, size, 0).share(13)) for number in range(size)]
    assert sorted(itertools.chain(*shares)) == list(range(13))
    assert all(piece % size == number for number in range(size) for piece in shares[number])


@pytest.mark.parametrize(("n_gpus", "device"), [(0, "cpu"), (1, "cuda:0"), (4, "cuda:2")])
def test_gpus_are_dealt_out_by_local_rank(
    n_gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert Rank(22, 32, 6).device == device


@pytest.mark.parametrize(
    ("asked", "n_ranks", "device"),
    [
        ("cuda", 8, "cuda:2"),
        ("cuda", 1, "cuda"),  # whatever torch.cuda.set_device said
        ("cuda:1", 8, "cuda:1"),
        ("cpu", 8, "cpu"),
    ],
)
def test_cuda_is_the_gpu_of_this_process(
    asked: str, n_ranks: int, device: str, no_launcher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    last = n_ranks - 1, n_ranks, min(6, n_ranks - 1)
    for variable, value in zip(LAUNCHERS["srun"], last, strict=True):
        monkeypatch.setenv(variable, str(value))
    assert own_device(asked) == device
    with pytest.raises(ValueError, match="device is 'cuda:4', but torch finds 4, counted from 0"):
        own_device("cuda:4")


def test_ranks_of_mpi_under_srun_know_their_place_on_the_machine(
    no_launcher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`srun --mpi=pmi2` sets PMI_RANK and PMI_SIZE beside its own variables, and no local rank."""
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    for name, value in (srun | {"PMI_RANK": "5", "PMI_SIZE": "8"}).items():
        monkeypatch.setenv(name, value)
    assert Rank.here() == Rank(5, 8, 1)
    monkeypatch.setenv("PMI_RANK", "3")  # of an mpiexec within a step: srun speaks of another
    assert Rank.here() == Rank(3, 8, 3)


def test_ranks_that_cannot_be_are_refused() -> None:
    for numbers in ((2, 2, 0), (-1, 2, 0), (0, 2, 2)):
        with pytest.raises(ValueError, match=r"cannot be: ranks count from 0"):
            Rank(*numbers)


def test_a_store_whose_rank_was_killed_is_completed(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "store"

    def start(rank: int, seconds: float) -> subprocess.Popen[bytes]:
        variables = {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", FILL_BY_RANK, path, str(seconds)]
        return subprocess.Popen(command, env=environment(**variables), stderr=subprocess.DEVNULL)

    doomed, *others = [start(0, 0.3), start(1, 0.0), start(2, 0.0)]
    while not ((path / "sha256" / "zarr.json").exists() and ProposalStore(path).has(0)):
        time.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    assert [process.wait() for process in (doomed, *others)] == [-signal.SIGKILL, 0, 0]
    store = ProposalStore(path)
    mine = np.arange(N_BATCHES) % 3 == 0
    assert store.finished[~mine].all()
    assert store.finished[0]
    assert not store.finished[mine].all()
    later = Rank(1, 2, 0), Rank(0, 2, 0)  # a later call may have another number of ranks
    for rank in later:
        store.fill(LightGenerator(), rank.share(store.n_batches))
    assert content(path) == expected


def mpiexec(n: int, *command: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mpi4py")
    launcher = Path(sys.prefix) / "bin" / "mpiexec"
    if not launcher.exists():
        pytest.skip("mpich is not installed: pip install 'openmm-tbg[tests]'")
    libraries = environment(
        LD_LIBRARY_PATH=str(Path(sys.prefix) / "lib"),
        # Rank 0 of openmmtools opens a storage for writing while others may still open it to read.
        HDF5_USE_FILE_LOCKING="FALSE",
    )
    return subprocess.run(
        [launcher, "-n", str(n), sys.executable, *map(str, command)],
        env=libraries, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip


def test_two_ranks_of_mpi_fill_a_store(tmp_path: Path, expected: dict[str, bytes]) -> None:
    mpiexec(2, "-c", FILL_BY_RANK, tmp_path / "store", 0)
    assert content(tmp_path / "store") == expected


# --- executors ---------------------------------------------------------------------------------


def assert_filled_by(
    executor: Executor, store: ProposalStore, expected: dict[str, bytes], marks: Path
) -> None:
    store.fill(LightGenerator(), [3])
    marks.mkdir()
    fill_with(executor, store, partial(loaded_once, marks))
    assert content(store.path) == expected
    workers = {int(path.name) for path in marks.iterdir()}
    assert workers
    assert os.getpid() not in workers


def test_a_pool_of_processes(
    store: ProposalStore, expected: dict[str, bytes], tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn) as executor:
        assert_filled_by(executor, store, expected, tmp_path / "marks")


def test_three_workers_of_dask(
    store: ProposalStore, expected: dict[str, bytes], tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        client.wait_for_workers(3)
        assert_filled_by(executor, store, expected, tmp_path / "marks")
        assert len(list((tmp_path / "marks").iterdir())) == 3


FILL_BY_MPI_POOL = """
import sys
from pathlib import Path
from mpi4py.futures import MPIPoolExecutor
from light import LightGenerator, loaded_once
from openmm_tbg.store import ProposalStore
from openmm_tbg.workers import fill_with

if __name__ == "__main__":
    with MPIPoolExecutor() as executor:
        fill_with(executor, ProposalStore(Path(sys.argv[1])), LightGenerator)
"""


def test_a_pool_of_mpi(store: ProposalStore, expected: dict[str, bytes], tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FILL_BY_MPI_POOL)
    mpiexec(2, "-m", "mpi4py.futures", script, store.path)
    assert content(store.path) == expected


class FailsOnce(LightGenerator):
    """The third batch that is drawn meets a broken GPU."""

    n_drawn = 0

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        self.n_drawn += 1
        if self.n_drawn == 3:
            raise OSError("the GPU has fallen off the bus")
        return super().propose(n, rng)


def test_a_batch_that_fails_is_said_and_the_rest_drawn(
    store: ProposalStore, expected: dict[str, bytes]
) -> None:
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(RuntimeError, match=r"1 of 12 .* batch 2 with OSError.*off the bus"):
            fill_with(executor, store, FailsOnce)
        np.testing.assert_array_equal(store.finished, np.arange(N_BATCHES) != 2)
        fill_with(executor, store, LightGenerator)
    assert content(store.path) == expected


def test_a_worker_that_dies_is_said_and_what_it_drew_is_kept(
    store: ProposalStore, expected: dict[str, bytes]
) -> None:
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(RuntimeError, match=r"10 of 12 .* batch 2 with BrokenProcessPool"),
    ):
        fill_with(executor, store, DiesAtThird)
    np.testing.assert_array_equal(store.finished, np.arange(N_BATCHES) < 2)
    store.fill(LightGenerator())
    assert content(store.path) == expected


def test_workers_refuse_another_generator(store: ProposalStore) -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(RuntimeError, match=r"12 of 12 .* batch 0 with ValueError.*sha256 is"),
    ):
        fill_with(executor, store, partial(LightGenerator, sha256="other"))
    assert not store.finished.any()
