"""Configurations drawn from a generator, and the pool that hands each of them out once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from .arrays import Cause, Causes, Mask, Positions, Scalars
from .molecule import Molecule
from .ranks import Rank
from .shown import Shown


@dataclass(frozen=True)
class Thinning:
    """Log-probabilities, 0 at most, with which rows are kept at random; log q counts both.

    Attributes:
        log_keep: Of a configuration that passes the filters, from its positions (nm) and an
            estimate of log q.
        log_begin: Before it is drawn, from positions (nm) at which a coarse integration ends. Where
            these fail a filter the row goes on, since nothing is foreseen. None: all go on.
    """

    log_keep: Callable[[Positions, Scalars], Scalars]
    log_begin: Callable[[Positions], Scalars] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Proposals(Shown):
    """Configurations with the density from which they were drawn; all columns are indexed together.

    Args:
        positions_nm: Cartesian positions in nm, geometric centre at the origin; NaN where a row was
            dropped before it was drawn.
        log_q: Log-density in nats, with respect to Lebesgue measure in nm on the 3(N-1)-dimensional
            space of centred positions. It counts the mirror image where the filters fold the two,
            and the chance of being kept where rows are thinned. NaN where a row needs none.
        cause: Why a row cannot be accepted, `Cause.NONE` where it passes. No row is ever dropped.

    Raises:
        ValueError: The columns differ in length.

    Example:
        >>> cause = np.array([Cause.NONE, Cause.CHIRALITY], dtype=np.int8)
        >>> proposals = Proposals(np.zeros((2, 1, 3)), np.zeros(2), cause)
        >>> proposals.passes, len(proposals[:1])
        (array([ True, False]), 1)
        >>> proposals
        <Proposals rows: 2, atoms: 1, pass: 1, chirality: 1>
    """

    positions_nm: Positions
    log_q: Scalars
    cause: Causes

    def __post_init__(self) -> None:
        lengths = len(self.positions_nm), len(self.log_q), len(self.cause)
        if len(set(lengths)) > 1:
            raise ValueError(
                f"positions_nm, log_q and cause have {lengths} rows: "
                "keep the rows that fail a filter, with their cause"
            )

    @property
    def passes(self) -> Mask:
        """Which rows pass the filters."""
        passes: Mask = self.cause == Cause.NONE
        return passes

    def reduced_potentials(self, potential: Callable[[Positions], Scalars]) -> Scalars:
        """Reduced potential in kT of each row that passes, NaN of the others.

        Args:
            potential: Takes positions in nm, of the rows that pass alone.
        """
        u = np.full(len(self), np.nan)
        if self.passes.any():
            u[self.passes] = potential(self.positions_nm[self.passes])
        return u

    def _facts(self) -> dict[str, object]:
        counts = {cause: int((self.cause == cause).sum()) for cause in Cause}
        return {"rows": len(self), "atoms": self.positions_nm.shape[1]} | {
            "pass" if cause == Cause.NONE else cause.label: count
            for cause, count in counts.items()
            if count or cause == Cause.NONE
        }

    def __len__(self) -> int:
        return len(self.log_q)

    def __getitem__(
        self, rows: slice | Int[np.ndarray, " rows"] | Bool[np.ndarray, " batch"]
    ) -> Proposals:
        return Proposals(self.positions_nm[rows], self.log_q[rows], self.cause[rows])

    @staticmethod
    def concatenate(batches: Sequence[Proposals]) -> Proposals:
        """All rows of the batches, in their order."""
        return Proposals(
            np.concatenate([batch.positions_nm for batch in batches]),
            np.concatenate([batch.log_q for batch in batches]),
            np.concatenate([batch.cause for batch in batches]),
        )


@runtime_checkable
class ProposalGenerator(Protocol):
    """A normalised density q over the configurations of one molecule, sampled and evaluated."""

    @property
    def molecule(self) -> Molecule:
        """The molecule whose atoms the positions list."""

    @property
    def reference(self) -> str:
        """From what to load the generator again: a registered name, or an absolute path."""

    @property
    def sha256(self) -> str:
        """Digest of all that determines q."""

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        """Draw n configurations; those that fail a filter keep their rows."""

    def evaluate(self, positions_nm: Positions) -> Proposals:
        """Filter and log-density of given, centred configurations, exactly as for proposals."""


@runtime_checkable
class ClaimingGenerator(ProposalGenerator, Protocol):
    """A generator for which whatever `propose` returned is used up, as `StoredProposals`."""

    @property
    def claims(self) -> Path:
        """Where it keeps what is used up."""


class ProposalPool:
    """Proposals drawn ahead in batches, and the one source of randomness of all who share it.

    Each proposal is handed out once and each random stream is spawned once, so that no two copies
    of a move see the same ones, while one seed still determines everything.

    Args:
        generator: What draws the proposals.
        batch_size: How many to draw at a time; of a `ClaimingGenerator` what is used, no more.
        seed: Seed of the proposals and streams; None takes entropy from the operating system.
        n_drawn: Proposals that an earlier process has used under this seed. Each number gives
            streams of its own, as does each rank of MPI, SLURM or torchrun.
        batches_ahead: Batches that a thread of the pool's own draws while those before are used.
            The same proposals come in the same order; the generator has to bear that `evaluate` is
            called meanwhile, and Python ends no earlier than the batch being drawn. Nothing is
            drawn ahead from a `ClaimingGenerator`, for which it would be lost with the process.

    Raises:
        ValueError: `batch_size`, or the number taken, is below 1, or `batches_ahead` below 0.
        RuntimeError: The generator did not return as many rows as it was asked for.
    """

    def __init__(
        self,
        generator: ProposalGenerator,
        batch_size: int,
        seed: int | None = None,
        n_drawn: int = 0,
        batches_ahead: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: draw at least one proposal at a time")
        if batches_ahead < 0:
            raise ValueError(f"batches_ahead is {batches_ahead}: give a number of batches, or 0")
        self.generator = generator
        self._batch_size = batch_size
        self._seeds = np.random.SeedSequence(seed, spawn_key=(n_drawn, Rank.here().number))
        self._rng = self.spawn_rng()
        self._drawn: list[Proposals] = []
        self._coming: deque[Future[Proposals]] = deque()
        self._batches_ahead = batches_ahead
        self._drawer = ThreadPoolExecutor(1, "tbg-proposals") if batches_ahead else None

    def take(self, n: int) -> Proposals:
        """The next n proposals."""
        if n < 1:
            raise ValueError(f"cannot take {n} proposals: take at least one")
        if isinstance(self.generator, ClaimingGenerator):
            return self._draw(n)
        while sum(map(len, self._drawn)) < n:
            self._drawn.append(self._next_batch())
        drawn = Proposals.concatenate(self._drawn)
        self._drawn = [drawn[n:]]
        return drawn[:n]

    def spawn_rng(self) -> np.random.Generator:
        """A new random stream, independent of all others."""
        return np.random.default_rng(self._seeds.spawn(1)[0])

    def _next_batch(self) -> Proposals:
        if self._drawer is None:
            return self._draw(self._batch_size)
        while len(self._coming) <= self._batches_ahead:
            self._coming.append(self._drawer.submit(self._draw, self._batch_size))
        return self._coming.popleft().result()

    def _draw(self, n: int) -> Proposals:
        batch = self.generator.propose(n, self._rng)
        if len(batch) != n:
            raise RuntimeError(
                f"the generator returned {len(batch)} rows where {n} were asked for: "
                "a proposal that fails a filter has to keep its row"
            )
        return batch
