"""Fill a store from one MPI job: `mpi_pool.sh` starts this under SLURM.

mpiexec -n 3 python -m mpi4py.futures mpi_pool.py STORE --device cpu
"""

from __future__ import annotations

import sys

from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor
from work import arguments, prepare

from openmm_tbg.workers import fill_with

if __name__ == "__main__":
    store, load = prepare(arguments(__doc__))
    if MPI.COMM_WORLD.size == 1:
        sys.exit(
            "one rank alone draws nothing: start two or more, as MPI here needs (srun --mpi=list)"
        )
    with MPIPoolExecutor() as executor:
        fill_with(executor, store, load)
