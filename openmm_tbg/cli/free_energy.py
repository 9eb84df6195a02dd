"""The free energy of a region of a dihedral angle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .angles import read_angle
from .command import Command
from .formats import TABLES, OutputFile, write_rows
from .inputs import read_structure
from .options import ExistingFolder, molecule_argument, target_options
from .weighing import is_chain, next_step, read_weighted

if TYPE_CHECKING:
    from ..arrays import Mask, Positions
    from ..torsions import Dihedral


@click.command("free-energy", cls=Command)
@molecule_argument
@click.argument("source", type=ExistingFolder)
@click.option(
    "--angle",
    default="phi",
    show_default=True,
    help="phi, psi, or four atoms such as 4,6,8,14, counted from 0.",
)
@click.option(
    "--inside",
    type=(float, float),
    default=(0.0, 114.6),
    show_default=True,
    metavar="LOW HIGH",
    help="Region of the angle in degrees, between -180 and 180.",
)
@click.option("--out", type=OutputFile(*TABLES), help="File for the figure.")
@target_options
def command(
    molecule: str,
    source: Path,
    angle: str,
    inside: tuple[float, float],
    out: Path | None,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Free energy in kT of a region of an angle less that of all the rest.

    SOURCE is a folder of `sample`, whose proposals are weighed, or of `mcmc`, whose states are
    counted.
    """
    from ..free_energy import free_energy_difference, free_energy_difference_of_chain
    from ..run_store import read_run

    if not -180 <= inside[0] < inside[1] <= 180:
        raise click.UsageError(
            f"--inside {inside[0]:g} {inside[1]:g}: give -180 <= LOW < HIGH <= 180"
        )
    atoms = read_angle("--angle", angle, read_structure(molecule).topology)
    region = f"{inside[0]:g} < {angle} < {inside[1]:g} degrees"
    weighted = None
    if is_chain(source, force_field, temperature, system):
        found = free_energy_difference_of_chain(
            _region(read_run(source).positions_nm, atoms, inside)
        )
    else:
        weighted = read_weighted(molecule, source, force_field, temperature, system)
        rows = _region(weighted.proposals.positions_nm, atoms, inside) & weighted.proposals.passes
        rest = ~rows & weighted.proposals.passes
        names = region, "the rest"
        found = free_energy_difference(weighted.log_weights, rows, rest, names)
    click.echo(f"F({region}) - F(rest) = {found}")
    if weighted is not None:
        otherwise = f"report {molecule} {source} --out report.html"
        click.echo(next_step(found.verdict, molecule, weighted.store, source, otherwise))
    if out is not None:
        write_rows(out, [{"region": region} | asdict(found)], {"source": str(source)})
        click.echo(f"{out} written")


def _region(positions_nm: Positions, atoms: Dihedral, inside: tuple[float, float]) -> Mask:
    import numpy as np

    from ..torsions import dihedral

    degrees = np.degrees(dihedral(positions_nm, atoms))
    within: Mask = (degrees > inside[0]) & (degrees < inside[1])
    return within
