"""Acceptance of independent proposals, as pure functions of log-weights.

A configuration x drawn from the density q has the log-weight log w(x) = -u(x) - log q(x). Where x
fails a filter, or its energy is not finite, log w(x) = -inf: it can be neither entered nor left.
Both kernels therefore leave exp(-u) invariant on the filtered set *and* on the whole space, so they
may be combined with local moves that know nothing of the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .arrays import Mask, Scalars, require_masks, require_numbers


def log_weights(u: Scalars, log_q: Scalars, passes: Mask) -> Scalars:
    r"""Log-weights of configurations, each the row of one proposal.

    $$ \log w = -u - \log q $$ where the row passes the filters with a finite energy, else -inf.

    Args:
        u: Reduced potentials in kT; NaN or infinite marks a row without a usable energy.
        log_q: Log-densities in nats; used only in rows that pass.
        passes: Whether the row passes the filters.

    Raises:
        ValueError: Lengths differ, a column is no array of numbers, `passes` none of bool, or log q
            is not finite in a row that passes.

    Example:
        >>> log_weights(np.array([1.0, np.nan]), np.array([0.5, 0.5]), np.array([True, True]))
        array([-1.5, -inf])
    """
    require_numbers(u=u, log_q=log_q)
    require_masks(passes=passes)
    if not len(u) == len(log_q) == len(passes):
        raise ValueError(
            f"u has {len(u)} rows, log_q {len(log_q)}, passes {len(passes)}: give one row for each "
            "proposal, those that fail a filter included"
        )
    if not np.isfinite(log_q[passes]).all():
        raise ValueError(
            "log_q is not finite for a configuration that passes the filters: "
            "the generator has to reject what it cannot give a density to"
        )
    usable = passes & np.isfinite(u)
    result = np.full(len(u), -np.inf)
    result[usable] = -u[usable] - log_q[usable]
    return result


def log_acceptance(log_weight_current: float, log_weight_proposed: float) -> float:
    r"""Log-probability that independence-Metropolis accepts a proposal.

    $$ \log a = \min(0, \log w' - \log w) $$ if both weights are positive, else -inf. Testing only
    the proposal would let the chain enter the filtered set more often than it leaves it.

    Args:
        log_weight_current: log w of the current state.
        log_weight_proposed: log w' of the proposed state.

    Reference:
        Hastings, Biometrika 57 (1970) 97; Tierney, Ann. Stat. 22 (1994) 1701, section 2.3.3.

    Example:
        >>> log_acceptance(-1.0, -3.0), log_acceptance(-np.inf, 0.0)
        (-2.0, -inf)
    """
    if log_weight_current == -np.inf or log_weight_proposed == -np.inf:
        return -np.inf
    return min(0.0, log_weight_proposed - log_weight_current)


@dataclass(frozen=True, eq=False)
class Chain:
    """The states that a kernel visits: after each step the row it stands on, -1 for the start."""

    selected: Int64[np.ndarray, " steps"]

    @property
    def accepted(self) -> Bool[np.ndarray, " steps"]:
        """Whether each step changed the state; no kernel selects a row that it has left."""
        changed: Bool[np.ndarray, " steps"] = np.diff(self.selected, prepend=-1) != 0
        return changed

    @property
    def last(self) -> int:
        """The row on which the chain ends, -1 if it never left the start."""
        return int(self.selected[-1])


def independence_metropolis(
    log_weight_current: float, log_weights_proposed: Scalars, rng: np.random.Generator
) -> Chain:
    """Successive independence-Metropolis steps, one for each proposal.

    Args:
        log_weight_current: Log-weight of the state from which the chain starts.
        log_weights_proposed: Log-weights of the proposals, in the order in which they are tried.
        rng: Source of the uniform numbers.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> independence_metropolis(-1.0, np.array([-np.inf, 0.0, 2.0]), rng).selected
        array([-1,  1,  2])
    """
    log_uniform = -rng.exponential(size=len(log_weights_proposed))
    selected = np.empty(len(log_weights_proposed), dtype=np.int64)
    row, log_weight = -1, log_weight_current
    for proposed, log_weight_proposed in enumerate(log_weights_proposed.tolist()):
        if log_uniform[proposed] <= log_acceptance(log_weight, log_weight_proposed):
            row, log_weight = proposed, log_weight_proposed
        selected[proposed] = row
    return Chain(selected)


def selection_probabilities(
    log_weight_current: float, log_weights_proposed: Scalars
) -> Float64[np.ndarray, " batch+1"]:
    r"""Probabilities with which one multiple-proposal step selects the current state or a proposal.

    $$ P_k = w_k / \sum_{j=0}^n w_j, $$ where k = 0 is the current state. With the proposals drawn
    from q this is iterated sampling importance resampling, which is reversible for any n. A current
    state of weight zero is kept.

    Args:
        log_weight_current: Log-weight of the current state.
        log_weights_proposed: Log-weights of the n proposals.

    Reference:
        Tjelmeland, NTNU preprint Statistics 4/2004; Andrieu, Lee & Vihola, Bernoulli 24 (2018) 842.

    Example:
        >>> selection_probabilities(0.0, np.log([1.0, 2.0]))
        array([0.25, 0.25, 0.5 ])
    """
    every = np.concatenate([[log_weight_current], log_weights_proposed])
    if log_weight_current == -np.inf:
        every[1:] = -np.inf
        every[0] = 0.0
    weights: Float64[np.ndarray, " batch+1"] = np.exp(every - every.max())
    weights /= weights.sum()
    return weights


def multiple_proposal(
    log_weight_current: float, log_weights_proposed: Scalars, rng: np.random.Generator
) -> Chain:
    """One step that selects among the current state and all proposals by their weights.

    Args:
        log_weight_current: Log-weight of the current state.
        log_weights_proposed: Log-weights of the proposals.
        rng: Source of the one random choice.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> multiple_proposal(0.0, np.array([-np.inf, 100.0]), rng).selected
        array([1])
    """
    probabilities = selection_probabilities(log_weight_current, log_weights_proposed)
    return Chain(np.array([rng.choice(len(probabilities), p=probabilities) - 1], dtype=np.int64))


Kernel = Callable[[float, Scalars, np.random.Generator], Chain]

KERNELS: Mapping[str, Kernel] = {
    "metropolis": independence_metropolis,
    "multiple": multiple_proposal,
}
