r"""What distances cannot tell: the hand of each stereocentre, seen and turned by pseudo-vectors.

Three neighbours of a centre span the volume $V = a_0 \cdot (a_1 \times a_2)$ with it, which
changes sign under reflections. A field that sees only distances treats both hands alike, and its
flow has to choose one for every sample: those that start between the two end with a strained
centre. Here the volume enters the features of the four atoms, and its gradient moves them, so the
field knows that the molecule has one hand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from .block import Atoms, AtomTangents, silu_slope

STEEPNESS = (1.0, 4.0, 16.0, 64.0)

Corners = Int[Tensor, "centres 4"]
Vectors = Float[Tensor, "batch atoms 3"]
VectorTangents = Float[Tensor, "#batch tangents atoms 3"]
Scales = Float[Tensor, "times centres"]


class Volumes(NamedTuple):
    """What `Handedness` computed on the way, all for four corners a centre."""

    arms: Tensor
    gradient: Tensor
    features: Tensor
    before: Tensor
    strength: Tensor
    scale: Tensor


class Handedness(nn.Module):
    """Lets the atoms around each stereocentre know its volume, and moves them along its gradient.

    With fresh weights it does nothing.
    """

    steepness: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.register_buffer("steepness", torch.tensor(STEEPNESS), persistent=False)
        self.centre = nn.Linear(hidden, hidden)
        self.corner = nn.Linear(hidden, hidden, bias=False)
        self.volume = nn.Linear(len(STEEPNESS), hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.push = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.push.weight)

    def forward(
        self, h: Atoms, y: Vectors, corners: Corners, scale: Scales
    ) -> tuple[Atoms, Vectors, Volumes]:
        """The updated atoms, their motions, and what `tangents` needs.

        Args:
            h: channels of the atoms.
            y: their positions, nm.
            corners: the three neighbours and the centre, so that the molecule's volume is positive.
            scale: a length by which the volume is measured, nm.
        """
        scale = scale[..., None, None]
        places = y[:, corners]
        arms = places[:, :, :3] - places[:, :, 3:]
        normals = torch.linalg.cross(arms.roll(-1, 2), arms.roll(-2, 2))
        volume = (arms[:, :, :1] * normals[:, :, :1]).sum(-1, keepdim=True) / scale**3
        features = torch.tanh(self.steepness * volume)
        around = self.centre(h[:, corners[:, 3:]]) + self.corner(h[:, corners])
        before = around + self.volume(features)
        after = silu(before)
        strength = self.push(after)
        gradient = _with_centre(normals) / scale**2
        push = _to_atoms(torch.zeros_like(y), corners, strength * gradient)
        saved = Volumes(arms, gradient, features, before, strength, scale)
        return _to_atoms(h, corners, self.out(after)), push, saved

    def tangents(
        self, saved: Volumes, corners: Corners, h_dot: AtomTangents, y_dot: VectorTangents
    ) -> tuple[AtomTangents, VectorTangents]:
        """Tangents of the atoms and of their motions."""
        arms, scale = saved.arms[:, None], saved.scale[:, None]
        places_dot = y_dot[:, :, corners]
        arms_dot = places_dot[..., :3, :] - places_dot[..., 3:, :]
        normals_dot = _cross(arms_dot.roll(-1, 3), arms.roll(-2, 3))
        normals_dot = normals_dot + _cross(arms.roll(-1, 3), arms_dot.roll(-2, 3))
        gradient = saved.gradient[:, None]
        volume_dot = (gradient * places_dot).sum((-1, -2), keepdim=True) / scale
        features_dot = self.steepness * (1 - saved.features[:, None] ** 2) * volume_dot
        before_dot = h_dot[:, :, corners[:, 3:]] @ self.centre.weight.T
        before_dot = before_dot + h_dot[:, :, corners] @ self.corner.weight.T
        before_dot = before_dot + features_dot @ self.volume.weight.T
        after_dot = silu_slope(saved.before)[:, None] * before_dot
        strength_dot = after_dot @ self.push.weight.T
        moved = strength_dot * gradient
        moved = moved + saved.strength[:, None] * _with_centre(normals_dot) / scale**2
        still = y_dot.new_zeros(*moved.shape[:2], *y_dot.shape[2:])
        h_dot = h_dot.expand(len(moved), -1, -1, -1)
        return (
            _to_atoms(h_dot, corners, after_dot @ self.out.weight.T),
            _to_atoms(still, corners, moved),
        )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    shape = (a + b).shape
    product: Tensor = torch.linalg.cross(a.expand(shape), b.expand(shape))
    return product


def _with_centre(normals: Tensor) -> Tensor:
    """The gradient of the volume for three neighbours and the centre: they sum to zero."""
    return torch.cat([normals, -normals.sum(-2, keepdim=True)], dim=-2)


def _to_atoms(atoms: Tensor, corners: Corners, change: Tensor) -> Tensor:
    """Add what belongs to corners to their atoms."""
    return atoms.index_add(-2, corners.flatten(), change.flatten(-3, -2))
