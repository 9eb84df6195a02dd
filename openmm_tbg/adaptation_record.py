"""What an adaptation found: the model of each round, measured by proposals of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .analysis import bootstrap_error, effective_sample_size, independence_acceptance, pareto_k
from .arrays import Scalars
from .evaluation.record import Estimate
from .generator import BoltzmannGenerator


@dataclass(frozen=True)
class ModelQuality:
    """How well proposals of one model serve the target; they were drawn after it was frozen.

    Attributes:
        sha256: of the model's file.
        n: proposals, those of weight zero included.
        n_usable: of these, proposals of weight above zero.
        effective_sample_size: Kish's, as a share of n, nothing clipped.
        acceptance: of a stationary independence-Metropolis chain.
        pareto_k: tail index of the weights; above 0.7 the errors are too small.
    """

    sha256: str
    n: int
    n_usable: int
    effective_sample_size: Estimate
    acceptance: Estimate
    pareto_k: float

    @classmethod
    def measured(cls, sha256: str, log_weights: Scalars) -> ModelQuality:
        """The quality by the log-weights of all proposals; errors by 200 bootstrap resamples."""
        found = {
            statistic.__name__: Estimate(
                statistic(log_weights), bootstrap_error(statistic, log_weights, seed=0)
            )
            for statistic in (effective_sample_size, independence_acceptance)
        }
        return cls(
            sha256=sha256,
            n=len(log_weights),
            n_usable=int((log_weights > -math.inf).sum()),
            effective_sample_size=found["effective_sample_size"],
            acceptance=found["independence_acceptance"],
            pareto_k=pareto_k(log_weights),
        )

    def __str__(self) -> str:
        return (
            f"{self.sha256[:12]}  {self.n} proposals  {self.n_usable / self.n:.1%} usable  "
            f"ESS {self.effective_sample_size:.2%}  acceptance {self.acceptance:.2%}  "
            f"Pareto k {self.pareto_k:.2f}"
        )


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A model adapted to one molecule and target, and what its proposals gained.

    Attributes:
        generator: the adapted model, loaded from its file.
        models: the model given, and that of each round.
    """

    generator: BoltzmannGenerator
    models: tuple[ModelQuality, ...]

    @property
    def before(self) -> ModelQuality:
        """Of the model given."""
        return self.models[0]

    @property
    def after(self) -> ModelQuality:
        """Of the adapted model."""
        return self.models[-1]

    @property
    def gain(self) -> Estimate:
        """Effective sample size after less that before; the two sets of proposals share nothing."""
        before, after = self.before.effective_sample_size, self.after.effective_sample_size
        return Estimate(after.value - before.value, math.hypot(after.error, before.error))

    def __str__(self) -> str:
        rows = [f"model {number}  {quality}" for number, quality in enumerate(self.models)]
        return "\n".join([*rows, f"gain in ESS {self.gain:.2%}, {self.generator.reference}"])
