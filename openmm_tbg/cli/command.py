"""A command with what all commands have: --config, --write-config, --debug, errors in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click

from .configuration import read_configuration, written_configuration
from .failures import one_line_each
from .formats import OutputFile

DEBUG = "openmm_tbg.debug"
WRITE_CONFIG = "openmm_tbg.write_config"


class Command(click.RichCommand):
    """A command of `openmm-tbg`."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["params"] = [*settings.get("params", ()), *_shared_options()]
        super().__init__(name, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, or write its configuration, with messages of one line."""
        with _messages_in_one_line(), one_line_each(ctx.meta.get(DEBUG, False)):
            if (path := ctx.meta.get(WRITE_CONFIG)) is None:
                return super().invoke(ctx)
            path.write_text(written_configuration(ctx))
            click.echo(f"{path} written: {ctx.command_path} --config {path}")
            return None


def _shared_options() -> list[click.Option]:
    return [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_configure,
            help="YAML file of options; those on the command line go before.",
        ),
        click.Option(
            ["--write-config"],
            type=OutputFile("yaml", "yml"),
            expose_value=False,
            callback=_keep(WRITE_CONFIG),
            help="Write the options into a YAML file for --config, and do nothing else.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_keep(DEBUG),
            help="Show the traceback of an error.",
        ),
    ]


def _configure(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.default_map = read_configuration(path, ctx)


def _keep(key: str) -> Any:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        ctx.meta[key] = value

    return callback


@contextmanager
def _messages_in_one_line() -> Iterator[None]:
    """Warnings and log lines of this library, each in one line, and none of other libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("openmm_tbg")
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="openmm_tbg")
        warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
        try:
            yield
        finally:
            logger.removeHandler(handler)
