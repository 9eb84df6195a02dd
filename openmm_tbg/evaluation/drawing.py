"""Proposals with their energies, drawn in batches that survive the end of the process."""

from __future__ import annotations

import io
import json
import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from ..arrays import Cause, Causes, Mask, Positions, Scalars
from ..files import exclusive, write_atomically, writing
from ..metropolis import log_weights
from ..progress import progress_bar
from ..proposals import ProposalGenerator

Potential = Callable[[Positions], Scalars]

THEN = "draw again; the batches written before are sound"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ScoredProposals:
    """Proposals with their energies; all columns are indexed together, and no row is dropped.

    Args:
        positions_nm: Cartesian positions in nm, geometric centre at the origin.
        log_q: Log-density in nats, as in `Proposals`.
        cause: Why a row cannot be accepted, `Cause.NONE` where it passes the filters.
        u_kT: Reduced potential in kT; NaN where the row fails a filter, and was not evaluated.
        seconds: Wall time spent on each row: that of its batch, shared evenly.

    Raises:
        ValueError: The columns differ in length.

    Example:
        >>> scored = ScoredProposals(
        ...     np.zeros((2, 1, 3)), np.zeros(2), np.array([0, 1], dtype=np.int8),
        ...     np.array([-3.0, np.nan]), np.full(2, 0.8),
        ... )
        >>> scored.log_weights, len(scored[scored.passes])
        (array([  3., -inf]), 1)
    """

    positions_nm: Positions
    log_q: Scalars
    cause: Causes
    u_kT: Scalars
    seconds: Scalars

    def __post_init__(self) -> None:
        lengths = tuple(len(getattr(self, column)) for column in _COLUMNS)
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{', '.join(_COLUMNS)} have {lengths} rows: give one for each proposal"
            )

    @property
    def passes(self) -> Mask:
        """Which rows pass the filters."""
        passes: Mask = self.cause == Cause.NONE
        return passes

    @property
    def log_weights(self) -> Scalars:
        """Log-weights -u - log q; -inf where a filter fails or the energy is not finite."""
        return log_weights(self.u_kT, self.log_q, self.passes)

    def __len__(self) -> int:
        return len(self.log_q)

    def __getitem__(
        self, rows: slice | Int[np.ndarray, " rows"] | Bool[np.ndarray, " batch"]
    ) -> ScoredProposals:
        return ScoredProposals(*(getattr(self, column)[rows] for column in _COLUMNS))

    @staticmethod
    def concatenate(batches: Sequence[ScoredProposals]) -> ScoredProposals:
        """All rows of the batches, in their order."""
        return ScoredProposals(
            *(np.concatenate([getattr(batch, name) for batch in batches]) for name in _COLUMNS)
        )


_COLUMNS = tuple(column.name for column in fields(ScoredProposals))


