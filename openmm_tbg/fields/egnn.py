"""The network of Transferable Boltzmann Generators: all pairs of atoms exchange messages."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..divergence import velocity_and_divergence
from .protocol import Batch, Scalar, Time

COORDINATE_RANGE = 15.0
PAIR_ARRAYS_AT_ONCE = 5
PAIR_ARRAY_BYTES = 4 * 2**20  # larger ones leave the cache of a processor


class EGNN(nn.Module):
    r"""An E(3)-equivariant velocity field over a fixed set of labelled atoms.

    Features start as $h_i = \mathrm{embed}(z_i, t)$, coordinates as those of the molecule. With
    $d_{ij} = |x_i - x_j|$, and $D_{ij}$ its value at the input, each of the $L$ layers does

    $$ e_{ij} = \mathrm{edge}(h_i, h_j, d_{ij}^2, D_{ij}^2), \qquad
       m_{ij} = \mathrm{gate}(e_{ij}) \, e_{ij} $$
    $$ x_i \leftarrow x_i + \tfrac{15}{L} \sum_{j \ne i}
       \frac{x_i - x_j}{\sqrt{d_{ij}^2 + 10^{-8}} + 1} \tanh \mathrm{push}(m_{ij}) $$
    $$ h_i \leftarrow h_i + \mathrm{node}(h_i, \textstyle\sum_{j \ne i} m_{ij}) $$

    and the velocity is how far the coordinates went, less its mean over the atoms. It turns with
    rotations, reflections and permutations of atoms with equal features, and ignores translations.

    Args:
        features: $z$, a row for each atom, usually one-hot; not part of the saved weights.
        hidden: width of features and messages.
        layers: $L$.
        units_per_nm: the network sees lengths multiplied by this.

    References:
        Klein & Noé 2024, Transferable Boltzmann Generators (arXiv:2406.14426);
        Satorras, Hoogeboom & Welling 2021, E(n) Equivariant Graph Neural Networks
        (arXiv:2102.09844).

    Example:
        >>> water = EGNN(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), hidden=16, layers=2)
        >>> water.velocity(torch.tensor(0.5), torch.randn(8, 3, 3)).shape
        torch.Size([8, 3, 3])
    """

    features: Tensor
    others: Tensor

    def __init__(
        self,
        features: Float[Tensor, "atoms features"],
        hidden: int = 64,
        layers: int = 5,
        units_per_nm: float = 10.0,
    ) -> None:
        super().__init__()
        n_atoms, n_features = features.shape
        self.hidden = hidden
        self.units_per_nm = units_per_nm
        self.register_buffer("features", features.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("others", (1 - torch.eye(n_atoms))[..., None], persistent=False)
        self.embedding = nn.Linear(n_features + 1, hidden)
        self.layers = nn.ModuleList(
            EquivariantLayer(hidden, COORDINATE_RANGE / layers) for _ in range(layers)
        )
        # The published network has this read-out; the velocity does not use it.
        self.readout = nn.Linear(hidden, n_features + 1)

    @property
    def bytes_per_divergence(self) -> int:
        """Estimated working memory of `velocity_and_divergence` for one configuration."""
        return PAIR_ARRAYS_AT_ONCE * self.directions_at_once * self._bytes_per_direction

    @property
    def directions_at_once(self) -> int:
        """Directional derivatives that `velocity_and_divergence` carries together."""
        return min(3 * len(self.features), max(1, PAIR_ARRAY_BYTES // self._bytes_per_direction))

    @property
    def _bytes_per_direction(self) -> int:
        return len(self.features) ** 2 * self.hidden * self.features.element_size()

    def velocity(self, t: Time | Scalar, x: Batch) -> Batch:
        """The velocity of every atom, in nm per unit of time.

        Args:
            t: time in [0, 1]: one for all configurations or one for each.
            x: positions in nm; the network works in its own precision, the result has that of `x`.
        """
        start = self.units_per_nm * x.to(self.features)
        batch, n_atoms, _ = start.shape
        times = t.to(start).expand(batch)[:, None, None].expand(batch, n_atoms, 1)
        h = self.embedding(torch.cat([self.features.expand(batch, -1, -1), times], dim=-1))
        moved, (_, at_start) = start, separations(start)
        for layer in self.layers:
            h, moved = layer(h, moved, at_start, self.others)
        v = moved - start
        return (v - v.mean(dim=1, keepdim=True)).to(x) / self.units_per_nm

    def velocity_and_divergence(self, t: Time | Scalar, x: Batch) -> tuple[Batch, Scalar]:
        """The velocity and its exact divergence over all 3N coordinates."""
        return velocity_and_divergence(self.velocity, t, x, self.directions_at_once)


class EquivariantLayer(nn.Module):
    """One round of messages: coordinates and features are both updated from the same messages.

    Args:
        hidden: width of features and messages.
        reach: largest displacement of an atom by one neighbour.
    """

    def __init__(self, hidden: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.edge_in = nn.Linear(2 * hidden + 2, hidden)
        self.edge = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.gate = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())
        push_out = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_uniform_(push_out.weight, gain=0.001)
        self.push = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), push_out, nn.Tanh())
        self.node = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(
        self,
        h: Float[Tensor, "batch atoms hidden"],
        x: Float[Tensor, "batch atoms 3"],
        at_start: Float[Tensor, "batch atoms atoms 1"],
        others: Float[Tensor, "atoms atoms 1"],
    ) -> tuple[Float[Tensor, "batch atoms hidden"], Float[Tensor, "batch atoms 3"]]:
        """Features and coordinates after this layer; `others` is 0 on the diagonal, 1 elsewhere."""
        difference, squared = separations(x)
        messages = self.messages(h, torch.cat([squared, at_start], dim=-1), others)
        direction = difference / (torch.sqrt(squared + 1e-8) + 1)
        x = x + self.reach * (direction * self.push(messages)).sum(dim=2)
        h = h + self.node(torch.cat([h, messages.sum(dim=2)], dim=-1))
        return h, x

    def messages(
        self,
        h: Float[Tensor, "batch atoms hidden"],
        distances: Float[Tensor, "batch atoms atoms 2"],
        others: Float[Tensor, "atoms atoms 1"],
    ) -> Float[Tensor, "batch atoms atoms hidden"]:
        """Gated messages from the second atom of each pair to the first."""
        # The first map is linear in [h_i, h_j, distances]: its products with h are formed once for
        # each atom instead of once for each pair.
        width = h.shape[-1]
        for_receiver, for_sender, for_pair = torch.split(
            self.edge_in.weight, [width, width, 2], dim=1
        )
        receiver = functional.linear(h, for_receiver, self.edge_in.bias)[:, :, None]
        sender = functional.linear(h, for_sender)[:, None, :]
        edges: Tensor = self.edge(receiver + sender + functional.linear(distances, for_pair))
        gate: Tensor = self.gate(edges)
        return edges * (gate * others)


def separations(
    x: Float[Tensor, "batch atoms 3"],
) -> tuple[Float[Tensor, "batch atoms atoms 3"], Float[Tensor, "batch atoms atoms 1"]]:
    """Vectors x_i - x_j between all pairs of atoms, and their squared lengths."""
    difference = x[:, :, None] - x[:, None, :]
    return difference, difference.square().sum(dim=-1, keepdim=True)
