r"""Fits a trained model to one molecule and target from its own proposals, without a simulation.

Each round draws proposals $x$ from the model $q$ as it stands, weighs them toward the target,
$w = e^{-u} / q$, and trains on from the model's weights on samples drawn by

$$ p_n \propto w_n^\beta . $$

With $\beta = 1$ these follow the target (Tan et al. 2025, arXiv:2508.18175, tune a flow so). But
weights with a heavy tail leave a handful of samples, which the network would learn by heart, so
$\beta$ is the largest power that leaves a stated share of them effective (Koblents & Míguez, Stat.
Comput. 25 (2015) 407): the samples then follow $q^{1 - \beta} e^{-\beta u}$, between the model and
the target, and the next round starts there. Forces of the target take the rest of the way where
the molecule is stiff: `newton` moves each sample to the mode that the target has beside it, so that
bonds and angles are those of the target whatever the power, and only slow degrees of freedom are
left to the weights.

No round can make a chain wrong. A model is frozen in a file before it draws, so that proposals and
their weights belong to one density, whose digest names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .adaptation_record import Adaptation, ModelQuality
from .analysis import tempering_power
from .arrays import Positions, Scalars
from .checkpoint import ModelCard, TrainedModel, file_sha256
from .fields.egnn import EGNN
from .files import write_atomically
from .generator import BoltzmannGenerator
from .metropolis import log_weights
from .potential import ReducedPotential, require_supported
from .proposals import Proposals
from .simulation.manifest import stiff_terms
from .store import ProposalStore
from .training.data import MoleculeFrames
from .training.newton import StiffTerms
from .training.objectives import Objective, ResidualMatching, Task, VelocityMatching
from .training.settings import Progress, TrainingSettings
from .training.single import averaged_weights
from .training.trainer import Trainer

FEWEST_USABLE = 16  # proposals that a round can learn from
HELD_BACK = 8  # one sample in so many validates


@dataclass(frozen=True)
class AdaptationSettings:
    """How a model is adapted.

    Args:
        n_rounds: times that the model is trained.
        n_proposals: drawn from the model given and from that of each round.
        batch_size: proposals drawn at a time.
        effective_share: share of the proposals of weight above zero that stays effective in
            training; it sets the power of the weights.
        training: of each round.
        seed: origin of all proposals.

    Raises:
        ValueError: for numbers below 1, proposals that are no whole number of batches, or a share
            that is not between 0 and 1.
    """

    n_rounds: int = 2
    n_proposals: int = 1024
    batch_size: int = 32
    effective_share: float = 0.5
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            n_steps=2000, learning_rate=5e-4, warmup_steps=100, ema_decay=0.99
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_rounds, self.n_proposals, self.batch_size) < 1:
            raise ValueError(f"{self}: give at least one round, and one proposal in a batch")
        if self.n_proposals % self.batch_size:
            raise ValueError(
                f"n_proposals is {self.n_proposals}: take a multiple of the batch size "
                f"{self.batch_size}"
            )
        if not 0 < self.effective_share < 1:
            raise ValueError(
                f"effective_share is {self.effective_share}: give a share between 0 and 1"
            )


@dataclass(frozen=True, eq=False)
class _Sample:
    """Proposals of weight above zero, with the forces of the target."""

    positions_nm: Positions
    forces_per_nm: Positions
    log_weights: Scalars


def adapt(
    generator: BoltzmannGenerator,
    potential: ReducedPotential,
    folder: Path,
    settings: AdaptationSettings | None = None,
    report: Callable[[Progress], None] = print,
) -> Adaptation:
    """Train a model on for one molecule and target, from its own weighted proposals.

    The folder holds the proposals and the model of each round, `model_1.safetensors` and so on; the
    same call goes on where an earlier one was ended. Proposals of all rounds so far are trained on,
    each with the weight that its own model gives. Those by which the last model is measured were
    drawn after it was written, and trained none.

    Args:
        generator: the model to start from; it stays what it is.
        potential: the target, of any force field and temperature.
        folder: for this model, target and settings alone.
        settings: how; None: the defaults.
        report: called with the progress of the training.

    Raises:
        ValueError: if the System is not supported, too few proposals can be trained on, or the
            folder belongs to another adaptation.
    """
    run = _Run(generator, potential, Path(folder).absolute(), settings or AdaptationSettings())
    require_supported(potential.system, generator.molecule.n_atoms)
    run.claim_folder()
    samples: list[_Sample] = []
    models: list[ModelQuality] = []
    for number in range(run.settings.n_rounds + 1):
        if number:
            path = run.folder / f"model_{number}.safetensors"
            if not path.exists():
                run.train(generator, samples, models, path, report)
            generator = _frozen(path, generator.device)
        proposals = run.draw(generator, number)
        u = proposals.reduced_potentials(potential)
        weights = log_weights(u, proposals.log_q, proposals.passes)
        samples.append(_usable(proposals.positions_nm, weights, potential))
        models.append(ModelQuality.measured(generator.sha256, weights))
    return Adaptation(generator, tuple(models))


@dataclass(frozen=True, eq=False)
class _Run:
    """One adaptation and its folder."""

    start: BoltzmannGenerator
    potential: ReducedPotential
    folder: Path
    settings: AdaptationSettings

    def claim_folder(self) -> None:
        """Write what the folder is for, or check it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "adaptation.json"
        if not file.exists():
            write_atomically(file, json.dumps(self.origin, indent=1).encode())
        stored = json.loads(file.read_text())
        differing = [key for key, value in self.origin.items() if stored.get(key) != value]
        if differing:
            raise ValueError(
                f"{self.folder} holds another adaptation ({', '.join(differing)} differ): choose "
                "another folder, or give what made the one there"
            )

    @property
    def origin(self) -> dict[str, Any]:
        """What tells one adaptation from another."""
        return {
            "adapted_from": self.start.reference,
            "adapted_from_sha256": self.start.sha256,
            "target_sha256": self.potential.sha256,
            "settings": asdict(self.settings),
        }

    def draw(self, generator: BoltzmannGenerator, number: int) -> Proposals:
        """Fresh proposals of the model of a round; 0 is the model given."""
        settings, path = self.settings, self.folder / f"proposals_{number}"
        seeds = np.random.SeedSequence(settings.seed).generate_state(settings.n_rounds + 1)
        store = ProposalStore.create(
            path,
            generator,
            settings.n_proposals // settings.batch_size,
            settings.batch_size,
            int(seeds[number]),
        )
        store.fill(generator)
        return store.read()

    def train(
        self,
        generator: BoltzmannGenerator,
        samples: Sequence[_Sample],
        models: Sequence[ModelQuality],
        path: Path,
        report: Callable[[Progress], None],
    ) -> None:
        """One round, from the weights of a model to a new file."""
        columns = [np.concatenate(column) for column in zip(*map(_columns, samples), strict=True)]
        positions, forces, log_w = (torch.from_numpy(column) for column in columns)
        power = tempering_power(columns[2], self.settings.effective_share)
        frames = MoleculeFrames(positions, forces, power * log_w)
        rows = torch.arange(len(frames))
        back = rows % HELD_BACK == 0
        task = Task(self._objective(generator), frames[rows[~back]], frames[rows[back]])
        trainer = Trainer([task], self.settings.training, path.with_suffix(".pt"))
        trainer.run(report)
        card, weights = self._card(models, power), averaged_weights(trainer)
        replace(generator.model, card=card, weights=weights).save(path)

    def _objective(self, generator: BoltzmannGenerator) -> Objective:
        network = generator.model.field().requires_grad_(True).to(generator.device)
        if isinstance(network, EGNN):
            return VelocityMatching(network)
        terms = stiff_terms(self.potential.system, self.potential.temperature_K)
        return ResidualMatching(network, StiffTerms.from_metadata(terms))

    def _card(self, models: Sequence[ModelQuality], power: float) -> ModelCard:
        card, temperature_K = self.start.card, self.potential.temperature_K
        before = [asdict(model) for model in models]
        return replace(
            card,
            description=f"{card.description}; adapted to the target "
            f"{self.potential.sha256[:12]} at {temperature_K:g} K",
            temperature_K=temperature_K,
            training_data=f"{sum(model.n for model in models)} weighted proposals; those before: "
            f"{card.training_data}",
            training=self.origin
            | {"models_before": before, "power_of_weights": power, "torch": torch.__version__},
            measured={},
        )


def _columns(sample: _Sample) -> tuple[Positions, Positions, Scalars]:
    return sample.positions_nm, sample.forces_per_nm, sample.log_weights


def _usable(positions_nm: Positions, log_weights: Scalars, potential: ReducedPotential) -> _Sample:
    rows = log_weights > -np.inf
    if rows.sum() < FEWEST_USABLE:
        raise ValueError(
            f"{rows.sum()} of {len(rows)} proposals pass the filters with a finite energy, "
            f"{FEWEST_USABLE} are needed: raise n_proposals, or start from a model nearer to this "
            "molecule and target"
        )
    return _Sample(positions_nm[rows], potential.forces(positions_nm[rows]), log_weights[rows])


def _frozen(path: Path, device: str) -> BoltzmannGenerator:
    return BoltzmannGenerator(TrainedModel.load(path), str(path), file_sha256(path), device)
