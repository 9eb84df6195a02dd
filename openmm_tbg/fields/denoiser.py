"""The project's field: a denoiser that refines the structure block by block, divergence by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..prior import MeanFreeGaussian
from .block import (
    Atoms,
    AtomTangents,
    Block,
    PairChannels,
    PairScalars,
    PairTangents,
    apply,
    each_atom,
)
from .distances import DistanceFeatures, PathScales
from .geometry import ReferenceGeometry
from .handedness import Handedness
from .protocol import Batch, Scalar, Time

GATE_GAIN = 0.1
SOFTENING_NM = 1e-4
LONGEST_GRAPH_DISTANCE = 8
PAIR_CHANNELS = 32
TIME_CENTRES = (-4.0, 5.0, 16)
TIME_WIDTH = 0.6
TIME_SOFTENING = 0.02

Times = Float[Tensor, " times"]
Vectors = Float[Tensor, "batch atoms 3"]
PairVectors = Float[Tensor, "batch atoms atoms 3"]
VectorTangents = Float[Tensor, "batch atoms 3 tangents"]


class Denoiser(nn.Module):
    r"""Velocity of a flow whose prior has the covariance of the data.

    In whitened coordinates $z = K^{-1/2} x$ prior and data both have unit covariance. On the path
    $z_t = (1 - t) z_0 + t z_1$, with $n = \sqrt{t^2 + (1 - t)^2}$, the best linear field is
    known, and the network only learns the rest, whose target has unit variance at every time:

    $$ v_z = \frac{2t - 1}{n^2} z_t + \frac{1}{n} F(t, x_t), \qquad
       F(t, x_t) = E[n (z_1 - z_0) - \frac{2t - 1}{n} z_t | x_t] . $$

    This is $v = (D - z_t) / (1 - t)$ with a denoiser $D$ preconditioned as in Karras et al. 2022
    (arXiv:2206.00364, table 1), and is bounded at both ends. $F$ is the sum of what the blocks
    move; between blocks the structure $y$ takes up each motion times the noise that is left,
    $(1 - t) / n$, and distances are measured anew.

    Args:
        geometry: the molecule as the field sees it.
        hidden: channels of an atom.
        layers: number of blocks.
        dtype: precision in which the field is computed.

    Raises:
        ValueError: if atoms of equal label are not equal by their bonds.
    """

    root: Tensor
    inverse_root: Tensor
    one_hot: Tensor
    pair_labels: Tensor
    time_centres: Tensor
    corners: Tensor

    def __init__(
        self,
        geometry: ReferenceGeometry,
        hidden: int,
        layers: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        geometry.require_equal_atoms()
        prior = MeanFreeGaussian(torch.from_numpy(geometry.covariance))
        one_hot = torch.from_numpy(geometry.one_hot)
        centres = torch.linspace(*TIME_CENTRES, dtype=torch.float64)
        self.register_buffer("root", prior.root, persistent=False)
        self.register_buffer("inverse_root", prior.inverse_root, persistent=False)
        self.register_buffer("one_hot", one_hot, persistent=False)
        self.register_buffer("pair_labels", _pair_labels(one_hot, geometry), persistent=False)
        self.register_buffer("time_centres", centres, persistent=False)
        corners = torch.from_numpy(geometry.stereocentres)
        self.register_buffer("corners", corners, persistent=False)
        self.distances = DistanceFeatures(geometry)
        self.hidden = hidden
        self.atom_embedding = nn.Linear(one_hot.shape[1], hidden)
        self.time_embedding = nn.Sequential(
            nn.Linear(1 + TIME_CENTRES[2], hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.pair_embedding = nn.Sequential(
            nn.Linear(self.pair_labels.shape[-1], PAIR_CHANNELS), nn.SiLU()
        )
        every, plain = DistanceFeatures.n_features, DistanceFeatures.n_plain
        widths = [every] + [every + plain] * (layers - 1)
        blocks = nn.ModuleList(Block(hidden, width, PAIR_CHANNELS) for width in widths)
        self.blocks = cast(Sequence[Block], blocks)
        hands = nn.ModuleList(Handedness(hidden) for _ in widths)
        self.hands = cast(Sequence[Handedness], hands)
        self.gate = nn.Linear(hidden, 1)
        with torch.no_grad():
            self.gate.weight *= GATE_GAIN
        self.to(dtype)

    def for_molecule(self, geometry: ReferenceGeometry) -> Denoiser:
        """The field of another molecule, with these very parameters: training one trains both.

        Raises:
            ValueError: if the molecule's labels are not those of this one.
        """
        if geometry.one_hot.shape[1] != self.one_hot.shape[1]:
            raise ValueError(
                f"geometry has {geometry.one_hot.shape[1]} labels, the field "
                f"{self.one_hot.shape[1]}: encode both molecules alike"
            )
        other = Denoiser(geometry, self.hidden, len(self.blocks), self.root.dtype)
        other.to(self.root.device)
        for mine, theirs in zip(self.modules(), other.modules(), strict=True):
            theirs._parameters = mine._parameters
        return other

    @property
    def bytes_per_divergence(self) -> int:
        """Estimated working memory of one configuration's divergence."""
        n_atoms, itemsize = len(self.root), self.root.element_size()
        tangents = 3 * n_atoms
        pairs = n_atoms * n_atoms * (8 * self.hidden + 4 * tangents)
        return itemsize * (pairs + 8 * tangents * n_atoms * self.hidden)

    def residual(self, t: Times, x: Batch) -> Batch:
        """$F(t, x)$ in whitened coordinates, for one time or one for each configuration."""
        scales, h, embedding = self._start(t, x)
        y = x / scales.norm
        z, motion = self.inverse_root @ y, torch.zeros_like(y)
        noisy: list[PairChannels] = []
        size = self.distances.sizes(scales, self.corners)
        for block, hand in zip(self.blocks, self.hands, strict=True):
            features = self.distances(_separations(y)[1], scales)
            weights = block.weights(embedding, self.distances.spread)
            h, exchange = block(h, torch.cat([features, *noisy], dim=-1), weights)
            noisy = noisy or [features[..., : DistanceFeatures.n_plain]]
            h, turn, _ = hand(h, y, self.corners, size)
            push = _push(exchange.strength, y) + turn
            motion = motion + push
            y = y + scales.noise * (self.root @ push)
        motion = motion + self.gate(h) * z
        centred: Tensor = motion - motion.mean(dim=1, keepdim=True)
        return centred

    def velocity(self, t: Time | Scalar, x: Batch) -> Batch:
        """The velocity of every atom, nm per unit of flow time."""
        times, inside = t.to(self.root).reshape(-1), x.to(self.root)
        return self._velocity(times, inside, self.residual(times, inside)).to(x)

    def velocity_and_divergence(self, t: Time | Scalar, x: Batch) -> tuple[Batch, Scalar]:
        """The velocity and its exact divergence: 3N tangents carried forward beside the values."""
        times, inside = t.to(self.root).reshape(-1), x.to(self.root)
        residual, trace = self._residual_and_trace(times, inside)
        norm = self.distances.scales(times).norm[:, 0, 0]
        drift = 3 * (x.shape[1] - 1) * (2 * times - 1) / norm**2
        velocity = self._velocity(times, inside, residual)
        return velocity.to(x), (drift + trace / norm).to(x)

    def _velocity(self, t: Times, x: Batch, residual: Batch) -> Batch:
        scales = self.distances.scales(t)
        drift = (2 * scales.time - 1) / scales.norm**2
        return drift * (x - x.mean(dim=1, keepdim=True)) + self.root @ residual / scales.norm

    def _start(self, t: Times, x: Batch) -> tuple[PathScales, Atoms, Tensor]:
        ratio = torch.log((t + TIME_SOFTENING) / (1 - t + TIME_SOFTENING))
        bumps = torch.exp(-0.5 * ((ratio[:, None] - self.time_centres) / TIME_WIDTH) ** 2)
        time = self.time_embedding(torch.cat([t[:, None], bumps], dim=-1))
        h = (self.atom_embedding(self.one_hot) + time[:, None]).expand(len(x), -1, -1)
        return self.distances.scales(t), h, self.pair_embedding(self.pair_labels)

    def _residual_and_trace(self, t: Times, x: Batch) -> tuple[Batch, Scalar]:
        """$F$ and the trace of its Jacobian in $z$; `_dot` marks tangents along the axes of $z$."""
        scales, h, embedding = self._start(t, x)
        norm = scales.norm[..., None]
        y = x / scales.norm
        y_dot = (self._axes(self.root) / norm).expand(len(x), -1, -1, -1).contiguous()
        z, motion, motion_dot = self.inverse_root @ y, torch.zeros_like(y), torch.zeros_like(y_dot)
        h_dot: AtomTangents | None = None
        noisy: list[PairChannels] = []
        noisy_paths: list[tuple[PairChannels, PairTangents]] = []
        size = self.distances.sizes(scales, self.corners)
        for block, hand in zip(self.blocks, self.hands, strict=True):
            separation, distance = _separations(y)
            features = self.distances(distance, scales)
            weights = block.weights(embedding, self.distances.spread)
            slope = self.distances.slope(distance, scales)
            distance_dot = _distance_tangents(separation, distance, y_dot)
            h_next, exchange = block(h, torch.cat([features, *noisy], dim=-1), weights)
            paths = [(slope, distance_dot), *noisy_paths]
            h_dot, strength_dot = block.tangents(exchange, weights, h_dot, paths)
            h, plain = h_next, DistanceFeatures.n_plain
            noisy = noisy or [features[..., :plain]]
            noisy_paths = noisy_paths or [(slope[..., :plain], distance_dot)]
            h, turn, volumes = hand(h, y, self.corners, size)
            h_dot, turn_dot = hand.tangents(volumes, self.corners, h_dot, y_dot)
            push = _push(exchange.strength, y) + turn
            push_dot = _push(exchange.strength, y_dot.flatten(2)).view_as(y_dot) + turn_dot
            push_dot += each_atom(separation.mT, strength_dot)
            motion, motion_dot = motion + push, motion_dot + push_dot
            y = y + scales.noise * (self.root @ push)
            change_dot = (self.root @ push_dot.flatten(2)).view_as(y_dot)
            y_dot = y_dot + scales.noise[..., None] * change_dot
        assert h_dot is not None
        gate, gate_dot = self.gate(h), apply(self.gate.weight, h_dot)[0]
        motion = motion + gate * z
        axes = self._axes(torch.eye(len(self.root)).to(self.root))
        z_dot = (axes - axes.mean(dim=1, keepdim=True)) / norm
        motion_dot += gate_dot[:, :, None] * z[..., None] + gate[..., None] * z_dot
        trace = (motion_dot * z_dot).sum((1, 2, 3)) * scales.norm[:, 0, 0]
        return motion - motion.mean(dim=1, keepdim=True), trace

    def _axes(self, matrix: Float[Tensor, "atoms atoms"]) -> Float[Tensor, "1 atoms 3 tangents"]:
        """The 3N unit displacements of $z$, mapped by a matrix over atoms."""
        axes = torch.einsum("ij,cd->icjd", matrix, torch.eye(3).to(matrix))
        return axes.reshape(1, len(matrix), 3, 3 * len(matrix))


