"""Stored proposals in place of a generator: each is handed out once, also after a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .arrays import Positions
from .files import sync
from .molecule import Molecule
from .proposals import ProposalGenerator, Proposals
from .store import ProposalStore


class StoredProposals:
    """A generator whose proposals were drawn before, each of which it hands out once.

    It serves wherever its generator does, such as in `TBGMove`, which still evaluates the density
    of the current state live. A batch is claimed in a folder as its first row is handed out, so a
    run that is killed and goes on, and several processes of one run, never use a row twice, and the
    rest of one batch is lost when a process ends. A restored run cannot load it: build it again
    with the same folder of claims, and call `move.register_generator` with it first.

    Args:
        store: Where the proposals are; it may still be filled meanwhile.
        generator: What drew them.
        claims: Folder in which this run keeps which batches it has used. Another run takes another.

    Raises:
        ValueError: The proposals are of another generator.
    """

    def __init__(self, store: ProposalStore, generator: ProposalGenerator, claims: Path) -> None:
        store.require_same(generator)
        self.generator = generator
        self._store, self.claims = store, Path(claims)
        self.claims.mkdir(parents=True, exist_ok=True)
        self._ahead: list[Proposals] = []

    @property
    def molecule(self) -> Molecule:
        """The molecule whose atoms the positions list."""
        return self.generator.molecule

    @property
    def reference(self) -> str:
        """The generator's with a mark, since no file says where the store and the claims are."""
        return f"stored proposals of {self.generator.reference}"

    @property
    def sha256(self) -> str:
        """Digest of all that determines q: the generator's."""
        return self.generator.sha256

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        """The next n rows of the store; `rng` is not used.

        Raises:
            RuntimeError: The store is exhausted, or a batch is damaged.
        """
        while sum(map(len, self._ahead)) < n:
            self._ahead.append(self._claim())
        rows = Proposals.concatenate(self._ahead)
        self._ahead = [rows[n:]]
        return rows[:n]

    def evaluate(self, positions_nm: Positions) -> Proposals:
        """The same columns for given configurations, from the generator."""
        return self.generator.evaluate(positions_nm)

    def _claim(self) -> Proposals:
        """The first finished batch that no process of this run has used."""
        claimed = {path.name for path in self.claims.iterdir()}
        for number in range(self._store.n_batches):
            if f"{number:06d}" in claimed or not self._store.has(number):
                continue
            batch = self._store.read_batch(number)
            try:
                (self.claims / f"{number:06d}").touch(exist_ok=False)
            except FileExistsError:  # another process was faster
                continue
            sync(self.claims)
            return batch
        n_finished = int(self._store.finished.sum())
        raise RuntimeError(
            f"{self._store.path} is exhausted: this run has used all {n_finished} finished batches "
            f"of {self._store.n_batches}, and a row that is used again would bias the chain. "
            "Fill the batches that are missing, or open the store with more of them"
        )
