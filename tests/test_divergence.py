"""The divergence is the trace of the Jacobian: exactly, for every row by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from openmm_tbg.divergence import velocity_and_divergence
from openmm_tbg.fields.egnn import EGNN

T = torch.tensor(0.7, dtype=torch.float64)
N_ATOMS = 7


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(3, N_ATOMS, 3, dtype=torch.float64, generator=generator)


@pytest.fixture
def field() -> EGNN:
    torch.manual_seed(4)
    field = EGNN(torch.eye(N_ATOMS, dtype=torch.float64), hidden=16, layers=3).double()
    for weight in field.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return field.requires_grad_(False)


def trace_of_jacobian(field: EGNN, x: Tensor) -> Tensor:
    def of_row(row: Tensor) -> Tensor:
        def flat(y: Tensor) -> Tensor:
            return field.velocity(T, y.view(1, N_ATOMS, 3)).flatten()

        return torch.autograd.functional.jacobian(flat, row.flatten()).trace()

    return torch.stack([of_row(row) for row in x])


def test_is_the_trace_of_the_jacobian(field: EGNN, x: Tensor) -> None:
    v, divergence = velocity_and_divergence(field.velocity, T, x)
    expected = trace_of_jacobian(field, x)
    assert expected.abs().min() > 0.1
    torch.testing.assert_close(divergence, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(v, field.velocity(T, x), rtol=0, atol=1e-12)


def test_of_a_linear_field_is_its_trace(x: Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(3 * N_ATOMS, 3 * N_ATOMS, dtype=torch.float64, generator=generator)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return t * (x.flatten(1) @ matrix.T).view_as(x)

    _, divergence = velocity_and_divergence(velocity, T, x)
    expected = (T * matrix.trace()).expand(len(x))
    torch.testing.assert_close(divergence, expected, rtol=0, atol=1e-12)


def test_a_row_does_not_feel_its_batch(field: EGNN, x: Tensor) -> None:
    _, together = velocity_and_divergence(field.velocity, T, x)
    alone = torch.cat([velocity_and_divergence(field.velocity, T, row[None])[1] for row in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_removing_the_mean_of_an_invariant_field_changes_nothing(x: Tensor) -> None:
    def towards_the_first_atom(t: Tensor, x: Tensor) -> Tensor:
        return t * (x - x[:, :1]) ** 3

    def mean_free(t: Tensor, x: Tensor) -> Tensor:
        v = towards_the_first_atom(t, x)
        return v - v.mean(dim=1, keepdim=True)

    _, expected = velocity_and_divergence(towards_the_first_atom, T, x)
    _, divergence = velocity_and_divergence(mean_free, T, x)
    torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("directions_at_once", [1, 4, 21, 100])
def test_directions_a_few_at_a_time_give_the_same(
    field: EGNN, x: Tensor, directions_at_once: int
) -> None:
    v, divergence = velocity_and_divergence(field.velocity, T, x, directions_at_once)
    torch.testing.assert_close(v, field.velocity(T, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(divergence, trace_of_jacobian(field, x), rtol=1e-9, atol=1e-9)


def test_evaluates_the_field_once(field: EGNN, x: Tensor) -> None:
    calls = []

    def counted(t: Tensor, x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return field.velocity(t, x)

    velocity_and_divergence(counted, T, x)
    assert calls == [(3, N_ATOMS, 3)]


def test_threads_do_not_disturb_each_other(field: EGNN, x: Tensor) -> None:
    alone = [field.velocity_and_divergence(T, x * scale)[1] for scale in (1.0, 2.0)] * 20
    with ThreadPoolExecutor(2) as threads:
        together = threads.map(
            lambda scale: field.velocity_and_divergence(T, x * scale)[1], [1.0, 2.0] * 20
        )
        for expected, found in zip(alone, together, strict=True):
            assert torch.equal(found, expected)
