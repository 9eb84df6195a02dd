"""A figure with its error and what speaks against it; checks that all estimators share."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

from ..analysis import weights_over_largest
from ..arrays import Mask, Scalars, require_masks
from ..verdict import Doubt, Trust, Verdict


@dataclass(frozen=True)
class Estimated:
    """A figure with its standard error, how it was found, and what speaks against it.

    Attributes:
        value: The figure; free energies in kT.
        error: Its standard error, from the spread of the samples.
        estimator: Name of the method.
        n: Samples used, of each state; proposals that failed a filter are counted.
        n_effective: Kish's effective number of the samples that decide the figure.
        overlap: Of the states, at their weakest link: 1/2 for two that are equal, None for one.
        doubts: What speaks against the figure; empty where nothing is known to.
    """

    value: float
    error: float
    estimator: str
    n: tuple[int, ...]
    n_effective: float
    overlap: float | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def is_trusted(self) -> bool:
        """Whether the figure can be trusted, if with care."""
        return self.verdict.trust != Trust.NO

    @property
    def verdict(self) -> Verdict:
        """How far the figure can be trusted, and the next step."""
        return Verdict(self.doubts)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        overlap = "" if self.overlap is None else f", overlap {self.overlap:.2f}"
        line = (
            f"{self.value:.3f} +- {self.error:.3f} ({self.estimator}, N = "
            f"{' + '.join(map(str, self.n))}, {self.n_effective:.0f} effective{overlap})"
        )
        return "\n".join([line, *(f"  {doubt.trust}: {doubt}" for doubt in self.doubts)])


def normalised(log_weights: Scalars) -> Scalars:
    """Weights whose sum is 1.

    Raises:
        ValueError: There are fewer than two, one is NaN or +inf, or every weight is zero.
    """
    require_two(log_weights)
    weights = weights_over_largest(log_weights)
    shares: Scalars = weights / weights.sum()
    return shares


def effective_number(weights: Scalars) -> float:
    """Kish's effective number of weights that are not all zero."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def require_two(log_weights: Scalars) -> None:
    """Refuse a single sample, or none."""
    if len(log_weights) < 2:
        raise ValueError(f"{len(log_weights)} log-weights: an error takes at least two samples")


def require_length(log_weights: Scalars, **columns: np.ndarray) -> None:
    """Refuse columns with another number of rows than the weights."""
    for name, column in columns.items():
        if len(column) != len(log_weights):
            raise ValueError(
                f"{name} has {len(column)} rows, log_weights {len(log_weights)}: give one row for "
                "each proposal, those that fail a filter included"
            )


def require_sets(
    weights: Scalars,
    first: Mask,
    second: Mask,
    names: tuple[str, str] = ("`first`", "`second`"),
) -> None:
    """Refuse sets that are no masks, share a proposal, or are reached by no weight."""
    require_masks(first=first, second=second)
    if (first & second).any():
        raise ValueError("first and second share a proposal: give sets without common members")
    for name, inside in zip(names, (first, second), strict=True):
        if not weights[inside].any():
            raise ValueError(
                f"no proposal with a weight above zero lies in {name}: draw more, or choose a "
                "larger set"
            )
