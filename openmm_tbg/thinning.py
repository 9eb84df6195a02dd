r"""Exact likelihoods only for proposals that are likely to count.

A proposal $x$ drawn from the density $q$ is kept with the probability

$$ r(x) = h(\hat x(x)) \, \min(1, \tilde w(x) / c), \qquad
   \tilde w(x) = e^{-u(x)} / \tilde q(x), $$

where $\tilde q$ is an estimate of $q$ from a fifth of the quadrature nodes, $c$ a threshold, and
$h \le 1$ says how much a configuration matters to the question asked: 1 in a rare basin, say, and
little elsewhere. It is asked of $\hat x$, where a coarse integration from the noise of $x$ ends, so
that a proposal which matters little is mostly not even drawn: it costs a sixth of a trajectory of
40 nodes. Of those that are drawn, only they need the density itself that are kept.

Both estimates may be as wrong as they like: kept proposals have the density $q(x)\, r(x)$, which is
known exactly, since the noise is a function of $x$, and the others stay as rows of weight zero, as
those do that fail a filter. So the weights of all N rows are unbiased (rejection control: Liu, Chen
& Wong, J. Am. Stat. Assoc. 93 (1998) 1022). A Markov chain, for which a proposal that was dropped
is a rejection, keeps its law if the *current* state counts $r$ as well: it is the independence
sampler on pairs of $x$ and the coins that kept it. The price is that weights below the threshold
are lifted to it, at random, and those of a proposal that was foreseen wrongly by $1/h$.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .arrays import Positions, Scalars
from .flow import FORESIGHT_NODES
from .molecule import Molecule
from .potential import ReducedPotential
from .proposals import ProposalGenerator, Proposals, Thinning
from .torsions import TorsionRange

LogImportance = Callable[[Positions], Scalars]


@dataclass(frozen=True)
class RegionImportance:
    """The log-importance of a range of a dihedral: 0 inside, less elsewhere.

    Args:
        region: The range; some 0.3 rad wider than the basin in question, since foresight errs.
        elsewhere: The log-importance outside: minus the log of how much rarer the region is.

    Example:
        >>> wanted = RegionImportance(TorsionRange((0, 1, 2, 3), 0.0, 2.0), elsewhere=-3.0)
        >>> quarter_turn = np.array([[[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]]])
        >>> wanted(quarter_turn), wanted(-quarter_turn)
        (array([0.]), array([-3.]))
    """

    region: TorsionRange
    elsewhere: float

    def __call__(self, positions_nm: Positions) -> Scalars:
        """One number for each configuration in nm."""
        return np.where(self.region.holds(positions_nm), 0.0, self.elsewhere)


HALVINGS = 60


@runtime_checkable
class EstimatingGenerator(ProposalGenerator, Protocol):
    """A generator that thins its rows by estimates, as `BoltzmannGenerator`."""

    def propose(
        self, n: int, rng: np.random.Generator, thinning: Thinning | None = None
    ) -> Proposals:
        """Draw n rows; those that pass are kept with a probability that log q then counts."""

    def evaluate(self, positions_nm: Positions, thinning: Thinning | None = None) -> Proposals:
        """The same columns for given configurations; none is dropped."""


class ThinnedGenerator:
    r"""A generator that gives an exact density only to proposals likely to carry weight.

    It serves wherever a `BoltzmannGenerator` does, such as in `TBGMove`, and is exact there for
    *every* target; it saves most where the target is that of `potential`. log q of its rows is
    $\log q + \log r$; rows that were dropped have the cause `Cause.THINNED`, and no positions if
    they were dropped before they were drawn.

    A stored run cannot load it: build it again and call `move.register_generator` with it first.

    Args:
        generator: What draws the proposals.
        potential: Reduced potential by which weights are estimated, in a Context of its own: r must
            stay the same function of the configuration.
        log_weight_threshold: $\log c$, in the units of $-u - \log q$; see `from_pilot`.
        log_importance: $\log h$ of configurations in nm, 0 at most and finite everywhere, such as
            `RegionImportance`; an object whose `repr` tells it from others, since the digest holds
            that. Draw hundreds of rows at a time, since few are integrated. None: 0.

    Raises:
        ValueError: `log_weight_threshold` is NaN or inf.
    """

    def __init__(
        self,
        generator: EstimatingGenerator,
        potential: ReducedPotential,
        log_weight_threshold: float,
        log_importance: LogImportance | None = None,
    ) -> None:
        if math.isnan(log_weight_threshold) or log_weight_threshold == math.inf:
            raise ValueError(
                f"log_weight_threshold is {log_weight_threshold}: give a finite log-weight, or "
                "-inf to keep every proposal"
            )
        self.generator = generator
        self.log_weight_threshold = float(log_weight_threshold)
        self._potential, self._log_importance = potential, log_importance

    @classmethod
    def from_pilot(
        cls,
        generator: EstimatingGenerator,
        potential: ReducedPotential,
        share: float,
        rng: np.random.Generator,
        n: int = 64,
        log_importance: LogImportance | None = None,
    ) -> ThinnedGenerator:
        r"""Choose the threshold so that a given share of the proposals is kept.

        Args:
            generator: What draws the proposals.
            potential: Reduced potential by which weights are estimated.
            share: Mean of r / h over all proposals; those that fail a filter count as dropped.
            rng: Source of the pilot's proposals, which are used for nothing else.
            n: Number of proposals in the pilot; none gets an exact density. From a handful the
                threshold may come out so high that most of the effective sample size is lost.
            log_importance: As above: for a free-energy difference 0 in the rarer basin, and minus
                the log of how much rarer it is in the other.

        Raises:
            ValueError: `share` is not between 0 and 1, or no proposal of the pilot passes.

        Example:
            >>> import openmm
            >>> from openmm_tbg.generator import BoltzmannGenerator
            >>> from openmmtools.states import ThermodynamicState
            >>> from openmm_tbg.reference import alanine_dipeptide
            >>> molecule = alanine_dipeptide()
            >>> state = ThermodynamicState(molecule.system, 300 * openmm.unit.kelvin)
            >>> potential = ReducedPotential(
            ...     state, state.create_context(openmm.VerletIntegrator(0.001))
            ... )
            >>> generator = BoltzmannGenerator.from_pretrained(
            ...     "alanine-dipeptide", molecule.topology
            ... )
            >>> rng = np.random.default_rng(0)
            >>> thinned = ThinnedGenerator.from_pilot(generator, potential, 0.3, rng, n=8)
            >>> len(thinned.propose(2, rng))
            2
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: give the share to keep, above 0 and at most 1")
        found: list[Scalars] = [np.empty(0)]

        def look(positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
            found.append(-potential(positions_nm) - log_q_estimate)
            return np.full(len(positions_nm), -np.inf)

        generator.propose(n, rng, Thinning(look))
        estimates = np.concatenate(found)
        estimates = estimates[np.isfinite(estimates)]
        if len(estimates) == 0:
            raise ValueError(
                f"none of {n} proposals passes the filters with a finite energy: "
                "take another model, or a larger n"
            )
        return cls(generator, potential, _threshold(estimates, share * n), log_importance)

    @property
    def molecule(self) -> Molecule:
        """The molecule whose atoms the positions list."""
        return self.generator.molecule

    @property
    def reference(self) -> str:
        """The generator's with a mark, since no file holds the potential and the threshold."""
        return f"thinned proposals of {self.generator.reference}"

    @property
    def sha256(self) -> str:
        """Digest of the model, the potential, the threshold, the importance and the foresight."""
        foresight = None if self._log_importance is None else FORESIGHT_NODES
        chosen = self.log_weight_threshold, self._log_importance, foresight
        parts = (self.generator.sha256, self._potential.sha256, *chosen)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def thinning(self) -> Thinning:
        """What the generator asks."""
        begins = None if self._log_importance is None else self._log_begin
        return Thinning(self._log_keep, begins)

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        """Draw `n` rows, of which those dropped or failing a filter say so as their cause.

        Raises:
            ValueError: `log_importance` is above 0, not finite, or not one number for each row.
        """
        return self.generator.propose(n, rng, self.thinning)

    def evaluate(self, positions_nm: Positions) -> Proposals:
        """The same columns for given configurations; none is dropped, and log q counts r."""
        return self.generator.evaluate(positions_nm, self.thinning)

    def _log_keep(self, positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
        log_weights = -self._potential(positions_nm) - log_q_estimate
        log_r: Scalars = np.minimum(0.0, log_weights - self.log_weight_threshold)
        # Without a finite energy the row is worth nothing, and whoever uses it says why.
        return np.where(np.isfinite(log_r), log_r, 0.0)

    def _log_begin(self, positions_nm: Positions) -> Scalars:
        assert self._log_importance is not None
        found = np.asarray(self._log_importance(positions_nm), dtype=np.float64)
        if found.shape != (len(positions_nm),) or not np.isfinite(found).all() or found.max() > 0:
            raise ValueError(
                "log_importance: give a finite number, 0 at most, for each configuration; where it "
                "were -inf no proposal would be drawn, and nothing would make up for it"
            )
        return found


def _threshold(log_weights: Scalars, n_kept: float) -> float:
    """Log-threshold at which this number is kept on average, by bisection."""
    if n_kept >= len(log_weights):
        return -math.inf
    low, high = float(log_weights.min()), float(log_weights.max())
    high += math.log(len(log_weights) / n_kept)  # where even equal weights are kept seldom enough
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = np.exp(np.minimum(0.0, log_weights - middle)).sum()
        low, high = (middle, high) if kept > n_kept else (low, middle)
    return high
