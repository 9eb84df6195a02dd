"""What a time series of correlated states is worth."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int

from ..arrays import Mask, Scalars, require_masks, require_numbers
from ..verdict import doubts_of_round_trips
from ..visits import Visits
from .estimated import Estimated


def independent_rows(series: Scalars) -> Int[np.ndarray, " kept"]:
    """Rows of a time series that count as independent: one in each statistical inefficiency.

    Args:
        series: What is slowest in the trajectory, such as the sine of a dihedral or the potential.

    Raises:
        ValueError: The series is no array of numbers, not finite or constant: it never moved, and
            holds one sample.

    Reference:
        Chodera et al., J. Chem. Theory Comput. 3 (2007) 26, through pymbar.

    Example:
        >>> rows = independent_rows(np.repeat(np.random.default_rng(0).normal(size=100), 10))
        >>> 40 < len(rows) < 130
        True
    """
    require_numbers(series=series)
    if not np.isfinite(series).all() or np.ptp(series) == 0:
        raise ValueError(
            "series: constant or not finite, so that it holds one independent sample at most"
        )
    from pymbar import timeseries

    rows: Int[np.ndarray, " kept"] = np.array(timeseries.subsample_correlated_data(series))
    return rows


def free_energy_difference_of_chain(first: Mask) -> Estimated:
    r"""Free energy of one set of configurations less that of all others, from a chain of states.

    $$ \Delta F = -\ln \frac{p}{1 - p}, \qquad \sigma^2 = \frac{g}{N p (1 - p)} $$ with p the
    share of N states inside the set, and g the statistical inefficiency of being there.

    Args:
        first: Which of the successive, equally spaced states lie in the set.

    Raises:
        ValueError: The chain never left the set, or never entered it, or `first` is no mask.

    Reference:
        Chodera et al., J. Chem. Theory Comput. 3 (2007) 26, through pymbar.

    Example:
        >>> inside = np.random.default_rng(0).random(1000) < 0.2
        >>> print(free_energy_difference_of_chain(inside))
        1.431 +- 0.080 (populations of a chain, N = 1000, 1000 effective)
    """
    require_masks(first=first)
    if first.all() or not first.any():
        raise ValueError(
            f"the chain of {len(first)} states never crossed between the sets: run it longer, or "
            "start it elsewhere"
        )
    from pymbar import timeseries

    share = float(first.mean())
    n_effective = len(first) / float(timeseries.statistical_inefficiency(first.astype(float)))
    return Estimated(
        -math.log(share / (1 - share)),
        1 / math.sqrt(n_effective * share * (1 - share)),
        "populations of a chain",
        (len(first),),
        n_effective,
        doubts=doubts_of_round_trips(Visits.of(first, "the set").n_round_trips),
    )
