#!/bin/bash
#SBATCH --job-name=proposals
#SBATCH --ntasks=9
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue

# Rank 0 hands out the batches and draws none. A rank that dies ends the job, as MPI does: submit again.

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun python -m mpi4py.futures mpi_pool.py "${STORE:-proposals}" --proposals 100000
