"""What the flow asks of a vector field."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "batch atoms 3"]
Scalar = Float[Tensor, " batch"]
Time = Float[Tensor, ""]


@runtime_checkable
class VectorField(Protocol):
    """A mean-free velocity of atoms, equivariant under rotations and reflections.

    It does not see translations. Positions are in nm; time runs from 0 (prior) to 1 (molecule);
    velocities are nm per unit of time.
    """

    @property
    def bytes_per_divergence(self) -> int:
        """Estimated working memory of `velocity_and_divergence` for one configuration."""
        ...

    def velocity(self, t: Time | Scalar, x: Batch) -> Batch:
        """The velocity of every atom, at one time for all rows or one for each."""
        ...

    def velocity_and_divergence(self, t: Time | Scalar, x: Batch) -> tuple[Batch, Scalar]:
        """The velocity and its exact divergence over all 3N coordinates."""
        ...
