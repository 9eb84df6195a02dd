"""One exchange between all pairs of atoms, and its derivative along any number of tangents.

A block sends one activation through every pair,

    s_ij = silu(A h_i + B h_j + e_ij + g_ij * W f_ij),

where f_ij are features of the distance, and the bias e, the gain g and the readout q of a pair come
from the molecule alone. It serves twice: to update the atoms, h_i += MLP(h_i, sum_j s_ij), and to
push them apart with strength c_ij = q_ij . s_ij. No matrix product sits on the hidden channels of a
pair, so 3N tangents cost 3N x N x H^2 (in an EGNN: 3N x N^2 x H^2) and batched products of
3N x N^2 x H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

READOUT_GAIN = 0.03

Atoms = Float[Tensor, "batch atoms hidden"]
PairScalars = Float[Tensor, "batch atoms atoms"]
PairChannels = Float[Tensor, "batch atoms atoms channels"]
GroupSlopes = Float[Tensor, "batch atoms atoms _"]
PairSlopes = Float[Tensor, "batch atoms atoms _"]
PairConstants = Float[Tensor, "atoms atoms hidden"]
AtomTangents = Float[Tensor, "#batch tangents atoms hidden"]
PairTangents = Float[Tensor, "batch tangents atoms atoms"]


class PairWeights(NamedTuple):
    """What a block knows of each pair; `readout` and `share` of an atom with itself are zero."""

    bias: PairConstants
    gain: PairConstants
    readout: PairConstants
    share: Float[Tensor, "atoms atoms 1"]


class Exchange(NamedTuple):
    """What a block computed on the way: arguments of silu, and the strengths."""

    before: PairChannels
    mixed: Atoms
    strength: PairScalars


class Block(nn.Module):
    """One exchange between all pairs, which updates the atoms and moves them."""

    def __init__(self, hidden: int, n_features: int, n_pair_channels: int) -> None:
        super().__init__()
        self.ends = nn.Linear(hidden, 2 * hidden)
        self.filter = nn.Linear(n_features, hidden, bias=False)
        self.pair = nn.Linear(n_pair_channels, 3 * hidden)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, hidden)
        with torch.no_grad():
            self.pair.weight[2 * hidden :] *= READOUT_GAIN
            self.pair.bias[2 * hidden :] *= READOUT_GAIN

    def weights(
        self, embedding: PairConstants, spread: Float[Tensor, "atoms atoms"]
    ) -> PairWeights:
        """Weights of every pair from its embedding; `spread` is the unit of its separation, nm."""
        bias, gain, readout = self.pair(embedding).chunk(3, dim=-1)
        n_atoms = len(spread)
        others = 1 - torch.eye(n_atoms, dtype=spread.dtype, device=spread.device)
        share = others[..., None] * n_atoms**-0.5
        return PairWeights(bias, 1 + gain, readout * share / spread[..., None], share)

    def forward(
        self, h: Atoms, features: PairChannels, weights: PairWeights
    ) -> tuple[Atoms, Exchange]:
        """The updated atoms and the strengths with which pairs push."""
        sender, receiver = self.ends(h).chunk(2, dim=-1)
        filtered = self.filter(features) * weights.gain
        before = sender[:, :, None] + receiver[:, None] + weights.bias + filtered
        after = silu(before)
        received = (after * weights.share).sum(2)
        mixed = self.mix(torch.cat([h, received], dim=-1))
        strength = (after * weights.readout).sum(-1)
        return h + self.out(silu(mixed)), Exchange(before, mixed, strength)

    def tangents(
        self,
        exchange: Exchange,
        weights: PairWeights,
        h_dot: AtomTangents,
        paths: Sequence[tuple[GroupSlopes, PairTangents]],
    ) -> tuple[AtomTangents, PairTangents]:
        """Tangents of both results.

        Args:
            exchange: what `forward` computed.
            weights: as given to `forward`.
            h_dot: tangents of the atoms.
            paths: for each group of features, in their order, the slopes with respect to a distance
                and the tangents of that distance.
        """
        slope = silu_slope(exchange.before)
        to_received, to_strength = slope * weights.share, slope * weights.readout
        sender_dot, receiver_dot = (h_dot @ self.ends.weight.T).chunk(2, dim=-1)
        received_dot = to_received.sum(2)[:, None] * sender_dot
        received_dot += _sum_over_senders(to_received, receiver_dot)
        strength_dot = torch.einsum("bijh,bkih->bkij", to_strength, sender_dot)
        strength_dot += torch.einsum("bijh,bkjh->bkij", to_strength, receiver_dot)
        filters = torch.split(self.filter.weight, [slopes.shape[-1] for slopes, _ in paths], dim=1)
        for (features_slope, distance_dot), weight in zip(paths, filters, strict=True):
            gained = (features_slope @ weight.T) * weights.gain
            to_distance = (to_strength * gained).sum(-1)
            strength_dot += distance_dot * to_distance[:, None]
            received_dot += torch.einsum("bkij,bijh->bkih", distance_dot, to_received * gained)
        both_dot = torch.cat([h_dot.expand_as(received_dot), received_dot], dim=-1)
        mixed_dot = silu_slope(exchange.mixed)[:, None] * (both_dot @ self.mix.weight.T)
        return h_dot + mixed_dot @ self.out.weight.T, strength_dot


def silu_slope(x: Tensor) -> Tensor:
    """Derivative of silu."""
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _sum_over_senders(weight: PairChannels, receiver_dot: AtomTangents) -> AtomTangents:
    return torch.einsum("bijh,bkjh->bkih", weight, receiver_dot.expand(len(weight), -1, -1, -1))
