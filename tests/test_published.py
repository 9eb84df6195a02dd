"""The authors' checkpoints give the same field here as by their equations, written again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from openmm_tbg.fields.published import from_published, read_published
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled
from openmm_tbg.transferable import ENCODINGS

PREFIX = "_dynamics._dynamics._dynamics_function.egnn."
UNITS_PER_NM = 30.0
State = dict[str, Tensor]


def published_state(columns: int, hidden: int, layers: int) -> State:
    """Random weights under the authors' names, of their shapes, such that every one matters."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding": (hidden, columns + 1), "embedding_out": (columns + 1, hidden)}
    for layer in range(layers):
        shapes |= {
            f"gcl_{layer}.edge_mlp.0": (hidden, 2 * hidden + 2),
            f"gcl_{layer}.edge_mlp.2": (hidden, hidden),
            f"gcl_{layer}.node_mlp.0": (hidden, 2 * hidden),
            f"gcl_{layer}.node_mlp.2": (hidden, hidden),
            f"gcl_{layer}.coord_mlp.0": (hidden, hidden),
            f"gcl_{layer}.coord_mlp.2": (1, hidden),
            f"gcl_{layer}.att_mlp.0": (1, hidden),
        }
    state = {}
    for name, shape in shapes.items():
        scale = 0.7 / shape[1] ** 0.5
        weight = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("edge_mlp.0"):
            weight[:, -2:] *= 0.05  # squared distances are large
        state[f"{PREFIX}{name}.weight"] = weight
        if not name.endswith("coord_mlp.2"):
            bias = 0.1 * torch.randn(shape[0], generator=generator, dtype=torch.float64)
            state[f"{PREFIX}{name}.bias"] = bias
    return state


def published_velocity(state: State, features: Tensor, t: float, x_nm: Tensor) -> Tensor:
    """One configuration, a row for each ordered pair of different atoms."""

    def dense(name: str, values: Tensor) -> Tensor:
        return linear(values, state[f"{PREFIX}{name}.weight"], state.get(f"{PREFIX}{name}.bias"))

    start = x = UNITS_PER_NM * x_nm
    n_atoms = len(x)
    i, j = torch.nonzero(~torch.eye(n_atoms, dtype=torch.bool), as_tuple=True)
    n_layers = sum(name.endswith("att_mlp.0.bias") for name in state)
    h = dense("embedding", torch.cat([features, torch.full_like(x[:, :1], t)], dim=1))
    before = (start[i] - start[j]).square().sum(1, keepdim=True)
    for layer in range(n_layers):
        gcl = f"gcl_{layer}."
        apart = x[i] - x[j]
        now = apart.square().sum(1, keepdim=True)
        edge = silu(dense(gcl + "edge_mlp.0", torch.cat([h[i], h[j], now, before], dim=1)))
        edge = silu(dense(gcl + "edge_mlp.2", edge))
        edge = edge * torch.sigmoid(dense(gcl + "att_mlp.0", edge))
        push = torch.tanh(dense(gcl + "coord_mlp.2", silu(dense(gcl + "coord_mlp.0", edge))))
        push = 15 / n_layers * push * apart / ((now + 1e-8).sqrt() + 1)
        x = x.index_add(0, i, push)
        gathered = torch.zeros_like(h).index_add(0, i, edge)
        update = silu(dense(gcl + "node_mlp.0", torch.cat([h, gathered], dim=1)))
        h = h + dense(gcl + "node_mlp.2", update)
    velocity = x - start
    return (velocity - velocity.mean(0)) / UNITS_PER_NM


@pytest.mark.parametrize(("encoding", "n_weights"), [("none", 1_044_239), ("full", 1_062_486)])
def test_the_published_sizes_give_the_same_field(
    encoding: str, n_weights: int, tmp_path: Path
) -> None:
    topology, positions_nm = assembled("KS")
    one_hot = ENCODINGS[encoding](Molecule.from_topology(topology, positions_nm)).one_hot()
    features, frame = torch.from_numpy(one_hot), torch.from_numpy(positions_nm)
    state = published_state(features.shape[1], hidden=128, layers=9)
    assert sum(weight.numel() for weight in state.values()) == n_weights
    content = {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "epoch": 12}
    torch.save(content, tmp_path / "tbg")
    published = read_published(tmp_path / "tbg", UNITS_PER_NM)
    for t in (0.0, 0.3, 0.95):
        expected = published_velocity(state, features, t, frame)
        time = torch.tensor(t, dtype=torch.float64)
        assert expected.abs().mean() > 0.02
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
            field = published.field(features).to(dtype)
            field.load_state_dict(published.weights)
            found = field.velocity(time, frame[None])[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_sizes_are_read_from_the_weights() -> None:
    published = from_published(published_state(13, hidden=8, layers=3), UNITS_PER_NM)
    assert published.n_columns == 13
    assert (published.architecture.hidden, published.architecture.layers) == (8, 3)
    assert published.architecture.units_per_nm == UNITS_PER_NM


def renamed(state: State, old: str, new: str) -> State:
    return {name.replace(old, new): weight for name, weight in state.items()}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("egnn.", "gnn.", r"0 parameters called \.\.\.egnn\.embedding\.weight where one is needed"),
        ("att_mlp", "gate", r"gcl_0\.att_mlp\.0\.bias is missing or not known"),
        ("gcl_1.node_mlp", "gcl_1.nodes", r"gcl_1\.node_mlp\.0\.bias is missing or not known"),
    ],
)
def test_other_networks_are_refused(old: str, new: str, message: str) -> None:
    state = renamed(published_state(5, hidden=4, layers=2), old, new)
    with pytest.raises(ValueError, match=message):
        from_published(state, UNITS_PER_NM)


def test_another_encoding_is_refused() -> None:
    published = from_published(published_state(76, hidden=4, layers=2), UNITS_PER_NM)
    with pytest.raises(ValueError, match=r"5 columns where the model has 76; .*transferable"):
        published.field(torch.eye(17, 5))
