"""A model of one molecule from its frames: what a run begins with, and what it leaves."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import ModelCard, TrainedModel
from ..encoding import AtomEncoding
from ..fields.architecture import Architecture
from ..fields.denoiser import Denoiser
from ..fields.geometry import ReferenceGeometry
from ..frames import Frames
from ..grid import TimeGrid
from ..molecule import Molecule
from .data import MoleculeFrames
from .newton import StiffTerms
from .objectives import ResidualMatching, Task, VelocityMatching
from .trainer import Trainer

N_VALIDATION = 512
N_GEOMETRY = 20_000  # frames from which the moments of the molecule are taken


def training_columns(
    frames: Frames, seed: int, with_forces: bool = True
) -> tuple[MoleculeFrames, StiffTerms | None]:
    """The frames in a random order, and the molecule's bonds and angles where forces are used.

    Args:
        frames: as `simulate` stored them.
        seed: of the order.
        with_forces: whether forces take noise from the targets, where the frames have them.
    """
    forces = frames.forces_per_nm if with_forces else None
    weights = frames.log_weights
    columns = MoleculeFrames(
        torch.from_numpy(frames.positions_nm),
        None if forces is None else torch.from_numpy(forces),
        None if weights is None else torch.from_numpy(weights),
    )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(columns)))
    stiff = None if forces is None else StiffTerms.from_metadata(frames.metadata)
    return columns[order], stiff


def untrained(
    card: ModelCard,
    molecule: Molecule,
    encoding: AtomEncoding,
    architecture: Architecture,
    columns: MoleculeFrames,
    seed: int,
) -> TrainedModel:
    """A model with fresh weights, and the geometry that the frames have.

    Raises:
        ValueError: The frames are of another molecule.
    """
    if columns.n_atoms != molecule.n_atoms:
        raise ValueError(
            f"columns: frames of {columns.n_atoms} atoms, the molecule has "
            f"{molecule.n_atoms}: give frames of this molecule"
        )
    generator = torch.Generator().manual_seed(seed)
    sample = columns.positions_nm[columns.draw(N_GEOMETRY, generator)].double().numpy()
    geometry = ReferenceGeometry.from_frames(molecule, encoding, sample)
    torch.manual_seed(seed)
    weights = architecture.field(geometry).state_dict()
    return TrainedModel(card, molecule, encoding, geometry, architecture, TimeGrid(), weights)


def task_of(
    model: TrainedModel, columns: MoleculeFrames, stiff: StiffTerms | None, device: str = "cpu"
) -> Task:
    """The regression of a model's field; the first frames, a tenth at most, are held back."""
    field = model.field().requires_grad_(True).to(device)
    n_held = min(N_VALIDATION, max(1, len(columns) // 10))
    if isinstance(field, Denoiser):
        return Task(ResidualMatching(field, stiff), columns[n_held:], columns[:n_held])
    return Task(VelocityMatching(field), columns[n_held:], columns[:n_held])


def trained_model(
    model: TrainedModel, trainer: Trainer, also: dict[str, Any] | None = None
) -> TrainedModel:
    """The model with the averaged weights of a run, which its card describes.

    Args:
        model: with which the run began.
        trainer: the run.
        also: more that the card is to say about the training.
    """
    training = asdict(trainer.settings) | {"minutes": trainer.minutes} | (also or {})
    training |= {"torch": torch.__version__}
    card = replace(model.card, training=training)
    return replace(model, card=card, weights=averaged_weights(trainer))


def averaged_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged weights of a run, as a model keeps them."""
    return {k: v.detach().cpu() for k, v in trainer.averaged_field().state_dict().items()}
