#!/bin/bash
#SBATCH --job-name=proposals
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue

# Batch b belongs to rank b mod 8. srun gives each process its rank; the store has no locks.
# A rank that dies takes its own share with it alone: submit again, also with another number of tasks.

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --cpus-per-task=$SLURM_CPUS_PER_TASK --kill-on-bad-exit=0 openmm-tbg sample alanine-dipeptide \
    --out "${STORE:-proposals}" --proposals 100000 --batch-size 512 --seed 1 --device cuda "$@"
