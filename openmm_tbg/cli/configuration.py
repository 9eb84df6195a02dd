"""The options of a command as a YAML file, and back."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich_click as click
import yaml


def read_configuration(path: Path, ctx: click.Context) -> dict[str, Any]:
    """Values by the names of parameters, for `ctx.default_map`; click converts and checks them.

    Raises:
        UsageError: The file is no YAML, of another command, or has an option that there is not.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no YAML ({error})", ctx) from error
    if not isinstance(given, dict):
        raise click.UsageError(f"{path} holds no options: write lines such as 'seed: 1'", ctx)
    command = given.pop("command", ctx.command.name)
    if command != ctx.command.name:
        raise click.UsageError(
            f"{path} is of the command {command!r}, not {ctx.command.name!r}", ctx
        )
    parameters = dict(_parameters(ctx.command))
    for key in given:
        if key not in parameters:
            nearest = difflib.get_close_matches(str(key), parameters, n=1, cutoff=0.0)[0]
            raise click.UsageError(f"{path}: there is no option {key!r}; nearest: {nearest}", ctx)
    values = {str(parameters[key].name): value for key, value in given.items()}
    return {name: value for name, value in values.items() if value is not None}


def written_configuration(ctx: click.Context) -> str:
    """All options of a command as given, each under what it means."""
    lines = [f"command: {ctx.command.name}"]
    for key, parameter in _parameters(ctx.command):
        if isinstance(parameter, click.Option) and parameter.help:
            lines.append(f"\n# {parameter.help}")
        lines.append(yaml.safe_dump({key: _plain(ctx.params[str(parameter.name)])}).strip())
    return "\n".join(lines) + "\n"


def _parameters(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    """Each parameter that has a value, under the name that users know."""
    for parameter in command.params:
        if parameter.expose_value:
            key = next((name for name in parameter.opts if name.startswith("--")), parameter.name)
            yield str(key).removeprefix("--"), parameter


def _plain(value: Any) -> Any:
    match value:
        case Path():
            return str(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
