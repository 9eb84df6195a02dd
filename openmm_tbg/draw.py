"""What becomes of the rows of one draw: begun, screened, kept; each with its density or a cause."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .arrays import Cause, Causes, Positions, Scalars
from .filters import Screened, TopologyFilter
from .flow import ContinuousFlow, Positions64, Rows, Scalars64
from .proposals import Proposals, Thinning


def log_begin(
    flow: ContinuousFlow,
    filter: TopologyFilter,
    of_foreseen: Callable[[Positions], Scalars],
    noise_nm: Positions64,
) -> Scalars:
    """Log-probability that a trajectory from there is integrated at all, by where it would end.

    A function of the noise alone, and so of the configuration at its end. The filter brings what is
    foreseen into the molecule's order and hand, as it does with what is drawn, so that images of
    one configuration that are folded into it have the same probability.
    """
    log_begun = np.zeros(len(noise_nm))
    foreseen = filter.screen(flow.foresee(noise_nm).cpu().numpy())
    if foreseen.passes.any():
        log_begun[foreseen.passes] = of_foreseen(foreseen.positions_nm[foreseen.passes])
    return log_begun


class Draw:
    """One draw: the flow asks chunk by chunk which rows need a density.

    Args:
        flow: what is drawn from.
        filter: which configurations are the molecule.
        thinning: with which probability rows are kept. None: all.
        rng: source of what is kept.
    """

    def __init__(
        self,
        flow: ContinuousFlow,
        filter: TopologyFilter,
        thinning: Thinning | None,
        rng: np.random.Generator,
    ) -> None:
        self._flow, self._filter, self._thinning, self._rng = flow, filter, thinning, rng
        self._screened: list[Screened] = []
        self._log_kept: list[Scalars] = []

    def proposals(self, n: int, generator: torch.Generator) -> Proposals:
        """n rows, those that fail or are dropped with the cause."""
        noise_nm = self._flow.noise(n, generator)
        log_begun, begun = np.zeros(n), np.ones(n, dtype=bool)
        if self._thinning is not None and self._thinning.log_begin is not None:
            log_begun = log_begin(self._flow, self._filter, self._thinning.log_begin, noise_nm)
            begun = log_begun >= -self._rng.exponential(size=n)
        positions_nm = np.full(noise_nm.shape, np.nan)
        log_q, cause = np.full(n, np.nan), np.full(n, Cause.THINNED, dtype=np.int8)
        if begun.any():
            rows = torch.from_numpy(begun).to(noise_nm.device)
            positions_nm[begun], log_q[begun], cause[begun] = self._finish(noise_nm[rows])
        return Proposals(positions_nm, log_q + log_begun, cause)

    def _finish(self, noise_nm: Positions64) -> tuple[Positions, Scalars, Causes]:
        log_q = self._flow.push(noise_nm, self._passes, self._keeps).log_q.cpu().numpy()
        return (
            np.concatenate([each.positions_nm for each in self._screened]),
            log_q + self._filter.log_fold + np.concatenate(self._log_kept),
            np.concatenate([each.cause for each in self._screened]),
        )

    def _passes(self, positions_nm: Positions64) -> Rows:
        screened = self._filter.screen(positions_nm.cpu().numpy())
        self._screened.append(screened)
        self._log_kept.append(np.zeros(len(screened.cause)))
        return torch.from_numpy(screened.passes).to(positions_nm.device)

    def _keeps(self, positions_nm: Positions64, log_q_estimate: Scalars64) -> Rows:
        screened, log_kept = self._screened[-1], self._log_kept[-1]
        if self._thinning is not None:
            rows = screened.passes
            log_uniform = -self._rng.exponential(size=len(rows))
            estimate = log_q_estimate.cpu().numpy()[rows] + self._filter.log_fold
            log_kept[rows] = self._thinning.log_keep(screened.positions_nm[rows], estimate)
            screened.cause[rows & (log_uniform > log_kept)] = Cause.THINNED
        return torch.from_numpy(screened.passes).to(positions_nm.device)
