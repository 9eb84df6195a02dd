"""The exact divergence of a vector field, by forward-mode differentiation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A field: time and positions (batch, atoms, 3) to velocities of that shape, row by row."""

# The levels of torch's forward mode belong to the process, not to the thread.
_FORWARD_MODE = threading.Lock()


def velocity_and_divergence(
    velocity: Velocity,
    t: Float[Tensor, "*times"],
    x: Float[Tensor, "batch atoms 3"],
    directions_at_once: int | None = None,
) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, " batch"]]:
    r"""Velocity and its exact divergence, sum_k dv_k / dx_k over all 3N coordinates of a row.

    Directional derivatives are carried through the field together, along one evaluation of the
    velocity itself: all 3N of them in the work of 3N + 1 evaluations and 3N times the memory of
    one, or a few at a time in less memory. No row may depend on another.

    Args:
        velocity: the field, of time and positions alone.
        t: time, shape () or (batch,), as the field takes it.
        x: positions, shape (batch, atoms, 3).
        directions_at_once: how many of the 3N directions go together; None: all.

    Returns:
        The velocity, shape (batch, atoms, 3), and its divergence, shape (batch,).

    Example:
        >>> x = torch.ones(2, 4, 3)
        >>> velocity_and_divergence(lambda t, x: t * x, torch.tensor(0.5), x)[1]
        tensor([6., 6.])
    """

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        v, change = torch.func.jvp(partial(velocity, t), (x,), (direction.expand_as(x),))[:2]
        return v, (change * direction).sum(dim=(1, 2))

    _, n_atoms, _ = x.shape
    directions = torch.eye(3 * n_atoms, dtype=x.dtype, device=x.device).view(-1, n_atoms, 3)
    divergence = torch.zeros_like(x[:, 0, 0])
    for part in torch.split(directions, directions_at_once or len(directions)):
        with _FORWARD_MODE:
            # None: the velocity is the same along every direction (torch's annotation lacks it).
            v, diagonal = torch.func.vmap(along, out_dims=(None, 0))(part)  # type: ignore[arg-type]
        divergence = divergence + diagonal.sum(dim=0)
    return v, divergence
