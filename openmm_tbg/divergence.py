"""The exact divergence of a vector field, by forward-mode differentiation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A field: a time () and positions (batch, atoms, 3) to velocities of that shape, row by row."""

# The levels of torch's forward mode belong to the process, not to the thread.
_FORWARD_MODE = threading.Lock()


def velocity_and_divergence(
    velocity: Velocity, t: Float[Tensor, ""], x: Float[Tensor, "batch atoms 3"]
) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, " batch"]]:
    r"""Velocity and its exact divergence, sum_k dv_k / dx_k over all 3N coordinates of a row.

    The 3N directional derivatives are carried through the field together, along one evaluation of
    the velocity itself: the work of 3N + 1 evaluations, and 3N times the memory of one. No row may
    depend on another.

    Args:
        velocity: the field, of time and positions alone.
        t: time, shape ().
        x: positions, shape (batch, atoms, 3).

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
    # None: the velocity is the same along every direction (torch's annotation does not know it).
    out_dims = (None, 0)
    with _FORWARD_MODE:
        v, diagonal = torch.func.vmap(along, out_dims=out_dims)(directions)  # type: ignore[arg-type]
    return v, diagonal.sum(dim=0)
