"""What each architecture learns from a frame, a time and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..fields.denoiser import Denoiser
from ..fields.egnn import EGNN
from .data import MoleculeFrames
from .newton import StiffTerms, newton_step

Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]


@runtime_checkable
class Objective(Protocol):
    """The regression by which a field learns one molecule: pairs of inputs and targets."""

    @property
    def field(self) -> nn.Module:
        """The network."""
        ...

    def with_field(self, field: nn.Module) -> Objective:
        """The same regression of another field, such as one with averaged weights."""
        ...

    def pairs(self, frames: Batch, times: Times, noise: Batch) -> tuple[Batch, Batch]:
        """Points on the paths from noise to frames, and what the network should say there."""
        ...

    def predict(self, times: Times, x: Batch) -> Batch:
        """What the network says."""
        ...

    def correction(self, frames: Batch, forces: Batch, times: Times, noise: Batch) -> Batch:
        """What forces let add to the targets, of mean zero given the point: less variance."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """One molecule to be learned.

    Args:
        objective: the regression; the fields of all tasks share their parameters.
        frames: from which the steps draw.
        validation: frames that are held back.
    """

    objective: Objective
    frames: MoleculeFrames
    validation: MoleculeFrames


class ResidualMatching:
    r"""The objective of `Denoiser`, with a target of unit variance at every time.

    $$ x_t = (1 - t) x_0 + t x_1, \qquad F = n (z_1 - z_0) - \frac{2t - 1}{n} z_t $$

    with $z = K^{-1/2} x$: conditional flow matching with independent coupling (Lipman et al. 2023,
    arXiv:2210.02747), written for the residual network.

    Args:
        field: the network.
        stiff: bonds and angles of the molecule, for the correction by forces.
    """

    def __init__(self, field: Denoiser, stiff: StiffTerms | None = None) -> None:
        self.field = field
        self._stiff = None if stiff is None else stiff.to(field.root)

    def with_field(self, field: nn.Module) -> ResidualMatching:
        """The same regression of another denoiser."""
        assert isinstance(field, Denoiser)
        return ResidualMatching(field, self._stiff)

    def pairs(self, frames: Batch, times: Times, noise: Batch) -> tuple[Batch, Batch]:
        """Points $x_t$ in nm and targets $F$; `noise` is $z_0$."""
        t = times[:, None, None]
        norm = (t**2 + (1 - t) ** 2).sqrt()
        z_1 = self.field.inverse_root @ frames
        z_t = (1 - t) * noise + t * z_1
        return self.field.root @ z_t, norm * (z_1 - noise) - (2 * t - 1) / norm * z_t

    def predict(self, times: Times, x: Batch) -> Batch:
        """The residual network."""
        return self.field.residual(times, x)

    def correction(self, frames: Batch, forces: Batch, times: Times, noise: Batch) -> Batch:
        r"""The Newton step of `newton.newton_step` in the residual's units, $\frac{n}{1 - t} C$.

        Raises:
            ValueError: if the objective knows no stiff terms.
        """
        if self._stiff is None:
            raise ValueError("frames come with forces: give the objective the stiff terms as well")
        step = newton_step(self.field.root, self._stiff, frames, forces, times, noise)
        left = 1 - times[:, None, None]
        return ((1 - left) ** 2 + left**2).sqrt() / left * step


class VelocityMatching:
    r"""The objective of `EGNN`, as published: the velocity itself, from isotropic noise.

    $$ x_t = (1 - t) x_0 + t x_1, \qquad v = x_1 - x_0 $$

    in the network's units (0.1 nm for alanine dipeptide). Klein & Noé 2024 (arXiv:2406.14426),
    section 4, without the blur of 0.001 nm that they add to the path: the density at $t = 1$ is
    that of the frames.
    """

    def __init__(self, field: EGNN) -> None:
        self.field = field

    def with_field(self, field: nn.Module) -> VelocityMatching:
        """The same regression of another EGNN."""
        assert isinstance(field, EGNN)
        return VelocityMatching(field)

    def pairs(self, frames: Batch, times: Times, noise: Batch) -> tuple[Batch, Batch]:
        """Points in nm and velocities in the network's units per unit of time."""
        t, scale = times[:, None, None], self.field.units_per_nm
        return (1 - t) * noise / scale + t * frames, scale * frames - noise

    def predict(self, times: Times, x: Batch) -> Batch:
        """The velocity in the network's units."""
        return self.field.units_per_nm * self.field.velocity(times, x)

    def correction(self, frames: Batch, forces: Batch, times: Times, noise: Batch) -> Batch:
        """Nothing: the published recipe uses no forces."""
        return torch.zeros_like(frames)
