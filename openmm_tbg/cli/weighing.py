"""Stored proposals with their weights in a target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import read_model, read_structure, read_target, reduced_potential

if TYPE_CHECKING:
    from ..arrays import Scalars
    from ..proposals import Proposals
    from ..reference import ReferenceSystem


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
    from ..models import registered_models
    from ..molecule import Molecule
    from ..store import ProposalStore

    store = ProposalStore(proposals)
    structure = read_structure(molecule)
    Molecule.from_dict(store.manifest).require_same(structure.topology)
    model = store.manifest["reference"]
    if model in registered_models() or Path(model).exists():
        structure = structure.as_trained(read_model(model).card)
    target = read_target(structure, force_field, temperature_K, system)
    drawn = store.read()
    u = drawn.reduced_potentials(reduced_potential(target))
    return Weighted(target, drawn, u, log_weights(u, drawn.log_q, drawn.passes))
