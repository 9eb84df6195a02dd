"""What the weights of proposals say about the target."""

from __future__ import annotations

import numpy as np

from .arrays import Scalars


def effective_sample_size(log_weights: Scalars) -> float:
    r"""Kish's effective sample size of weighted proposals, as a share of their number.

    $$ \mathrm{ESS} / N = (\sum_n w_n)^2 / (N \sum_n w_n^2) $$ No weight is clipped; a proposal that
    failed a filter counts in N with weight zero.

    Args:
        log_weights: Log-weights of all N proposals, -inf where the weight is zero.

    Returns:
        A share between 0 (every weight is zero) and 1 (all weights are equal).

    Raises:
        ValueError: There are no proposals, or a log-weight is NaN or +inf.

    Reference:
        Kish, Survey Sampling (Wiley, 1965), section 11.7.

    Example:
        >>> effective_sample_size(np.array([-700.0, -700.0, -np.inf, -np.inf]))
        0.5
    """
    if len(log_weights) == 0:
        raise ValueError("log_weights is empty: draw proposals first")
    largest = log_weights.max()
    if np.isnan(largest) or largest == np.inf:
        raise ValueError("log_weights must be finite, or -inf for a weight of zero")
    if largest == -np.inf:
        return 0.0
    weights = np.exp(log_weights - largest)
    return float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum()))
