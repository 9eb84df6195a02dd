"""Some structures in place of many: drawn by weight, and turned onto each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from ..arrays import Positions, Scalars

Drawn = Float64[np.ndarray, "drawn atoms 3"]
Shares = Float64[np.ndarray, " drawn"]


def drawn_by_weight(positions_nm: Positions, log_weights: Scalars, n: int) -> tuple[Drawn, Shares]:
    """Different structures in `n` draws by weight, superposed in nm, and the share of each in them.

    Systematic resampling: a structure is drawn once for each n-th of the weight.

    Args:
        positions_nm: Of all structures.
        log_weights: Of each, up to a constant, -inf where the weight is zero; not all are.
        n: Number of draws.

    Example:
        >>> frames, log_weights = np.zeros((3, 1, 3)), np.log([0.5, 0.25, 0.25])
        >>> drawn_by_weight(frames, log_weights, 4)[1]
        array([0.5 , 0.25, 0.25])
    """
    weights = np.exp(log_weights - log_weights.max())
    ends = np.cumsum(weights) / weights.sum()
    rows = np.searchsorted(ends, (np.arange(n) + 0.5) / n)
    chosen, counts = np.unique(rows, return_counts=True)
    return superposed(positions_nm[chosen]), counts / n


def superposed(positions_nm: Positions) -> Positions:
    """Each frame turned and moved onto the first, by least squares over all atoms.

    Reference:
        Kabsch, Acta Crystallogr. A 32 (1976) 922.

    Example:
        >>> frame = np.random.default_rng(0).normal(size=(4, 3))
        >>> turned = frame[:, [1, 2, 0]] + 5.0
        >>> first, second = superposed(np.stack([frame, turned]))
        >>> bool(np.allclose(first, second))
        True
    """
    centred = positions_nm - positions_nm.mean(axis=1, keepdims=True)
    left, _, right = np.linalg.svd(np.swapaxes(centred, 1, 2) @ centred[0])
    left[:, :, -1] *= np.sign(np.linalg.det(left @ right))[:, np.newaxis]
    turned: Positions = centred @ (left @ right)
    return turned
