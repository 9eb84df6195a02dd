"""A page to read and to keep."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .angles import ramachandran
from .command import Command
from .formats import OutputFile
from .inputs import read_structure, reduced_potential
from .options import ExistingFolder, molecule_argument, target_options
from .weighing import is_chain, read_stored


@click.command("report", cls=Command)
@molecule_argument
@click.argument("source", type=ExistingFolder)
@click.option(
    "--out",
    type=OutputFile("html", "png"),
    required=True,
    help="Page, or .png for its pictures on a sheet; figures go into a .json beside it.",
)
@target_options
def command(
    molecule: str,
    source: Path,
    out: Path,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Write a page on SOURCE, which any browser opens without a network.

    SOURCE is a folder of `sample`: verdict, weights, energies, free energies, structures; or of
    `mcmc`: verdict, acceptance, trace, phi and psi. Both with provenance and what to cite.
    """
    from ..report import report_on_run, report_on_store, write_chain_report, write_report
    from ..run_store import read_run

    if is_chain(source, force_field, temperature, system):
        topology, record = read_structure(molecule).topology, read_run(source)
        if topology.getNumAtoms() != record.positions_nm.shape[1]:
            raise ValueError(
                f"{source} is a chain of {record.positions_nm.shape[1]} atoms, {molecule} has "
                f"{topology.getNumAtoms()}: name the molecule of the chain"
            )
        of_chain = report_on_run(record, ramachandran(topology))
        write_chain_report(of_chain, out)
        click.echo(f"verdict  {of_chain.verdict}")
    else:
        store, target = read_stored(molecule, source, force_field, temperature, system)
        potential, angles = reduced_potential(target), ramachandran(target.topology)
        report = report_on_store(store, potential, angles, target=target)
        write_report(report, out)
        click.echo(f"verdict  {report.verdict}")
    click.echo(f"{out} and {out.with_suffix('.json')} written")
