"""A script for SLURM around another command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import rich_click as click

from .command import Command
from .formats import OutputFile

SHARED = ("sample", "evaluate")  # commands whose processes each take a share
N_TASKS = 8

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=openmm-tbg-{name}
#SBATCH --ntasks={tasks}
#SBATCH --cpus-per-task={cpus}{gpus}
#SBATCH --time={time}
#SBATCH --requeue
#SBATCH --open-mode=append

# Submit it again after any end: what is done is not done again{shares}.

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --cpus-per-task=$SLURM_CPUS_PER_TASK --kill-on-bad-exit=0 {line}
"""


@click.command(
    "slurm",
    cls=Command,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
@click.argument("line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND ...")
@click.option(
    "--tasks",
    type=click.IntRange(min=1),
    help=f"Processes that share the work of {' or '.join(SHARED)}; {N_TASKS} if not given.",
)
@click.option("--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Of a task.")
@click.option("--time", default="04:00:00", show_default=True, help="Limit, as SLURM reads it.")
@click.option("--out", type=OutputFile("sh"), help="File to write; else it is printed.")
@click.pass_context
def command(
    ctx: click.Context,
    line: tuple[str, ...],
    tasks: int | None,
    cpus: int,
    time: str,
    out: Path | None,
) -> None:
    """Write a script for sbatch that runs COMMAND, such as `sample KS --out proposals`.

    COMMAND and its options stand last and are checked now. With --device cuda each task gets a GPU.
    Account and partition are left to sbatch.
    """
    from .application import main

    name, *arguments = line
    wrapped = main.get_command(ctx, name)
    if wrapped is None or name == ctx.command.name:
        raise click.UsageError(f"there is no command {name!r} to run: name one, such as sample")
    given = wrapped.make_context(f"openmm-tbg {name}", arguments).params
    if tasks is None:
        tasks = N_TASKS if name in SHARED else 1
    if tasks > 1 and name not in SHARED:
        raise click.UsageError(f"--tasks: {name} runs in one process, so give 1 or nothing")
    text = SCRIPT.format(
        name=name,
        tasks=tasks,
        cpus=cpus,
        time=time,
        gpus="\n#SBATCH --gpus-per-task=1" if str(given.get("device")).startswith("cuda") else "",
        shares=", also with another number of tasks" if tasks > 1 else "",
        line=shlex.join([_executable(), *line]),
    )
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"{out} written: sbatch {out}")


def _executable() -> str:
    """The command beside this Python, whose environment a job need not activate."""
    beside = Path(sys.executable).with_name("openmm-tbg")
    return str(beside) if beside.exists() else "openmm-tbg"
