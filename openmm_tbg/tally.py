"""Running counts of what became of the proposals, small enough to be stored at each iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from .arrays import Cause, Causes, Scalars
from .metropolis import Chain
from .verdict import Verdict, doubts_of_chain, doubts_of_proposals
from .visits import Visits


@dataclass(frozen=True)
class Tally:
    """Counts over all applications of a move.

    The log-weights enter as two sums, from which Kish's effective sample size over all N proposals
    follows exactly, so that no weight has to be kept. Every proposal is accepted or has one cause
    of rejection: n_proposed = n_accepted + the sum of all n_rejected.

    Attributes:
        n_moves: Applications of the move.
        n_steps: Steps of the chain; each accepts a proposal or keeps the state.
        n_proposed: Proposals used.
        n_accepted: Steps that changed the state.
        n_rejected_bond_graph: Proposals with other bonds than the molecule.
        n_rejected_chirality: Proposals whose stereocentres have mixed hands.
        n_rejected_energy_not_finite: Proposals without a finite energy.
        n_rejected_metropolis: Proposals that fail nothing but were not chosen.
        n_rejected_thinned: Proposals dropped at random by a first estimate of their weight.
        rejection_run: Latest steps in a row that kept the state.
        longest_rejection_run: The longest such run.
        log_sum_weights: Log of the sum of weights of all proposals.
        log_sum_squared_weights: Log of the sum of their squares.
        seconds: Wall time spent in the move.
    """

    n_moves: int = 0
    n_steps: int = 0
    n_proposed: int = 0
    n_accepted: int = 0
    n_rejected_bond_graph: int = 0
    n_rejected_chirality: int = 0
    n_rejected_energy_not_finite: int = 0
    n_rejected_metropolis: int = 0
    n_rejected_thinned: int = 0
    rejection_run: int = 0
    longest_rejection_run: int = 0
    log_sum_weights: float = -math.inf
    log_sum_squared_weights: float = -math.inf
    seconds: float = 0.0

    def record(self, chain: Chain, cause: Causes, log_weights: Scalars, seconds: float) -> Tally:
        """The tally after one more application of the move.

        Args:
            chain: The steps that were taken.
            cause: What the filters said of each proposal.
            log_weights: Log-weight of each proposal, -inf where it is zero.
            seconds: Wall time of the application.
        """
        cause = _final_causes(chain, cause, log_weights)
        run = longest = self.rejection_run
        for accepted in chain.accepted:
            run = 0 if accepted else run + 1
            longest = max(longest, run)
        return Tally(
            n_moves=self.n_moves + 1,
            n_steps=self.n_steps + len(chain.selected),
            n_proposed=self.n_proposed + len(cause),
            n_accepted=self.n_accepted + int(chain.accepted.sum()),
            rejection_run=run,
            longest_rejection_run=max(longest, self.longest_rejection_run),
            log_sum_weights=_log_sum(self.log_sum_weights, log_weights),
            log_sum_squared_weights=_log_sum(self.log_sum_squared_weights, 2 * log_weights),
            seconds=self.seconds + seconds,
            **{
                key: getattr(self, key) + int((cause == rejection).sum())
                for rejection, key in _REJECTION_KEYS.items()
            },
        )

    def to_dict(self) -> dict[str, int | float]:
        """The counts as plain numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, counts: Mapping[str, int | float]) -> Tally:
        """The tally of stored counts; those that an older version did not store start anew."""
        start = asdict(cls())
        return cls(**{key: type(zero)(counts.get(key, zero)) for key, zero in start.items()})

    def summary(self) -> MoveSummary:
        """What the counts say about the generator."""
        return MoveSummary(
            n_proposed=self.n_proposed,
            acceptance=_ratio(self.n_accepted, self.n_steps),
            rejected={
                cause: _ratio(getattr(self, key), self.n_proposed)
                for cause, key in _REJECTION_KEYS.items()
            },
            effective_sample_size=_ratio(
                math.exp(2 * self.log_sum_weights - self.log_sum_squared_weights)
                if self.log_sum_weights > -math.inf
                else 0.0,
                self.n_proposed,
            ),
            n_steps=self.n_steps,
            longest_rejection_run=self.longest_rejection_run,
            seconds_per_proposal=_ratio(self.seconds, self.n_proposed),
        )


@dataclass(frozen=True)
class MoveSummary:
    """How well the proposals of a move serve its target.

    Attributes:
        n_proposed: Number N of proposals.
        acceptance: Share of the chain's steps that changed the state.
        rejected: Share of the proposals rejected for each cause.
        effective_sample_size: Kish's ESS of the weights over all N proposals, nothing clipped, as a
            share of N.
        n_steps: Steps of the chain.
        longest_rejection_run: Most steps in a row without acceptance.
        seconds_per_proposal: Wall time of the move for each proposal.
        visits: Of the chain to a basin; None where they are not known.
    """

    n_proposed: int
    acceptance: float
    rejected: Mapping[Cause, float]
    effective_sample_size: float
    n_steps: int
    longest_rejection_run: int
    seconds_per_proposal: float
    visits: Visits | None = None

    @property
    def n_effective(self) -> float:
        """Kish's effective number of proposals."""
        return self.effective_sample_size * self.n_proposed

    @property
    def verdict(self) -> Verdict:
        """How far the chain and averages over its proposals can be trusted, and the next step."""
        doubts = doubts_of_proposals(self.n_effective, self.rejected, self.n_proposed)
        if self.n_proposed:
            n_accepted = round(self.acceptance * self.n_steps)
            doubts += doubts_of_chain(
                self.n_steps, n_accepted, self.longest_rejection_run, self.visits
            )
        return Verdict(doubts)

    def __str__(self) -> str:
        trips, visits = "", self.visits
        if visits is not None:
            trips = (
                f"round trips             {visits.n_round_trips}, with {visits.share:.1%} of the "
                f"states at {visits.where}\n"
            )
        rejected = ", ".join(f"{cause.label} {share:.1%}" for cause, share in self.rejected.items())
        return (
            f"proposals               {self.n_proposed}\n"
            f"acceptance              {self.acceptance:.2%} of steps\n"
            f"rejected                {rejected}\n"
            f"effective sample size   {self.n_effective:.1f}, {self.effective_sample_size:.2%} of "
            "all proposals, no weight clipped\n"
            f"longest rejection run   {self.longest_rejection_run} steps\n"
            f"{trips}"
            f"time                    {self.seconds_per_proposal:.2g} s a proposal\n"
            f"verdict                 {self.verdict}"
        )


_REJECTION_KEYS = {
    cause: f"n_rejected_{cause.name.lower()}" for cause in Cause if cause != Cause.NONE
}


def _final_causes(chain: Chain, cause: Causes, log_weights: Scalars) -> Causes:
    final = cause.copy()
    final[(cause == Cause.NONE) & np.isneginf(log_weights)] = Cause.ENERGY_NOT_FINITE
    chosen = np.isin(np.arange(len(cause)), chain.selected)
    final[(final == Cause.NONE) & ~chosen] = Cause.METROPOLIS
    return final


def _log_sum(log_total: float, log_terms: Scalars) -> float:
    return float(np.logaddexp.reduce(log_terms, initial=log_total))


def _ratio(part: int | float, whole: int) -> float:
    return part / whole if whole else 0.0
