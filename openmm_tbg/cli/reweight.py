"""What the weights of proposals say about a target."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import rich_click as click

from .command import Command
from .formats import TABLES, OutputFile, write_arrays, write_rows
from .options import molecule_argument, source_argument, target_options
from .weighing import Weighted, next_step, read_weighted


@click.command("reweight", cls=Command)
@molecule_argument
@source_argument
@click.option("--out", type=OutputFile(*TABLES), help="File for the figures.")
@click.option(
    "--export",
    type=OutputFile("npz"),
    help="File for positions_nm, log_q, u and log_weights of all proposals.",
)
@target_options
def command(
    molecule: str,
    proposals: Path,
    out: Path | None,
    export: Path | None,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Weigh PROPOSALS of MOLECULE against a target: that of their model, or any other.

    One energy for each proposal, and no simulation.
    """
    from ..analysis import effective_sample_size, independence_acceptance, pareto_k
    from ..free_energy import average, log_normalising_constant

    found = read_weighted(molecule, proposals, force_field, temperature, system)
    weights = found.log_weights
    estimates = {
        "ln Z": log_normalising_constant(weights),
        "average of u / kT": average(weights, found.u),
    }
    target = found.target
    n, share = len(weights), effective_sample_size(weights)
    click.echo(
        f"target                  {' + '.join(target.force_field)}, {target.temperature_K:g} K"
    )
    click.echo(
        f"effective sample size   {share:.2%} of {n} proposals, {share * n:.1f}, none clipped"
    )
    click.echo(f"Pareto k                {pareto_k(weights):.2f}")
    click.echo(f"Metropolis acceptance   {independence_acceptance(weights):.2%}")
    for name, estimate in estimates.items():
        click.echo(f"{name:23s} {estimate.value:.3f} +- {estimate.error:.3f}")
    verdict = estimates["ln Z"].verdict
    click.echo(f"verdict                 {verdict.trust}")
    for doubt in verdict.doubts:
        click.echo(f"  {doubt}")
    if out is not None:
        rows = [{"quantity": name} | asdict(each) for name, each in estimates.items()]
        about = {
            "force_field": target.force_field,
            "temperature_K": target.temperature_K,
            "effective_sample_size": share,
            "pareto_k": pareto_k(weights),
            "acceptance": independence_acceptance(weights),
        }
        write_rows(out, rows, about)
        click.echo(f"{out} written")
    if export is not None:
        _export(export, found)
        click.echo(f"{export} written")
    otherwise = f"free-energy {molecule} {proposals}"
    click.echo(next_step(verdict, molecule, found.store, proposals, otherwise))


def _export(path: Path, found: Weighted) -> None:
    drawn = found.proposals
    write_arrays(
        path,
        positions_nm=drawn.positions_nm,
        log_q=drawn.log_q,
        u=found.u,
        log_weights=found.log_weights,
    )
