"""Fill a store by SLURM jobs of one batch each; this process has to live until the end.

    python submitit_pool.py STORE --batch-size 4096

Each job loads the model anew: take batches of some minutes.
"""

from __future__ import annotations

from pathlib import Path

import submitit
from work import arguments, prepare

from openmm_tbg.workers import fill_with

if __name__ == "__main__":
    options = arguments(__doc__)
    store, load = prepare(options)
    executor = submitit.AutoExecutor(folder=Path(f"{options.store}-jobs"))
    executor.update_parameters(timeout_min=60, gpus_per_node=int(options.device != "cpu"))
    fill_with(executor, store, load)
