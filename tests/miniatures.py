"""Small molecules, fields and a trained model: a flow of a size at which all of it can be checked.

The random fields vary slowly in time, so that a fine grid is exact to better than 1e-7.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from structures import Structure, structure_from_smiles

from openmm_tbg.arrays import Positions
from openmm_tbg.checkpoint import ModelCard, TrainedModel
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.denoiser import Denoiser
from openmm_tbg.fields.egnn import EGNN
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.grid import TimeGrid
from openmm_tbg.prior import MeanFreeGaussian
from openmm_tbg.training import (
    MoleculeFrames,
    ResidualMatching,
    Task,
    Trainer,
    TrainingSettings,
)

CHIRAL = "F[C@H](Cl)Br"  # F, C, Cl, Br, H: one stereocentre, no two atoms alike
METHANOL = "CO"  # C, O, three hydrogens alike, one hydrogen of its own
EQUAL_ATOMS, DIFFERENT_ATOMS = [0, 1, 4, 2, 3, 5], [0, 1, 2, 3, 5, 4]  # orders of methanol's atoms

ARCHITECTURE = DenoiserArchitecture(hidden=8, layers=2)
SETTINGS = TrainingSettings(
    n_steps=120,
    batch_size=16,
    learning_rate=1e-2,
    warmup_steps=10,
    ema_decay=0.9,
)
CARD = ModelCard(
    name="miniature",
    description="A test's model.",
    force_field=("none.xml",),
    temperature_K=300.0,
    training_data="noise around a structure",
    training={"n_steps": SETTINGS.n_steps},
    measured={"ess": 0.5},
    commit="none",
)


def frames_of(structure: Structure, n: int, width_nm: float = 0.01, seed: int = 0) -> Positions:
    """The structure with Gaussian noise on every atom, centred."""
    noise = np.random.default_rng(seed).normal(size=(n, *structure.positions_nm.shape))
    frames: Positions = structure.positions_nm + width_nm * noise
    return frames - frames.mean(axis=1, keepdims=True)


@cache
def geometry_of(smiles: str, width_nm: float = 0.03) -> ReferenceGeometry:
    structure = structure_from_smiles(smiles)
    molecule = structure.molecule
    frames = frames_of(structure, 200, width_nm)
    return ReferenceGeometry.from_frames(molecule, encode_full(molecule), frames)


@cache
def blind_geometry_of(smiles: str, width_nm: float = 0.03) -> ReferenceGeometry:
    """The same without stereocentres: a field that takes mirror images for the same."""
    return replace(geometry_of(smiles, width_nm), stereocentres=np.zeros((0, 4), dtype=np.int64))


def prior_of(smiles: str) -> MeanFreeGaussian:
    return MeanFreeGaussian(torch.from_numpy(geometry_of(smiles).covariance))


def random_denoiser(
    smiles: str = METHANOL, layers: int = 2, dtype: torch.dtype = torch.float64
) -> Denoiser:
    """A denoiser in which every weight matters: the initial one hardly pushes an atom."""
    torch.manual_seed(0)
    field = Denoiser(geometry_of(smiles), hidden=8, layers=layers, dtype=torch.float64)
    with torch.no_grad():
        for block in field.blocks:
            block.pair.weight[2 * field.hidden :] *= 8
            block.pair.bias[2 * field.hidden :] *= 8
        for hand in field.hands:
            torch.nn.init.normal_(hand.out.weight, std=0.3)
            torch.nn.init.normal_(hand.push.weight, std=0.5)
        field.gate.weight *= 4
        field.time_embedding[0].weight[:, 1:] *= 0.01
    return field.to(dtype).requires_grad_(False)


def random_egnn(smiles: str = METHANOL) -> EGNN:
    """An EGNN that moves every atom: the initial one hardly does."""
    torch.manual_seed(0)
    field = EGNN(torch.from_numpy(geometry_of(smiles).one_hot), hidden=8, layers=2).double()
    for weight in field.parameters():
        torch.nn.init.normal_(weight, std=0.18)
    return field.requires_grad_(False)


def task_of(
    smiles: str,
    n_train: int,
    n_validation: int,
    geometry: ReferenceGeometry | None = None,
) -> Task:
    """What a trainer learns of noisy copies of a structure, without forces."""
    frames = torch.from_numpy(
        frames_of(structure_from_smiles(smiles), n_train + n_validation)
    ).float()
    torch.manual_seed(0)
    field = ARCHITECTURE.field(geometry or geometry_of(smiles, 0.01))
    return Task(
        ResidualMatching(field),
        MoleculeFrames(frames[n_validation:]),
        MoleculeFrames(frames[:n_validation]),
    )


@dataclass(frozen=True)
class Trained:
    """A model of CHFClBr and its validation losses before and after training."""

    model: TrainedModel
    before: tuple[float, ...]
    after: tuple[float, ...]


@cache
def trained(sees_hand: bool = False) -> Trained:
    molecule = structure_from_smiles(CHIRAL).molecule
    geometry = (geometry_of if sees_hand else blind_geometry_of)(CHIRAL, width_nm=0.01)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer([task_of(CHIRAL, 250, 50, geometry)], SETTINGS, Path(folder) / "run.pt")
        before = trainer.validation_losses()
        trainer.run(lambda progress: None, every=SETTINGS.n_steps)
    weights = trainer.averaged_field().state_dict()
    model = TrainedModel(
        card=CARD,
        molecule=molecule,
        encoding=encode_full(molecule),
        geometry=geometry,
        architecture=ARCHITECTURE,
        grid=TimeGrid(nodes=8, steps=1),
        weights=weights,
    )
    return Trained(model, before, trainer.validation_losses())
