"""The paper's network: its size, its symmetries, and its formula written a second time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from openmm_tbg.fields.egnn import EGNN, EquivariantLayer

LABELS = (0, 1, 1, 1, 2)  # a methyl group: atoms 1, 2 and 3 are equal
UNITS_PER_NM = 10.0
EXACT = 1e-12


@pytest.fixture
def field() -> EGNN:
    """A field whose every weight matters: the initial one hardly moves an atom."""
    torch.manual_seed(0)
    features = torch.nn.functional.one_hot(torch.tensor(LABELS)).double()
    field = EGNN(features, hidden=8, layers=3, units_per_nm=UNITS_PER_NM).double()
    for weight in field.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return field


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(4, len(LABELS), 3, dtype=torch.float64, generator=generator)


T = torch.tensor(0.3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("columns", "hidden", "layers", "published"),
    [
        (21, 64, 5, 149_147),
        (9, 64, 5, 147_599),
        (76, 128, 9, 1_062_486),
        (5, 128, 9, 1_044_239),
    ],
)
def test_as_many_parameters_as_published(
    columns: int, hidden: int, layers: int, published: int
) -> None:
    field = EGNN(torch.eye(22, columns), hidden, layers)
    assert sum(weight.numel() for weight in field.parameters()) == published


@torch.no_grad()
def velocity_by_loops(field: EGNN, t: float, x: Tensor) -> Tensor:
    """The formula for one configuration, edge by edge and with whole concatenations."""
    x = UNITS_PER_NM * x
    atoms = range(len(x))
    time = torch.tensor([t], dtype=x.dtype)
    h = [field.embedding(torch.cat([field.features[i], time])) for i in atoms]
    moved = list(x)
    for layer in field.layers:
        new_h, new_x = [], []
        for i in atoms:
            total, push = torch.zeros_like(h[i]), torch.zeros(3, dtype=x.dtype)
            for j in atoms:
                if j == i:
                    continue
                separation = moved[i] - moved[j]
                squared = float(separation @ separation)
                at_input = float((x[i] - x[j]) @ (x[i] - x[j]))
                distances = torch.tensor([squared, at_input], dtype=x.dtype)
                edge = layer.edge(layer.edge_in(torch.cat([h[i], h[j], distances])))
                gate = torch.sigmoid(layer.gate[0](edge))
                message = gate * edge
                strength = torch.tanh(layer.push[2](layer.push[1](layer.push[0](message))))
                unit = separation / (math.sqrt(squared + 1e-8) + 1)
                push = push + 15 / len(field.layers) * strength * unit
                total = total + message
            new_x.append(moved[i] + push)
            new_h.append(h[i] + layer.node(torch.cat([h[i], total])))
        h, moved = new_h, new_x
    v = torch.stack(moved) - x
    return (v - v.mean(dim=0)) / UNITS_PER_NM


def test_agrees_with_the_formula_edge_by_edge(field: EGNN, x: Tensor) -> None:
    expected = torch.stack([velocity_by_loops(field, float(T), row) for row in x])
    v = field.velocity(T, x)
    assert v.abs().mean() > 0.01
    torch.testing.assert_close(v, expected, rtol=0, atol=EXACT)


def test_one_time_for_all_or_one_for_each(field: EGNN, x: Tensor) -> None:
    times = torch.linspace(0.1, 0.9, len(x), dtype=x.dtype)
    each = torch.cat([field.velocity(t, row[None]) for t, row in zip(times, x, strict=True)])
    torch.testing.assert_close(field.velocity(times, x), each, rtol=0, atol=EXACT)


def orthogonal(determinant: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return q if torch.det(q).sign() == determinant else -q


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "rotation with reflection"])
def test_turns_with_the_molecule(field: EGNN, x: Tensor, determinant: int) -> None:
    turn = orthogonal(determinant)
    turned = field.velocity(T, x @ turn)
    torch.testing.assert_close(turned, field.velocity(T, x) @ turn, rtol=0, atol=EXACT)


def test_does_not_feel_a_translation(field: EGNN, x: Tensor) -> None:
    moved = x + torch.tensor([0.1, -0.2, 0.05], dtype=x.dtype)
    torch.testing.assert_close(field.velocity(T, moved), field.velocity(T, x), rtol=0, atol=EXACT)


def test_permutes_equal_atoms_and_only_those(field: EGNN, x: Tensor) -> None:
    equal, different = [0, 2, 3, 1, 4], [1, 0, 2, 3, 4]
    v = field.velocity(T, x)
    torch.testing.assert_close(field.velocity(T, x[:, equal]), v[:, equal], rtol=0, atol=EXACT)
    assert (field.velocity(T, x[:, different]) - v[:, different]).abs().max() > 1e-3


def test_leaves_the_centre_where_it_is(field: EGNN, x: Tensor) -> None:
    assert field.velocity(T, x).mean(dim=1).abs().max() < EXACT


def test_a_row_does_not_feel_its_batch(field: EGNN, x: Tensor) -> None:
    alone = torch.cat([field.velocity(T, row[None]) for row in x])
    torch.testing.assert_close(field.velocity(T, x), alone, rtol=0, atol=EXACT)


def test_coincident_atoms_give_finite_gradients(field: EGNN) -> None:
    x = torch.zeros(1, len(LABELS), 3, dtype=torch.float64, requires_grad=True)
    v = field.velocity(T, x)
    v.square().sum().backward()
    assert torch.isfinite(v).all()
    assert torch.isfinite(x.grad).all()


def test_works_in_its_own_precision_and_answers_in_that_of_the_positions(
    field: EGNN, x: Tensor
) -> None:
    expected = field.velocity(T, x)
    v = field.float().velocity(T, x)
    assert v.dtype == torch.float64
    error = (v - expected).abs().max()
    assert 1e-12 < error < 1e-5


def test_divergence_is_the_trace_of_the_jacobian(field: EGNN, x: Tensor) -> None:
    v, divergence = field.velocity_and_divergence(T, x)
    torch.testing.assert_close(v, field.velocity(T, x), rtol=0, atol=EXACT)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: field.velocity(T, y[None])[0]))(x)
    trace = jacobian.reshape(len(x), x[0].numel(), -1).diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(divergence, trace, rtol=0, atol=1e-10)


def test_weights_do_not_hold_the_molecule(field: EGNN) -> None:
    assert not {"features", "others"} & set(field.state_dict())
    assert isinstance(field.layers[0], EquivariantLayer)
