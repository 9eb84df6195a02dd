r"""Exact likelihoods only for proposals that are likely to count.

A proposal $x$ drawn from the density $q$ is kept with the probability

$$ r(x) = \min(1, h(x)\, \tilde w(x) / c), \qquad \tilde w(x) = e^{-u(x)} / \tilde q(x), $$

where $\tilde q$ is an estimate of $q$ from a fifth of the quadrature nodes, $c$ a threshold, and
$h$ says how much a configuration matters to the question asked: 1, or more in a rare basin.
Only proposals that are kept need the density itself. The estimate may be as wrong as it likes: kept
proposals have the density $q(x)\, r(x)$, which is known exactly, and the others stay as rows of
weight zero, as those do that fail a filter. So the weights of all N rows are unbiased (rejection
control: Liu, Chen & Wong, J. Am. Stat. Assoc. 93 (1998) 1022). A Markov chain, for which a proposal
that was dropped is a rejection, keeps its law if the *current* state counts $r$ as well: it is the
independence sampler on pairs of $x$ and the coin that kept it. The price is that weights below the
threshold are lifted to it, at random.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from .arrays import Positions, Scalars
from .molecule import Molecule
from .potential import ReducedPotential
from .proposals import LogKeep, ProposalGenerator, Proposals

LogImportance = Callable[[Positions], Scalars]

HALVINGS = 60


@runtime_checkable
class EstimatingGenerator(ProposalGenerator, Protocol):
    """A generator with a cheap estimate of log q, as `BoltzmannGenerator`, which has `LogKeep`."""

    def propose(
        self, n: int, rng: np.random.Generator, log_keep: LogKeep | None = None
    ) -> Proposals:
        """Draw n rows; those that pass are kept with a probability that log q then counts."""

    def evaluate(self, positions_nm: Positions, log_keep: LogKeep | None = None) -> Proposals:
        """The same columns for given configurations; none is dropped."""


class ThinnedGenerator:
    r"""A generator that gives an exact density only to proposals likely to carry weight.

    It serves wherever a `BoltzmannGenerator` does, such as in `TBGMove`, and is exact there for
    *every* target; it saves most where the target is that of `potential`. log q of its rows is
    $\log q + \log r$; rows that were dropped have the cause `Cause.THINNED`.

    A stored run cannot load it: build it again and call `move.register_generator` with it first.

    Args:
        generator: What draws the proposals.
        potential: Reduced potential by which weights are estimated, in a Context of its own: r must
            stay the same function of the configuration.
        log_weight_threshold: $\log c$, in the units of $-u - \log q$; see `from_pilot`.
        log_importance: $\log h$ of configurations in nm, finite everywhere; an object whose `repr`
            tells it from others, since the digest holds that. None: 0.

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
            share: Mean of r over all proposals; those that fail a filter count as dropped.
            rng: Source of the pilot's proposals, which are used for nothing else.
            n: Number of proposals in the pilot; none gets an exact density. From a handful the
                threshold may come out so high that most of the effective sample size is lost.
            log_importance: As above: for a free-energy difference, the log of how much rarer a
                basin is than the other.

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
        found: list[Scalars] = []
        everything = cls(generator, potential, -math.inf, log_importance)

        def look(positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
            found.append(everything._log_counts(positions_nm, log_q_estimate))
            return np.full(len(positions_nm), -np.inf)

        generator.propose(n, rng, look)
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
        """Digest of the model, the potential, the threshold and the importance."""
        chosen = self.log_weight_threshold, self._log_importance
        parts = (self.generator.sha256, self._potential.sha256, *chosen)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        """Draw `n` rows, of which those dropped or failing a filter say so as their cause."""
        return self.generator.propose(n, rng, self.log_keep)

    def evaluate(self, positions_nm: Positions) -> Proposals:
        """The same columns for given configurations; none is dropped, and log q counts r."""
        return self.generator.evaluate(positions_nm, self.log_keep)

    def log_keep(self, positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
        """log r of configurations in nm, from estimates of log q.

        Raises:
            ValueError: `log_importance` is not finite, or not one number for each configuration.
        """
        log_counts = self._log_counts(positions_nm, log_q_estimate)
        log_r: Scalars = np.minimum(0.0, log_counts - self.log_weight_threshold)
        # Without a finite energy the row is worth nothing, and whoever uses it says why.
        return np.where(np.isfinite(log_r), log_r, 0.0)

    def _log_counts(self, positions_nm: Positions, log_q_estimate: Scalars) -> Scalars:
        r"""$\log h - u - \log \tilde q$; not finite without a finite energy."""
        estimates: Scalars = -self._potential(positions_nm) - log_q_estimate
        if self._log_importance is None:
            return estimates
        log_importance = np.asarray(self._log_importance(positions_nm), dtype=np.float64)
        if log_importance.shape != estimates.shape or not np.isfinite(log_importance).all():
            raise ValueError(
                "log_importance: give a finite number for each configuration; where it were -inf "
                "no proposal would be kept, and the weights of the others would not make up for it"
            )
        return estimates + log_importance


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
