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


@dataclass(frozen=True, eq=False)
class Weighted:
    """Proposals with their reduced potentials in a target (kT) and log-weights."""

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
        ValueError: The proposals are of another molecule, or as in `read_target`.
        FileNotFoundError: The folder holds no proposals.
        RuntimeError: None is drawn, or a batch is damaged.
    """
    from ..metropolis import log_weights

    store, target = read_stored(molecule, proposals, force_field, temperature_K, system)
    drawn = store.read()
    u = drawn.reduced_potentials(reduced_potential(target))
    return Weighted(target, drawn, u, log_weights(u, drawn.log_q, drawn.passes))


def read_stored(
    molecule: str,
    proposals: Path,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> tuple[ProposalStore, ReferenceSystem]:
    """A store of proposals and the target for their weights, that of their model if none is given.

    Raises:
        ValueError: The proposals are of another molecule, or as in `read_target`.
        FileNotFoundError: The folder holds no proposals.
    """
    from ..checkpoint import read_card
    from ..generator import split_reference
    from ..models import registered_models
    from ..molecule import Molecule
    from ..store import ProposalStore

    store = ProposalStore(proposals)
    structure = read_structure(molecule)
    Molecule.from_dict(store.manifest).require_same(structure.topology)
    model, _ = split_reference(store.manifest["reference"])
    if model not in registered_models() and not Path(model).exists():
        return store, read_target(structure, force_field, temperature_K, system)
    card = read_card(model_file(model))
    return store, target_of_model(card, structure, force_field, temperature_K, system)


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
