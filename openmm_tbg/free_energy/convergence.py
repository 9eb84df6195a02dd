"""How a figure settles as samples are added, from either end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from .estimated import Estimated

Values = Float64[np.ndarray, " parts"]


@dataclass(frozen=True, eq=False)
class Convergence:
    """A figure from the first and from the last n samples, for growing n; NaN where there is none.

    Attributes:
        n: Samples used.
        forward: The figure from the first n.
        forward_error: Its standard error.
        reverse: The figure from the last n.
        reverse_error: Its standard error.
    """

    n: Int[np.ndarray, " parts"]
    forward: Values
    forward_error: Values
    reverse: Values
    reverse_error: Values


def forward_and_reverse(
    estimate: Callable[[slice], Estimated], n_samples: int, n_parts: int = 10
) -> Convergence:
    """Repeat an estimate with growing parts of the samples, from the first on and from the last.

    Both end at the figure of all samples. Where they meet only there, the samples are too few, or
    those of a chain still remember its start.

    Args:
        estimate: The figure of some rows of the samples; it may raise a ValueError for too few.
        n_samples: Number of all samples.
        n_parts: Number of parts.

    Raises:
        ValueError: There are fewer samples than parts.

    Reference:
        Klimovich, Shirts & Mobley, J. Comput.-Aided Mol. Des. 29 (2015) 397.

    Example:
        >>> from openmm_tbg.free_energy import average
        >>> w, x = np.zeros(4), np.arange(4.0)
        >>> found = forward_and_reverse(lambda rows: average(w[rows], x[rows]), 4, n_parts=2)
        >>> found.n, found.forward, found.reverse
        (array([2, 4]), array([0.5, 1.5]), array([2.5, 1.5]))
    """
    if not 1 <= n_parts <= n_samples:
        raise ValueError(
            f"n_samples is {n_samples}, n_parts {n_parts}: give at least one sample for each part"
        )
    n = np.arange(1, n_parts + 1) * n_samples // n_parts
    forward = [_figure(estimate, slice(0, int(each))) for each in n]
    reverse = [_figure(estimate, slice(n_samples - int(each), n_samples)) for each in n]
    return Convergence(n, *np.array(forward).T, *np.array(reverse).T)


def _figure(estimate: Callable[[slice], Estimated], rows: slice) -> tuple[float, float]:
    """The figure and its error; NaN where these rows tell nothing."""
    try:
        found = estimate(rows)
    except ValueError:
        return math.nan, math.nan
    return found.value, found.error
