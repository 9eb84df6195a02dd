#!/bin/bash
#SBATCH --job-name=proposals
#SBATCH --ntasks=9
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue

# Rank 0 hands out the batches and draws none. --mpi: pmi2 for MPICH, pmix for Open MPI. A rank that
# dies has to end the job, or rank 0 would wait for it for ever: submit again.

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --mpi=pmi2 --cpus-per-task=$SLURM_CPUS_PER_TASK --kill-on-bad-exit=1 \
    python -m mpi4py.futures mpi_pool.py "${STORE:-proposals}" --proposals 100000 "$@"
