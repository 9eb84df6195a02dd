"""One evaluation of many molecules, which may be ended at any time and shared among processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..files import digest_of, exclusive
from ..potential import ReducedPotential
from ..proposals import ProposalGenerator
from ..ranks import Rank
from ..torsions import Dihedral
from .drawing import draw_scored
from .molecule_figures import MoleculeFigures, Origin
from .record import Estimate
from .study_table import Row, StudyTable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Target:
    """What proposals of one molecule are measured against.

    Args:
        potential: Its reduced potential.
        phi: Atoms of its dihedral phi.
    """

    potential: ReducedPotential
    phi: Dihedral


@dataclass(frozen=True)
class Study:
    """The same evaluation for each of many molecules, known by their names.

    Where the makers are functions that pickle finds by name, with arguments by `functools.partial`,
    a study can be sent to the workers of any executor: `executor.map(study.evaluate, ...)`.

    Args:
        generator: Makes the generator of a molecule.
        target: Makes its target.
        n: Proposals of each molecule.
        seed: With which they are drawn.
        batch: Proposals drawn at a time.
        reference: Gives -ln P(0 < phi < 2) / P(rest) of a molecule in kT, from elsewhere; None
            where it is not known.

    Raises:
        ValueError: `n` or `batch` is below 1.
    """

    generator: Callable[[str], ProposalGenerator]
    target: Callable[[str], Target]
    n: int
    seed: int = 0
    batch: int = 64
    reference: Callable[[str], Estimate | None] | None = None

    def __post_init__(self) -> None:
        if min(self.n, self.batch) < 1:
            raise ValueError(f"n is {self.n}, batch {self.batch}: draw at least one proposal")

    def run(self, molecules: Sequence[str], folder: Path) -> StudyTable:
        """Evaluate molecules, or this process's share of them (`Rank.here()`).

        The folder of each molecule keeps its proposals, batch by batch, and its row: the same call
        goes on where an earlier one was ended. After each row `results.csv` and `results.json` hold
        all rows so far. A molecule that fails is a row with the cause, and is tried again by the
        next call.

        Args:
            molecules: Their names, which name their folders.
            folder: Of this study.

        Returns:
            The rows that are there, those of other processes included.

        Raises:
            ValueError: A name comes twice, or cannot name a folder.
        """
        for molecule in molecules:
            if Path(molecule).name != molecule or not molecule.strip("."):
                raise ValueError(f"molecule {molecule!r} cannot name a folder: choose another name")
            if molecules.count(molecule) > 1:
                raise ValueError(f"molecule {molecule!r} comes twice: name each once")
        share = [molecules[number] for number in Rank.here().share(len(molecules))]
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / "lock"):
            for molecule in share:  # until it is confirmed, a row may be that of another model
                with suppress(FileNotFoundError):
                    Row.file(folder / molecule).rename(_earlier(folder / molecule))
        for molecule in share:
            self.evaluate(molecule, folder)
            with exclusive(folder / "lock"):
                StudyTable.read(molecules, folder).write(folder)
        return StudyTable.read(molecules, folder)

    def evaluate(self, molecule: str, folder: Path) -> Row:
        """Evaluate one molecule, unless its row is there, and write the row."""
        own = folder / molecule
        own.mkdir(parents=True, exist_ok=True)
        try:
            row = self._row(molecule, own)
        except Exception as error:  # whatever it is, the other molecules go on
            row = Row(molecule, failure=f"{type(error).__name__}: {error}")
            _log.warning("%s failed: %s", molecule, row.failure)
        row.write(own)
        return row

    def _row(self, molecule: str, folder: Path) -> Row:
        generator, target = self.generator(molecule), self.target(molecule)
        reference_kT = None if self.reference is None else self.reference(molecule)
        origin = Origin(generator.sha256, target.potential.sha256, self.n, self.seed, self.batch)
        for file in (Row.file(folder), _earlier(folder)):
            row = Row.read(file) if file.exists() else None
            if row is not None and row.figures is not None and row.origin == origin:
                return replace(row, figures=replace(row.figures, reference_kT=reference_kT))
        kept = {key: value for key, value in asdict(origin).items() if key != "n"}
        proposals = folder / f"proposals_{digest_of(kept, ()).hex()[:16]}"
        scored = draw_scored(generator, target.potential, self.n, self.seed, proposals, self.batch)
        return Row(molecule, origin, MoleculeFigures.measured(scored, target.phi, reference_kT))


def _earlier(folder: Path) -> Path:
    return folder / "earlier_row.json"
