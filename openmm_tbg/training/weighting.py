"""How much a time counts: the less, the more noise there is in its targets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

N_BINS = 32
LARGEST_LOG_ODDS = 6.0
DECAY = 0.98
SMALLEST_MEAN = 1e-5

Times = Float[Tensor, " batch"]
Errors = Float[Tensor, " batch"]


class TimeWeights:
    r"""Weights $w(t) = 1 / \sqrt{m(t)}$ from a running mean $m$ of the square error at each time.

    Where the field is fixed by the molecule (late times) its error is a hundredth of the noise that
    early targets carry, and without weights that noise would drown it. The inverse root measures
    best: $1 / m$ neglects the early times, equal weights the late ones. Weights depend on the time
    alone, so the minimum stays the conditional mean.

    Args:
        like: a tensor of the precision and on the device of the losses.
    """

    def __init__(self, like: Tensor) -> None:
        self.mean_square = torch.ones(N_BINS).to(like)

    def __call__(self, times: Times) -> Float[Tensor, " batch"]:
        """The weight of each time."""
        return self.mean_square[_bins(times)].clamp_min(SMALLEST_MEAN).rsqrt()

    def sums(self, times: Times, errors: Errors) -> Float[Tensor, "2 bins"]:
        """Sum of the errors in each bin of time, and their number: these add over processes."""
        columns = torch.stack([errors, torch.ones_like(errors)])
        return torch.zeros(2, N_BINS).to(errors).index_add(1, _bins(times), columns)

    def update(self, sums: Float[Tensor, "2 bins"]) -> None:
        """Let the running means follow the errors of one batch."""
        total, count = sums
        kept = DECAY**count
        fresh = torch.where(count > 0, total / count.clamp_min(1), self.mean_square)
        self.mean_square = kept * self.mean_square + (1 - kept) * fresh


def _bins(times: Times) -> Tensor:
    """Bins of equal width in the log-odds of the time."""
    log_odds = torch.logit(times, eps=1e-6).clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
    place = (log_odds / LARGEST_LOG_ODDS + 1) * (N_BINS / 2)
    return place.long().clamp(0, N_BINS - 1)
