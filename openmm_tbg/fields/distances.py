"""Features of distances that resolve stiff pairs at every time of the flow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .geometry import ReferenceGeometry

DEVIATION_CENTRES = (-3.0, 3.0, 7)
DEVIATION_RANGE = 4.0
DISTANCE_CENTRES_NM = (0.15, 0.6, 6)
DISTANCE_WIDTH_NM = 0.08
# Places in 4 x 4 pairs. An index and not a mask, whose size a GPU would have to be asked for.
DIFFERENT_CORNERS = [k for k in range(16) if k % 5]

Distances = Float[Tensor, "batch atoms atoms"]
Features = Float[Tensor, "batch atoms atoms features"]
Near = Float[Tensor, "batch atoms atoms deviations"]
Short = Float[Tensor, "batch atoms atoms lengths"]


class PathScales(NamedTuple):
    """What the time alone decides: weights on the path, expected distances and their widths, nm."""

    time: Float[Tensor, "times 1 1"]
    norm: Float[Tensor, "times 1 1"]
    noise: Float[Tensor, "times 1 1"]
    expected: Float[Tensor, "times atoms atoms"]
    width: Float[Tensor, "times atoms atoms"]


class DistanceFeatures(nn.Module):
    r"""Features of the distance of each pair, and their derivatives.

    On the path $x_t = (1 - t) x_0 + t x_1$, divided by its norm $n = \sqrt{t^2 + (1 - t)^2}$, the
    distance of a stiff pair is about $t \bar d / n$, with width
    $\sqrt{t^2 \sigma^2 + (1 - t)^2 r^2} / n$: $\sigma$ from the data, $r$ from the prior, whose
    covariance is that of the data. A bond of width 0.003 nm is then as visible at $t = 0.99$ as at
    $t = 0.5$. The deviation from the expected distance in units of its width is given soft-clipped
    and through Gaussians, beside the distance in units of $r$ and Gaussians of the distance.
    """

    n_plain = 2
    n_features = n_plain + DEVIATION_CENTRES[2] + DISTANCE_CENTRES_NM[2]

    mean: Tensor
    sd: Tensor
    spread: Tensor
    deviations: Tensor
    lengths: Tensor

    def __init__(self, geometry: ReferenceGeometry) -> None:
        super().__init__()
        diagonal = geometry.covariance.diagonal()
        spread = torch.from_numpy(diagonal[:, None] + diagonal - 2 * geometry.covariance).sqrt()
        same_atom = torch.eye(len(spread), dtype=torch.float64)
        for name, values in {
            "mean": torch.from_numpy(geometry.distance_mean),
            "sd": torch.from_numpy(geometry.distance_sd) + same_atom,
            "spread": spread.nan_to_num() + same_atom,
            "deviations": torch.linspace(*DEVIATION_CENTRES, dtype=torch.float64),
            "lengths": torch.linspace(*DISTANCE_CENTRES_NM, dtype=torch.float64),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def scales(self, t: Float[Tensor, " times"]) -> PathScales:
        """The scales of each time."""
        t = t[:, None, None]
        norm = (t**2 + (1 - t) ** 2).sqrt()
        width = ((t * self.sd) ** 2 + ((1 - t) * self.spread) ** 2).sqrt() / norm
        return PathScales(t, norm, (1 - t) / norm, t * self.mean / norm, width)

    def sizes(
        self, scales: PathScales, corners: Int[Tensor, "centres 4"]
    ) -> Float[Tensor, "times centres"]:
        """Root mean square distance between the corners on the path, nm."""
        square = (scales.time * self.mean) ** 2 + 3 * ((1 - scales.time) * self.spread) ** 2
        between = (square / scales.norm**2)[:, corners[:, :, None], corners[:, None]]
        return between.flatten(2)[..., DIFFERENT_CORNERS].mean(-1).sqrt()

    def forward(self, distance: Distances, scales: PathScales) -> Features:
        """Features of every pair; the `n_plain` first are those that are not Gaussians."""
        deviation = (distance - scales.expected) / scales.width
        clipped = deviation * torch.rsqrt(1 + (deviation / DEVIATION_RANGE) ** 2)
        plain = torch.stack([clipped, distance / self.spread], dim=-1)
        near, short = self._gaussians(distance, deviation)
        return torch.cat([plain, near, short], dim=-1)

    def slope(self, distance: Distances, scales: PathScales) -> Features:
        """Derivative of each feature with respect to the distance."""
        deviation = (distance - scales.expected) / scales.width
        inverse = (1 / scales.width).expand_as(distance)
        clipped = torch.rsqrt(1 + (deviation / DEVIATION_RANGE) ** 2) ** 3 * inverse
        plain = torch.stack([clipped, (1 / self.spread).expand_as(distance)], dim=-1)
        near, short = self._gaussians(distance, deviation)
        near = -(deviation[..., None] - self.deviations) * near * inverse[..., None]
        short = -(distance[..., None] - self.lengths) * short / DISTANCE_WIDTH_NM**2
        return torch.cat([plain, near, short], dim=-1)

    def _gaussians(self, distance: Distances, deviation: Distances) -> tuple[Near, Short]:
        near = torch.exp(-0.5 * (deviation[..., None] - self.deviations) ** 2)
        short = torch.exp(-0.5 * ((distance[..., None] - self.lengths) / DISTANCE_WIDTH_NM) ** 2)
        return near, short
