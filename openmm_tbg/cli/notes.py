"""What a user should know beside the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from ..checkpoint import ModelCard
    from ..reference import ReferenceSystem


def note_other_target(card: ModelCard, target: ReferenceSystem) -> None:
    """Say so where the target is not the one of a model's training data."""
    if (target.force_field, target.temperature_K) == (card.force_field, card.temperature_K):
        return
    click.echo(
        f"note: the model was trained for {' + '.join(card.force_field)} at "
        f"{card.temperature_K:g} K; results are those of your target all the same, but the more it "
        "differs, the fewer proposals are accepted and effective",
        err=True,
    )