def draw_scored(
    generator: ProposalGenerator,
    potential: Potential,
    n: int,
    seed: int,
    out: Path | None = None,
    batch: int = 64,
) -> ScoredProposals:
    """Draw proposals and evaluate the energies of those that pass the filters.

    Batch b is drawn whole from the seed (`seed`, b), so the first rows do not depend on `n`. With a
    folder, each batch is written there as soon as it is scored: the same call goes on where an
    earlier one was ended, and a larger `n` adds to what is there.

    Args:
        generator: What draws the proposals.
        potential: Reduced potential u in kT of positions in nm, such as `ReducedPotential`.
        n: Number of proposals; whole batches are drawn, of which the last is then cut.
        seed: Seed of all batches.
        out: Folder of this model, seed and batch size alone; None keeps nothing.
        batch: Proposals drawn at a time.

    Raises:
        ValueError: `n` or `batch` is below 1, or the folder belongs to another model, seed, batch
            size or potential.
        FileExistsError: `out` is a folder of other things.
        RuntimeError: The generator did not return as many rows as it was asked for.

    Example:
        >>> from openmm_tbg.proposals import Proposals
        >>> class Normal:
        ...     molecule, reference, sha256, evaluate = None, "normal", "0", len
        ...     def propose(self, n, rng):
        ...         x = rng.normal(size=(n, 1, 3))
        ...         log_q = -np.square(x).sum(axis=(1, 2)) / 2 - 1.5 * np.log(2 * np.pi)
        ...         return Proposals(x, log_q, np.zeros(n, dtype=np.int8))
        >>> def well(x):
        ...     return np.square(x).sum(axis=(1, 2)) / 2
        >>> np.unique(draw_scored(Normal(), well, n=5, seed=0).log_weights.round(6))
        array([2.756816])
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n is {n} and batch {batch}: draw at least one proposal at a time")
    folder = None if out is None else BatchFolder(out, generator, seed, batch)
    drawn: list[ScoredProposals] = []
    with (
        nullcontext() if folder is None else folder.lock(),
        progress_bar(n, "proposal", generator.reference) as bar,
    ):
        for number in range(-(-n // batch)):
            scored = None if folder is None else folder.load(number, potential)
            if scored is None:
                scored = _draw(generator, potential, batch, (seed, number))
                if folder is not None:
                    folder.save(number, scored)
            drawn.append(scored)
            bar.update(min(batch, n - bar.n))
    return ScoredProposals.concatenate(drawn)[:n]


class BatchFolder:
    """The batches of one model and one seed: a manifest, and a file for each batch.

    Args:
        path: The folder; one that is there already is empty, or holds such batches.
        generator: The model whose batches these are.
        seed: Their seed.
        batch: Rows in each.

    Raises:
        ValueError: The folder belongs to another model, seed or batch size.
        FileExistsError: The folder holds something else.
    """

    def __init__(self, path: Path, generator: ProposalGenerator, seed: int, batch: int) -> None:
        self.path, self._batch = Path(path), batch
        with writing(str(path), THEN):
            self.path.mkdir(parents=True, exist_ok=True)
        manifest = {"sha256": generator.sha256, "seed": seed, "batch": batch}
        with self.lock():
            file = self.path / "manifest.json"
            if not file.exists():
                if any(self.path.glob("*.np[yz]")):
                    raise FileExistsError(
                        f"{path} holds arrays, but no manifest.json: choose another folder"
                    )
                stored = manifest | {"model": generator.reference}
                write_atomically(file, json.dumps(stored, indent=1).encode())
            self._require_same(json.loads(file.read_text()), manifest)

    def save(self, number: int, scored: ScoredProposals) -> None:
        """Write a batch; a process that ends meanwhile leaves no trace of it."""
        buffer = io.BytesIO()
        np.savez(buffer, **{column: getattr(scored, column) for column in _COLUMNS})
        with writing(f"batch {number} of {self.path}", THEN):
            write_atomically(self._file(number), buffer.getvalue())

    def lock(self) -> AbstractContextManager[None]:
        """Keep other writers waiting."""
        with writing(str(self.path), THEN):
            (self.path / "lock").touch()
        return exclusive(self.path / "lock")

    def load(self, number: int, potential: Potential) -> ScoredProposals | None:
        """A stored batch; None where there is none, or its file is damaged (said in the log).

        Raises:
            ValueError: The energies in the batch are not those of `potential`.
        """
        file = self._file(number)
        if not file.exists():
            return None
        try:
            with np.load(file, allow_pickle=False) as stored:
                scored = ScoredProposals(*(stored[column] for column in _COLUMNS))
            if len(scored) != self._batch:
                raise ValueError(f"it has {len(scored)} rows")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged (%s) and drawn again", file, error)
            return None
        _require_same_potential(scored, potential, file)
        return scored

    def _file(self, number: int) -> Path:
        return self.path / f"batch_{number:06d}.npz"

    def _require_same(self, found: dict[str, object], manifest: dict[str, object]) -> None:
        differing = [
            f"{key} is {found.get(key)!r} there and {value!r} here"
            for key, value in manifest.items()
            if found.get(key) != value
        ]
        if differing:
            raise ValueError(
                f"{self.path} holds proposals of another run: {'; '.join(differing)}. "
                "Choose another folder, or call with what is there"
            )


def _draw(
    generator: ProposalGenerator, potential: Potential, n: int, seed: tuple[int, int]
) -> ScoredProposals:
    started = time.perf_counter()
    proposals = generator.propose(n, np.random.default_rng(np.random.SeedSequence(seed)))
    if len(proposals) != n:
        raise RuntimeError(
            f"the generator returned {len(proposals)} rows where {n} were asked for: "
            "a proposal that fails a filter has to keep its row"
        )
    u_kT = proposals.reduced_potentials(potential)
    seconds = np.full(n, (time.perf_counter() - started) / n)
    return ScoredProposals(proposals.positions_nm, proposals.log_q, proposals.cause, u_kT, seconds)


def _require_same_potential(scored: ScoredProposals, potential: Potential, file: Path) -> None:
    """Evaluate the lowest stored energy again; platforms of single precision agree to 1e-4."""
    if not np.isfinite(scored.u_kT).any():
        return
    row = int(np.nanargmin(scored.u_kT))
    stored, here = float(scored.u_kT[row]), float(potential(scored.positions_nm[[row]])[0])
    if not abs(stored - here) <= 0.01 + 1e-4 * abs(stored):
        raise ValueError(
            f"{file} holds a proposal of {stored:.4f} kT, for which potential gives {here:.4f} kT: "
            "give the System and temperature of the stored run, or choose another folder"
        )
