"""Stored proposals with their weights in a target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .inputs import model_file, read_structure, read_target, reduced_potential, target_of_model

if TYPE_CHECKING:
    from ..arrays import Scalars
    from ..proposals import Proposals
    from ..reference import ReferenceSystem
    from ..store import ProposalStore
    from ..verdict import Verdict


@dataclass(frozen=True, eq=False)
class Weighted:
    """Proposals with their reduced potentials in a target (kT) and log-weights."""

    store: ProposalStore
    target: ReferenceSystem
    proposals: Proposals
    u: Scalars
    log_weights: Scalars


def read_weighted(
    molecule: str,
    proposals: Path,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> Weighted:
    """Stored proposals with their weights in a target, that of their model if none is given.

    Raises:
        ValueError: As in `read_stored`.
        RuntimeError: None is drawn, or a batch is damaged.
    """
    from ..metropolis import log_weights

    store, target = read_stored(molecule, proposals, force_field, temperature_K, system)
    drawn = store.read()
    u = drawn.reduced_potentials(reduced_potential(target))
    return Weighted(store, target, drawn, u, log_weights(u, drawn.log_q, drawn.passes))


def read_stored(
    molecule: str,
    proposals: Path,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> tuple[ProposalStore, ReferenceSystem]:
    """A store of proposals and the target for their weights, that of their model if none is given.

    Raises:
        ValueError: The folder holds no proposals, or those of another molecule, or as in
            `read_target`.
    """
    from ..checkpoint import read_card
    from ..generator import split_reference
    from ..models import registered_models
    from ..molecule import Molecule
    from ..store import ProposalStore

    structure = read_structure(molecule)
    try:
        store = ProposalStore(proposals)
    except FileNotFoundError as error:
        raise ValueError(
            f"{proposals} holds no proposals: give a folder of openmm-tbg sample; the states of a "
            "chain need no weights, openmm-tbg free-energy counts them"
        ) from error
    try:
        Molecule.from_dict(store.manifest).require_same(structure.topology)
    except ValueError as error:
        raise ValueError(
            f"{proposals} holds proposals of another molecule than {molecule} ({error})"
        ) from error
    model, _ = split_reference(store.manifest["reference"])
    if model not in registered_models() and not Path(model).exists():
        return store, read_target(structure, force_field, temperature_K, system)
    card = read_card(model_file(model))
    return store, target_of_model(card, structure, force_field, temperature_K, system)


def next_step(
    verdict: Verdict, molecule: str, store: ProposalStore, proposals: Path, otherwise: str
) -> str:
    """The command that comes next: more proposals where a figure cannot be trusted."""
    from ..generator import split_reference
    from ..verdict import Trust

    if verdict.trust != Trust.NO:
        return f"next: openmm-tbg {otherwise}"
    made = store.manifest
    model, _ = split_reference(made["reference"])
    n = 4 * store.n_batches * store.batch_size
    return (
        f"next: openmm-tbg sample {molecule} --model {model} --seed {made['seed']} --batch-size "
        f"{store.batch_size} --out {proposals} -n {n}, which adds to the {n // 4} that are there"
    )


def is_chain(
    source: Path, force_field: tuple[str, ...], temperature_K: float | None, system: Path | None
) -> bool:
    """Whether a folder holds no proposals, but a chain, whose target cannot be another.

    Raises:
        UsageError: It is a chain, and a target is given.
    """
    from ..store import ProposalStore

    try:
        ProposalStore(source)
    except FileNotFoundError:
        if force_field or temperature_K or system:
            raise click.UsageError(
                f"{source} is no folder of proposals, and a chain has the target that it was run "
                "with: leave --force-field, --temperature and --system out"
            ) from None
        return True
    return False
