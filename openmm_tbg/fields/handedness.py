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

from .block import Atoms, AtomTangents, apply, channels_first, silu_slope

STEEPNESS = (1.0, 4.0, 16.0, 64.0)

Corners = Int[Tensor, "centres 4"]
Vectors = Float[Tensor, "batch atoms 3"]
VectorTangents = Float[Tensor, "batch atoms 3 tangents"]
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
        arms, scale, gradient = saved.arms[..., None], saved.scale[..., None], saved.gradient
        places_dot = y_dot[:, corners]
        arms_dot = places_dot[:, :, :3] - places_dot[:, :, 3:]
        normals_dot = _cross(arms_dot.roll(-1, 2), arms.roll(-2, 2))
        normals_dot = normals_dot + _cross(arms.roll(-1, 2), arms_dot.roll(-2, 2))
        volume_dot = (gradient[..., None] * places_dot).sum((2, 3)) / scale[..., 0, 0, :]
        slopes = (self.steepness * (1 - saved.features**2)) @ self.volume.weight.T
        before_dot = channels_first(slopes)[..., None] * volume_dot[:, :, None]
        before_dot = before_dot + apply(self.centre.weight, h_dot[:, :, corners[:, 3:]])
        before_dot = before_dot + apply(self.corner.weight, h_dot[:, :, corners])
        after_dot = channels_first(silu_slope(saved.before))[..., None] * before_dot
        strength_dot = apply(self.push.weight, after_dot)[0]
        moved = strength_dot[:, :, :, None] * gradient[..., None]
        moved = moved + saved.strength[..., None] * _with_centre(normals_dot) / scale**2
        turned = _to_atoms(torch.zeros_like(y_dot), corners, moved)
        seen = apply(self.out.weight, after_dot).flatten(2, 3)
        return h_dot.index_add(2, corners.flatten(), seen), turned


def _cross(a: Tensor, b: Tensor) -> Tensor:
    shape = (a + b).shape
    product: Tensor = torch.linalg.cross(a.expand(shape), b.expand(shape), dim=3)
    return product


def _with_centre(normals: Tensor) -> Tensor:
    """The gradient of the volume for three neighbours and the centre: they sum to zero."""
    return torch.cat([normals, -normals.sum(2, keepdim=True)], dim=2)


def _to_atoms(atoms: Tensor, corners: Corners, change: Tensor) -> Tensor:
    """Add what belongs to corners to their atoms."""
    return atoms.index_add(1, corners.flatten(), change.flatten(1, 2))
