"""Fill a store by dask workers that are SLURM jobs; this process has to live until the end.

python dask_pool.py STORE
"""

from __future__ import annotations

from dask_jobqueue import SLURMCluster
from distributed import Client
from work import arguments, prepare

from openmm_tbg.workers import fill_with

if __name__ == "__main__":
    store, load = prepare(arguments(__doc__))
    with (
        SLURMCluster(
            cores=1,  # batches at a time: the GPU is one
            memory="16GB",
            walltime="04:00:00",
            job_cpu=4,
            job_extra_directives=["--gpus=1"],
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(maximum_jobs=8)
        fill_with(client.get_executor(), store, load)
