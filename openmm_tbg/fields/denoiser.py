"""The project's field: an equivariant denoiser whose dense products sit on atoms, with its divergence by hand.

A block sends one activation through every pair of atoms,

    s_ij = silu(A h_i + B h_j + e_ij + g_ij * W f_ij),

where f_ij are features of the distance, and the bias e, the gain g and the readout q of a pair come from the molecule
alone. It serves twice: to update the atoms, h_i += MLP(h_i, sum_j s_ij), and to move them,
o_i = sum_j (q_ij . s_ij) (y_i - y_j). Distances are measured anew in every block. No matrix product sits on the hidden
channels of a pair, so the 3N tangents of the divergence cost 3N x N x H^2 (in an EGNN: 3N x N^2 x H^2) and batched
products of 3N x N^2 x H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from ..prior import MeanFreeGaussian
from .distances import DistanceFeatures, PathScales
from .geometry import ReferenceGeometry
from .protocol import Batch, Scalar, Time

READOUT_GAIN = 0.03
GATE_GAIN = 0.1
SOFTENING_NM = 1e-4
LONGEST_GRAPH_DISTANCE = 8
PAIR_CHANNELS = 32
TIME_CENTRES = (-4.0, 5.0, 16)
TIME_WIDTH = 0.6
TIME_SOFTENING = 0.02

Times = Float[Tensor, " times"]
Atoms = Float[Tensor, "batch atoms hidden"]
Vectors = Float[Tensor, "batch atoms 3"]
PairScalars = Float[Tensor, "batch atoms atoms"]
PairVectors = Float[Tensor, "batch atoms atoms 3"]
PairChannels = Float[Tensor, "batch atoms atoms hidden"]
AtomTangents = Float[Tensor, "batch tangents atoms hidden"]
VectorTangents = Float[Tensor, "batch tangents atoms 3"]
PairTangents = Float[Tensor, "batch tangents atoms atoms"]


class PairWeights(NamedTuple):
    """What a block knows of each pair from the molecule alone; the readout of an atom with itself is zero."""

    bias: Float[Tensor, "atoms atoms hidden"]
    gain: Float[Tensor, "atoms atoms hidden"]
    readout: Float[Tensor, "atoms atoms hidden"]
    sum: Float[Tensor, "atoms atoms 1"]


class Exchange(NamedTuple):
    """What a block computed on the way, kept for its tangents."""

    before: PairChannels
    received: Atoms
    mixed: Atoms
    strength: PairScalars


class Block(nn.Module):
    """One exchange between all pairs, which updates the atoms and moves them."""

    def __init__(self, hidden: int, n_features: int) -> None:
        super().__init__()
        self.ends = nn.Linear(hidden, 2 * hidden)
        self.filter = nn.Linear(n_features, hidden, bias=False)
        self.pair = nn.Linear(PAIR_CHANNELS, 3 * hidden)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        with torch.no_grad():
            self.pair.weight[2 * hidden :] *= READOUT_GAIN
            self.pair.bias[2 * hidden :] *= READOUT_GAIN

    def weights(
        self,
        embedding: Float[Tensor, "atoms atoms channels"],
        spread: Float[Tensor, "atoms atoms"],
    ) -> PairWeights:
        bias, gain, readout = self.pair(embedding).chunk(3, dim=-1)
        n_atoms = len(spread)
        others = 1 - torch.eye(n_atoms, dtype=spread.dtype, device=spread.device)
        others = others[..., None] * n_atoms**-0.5
        return PairWeights(bias, 1 + gain, readout * others / spread[..., None], others)

    def forward(
        self, h: Atoms, features: PairChannels, weights: PairWeights
    ) -> tuple[Atoms, Exchange]:
        """The updated atoms and the strengths with which pairs push."""
        sender, receiver = self.ends(h).chunk(2, dim=-1)
        filtered = self.filter(features) * weights.gain
        before = sender[:, :, None] + receiver[:, None] + weights.bias + filtered
        after = silu(before)
        received = (after * weights.sum).sum(2)
        mixed = self.mix(torch.cat([h.expand_as(received), received], dim=-1))
        strength = (after * weights.readout).sum(-1)
        return h + self.out(silu(mixed)), Exchange(before, received, mixed, strength)

    def tangents(
        self,
        exchange: Exchange,
        weights: PairWeights,
        h_dot: AtomTangents | None,
        paths: list[tuple[PairChannels, PairTangents]],
    ) -> tuple[AtomTangents, PairTangents]:
        """Tangents of both results, from those of the atoms and of the distances with the slopes of their filters."""
        slope = silu_slope(exchange.before)
        to_sum, to_strength = slope * weights.sum, slope * weights.readout
        received_dot: Tensor = torch.zeros(())
        strength_dot: Tensor = torch.zeros(())
        for filter_slope, distance_dot in paths:
            gained = filter_slope * weights.gain
            received_dot = received_dot + torch.einsum("bkij,bijh->bkih", distance_dot, to_sum * gained)
            strength_dot = strength_dot + distance_dot * (to_strength * gained).sum(-1)[:, None]
        mix_h, mix_received = self.mix.weight.chunk(2, dim=1)
        if h_dot is None:
            mixed_dot = received_dot @ mix_received.T
            return self.out_tangent(exchange, mixed_dot), strength_dot
        sender_dot, receiver_dot = (h_dot @ self.ends.weight.T).chunk(2, dim=-1)
        received_dot = received_dot + to_sum.sum(2)[:, None] * sender_dot
        received_dot = received_dot + torch.einsum("bijh,bkjh->bkih", to_sum, receiver_dot)
        strength_dot = strength_dot + torch.einsum("bijh,bkih->bkij", to_strength, sender_dot)
        strength_dot = strength_dot + torch.einsum("bijh,bkjh->bkij", to_strength, receiver_dot)
        mixed_dot = h_dot @ mix_h.T + received_dot @ mix_received.T
        return h_dot + self.out_tangent(exchange, mixed_dot), strength_dot

    def out_tangent(self, exchange: Exchange, mixed_dot: AtomTangents) -> AtomTangents:
        return (silu_slope(exchange.mixed)[:, None] * mixed_dot) @ self.out.weight.T


def silu_slope(x: Tensor) -> Tensor:
    """Derivative of silu."""
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


class Denoiser(nn.Module):
    r"""Velocity of a flow whose prior has the covariance of the data, from a residual network $F$ of unit variance.

    In whitened coordinates $z = K^{-1/2} x$ prior and data both have unit covariance, so with
    $n = \sqrt{t^2 + (1 - t)^2}$ the best linear denoiser on the path $z_t = (1 - t) z_0 + t z_1$ is known, and

    $$ v_z = \frac{2t - 1}{n^2} z_t + \frac{1}{n} F(t, x_t), \qquad
       F = n (z_1 - z_0) - \frac{2t - 1}{n} z_t \ \text{in the mean,} $$

    which stays bounded at both ends: $z_1 \approx D$ and $v = (D - z_t)/(1 - t)$ with $D$ preconditioned as in Karras et al.
    2022 (arXiv:2206.00364, table 1). Each block moves the structure by at most about $(1 - t)/n$, the noise that is left.

    Args:
        geometry: the molecule as the field sees it.
        hidden: channels of an atom.
        layers: number of blocks.
        dtype: precision in which the field is computed.
    """

    root: Tensor
    inverse_root: Tensor
    one_hot: Tensor
    pair_labels: Tensor
    time_centres: Tensor

    def __init__(
        self,
        geometry: ReferenceGeometry,
        hidden: int,
        layers: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        prior = MeanFreeGaussian(torch.from_numpy(geometry.covariance))
        one_hot = torch.from_numpy(geometry.one_hot)
        centres = torch.linspace(*TIME_CENTRES, dtype=torch.float64)
        self.register_buffer("root", prior.root, persistent=False)
        self.register_buffer("inverse_root", prior.inverse_root, persistent=False)
        self.register_buffer("one_hot", one_hot, persistent=False)
        self.register_buffer("pair_labels", _pair_labels(one_hot, geometry), persistent=False)
        self.register_buffer("time_centres", centres, persistent=False)
        self.distances = DistanceFeatures(geometry)
        self.hidden = hidden
        self.atom_embedding = nn.Linear(one_hot.shape[1], hidden)
        self.time_embedding = nn.Sequential(
            nn.Linear(1 + TIME_CENTRES[2], hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.pair_embedding = nn.Sequential(
            nn.Linear(self.pair_labels.shape[-1], PAIR_CHANNELS), nn.SiLU()
        )
        plain, every = DistanceFeatures.n_plain, DistanceFeatures.n_features
        widths = [every] + [every + plain] * (layers - 1)
        self.blocks = nn.ModuleList(Block(hidden, width) for width in widths)
        self.gate = nn.Linear(hidden, 1)
        with torch.no_grad():
            self.gate.weight *= GATE_GAIN
        self.to(dtype)

    @property
    def bytes_per_divergence(self) -> int:
        n_atoms, itemsize = len(self.root), self.root.element_size()
        tangents = 3 * n_atoms
        per_pair = n_atoms * n_atoms * (8 * self.hidden + 4 * tangents)
        return itemsize * (per_pair + 8 * tangents * n_atoms * self.hidden)

    def residual(self, t: Times, x: Batch) -> Batch:
        """$F(t, x)$, the part of the velocity that is learned, in whitened coordinates."""
        scales, h, embedding = self._start(t, x)
        y = x / scales.norm
        motion = torch.zeros_like(y)
        noisy: list[PairChannels] = []
        for block in self.blocks:
            separation, distance = _separations(y)
            features = self.distances(distance, scales)
            weights = block.weights(embedding, self.distances.spread)
            h, exchange = block(h, torch.cat([features, *noisy], dim=-1), weights)
            noisy = noisy or [features[..., : DistanceFeatures.n_plain]]
            push = _push(exchange.strength, y)
            motion = motion + push
            y = y + _step(scales) * (self.root @ push)
        motion = motion + self.gate(h) * (self.inverse_root @ (x / scales.norm))
        return motion - motion.mean(dim=1, keepdim=True)

    def velocity(self, t: Time, x: Batch) -> Batch:
        """The velocity of every atom, nm per unit of flow time."""
        times, inside = t.to(self.root).reshape(1), x.to(self.root)
        return self._velocity(times, inside, self.residual(times, inside)).to(x)

    def velocity_and_divergence(self, t: Time, x: Batch) -> tuple[Batch, Scalar]:
        """The velocity and its exact divergence: all 3N tangents carried forward beside the values."""
        times, inside = t.to(self.root).reshape(1), x.to(self.root)
        residual, trace = self._residual_and_trace(times, inside)
        norm = self.distances.scales(times).norm[0, 0, 0]
        drift = 3 * (x.shape[1] - 1) * (2 * times[0] - 1) / norm**2
        velocity = self._velocity(times, inside, residual)
        return velocity.to(x), (drift + trace / norm).to(x)

    def _velocity(self, t: Times, x: Batch, residual: Batch) -> Batch:
        scales = self.distances.scales(t)
        drift = (2 * scales.time - 1) / scales.norm**2
        return drift * (x - x.mean(dim=1, keepdim=True)) + self.root @ residual / scales.norm

    def _start(self, t: Times, x: Batch) -> tuple[PathScales, Atoms, Tensor]:
        scales = self.distances.scales(t)
        ratio = torch.log((t + TIME_SOFTENING) / (1 - t + TIME_SOFTENING))
        bumps = torch.exp(-0.5 * ((ratio[:, None] - self.time_centres) / TIME_WIDTH) ** 2)
        time = self.time_embedding(torch.cat([t[:, None], bumps], dim=-1))
        h = self.atom_embedding(self.one_hot) + time[:, None]
        return scales, h.expand(len(x), -1, -1), self.pair_embedding(self.pair_labels)

    def _residual_and_trace(self, t: Times, x: Batch) -> tuple[Batch, Scalar]:
        """$F$ and the trace of its Jacobian with respect to $z$; tangents start along the axes of $z$."""
        scales, h, embedding = self._start(t, x)
        y = x / scales.norm
        y_dot = self._axes(self.root) / scales.norm[..., None]
        h_dot = None
        motion, motion_dot = torch.zeros_like(y), torch.zeros(()).to(y)
        noisy: list[PairChannels] = []
        noisy_path: list[tuple[PairChannels, PairTangents]] = []
        for block in self.blocks:
            separation, distance = _separations(y)
            features = self.distances(distance, scales)
            weights = block.weights(embedding, self.distances.spread)
            h_next, exchange = block(h, torch.cat([features, *noisy], dim=-1), weights)
            slope = self.distances.slope(distance, scales)
            distance_dot = _distance_tangents(separation, distance, y_dot)
            first, *rest = block.filter.weight.split([slope.shape[-1], *[n.shape[-1] for n in noisy]], 1)
            paths = [(slope @ first.T, distance_dot)]
            paths += [(plain @ weight.T, dot) for (plain, dot), weight in zip(noisy_path, rest, strict=True)]
            h_dot, strength_dot = block.tangents(exchange, weights, h_dot, paths)
            if not noisy:
                noisy = [features[..., : DistanceFeatures.n_plain]]
                noisy_path = [(slope[..., : DistanceFeatures.n_plain], distance_dot)]
            h = h_next
            push = _push(exchange.strength, y)
            push_dot = _push(exchange.strength[:, None], y_dot)
            push_dot = push_dot + torch.einsum("bkij,bijc->bkic", strength_dot, separation)
            motion, motion_dot = motion + push, motion_dot + push_dot
            y = y + _step(scales) * (self.root @ push)
            y_dot = y_dot + _step(scales)[:, None] * (self.root @ push_dot)
        return self._close(scales, x, h, h_dot, motion, motion_dot)

    def _close(
        self,
        scales: PathScales,
        x: Batch,
        h: Atoms,
        h_dot: AtomTangents,
        motion: Vectors,
        motion_dot: VectorTangents,
    ) -> tuple[Batch, Scalar]:
        """Add the gated input to the motion, remove the mean, and contract the tangents with their axes."""
        z = self.inverse_root @ (x / scales.norm)
        gate, gate_dot = self.gate(h), h_dot @ self.gate.weight.T
        motion = motion + gate * z
        axes = self._axes(torch.eye(len(self.root)).to(self.root))
        centred = axes - axes.mean(dim=2, keepdim=True)
        trace = (motion_dot * centred).sum((1, 2, 3))
        trace = trace + (gate_dot * z[:, None] * centred).sum((1, 2, 3))
        trace = trace + (gate[:, None] * centred * centred).sum((1, 2, 3)) / scales.norm[:, 0, 0]
        return motion - motion.mean(dim=1, keepdim=True), trace

    def _axes(self, matrix: Float[Tensor, "atoms atoms"]) -> Float[Tensor, "1 tangents atoms 3"]:
        """The 3N unit displacements of z, mapped by a matrix over atoms."""
        axes = torch.einsum("ij,cd->jcid", matrix, torch.eye(3).to(matrix))
        return axes.reshape(1, 3 * len(matrix), len(matrix), 3)


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
    direction = separation / distance[..., None]
    one_end = torch.einsum("bijc,bkic->bkij", direction, y_dot.expand(len(direction), -1, -1, -1))
    return one_end + one_end.transpose(-1, -2)


def _push(strength: Tensor, y: Tensor) -> Tensor:
    """$\\sum_j c_{ij} (y_i - y_j)$."""
    return strength.sum(-1, keepdim=True) * y - strength @ y


def _step(scales: PathScales) -> Tensor:
    return (1 - scales.time) / scales.norm
