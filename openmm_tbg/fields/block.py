"""One exchange between all pairs of atoms, and its derivative along any number of tangents.

A block sends one activation through every pair,

    s_ij = silu(A h_i + B h_j + e_ij + g_ij * W f_ij),

where f_ij are features of the distance, and the bias e, the gain g and the readout q of a pair come
from the molecule alone. It serves twice: to update the atoms, h_i += MLP(h_i, sum_j s_ij), and to
push them apart with strength c_ij = q_ij . s_ij. No matrix product sits on the hidden channels of a
pair, so 3N tangents cost 3N x N x H^2 (in an EGNN: 3N x N^2 x H^2) and batched products of
3N x N^2 x H. Tangents are stored channels first and directions last, so that every product is one
matrix product of what lies in memory, without a copy.
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
AtomTangents = Float[Tensor, "hidden batch atoms tangents"]
PairTangents = Float[Tensor, "batch atoms atoms tangents"]


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
        h_dot: AtomTangents | None,
        paths: Sequence[tuple[GroupSlopes, PairTangents]],
    ) -> tuple[AtomTangents, PairTangents]:
        """Tangents of both results.

        Args:
            exchange: what `forward` computed.
            weights: as given to `forward`.
            h_dot: tangents of the atoms; None where they do not move, as before the first block.
            paths: for each group of features, in their order, the slopes with respect to a distance
                and the tangents of that distance.
        """
        slope = silu_slope(exchange.before)
        to_received, to_strength = slope * weights.share, slope * weights.readout
        received_dot, strength_dot = self._by_distances(to_received, to_strength, weights, paths)
        mix_own, mix_received = self.mix.weight.chunk(2, dim=1)
        if h_dot is None:
            mixed_dot = apply(mix_received, received_dot)
        else:
            *ends_dot, own_dot = apply(torch.cat([self.ends.weight, mix_own]), h_dot).chunk(3)
            received_dot += _received_from_ends(to_received, *ends_dot)
            strength_dot += _strength_from_ends(to_strength, *ends_dot)
            mixed_dot = own_dot + apply(mix_received, received_dot)
        mixed_dot *= channels_first(silu_slope(exchange.mixed))[..., None]
        change = apply(self.out.weight, mixed_dot)
        return change if h_dot is None else change.add_(h_dot), strength_dot

    def _by_distances(
        self,
        to_received: PairChannels,
        to_strength: PairChannels,
        weights: PairWeights,
        paths: Sequence[tuple[GroupSlopes, PairTangents]],
    ) -> tuple[AtomTangents, PairTangents]:
        """What distances do to the sums that atoms receive and to the strengths."""
        filters = torch.split(self.filter.weight, [slopes.shape[-1] for slopes, _ in paths], dim=1)
        gained = [
            (slopes @ weight.T) * weights.gain
            for (slopes, _), weight in zip(paths, filters, strict=True)
        ]
        distance_dots = [distance_dot for _, distance_dot in paths]
        jacobian = torch.cat([to_received * each for each in gained], dim=2)
        received_dot = each_atom(jacobian.mT, torch.cat(distance_dots, dim=2))
        strength_dot = torch.zeros_like(distance_dots[0])
        for each, distance_dot in zip(gained, distance_dots, strict=True):
            strength_dot.addcmul_((to_strength * each).sum(-1)[..., None], distance_dot)
        return received_dot.movedim(2, 0).contiguous(), strength_dot


def apply(weight: Float[Tensor, "out hidden"], tangents: Tensor) -> Tensor:
    """A linear map of the channels, which come first: one matrix product for all the rest."""
    return (weight @ tangents.flatten(1)).view(len(weight), *tangents.shape[1:])


def each_atom(
    matrices: Float[Tensor, "batch atoms out in"],
    tangents: Float[Tensor, "batch atoms in tangents"],
) -> Float[Tensor, "batch atoms out tangents"]:
    """The product for each atom of each configuration."""
    product = matrices.flatten(0, 1) @ tangents.flatten(0, 1)
    return product.view(*matrices.shape[:3], tangents.shape[-1])


def channels_first(x: Tensor) -> Tensor:
    """The last dimension brought to the front."""
    return x.movedim(-1, 0).contiguous()


def silu_slope(x: Tensor) -> Tensor:
    """Derivative of silu."""
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _received_from_ends(
    to_received: PairChannels, sender_dot: AtomTangents, receiver_dot: AtomTangents
) -> AtomTangents:
    jacobian = channels_first(to_received)
    received_dot = jacobian @ receiver_dot
    return received_dot.addcmul_(jacobian.sum(-1, keepdim=True), sender_dot)


def _strength_from_ends(
    to_strength: PairChannels, sender_dot: AtomTangents, receiver_dot: AtomTangents
) -> PairTangents:
    by_receiver = each_atom(to_strength.transpose(1, 2).contiguous(), receiver_dot.movedim(0, 2))
    return each_atom(to_strength, sender_dot.movedim(0, 2)) + by_receiver.transpose(1, 2)
