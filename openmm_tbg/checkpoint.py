"""Trained models in one file: weights, the molecule they know, and what made them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .encoding import AtomEncoding
from .fields.architecture import Architecture, describe, from_description
from .fields.denoiser import Denoiser
from .fields.egnn import EGNN
from .fields.geometry import ReferenceGeometry
from .files import write_atomically
from .flow import ContinuousFlow
from .grid import TimeGrid
from .molecule import Molecule

METADATA_KEY = "openmm_tbg"
FORMAT_VERSION = 2
UNITS = "nm, nats, 3(N-1)-dimensional mean-free subspace"
WEIGHT, GEOMETRY = "weight.", "geometry."


@dataclass(frozen=True)
class ModelCard:
    """What made a model, for whoever uses it.

    Args:
        name: under which the model is registered.
        description: one sentence.
        force_field: names of the force-field files of the training data.
        temperature_K: temperature of the training data.
        training_data: where the frames came from, how many, how long.
        training: settings and length of the training.
        measured: figures of the model, each with N, seed and hardware.
        commit: of the code that trained it.
        licence: of the weights.
    """

    name: str
    description: str
    force_field: tuple[str, ...]
    temperature_K: float
    training_data: str
    training: dict[str, Any]
    measured: dict[str, Any]
    commit: str
    licence: str = "MIT"

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> ModelCard:
        """The card that `asdict` gave."""
        return cls(**description | {"force_field": tuple(description["force_field"])})


@dataclass(frozen=True)
class TrainedModel:
    """A field's weights with all that is needed to draw and to weigh configurations in nm.

    Args:
        card: what made the model.
        molecule: the molecule that it knows.
        encoding: labels of the molecule's atoms, as the field sees them.
        geometry: moments of the training data.
        architecture: kind and sizes of the field.
        grid: time grid on which log q of this model is defined.
        weights: parameters of the field.
    """

    card: ModelCard
    molecule: Molecule
    encoding: AtomEncoding
    geometry: ReferenceGeometry
    architecture: Architecture
    grid: TimeGrid
    weights: dict[str, Tensor]

    def field(self, dtype: torch.dtype = torch.float32) -> Denoiser | EGNN:
        """The network with its trained weights, for evaluation."""
        field = self.architecture.field(self.geometry, dtype)
        field.load_state_dict(self.weights)
        return field.requires_grad_(False).eval()

    def flow(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ContinuousFlow:
        """The flow from the prior of the architecture."""
        prior = self.architecture.prior(self.geometry).to(device)
        return ContinuousFlow(self.field(dtype).to(device), prior, self.grid)

    def save(self, path: Path) -> str:
        """Write a safetensors file, whole or not at all; return its sha256."""
        arrays = {
            name: torch.from_numpy(values).contiguous()
            for name, values in vars(self.geometry).items()
        }
        tensors = {GEOMETRY + name: values for name, values in arrays.items()}
        tensors |= {WEIGHT + name: values.contiguous() for name, values in self.weights.items()}
        description = {
            "card": asdict(self.card),
            "molecule": self.molecule.to_dict(),
            "encoding": asdict(self.encoding),
            "grid": asdict(self.grid),
            **describe(self.architecture),
        }
        return write_model_file(path, description, tensors)

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is truncated, or is no model of one molecule.
        """
        description, tensors = read_model_file(path)
        if "molecule" not in description:
            raise ValueError(
                f"{path} holds a model of many molecules: say of which one by a sequence"
            )
        encoding = description["encoding"]
        return cls(
            card=ModelCard.from_dict(description["card"]),
            molecule=Molecule.from_dict(description["molecule"]),
            encoding=AtomEncoding(
                tuple(encoding["labels"]), encoding["n_labels"], tuple(encoding.get("blocks", ()))
            ),
            geometry=ReferenceGeometry(
                **{k: v.numpy() for k, v in with_prefix(tensors, GEOMETRY).items()}
            ),
            architecture=from_description(description),
            grid=TimeGrid(**description["grid"]),
            weights=with_prefix(tensors, WEIGHT),
        )


def write_model_file(path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Write a safetensors file with a description, whole or not at all; return its sha256."""
    header = {"version": FORMAT_VERSION, "units": UNITS} | description
    write_atomically(path, save(tensors, {METADATA_KEY: json.dumps(header)}))
    return file_sha256(path)


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors that `write_model_file` wrote.

    Raises:
        ValueError: if the file is truncated, of another version, or no model of this library.
    """
    description = read_description(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return description, tensors


def read_description(path: Path) -> dict[str, Any]:
    """The description alone, without the tensors; errors as in `read_model_file`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): install or copy it again") from error
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} is no model of openmm_tbg: choose one that it has trained")
    description: dict[str, Any] = json.loads(metadata[METADATA_KEY])
    if description["version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {description['version']}, this openmm_tbg reads "
            f"{FORMAT_VERSION}: install the openmm_tbg that wrote it"
        )
    return description


def read_card(path: Path) -> ModelCard:
    """The card of a model of one molecule or of many; errors as in `read_model_file`."""
    return ModelCard.from_dict(read_description(path)["card"])


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, under what is left of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