def _pair_labels(one_hot: Tensor, geometry: ReferenceGeometry) -> Tensor:
    """Labels of both ends of a pair and the number of bonds between them."""
    n_atoms = len(one_hot)
    apart = torch.from_numpy(geometry.graph_distances).clamp_max(LONGEST_GRAPH_DISTANCE)
    far = torch.nn.functional.one_hot(apart, LONGEST_GRAPH_DISTANCE + 1).to(one_hot)
    ends = [one_hot[:, None].expand(-1, n_atoms, -1), one_hot[None].expand(n_atoms, -1, -1)]
    return torch.cat([*ends, far], dim=-1)


def _separations(y: Vectors) -> tuple[PairVectors, PairScalars]:
    separation = y[:, :, None] - y[:, None]
    return separation, (separation.square().sum(-1) + SOFTENING_NM**2).sqrt()


def _distance_tangents(
    separation: PairVectors, distance: PairScalars, y_dot: VectorTangents
) -> PairTangents:
    one_end = each_atom(separation / distance[..., None], y_dot)
    return one_end + one_end.transpose(1, 2)


def _push(strength: PairScalars, y: Tensor) -> Tensor:
    """$\\sum_j c_{ij} (y_i - y_j)$."""
    return strength.sum(-1, keepdim=True) * y - strength @ y
