"""Models that come with the package: their list, their cards, their checksums."""

from __future__ import annotations

import json
from dataclasses import asdict

import rich_click as click
import yaml

from .command import Command
from .inputs import model_file, read_model


@click.group(name="models", cls=click.RichGroup)
def command() -> None:
    """Models that come with the package: list, show, verify."""


@command.command("list", cls=Command)
def list_models() -> None:
    """Name, force field and temperature of each model."""
    from ..checkpoint import TrainedModel
    from ..models import find_model, registered_models

    for name in registered_models():
        card = TrainedModel.load(find_model(name)).card
        force_field = " + ".join(card.force_field)
        click.echo(f"{name:20s} {card.temperature_K:g} K  {force_field:40s} {card.description}")


@command.command("show", cls=Command)
@click.argument("name")
def show_model(name: str) -> None:
    """What made a model, what was measured of it: NAME is registered, or a .safetensors file."""
    from ..checkpoint import file_sha256

    path, model = model_file(name), read_model(name)
    parameters = sum(weights.numel() for weights in model.weights.values())
    about = {
        "file": str(path),
        "sha256": file_sha256(path),
        "atoms": model.molecule.n_atoms,
        "architecture": type(model.architecture).__name__.removesuffix("Architecture").lower(),
        "parameters": parameters,
    }
    # JSON turns tuples into lists, which YAML then writes plainly
    plain = json.loads(json.dumps(asdict(model.card) | about))
    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100).rstrip())


@command.command("verify", cls=Command)
@click.argument("names", nargs=-1)
def verify_models(names: tuple[str, ...]) -> None:
    """Compare the files of models with their sha256: of all models, or of some NAMES."""
    from ..models import find_model, registered_models

    for name in names or registered_models():
        find_model(name)
        click.echo(f"{name}: sound, sha256 {registered_models()[name]}")
