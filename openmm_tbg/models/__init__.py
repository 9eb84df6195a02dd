"""The models that come with the package, by name."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from ..checkpoint import file_sha256

FOLDER = Path(__file__).parent
REGISTRY = FOLDER / "registry.json"


def registered_models() -> dict[str, str]:
    """Name and sha256 of every model that comes with the package.

    Example:
        >>> sorted(registered_models())
        ['alanine-dipeptide', 'dipeptides']
    """
    models: dict[str, str] = json.loads(REGISTRY.read_text())
    return models


def find_model(name: str) -> Path:
    """File of a registered model, checked against the sha256 in the registry.

    Raises:
        ValueError: for an unknown name (the nearest are listed), or a file that has changed.

    Example:
        >>> find_model("alanine").name
        Traceback (most recent call last):
            ...
        ValueError: name 'alanine' is no registered model; nearest: alanine-dipeptide; ...
    """
    models = registered_models()
    if name not in models:
        nearest = difflib.get_close_matches(name, models, cutoff=0.3) or ["none"]
        raise ValueError(
            f"name {name!r} is no registered model; nearest: {', '.join(nearest)}; "
            f"all: {', '.join(models)}"
        )
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"the weights of {name!r} are missing at {path}: reinstall openmm_tbg")
    if (found := file_sha256(path)) != models[name]:
        raise ValueError(
            f"the weights of {name!r} at {path} have sha256 {found[:12]}... where the registry has "
            f"{models[name][:12]}...: the file is truncated or altered, reinstall openmm_tbg"
        )
    return path
