"""What proposals of a model are worth, for one molecule in full, for many in a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .angles import read_angle
from .command import Command
from .formats import OutputFolder
from .inputs import read_modelled, reduced_potential
from .options import ExistingFile, ExistingFolder, sampling_options
from .simulated import read_simulated, require_of_target

if TYPE_CHECKING:
    from ..evaluation import Estimate
    from ..generator import BoltzmannGenerator
    from ..reference import ReferenceSystem
    from ..torsions import Dihedral

DOTS_PER_INCH = 130


@dataclass(frozen=True, eq=False)
class _Case:
    """A molecule with what is evaluated, and against what."""

    generator: BoltzmannGenerator
    target: ReferenceSystem
    phi: Dihedral


@click.command("evaluate", cls=Command)
@click.argument("molecules", nargs=-1, required=True)
@click.option(
    "--out", type=OutputFolder(), required=True, help="Folder of the proposals and figures."
)
@click.option(
    "-n",
    "--proposals",
    "n",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Of each molecule; a larger number goes on.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--frames",
    type=ExistingFolder,
    help="Folder of `simulate`: compares one molecule with these frames, and draws both.",
)
@click.option(
    "--references",
    type=ExistingFile,
    help="JSON of free energies of 0 < phi < 2 with their errors in kT, to compare with.",
)
@click.option(
    "--phi",
    default="phi",
    show_default=True,
    help="Four atoms such as 4,6,8,14, counted from 0, where no residue has one.",
)
@click.option("--psi", default="psi", show_default=True, help="The same, for the picture.")
@sampling_options
def command(
    molecules: tuple[str, ...],
    out: Path,
    n: int,
    batch_size: int,
    frames: Path | None,
    references: Path | None,
    phi: str,
    psi: str,
    seed: int,
    model: str | None,
    device: str,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Measure what proposals of a model are worth for MOLECULES.

    Each is alanine-dipeptide, a sequence such as KS, or a PDB or CIF file. A row for each says
    validity, effective sample size, acceptance and the free energy of 0 < phi < 2 radians against
    the rest; under srun, mpiexec or torchrun each process takes a share. With --frames one molecule
    is compared with molecular dynamics. The same command goes on where it stopped.
    """
    if frames is not None and (len(molecules) > 1 or references is not None):
        raise click.UsageError("--frames: name one MOLECULE, and leave --references out")
    if system is not None and len(molecules) > 1:
        raise click.UsageError("--system is that of one molecule: name one MOLECULE")

    def read(molecule: str) -> _Case:
        found = read_modelled(molecule, model, device, force_field, temperature, system)
        return _Case(*found, read_angle("--phi", phi, found[1].topology))

    if frames is not None:
        _compare(molecules[0], read(molecules[0]), psi, frames, out, n, seed, batch_size)
    else:
        _tabulate(molecules, read, references, out, n, seed, batch_size)


def _compare(
    molecule: str,
    case: _Case,
    psi: str,
    frames: Path,
    out: Path,
    n: int,
    seed: int,
    batch_size: int,
) -> None:
    from ..evaluation import MolecularDynamics, draw_scored, evaluate, picture
    from ..verdict import Verdict, doubts_of_weights

    generator, target, potential = case.generator, case.target, reduced_potential(case.target)
    simulated = read_simulated(frames, molecule, target.topology)
    require_of_target(simulated, frames, target)
    angles = case.phi, read_angle("--psi", psi, target.topology)
    dynamics = MolecularDynamics.of_frames(simulated, potential, generator.molecule, *angles)
    scored = draw_scored(generator, potential, n, seed, out / "proposals", batch_size)
    weights = scored.log_weights
    found = evaluate(scored, dynamics, (seed,), made_with=_made_with(generator))
    found.to_json(out / "figures.json")
    picture(found, scored, dynamics).savefig(out / "picture.png", dpi=DOTS_PER_INCH)
    doubts = doubts_of_weights(weights, {"the target": weights > -math.inf})
    click.echo(f"{found}\nverdict                     {Verdict(doubts)}")
    click.echo(f"{out / 'figures.json'} and {out / 'picture.png'} written")


def _tabulate(
    molecules: tuple[str, ...],
    read: Callable[[str], _Case],
    references: Path | None,
    out: Path,
    n: int,
    seed: int,
    batch_size: int,
) -> None:
    from ..evaluation import Study, Target

    names = [Path(molecule).name for molecule in molecules]
    known = {} if references is None else _read_references(references)
    named = dict(zip(names, molecules, strict=True))

    @lru_cache(maxsize=1)
    def case(name: str) -> _Case:
        return read(named[name])

    def target(name: str) -> Target:
        return Target(reduced_potential(case(name).target), case(name).phi)

    case(names[0])  # what is wrong with the first is wrong input rather than a row
    study = Study(lambda name: case(name).generator, target, n, seed, batch_size, known.get)
    table = study.run(names, out)
    click.echo(str(table))
    click.echo(f"{out / 'results.csv'} and {out / 'results.json'} written")
    if table.failures:
        raise click.ClickException(
            f"{len(table.failures)} of {len(table.rows)} molecules failed, each row says why; the "
            "same command tries them again"
        )


def _read_references(path: Path) -> dict[str, Estimate]:
    from ..evaluation import Estimate

    try:
        known = json.loads(path.read_text())
        known = known.get("references", known)  # as `benchmarks/reference_free_energy.py` writes
        return {
            name: Estimate(float(value), float(error)) for name, (value, error) in known.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} holds no references ({error}): write JSON such as {{"KS": [2.31, 0.04]}}'
        ) from error


def _made_with(generator: BoltzmannGenerator) -> str:
    from importlib.metadata import version

    libraries = ", ".join(f"{name} {version(name)}" for name in ("openmm-tbg", "torch", "openmm"))
    return f"{generator.reference} ({generator.sha256[:12]}) on {generator.device} with {libraries}"
