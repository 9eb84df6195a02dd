"""A page to read and to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .command import Command
from .formats import OutputFile
from .free_energy import read_angle
from .inputs import molecule_argument, reduced_potential, source_argument, target_options
from .weighing import read_stored

if TYPE_CHECKING:
    from openmm.app import Topology

    from ..torsions import Dihedral


@click.command("report", cls=Command)
@molecule_argument
@source_argument
@click.option(
    "--out",
    type=OutputFile("html"),
    required=True,
    help="File to write; the figures go into a .json beside it.",
)
@target_options
def command(
    molecule: str,
    proposals: Path,
    out: Path,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Write a page on PROPOSALS of MOLECULE, which any browser opens without a network.

    Verdict, weights, energies, free energies, structures, provenance and what to cite.
    """
    from ..report import report_on_store, write_report

    store, target = read_stored(molecule, proposals, force_field, temperature, system)
    report = report_on_store(
        store, reduced_potential(target), _ramachandran(target.topology), target=target
    )
    write_report(report, out)
    click.echo(f"verdict  {report.verdict}")
    click.echo(f"{out} and {out.with_suffix('.json')} written")


def _ramachandran(topology: Topology) -> tuple[Dihedral, Dihedral] | None:
    """Phi and psi of the first residues that have them; None where there are none."""
    try:
        return read_angle("phi", topology), read_angle("psi", topology)
    except click.UsageError:
        return None
