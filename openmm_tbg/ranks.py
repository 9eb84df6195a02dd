"""Which of the processes that a launcher started together this one is, and its GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Rank, number of ranks and rank on its machine, the innermost launcher first. SLURM counts the
# tasks of a step only under srun: a batch script is one process whatever the size of its job.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True)
class Rank:
    """A process among those that torchrun, MPI or SLURM started together.

    Args:
        number: Its number, from 0.
        size: How many there are.
        local: Its number among those on the same machine.

    Raises:
        ValueError: The numbers do not belong together.

    Example:
        >>> list(Rank(1, 3, 1).share(8))
        [1, 4, 7]
    """

    number: int = 0
    size: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.number < self.size and 0 <= self.local < self.size):
            raise ValueError(
                f"rank {self.number} of {self.size}, {self.local} on its machine, cannot be: "
                "ranks count from 0; clear the variables of a launcher that is not in use"
            )

    @classmethod
    def here(cls) -> Rank:
        """This process, by what its launcher says in the environment; rank 0 of 1 without one.

        Raises:
            ValueError: The variables of the launcher contradict each other.
        """
        said = [
            (os.environ[number], os.environ[size], os.environ.get(local))
            for number, size, local in LAUNCHERS.values()
            if number in os.environ and size in os.environ
        ]
        if not said:
            return cls()
        number, size, _ = said[0]
        # srun gives the ranks of MPI too, but its own rank on the machine alone.
        local = (own for *rank, own in said if rank == [number, size] and own is not None)
        return cls(int(number), int(size), int(next(local, number)))

    def share(self, n: int) -> range:
        """What this process does of n pieces of work: each piece belongs to one rank."""
        return range(self.number, n, self.size)

    @property
    def device(self) -> str:
        """The GPU of this process, the machine's GPUs dealt out in turn, or "cpu" without any."""
        import torch

        n_gpus = torch.cuda.device_count()
        return f"cuda:{self.local % n_gpus}" if n_gpus else "cpu"


def own_device(device: str) -> str:
    """The device that a name means here.

    Args:
        device: "cpu", "cuda:1" and the like, or "cuda": the GPU of this process where a launcher
            started several, else the one that is current in torch.

    Raises:
        ValueError: There is no such GPU.
    """
    import torch

    kind, _, number = device.partition(":")
    if kind != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(
            f"device is {device!r}, but torch finds no CUDA device: use device='cpu', or install "
            "a CUDA build of torch and check the driver with nvidia-smi"
        )
    n_gpus = torch.cuda.device_count()
    if number and int(number) >= n_gpus:
        raise ValueError(
            f"device is {device!r}, but torch finds {n_gpus}, counted from 0: give 'cuda', which "
            "deals them out to the processes of a launcher"
        )
    here = Rank.here()
    return device if number or here.size == 1 else here.device
