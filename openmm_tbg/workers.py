"""Stores filled by any pool of workers: processes, a dask cluster, MPI, SLURM jobs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path

import numpy as np

from .progress import progress_bar
from .proposals import ProposalGenerator
from .store import ProposalStore

Load = Callable[[], ProposalGenerator]


def fill_with(executor: Executor, store: ProposalStore, load: Load) -> None:
    """Draw the missing batches of a store, each as one task of an executor.

    A batch that fails does not keep the others from being drawn.

    Args:
        executor: A `concurrent.futures.Executor`, or what submits in the same way: that of
            `dask.distributed.Client.get_executor`, `mpi4py.futures.MPIPoolExecutor`, `submitit`.
            Where it starts processes, let them be spawned: a forked one hangs in torch.
        store: Its folder is reached by all workers under the same path.
        load: Makes the generator, once in each worker; a function that pickle finds by its name,
            with arguments by `functools.partial`. `Rank.here().device` is the GPU of a worker.

    Raises:
        RuntimeError: Batches failed, with the cause of the first; the others are drawn.
    """
    pickled = pickle.dumps(load)
    missing = np.flatnonzero(~store.finished)
    futures = {
        int(number): executor.submit(_draw, store.path, pickled, int(number)) for number in missing
    }
    failures: dict[int, Exception] = {}
    with progress_bar(len(futures), "batch", store.path.name) as bar:
        for number, future in futures.items():
            try:
                future.result()
            except Exception as error:
                failures[number] = error
            bar.update()
    if failures:
        number, cause = next(iter(failures.items()))
        raise RuntimeError(
            f"{len(failures)} of {len(futures)} batches failed, batch {number} with {cause!r}: "
            "mend the cause and call again, which draws what is missing"
        ) from cause


def _draw(path: Path, pickled: bytes, number: int) -> None:
    ProposalStore(path).draw(number, _loaded(pickled))


@lru_cache(maxsize=1)
def _loaded(pickled: bytes) -> ProposalGenerator:
    load: Load = pickle.loads(pickled)
    return load()
