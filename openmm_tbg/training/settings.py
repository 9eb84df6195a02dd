"""What a training run is, and how it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """The optimiser and the schedule of a training run.

    Args:
        n_steps: steps of the optimiser, over which the learning rate falls to zero (cosine).
        batch_size: configurations a step, of all processes together.
        learning_rate: the highest learning rate of AdamW.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises.
        ema_decay: decay of the averaged weights, which are the ones that are kept.
        clip_norm: largest norm of a gradient.
        shortest_noise: three quarters of the times are log-uniform in 1 - t from this to 1.
        weight_power: frames are drawn by this power of their weights; below 1, rare states more.
        seed: of batches, times and noise.
    """

    n_steps: int = 80_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 200
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    shortest_noise: float = 0.005
    weight_power: float = 1.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of one step."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.n_steps)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * cosine


@dataclass(frozen=True)
class Progress:
    """How a run stands.

    Attributes:
        step: steps of the optimiser.
        n_steps: steps at which the run ends.
        minutes: time spent in these steps.
        loss: running mean of the loss.
        validation: losses of the averaged weights on frames held back, at `VALIDATION_TIMES`.
    """

    step: int
    n_steps: int
    minutes: float
    loss: float
    validation: tuple[float, ...]

    @property
    def minutes_left(self) -> float:
        """Until the last step, at the mean speed of those done."""
        return self.minutes / self.step * (self.n_steps - self.step) if self.step else math.nan

    def __str__(self) -> str:
        values = " ".join(f"{v:.4f}" for v in self.validation)
        return (
            f"step {self.step} of {self.n_steps}  {self.minutes:.1f} min, "
            f"{self.minutes_left:.1f} left  loss {self.loss:.4f}  "
            f"validation {values}"
        )
