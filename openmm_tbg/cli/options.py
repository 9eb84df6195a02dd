"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

F = TypeVar("F", bound=Callable[..., Any])
ExistingFile = click.Path(exists=True, dir_okay=False, path_type=Path)
ExistingFolder = click.Path(exists=True, file_okay=False, path_type=Path)


def molecule_argument(function: F) -> F:
    """The molecule that a command is about."""
    return click.argument("molecule")(function)


def target_options(function: F) -> F:
    """Another target than the one that the model was trained for."""
    for option in (
        click.option(
            "--temperature",
            type=click.FloatRange(min=0, min_open=True),
            metavar="K",
            help="Temperature in K; that of the model if not given.",
        ),
        click.option(
            "--system",
            type=ExistingFile,
            help="OpenMM System as XML, without constraints, in place of a force field.",
        ),
        click.option(
            "--force-field",
            multiple=True,
            metavar="XML",
            help="Force-field file of OpenMM, repeated for each; else those of the model.",
        ),
    ):
        function = option(function)
    return function


def model_options(function: F) -> F:
    """The model, and where it runs."""
    for option in (
        click.option(
            "--device",
            default="cpu",
            show_default=True,
            help="Of the model: cpu, cuda (that of this process, if there are several), cuda:1.",
        ),
        click.option(
            "--model",
            metavar="NAME|FILE",
            help="Registered name or .safetensors file; else one that knows the molecule.",
        ),
    ):
        function = option(function)
    return function


def sampling_options(function: F) -> F:
    """Of a command that uses a model against a target: seed, model and target."""
    return seed_option(model_options(target_options(function)))


def source_argument(function: F) -> F:
    """A folder of proposals."""
    return click.argument("proposals", type=ExistingFolder)(function)


def seed_option(function: F) -> F:
    """Origin of random numbers."""
    option = click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        help="Origin of all random numbers.",
    )
    return option(function)
