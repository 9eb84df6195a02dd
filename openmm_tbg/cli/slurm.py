"""A job script for a command that many processes share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import rich_click as click

from .command import Command
from .evaluate import command as evaluate
from .formats import OutputFile
from .sample import command as sample

SHARED: dict[str, click.Command] = {"sample": sample, "evaluate": evaluate}


@click.command("slurm", cls=Command, context_settings={"ignore_unknown_options": True})
@click.option("--out", type=OutputFile("sh"), required=True, help="Script to write.")
@click.option(
    "--tasks",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Processes, each on one core, and on a GPU of its own with --device cuda.",
)
@click.option("--time", default="04:00:00", show_default=True, help="Limit of the job.")
@click.option(
    "--directive",
    "directives",
    multiple=True,
    metavar="OPTION",
    help="Another option of sbatch, such as account=ab12, repeated for each.",
)
@click.argument("command_line", metavar="-- COMMAND...", nargs=-1, required=True)
@click.pass_context
def command(
    ctx: click.Context,
    out: Path,
    tasks: int,
    time: str,
    directives: tuple[str, ...],
    command_line: tuple[str, ...],
) -> None:
    """Write a SLURM script in which many processes share a `sample` or an `evaluate`.

    COMMAND is that command with its options: openmm-tbg slurm --out job.sh --tasks 64 -- sample KS
    --out proposals -n 4096. Submit the script again after any end: nothing is drawn twice.
    """
    name, *rest = command_line
    if name not in SHARED:
        raise click.UsageError(f"{name!r} is no work to share: give sample or evaluate", ctx)
    with SHARED[name].make_context(name, list(rest), parent=ctx.parent) as given:
        on_gpu = given.params["device"].startswith("cuda")
    options = [f"job-name=openmm-tbg-{name}", f"ntasks={tasks}", "cpus-per-task=1", f"time={time}"]
    options += ["requeue", *(["gpus-per-task=1"] if on_gpu else []), *directives]
    program = str(Path(sys.executable).with_name("openmm-tbg"))
    lines = ["#!/bin/bash", *(f"#SBATCH --{option}" for option in options)]
    run = shlex.join(["srun", "--kill-on-bad-exit=0", program, *command_line])
    lines += ["export OMP_NUM_THREADS=1", run]
    out.write_text("\n".join(lines) + "\n")
    click.echo(f"{out} written\nnext: sbatch {out}")
