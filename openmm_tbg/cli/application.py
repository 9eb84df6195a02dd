"""The command `openmm-tbg`, whose subcommands are loaded when they are asked for."""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import rich_click as click

from .failures import in_one_line

COMMANDS = (
    "doctor",
    "models",
    "sample",
    "reweight",
    "free-energy",
    "report",
    "mcmc",
    "adapt",
    "simulate",
    "train",
    "evaluate",
    "slurm",
    "cite",
)
INTERRUPTED = 130  # as a shell reports Ctrl-C


class Application(click.RichGroup):
    """A group whose command `a-b` is `command` of the module `a_b` beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name.replace('-', '_')}", __package__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named, or an error that names the nearest."""
        if args[0] not in COMMANDS and args[0][:1] != "-":
            nearest = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.0)[0]
            raise click.UsageError(f"there is no command {args[0]!r}; nearest: {nearest}", ctx)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end the process; what goes wrong takes one line on stderr."""
        logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
        try:
            super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            click.echo(in_one_line(error), err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("stopped: give the same command again to go on", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(0)


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openmm-tbg", prog_name="openmm-tbg")
def main() -> None:
    """Boltzmann generators as exact moves for OpenMM samplers, and free energies from them.

    A first hour: `openmm-tbg doctor`, then `openmm-tbg sample alanine-dipeptide --out proposals`,
    then `openmm-tbg reweight alanine-dipeptide proposals`. Each command goes on where it stopped
    when it is given again.
    """
