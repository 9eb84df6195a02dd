r"""Whether a figure can be trusted, what speaks against it, and what to do next.

Every threshold of the library stands here:

- Effective number of samples and accepted steps of a chain: trust with care below 50, do not trust
  below 10. A standard error from n independent samples is itself uncertain by 24 % at 10 and 10 %
  at 50 (JCGM 100:2008, the "GUM", E.4.3 and table E.1).
- Effective number of states that the population of a basin rests on, the same: averages over a
  chain are known no better than this share of its states where the basin counts for them. A chain
  without a crossing asks for care, since it cannot tell a basin that is empty from one that it does
  not find.
- Round trips of a chain between a basin and the rest, the same, for the difference of the two free
  energies: each is one independent stay on either side. Where stays last exponentially, it has the
  standard error $\sqrt{2 / n}$ kT after n of them, 0.2 kT at 50 and 0.45 kT at 10 (Cox, Renewal
  Theory, 1962, chapter 7).
- Longest run of rejections in n steps: with care above $n / \sqrt{50}$, not above $n / \sqrt{10}$.
  A state that fills a share f of a chain leaves Kish's effective number of its states at most
  $1 / f^2$, which is held against the same 10 and 50.
- Pareto k of S weights above zero: with care above 1/2 or where it is unknown, not above
  $\min(1 - 1/\log_{10} S, 0.7)$. Above 1/2 the weights have no variance, so that error bars are too
  small; above the larger threshold no average over S of them can be relied on (Vehtari et al., J.
  Mach. Learn. Res. 25 (2024) 72, section 3.2).
- Overlap of states at the weakest link: do not trust below 0.03 (Klimovich, Shirts & Mobley,
  J. Comput.-Aided Mol. Des. 29 (2015) 397).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .analysis import effective_sample_size, pareto_k
from .arrays import Cause, Mask, Scalars
from .visits import Visits

FEWEST_SAMPLES = 10
ENOUGH_SAMPLES = 50
PARETO_K_OF_NO_VARIANCE = 0.5
LARGEST_PARETO_K = 0.7
LEAST_OVERLAP = 0.03

ADVICE = {
    Cause.BOND_GRAPH: "the generator breaks bonds: choose a model that knows this molecule, "
    "or train it for longer",
    Cause.CHIRALITY: "the generator mixes the hands of the stereocentres: choose a model that "
    "tells them apart, or train it for longer",
    Cause.ENERGY_NOT_FINITE: "the energies are not finite: check that atoms are in the order of "
    "the generator's topology",
    Cause.THINNED: "keep a larger share, or none dropped, to learn the cause",
    Cause.METROPOLIS: "the weights spread too widely: check that the model was trained for this "
    "force field and temperature",
}


class Trust(StrEnum):
    """How far a figure can be trusted."""

    YES = "trust"
    CARE = "trust with care"
    NO = "do not trust"


@dataclass(frozen=True)
class Doubt:
    """One reason not to trust a figure, and the next step.

    Attributes:
        trust: How far the figure can be trusted for this reason: with care, or not.
        reason: What was measured.
        advice: What to do.
    """

    trust: Trust
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.advice}"


@dataclass(frozen=True)
class Verdict:
    """What all doubts come to.

    Args:
        doubts: What speaks against a figure; empty where nothing is known to.

    Example:
        >>> print(Verdict(doubts_of_number(12, "round trips", "run longer")))
        trust with care: 12 round trips, fewer than 50: run longer
        >>> print(Verdict(()))
        trust
    """

    doubts: tuple[Doubt, ...]

    @property
    def trust(self) -> Trust:
        """The least that a doubt allows."""
        found = {doubt.trust for doubt in self.doubts}
        return next((trust for trust in (Trust.NO, Trust.CARE) if trust in found), Trust.YES)

    @property
    def gravest(self) -> Doubt | None:
        """The first of the doubts that decide; its advice is the next step."""
        return next((doubt for doubt in self.doubts if doubt.trust == self.trust), None)

    def __str__(self) -> str:
        return str(self.trust) if self.gravest is None else f"{self.trust}: {self.gravest}"


def largest_pareto_k(n: int) -> float:
    r"""The largest k at which averages over n weights can be relied on.

    $$ k_{\max} = \min(1 - 1 / \log_{10} n,\; 0.7) $$

    Args:
        n: Weights above zero.

    Raises:
        ValueError: `n` is below 2.

    Reference:
        Vehtari et al., J. Mach. Learn. Res. 25 (2024) 72, section 3.2.

    Example:
        >>> largest_pareto_k(100), largest_pareto_k(10_000)
        (0.5, 0.7)
    """
    if n < 2:
        raise ValueError(f"n is {n}: a tail takes at least two weights")
    return min(1 - 1 / math.log10(n), LARGEST_PARETO_K)


def doubts_of_number(n: int | float, what: str, advice: str) -> tuple[Doubt, ...]:
    """What speaks against a figure that rests on a number of independent samples or events.

    Args:
        n: The number, which need not be whole.
        what: What is counted, in the plural.
        advice: How to get more.
    """
    for threshold, trust in ((FEWEST_SAMPLES, Trust.NO), (ENOUGH_SAMPLES, Trust.CARE)):
        if n < threshold:
            return (Doubt(trust, f"{to_a_tenth(n):g} {what}, fewer than {threshold}", advice),)
    return ()


def to_a_tenth(n: int | float) -> float:
    """A number rounded down, so that one below a threshold does not read as if it reached it.

    Example:
        >>> to_a_tenth(9.99)
        9.9
    """
    return math.floor(10 * n) / 10


def doubts_of_tail(k: float, n: int) -> tuple[Doubt, ...]:
    """What speaks against averages over weights, by the Pareto k of their tail.

    Args:
        k: As `pareto_k` finds it; NaN where it is not known.
        n: Weights above zero.
    """
    if math.isnan(k):
        reason = f"{n} weights above zero are too few to see their tail"
        return (Doubt(Trust.CARE, reason, "draw more"),)
    largest = largest_pareto_k(n)
    advice = "draw more; if k stays, the generator misses a part of the target: train it further"
    if k > largest:
        reason = f"Pareto k of {n} weights is {k:.2f}, above {largest:.2f}"
        return (Doubt(Trust.NO, reason, advice),)
    if k > PARETO_K_OF_NO_VARIANCE:
        reason = f"Pareto k of {n} weights is {k:.2f}: error bars may be too small"
        return (Doubt(Trust.CARE, reason, advice),)
    return ()


def doubts_of_weights(log_weights: Scalars, sets: Mapping[str, Mask]) -> tuple[Doubt, ...]:
    """What speaks against a figure that rests on the weights of these sets of proposals.

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero; not all are.
        sets: Which proposals decide the figure, by the name of the set.
    """
    numbers = [
        doubt
        for name, inside in sets.items()
        for doubt in doubts_of_number(
            effective_sample_size(log_weights[inside]) * int(inside.sum()) if inside.any() else 0.0,
            f"effective proposals in {name}",
            "draw more",
        )
    ]
    k, n = pareto_k(log_weights), int((log_weights > -math.inf).sum())
    if math.isnan(k) and any(doubt.trust == Trust.NO for doubt in numbers):
        return tuple(numbers)  # there is nothing of which to know the tail
    return (*doubts_of_tail(k, n), *numbers)


def doubts_of_overlap(weakest_link: float) -> tuple[Doubt, ...]:
    """What speaks against free energies between states, by their smallest overlap."""
    if weakest_link >= LEAST_OVERLAP:
        return ()
    reason = f"the states hardly overlap ({weakest_link:.3f}, below {LEAST_OVERLAP})"
    return (Doubt(Trust.NO, reason, "put states between them, or draw more"),)


def doubts_of_round_trips(n: int) -> tuple[Doubt, ...]:
    """What speaks against a free energy from a chain, by how often it went to a basin and back."""
    advice = "run longer, or take a generator that reaches the basin more often"
    return doubts_of_number(n, "round trips between the basin and the rest", advice)


def doubts_of_visits(visits: Visits) -> tuple[Doubt, ...]:
    """What speaks against averages over a chain, by how it went between a basin and the rest.

    Args:
        visits: To the basin.
    """
    if visits.n_crossings == 0:
        never = "was at" if visits.share == 0 else "left"
        rest = "leave it out" if visits.share == 0 else "are of it alone"
        advice = f"averages {rest}; start a chain on the other side to learn whether that counts"
        return (Doubt(Trust.CARE, f"the chain never {never} {visits.where}", advice),)
    what = f"effective states for the population of {visits.where}"
    advice = "run longer, or take a generator that goes there and back more often"
    return doubts_of_number(visits.n_effective, what, advice)


def doubts_of_chain(
    n_steps: int, n_accepted: int, longest_run: int, visits: Visits | None = None
) -> tuple[Doubt, ...]:
    """What speaks against a chain that changes place by accepted proposals alone.

    Local moves between the steps go on meanwhile, but they do not cross what they cannot cross.

    Args:
        n_steps: Steps of the chain.
        n_accepted: Steps that changed the state.
        longest_run: Most steps in a row that kept it.
        visits: To a basin that proposals have to reach; None where there is none.
    """
    advice = "run longer, or take a generator that is accepted more often"
    doubts = doubts_of_number(n_accepted, f"accepted steps of {n_steps}", advice)
    for fewest, trust in ((FEWEST_SAMPLES, Trust.NO), (ENOUGH_SAMPLES, Trust.CARE)):
        if longest_run**2 * fewest > n_steps**2:
            reason = f"{longest_run} steps in a row, of {n_steps}, kept the state"
            doubts = (*doubts, Doubt(trust, reason, advice))
            break
    return doubts if visits is None else doubts + doubts_of_visits(visits)


def doubts_of_proposals(
    n_effective: float, rejected: Mapping[Cause, float], n_proposed: int
) -> tuple[Doubt, ...]:
    """What speaks against proposals, with the advice that their main cause of rejection asks for.

    Args:
        n_effective: Kish's effective number of all proposals.
        rejected: Share of the proposals rejected for each cause.
        n_proposed: All proposals.
    """
    if n_proposed == 0:
        return (Doubt(Trust.NO, "nothing proposed yet", "apply the move first"),)
    main = max(rejected, key=rejected.__getitem__)
    return doubts_of_number(
        n_effective,
        f"effective proposals of {n_proposed}",
        f"draw more; if that does not help, {ADVICE[main]}",
    )
