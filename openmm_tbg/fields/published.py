"""Checkpoints of the authors of Transferable Boltzmann Generators, read into our EGNN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .architecture import EGNNArchitecture
from .egnn import EGNN

STATE = "model_state_dict"
FIRST = "egnn.embedding.weight"
OUTSIDE_LAYERS = {"embedding": "embedding", "readout": "embedding_out"}
IN_LAYERS = {
    "edge_in": "edge_mlp.0",
    "edge.1": "edge_mlp.2",
    "gate.0": "att_mlp.0",
    "push.0": "coord_mlp.0",
    "push.2": "coord_mlp.2",
    "node.0": "node_mlp.0",
    "node.2": "node_mlp.2",
}


@dataclass(frozen=True)
class PublishedEGNN:
    """A published model, converted.

    Args:
        architecture: its sizes.
        n_columns: width of the encoding that it was trained with, time not counted.
        weights: under the names of `EGNN`.
    """

    architecture: EGNNArchitecture
    n_columns: int
    weights: dict[str, Tensor]

    def field(self, features: Float[Tensor, "atoms columns"]) -> EGNN:
        """The field of one molecule, with an encoding of `n_columns` columns.

        Raises:
            ValueError: for another number of columns.
        """
        if features.shape[1] != self.n_columns:
            raise ValueError(
                f"features: {features.shape[1]} columns where the model has {self.n_columns}; "
                "encode the molecule as for its training (openmm_tbg.transferable)"
            )
        sizes = self.architecture
        field = EGNN(features, sizes.hidden, sizes.layers, sizes.units_per_nm)
        field.load_state_dict(self.weights)
        return field.requires_grad_(False).eval()


def read_published(path: Path, units_per_nm: float) -> PublishedEGNN:
    """Read a checkpoint of the authors' training scripts; none of its code is run.

    Args:
        path: of a file that `torch.save` wrote, with a state dict or with one under
            "model_state_dict".
        units_per_nm: by which the training data were multiplied; not in the file. The authors'
            scripts have 30 for dipeptides and 10 for alanine dipeptide.

    Raises:
        ValueError: if the file is no EGNN of this kind.

    References:
        Klein & Noé 2024, Transferable Boltzmann Generators (arXiv:2406.14426).
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    return from_published(content.get(STATE, content), units_per_nm)


def from_published(state: Mapping[str, Tensor], units_per_nm: float) -> PublishedEGNN:
    """Convert a state dict of the authors' EGNN with attention and tanh, whatever wraps it.

    Arguments and errors as in `read_published`.

    Example:
        >>> ours = EGNN(torch.eye(3), hidden=4, layers=2).state_dict()
        >>> theirs = {f"flow.egnn.{published_name(name)}": w for name, w in ours.items()}
        >>> published = from_published(theirs, units_per_nm=30.0)
        >>> published.architecture
        EGNNArchitecture(hidden=4, layers=2, units_per_nm=30.0)
        >>> published.n_columns, list(published.weights) == list(ours)
        (3, True)
    """
    anchors = [name for name in state if name.endswith(FIRST)]
    if len(anchors) != 1:
        raise ValueError(
            f"state: {len(anchors)} parameters called ...{FIRST} where one is needed; give a "
            "checkpoint of one EGNN of the authors of Transferable Boltzmann Generators"
        )
    prefix = anchors[0].removesuffix("embedding.weight")
    hidden, n_inputs = state[anchors[0]].shape
    layers = len({name.split(".")[0] for name in _inside(state, prefix) if name.startswith("gcl_")})
    expected = EGNN(torch.zeros(1, n_inputs - 1), hidden, layers, units_per_nm).state_dict()
    names = {name: published_name(name) for name in expected}
    different = set(names.values()) ^ set(_inside(state, prefix))
    if different:
        raise ValueError(
            f"state: {min(different)} is missing or not known; only the EGNN with attention and "
            "tanh, as published for molecules, can be read"
        )
    weights = {name: state[prefix + theirs].clone() for name, theirs in names.items()}
    return PublishedEGNN(EGNNArchitecture(hidden, layers, units_per_nm), n_inputs - 1, weights)


def published_name(name: str) -> str:
    """What the authors call a parameter of `EGNN`.

    Example:
        >>> published_name("layers.3.edge.1.weight")
        'gcl_3.edge_mlp.2.weight'
    """
    module, _, kind = name.rpartition(".")
    if module in OUTSIDE_LAYERS:
        return f"{OUTSIDE_LAYERS[module]}.{kind}"
    _, layer, inner = module.split(".", 2)
    return f"gcl_{layer}.{IN_LAYERS[inner]}.{kind}"


def _inside(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
