"""Forces take noise from the target and nothing else: the conditional mean stays what it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from miniatures import CHIRAL, random_denoiser
from torch import Tensor

from openmm_tbg.training import ResidualMatching, StiffTerms
from openmm_tbg.training.newton import DAMPING, newton_correction

SIGMAS = 4.0
TERMS = StiffTerms.from_lists(
    bonds=[[0, 1], [1, 2], [1, 3], [1, 4]],
    bond_stiffness=[9e4, 5e4, 4e4, 1e5],
    angles=[[0, 1, 2], [2, 1, 3], [3, 1, 4], [4, 1, 0]],
    angle_stiffness=[150.0, 120.0, 90.0, 60.0],
)


def normal(n: int, seed: int, n_atoms: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, n_atoms, 3, dtype=torch.float64, generator=generator)
    return noise - noise.mean(dim=1, keepdim=True)


def test_the_jacobian_is_that_of_lengths_and_angles() -> None:
    def stretched(x: Tensor) -> Tensor:
        first, second = x[TERMS.bonds.T[0]], x[TERMS.bonds.T[1]]
        i, vertex, k = (x[atoms] for atoms in TERMS.angles.T)
        u, v = i - vertex, k - vertex
        cosine = (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1))
        lengths = (first - second).norm(dim=-1) * TERMS.bond_stiffness.sqrt()
        return torch.cat([lengths, cosine.acos() * TERMS.angle_stiffness.sqrt()])

    x = 0.15 * normal(3, 0)
    expected = torch.stack([torch.func.jacrev(stretched)(frame) for frame in x])
    torch.testing.assert_close(TERMS.jacobian(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("x", [torch.zeros(1, 5, 3), torch.eye(5)[None, :, :3] * 0.1])
def test_the_jacobian_is_finite_where_atoms_coincide_or_lie_in_line(x: Tensor) -> None:
    x[0, 3] = 2 * x[0, 1] - x[0, 4]
    assert torch.isfinite(TERMS.jacobian(x.double())).all()


Rule = Callable[..., Tensor]


def assert_mean_is_zero(rule: Rule, t: float) -> None:
    r"""At one x_t, over frames drawn from their exact conditional law.

    With data from a Gaussian of standard deviation s in each whitened direction around m, the frame
    given $z_t$ is Gaussian of precision $s^{-2} + t^2 / (1 - t)^2$.
    """
    n, field, sd = 40_000, random_denoiser(CHIRAL), 0.3
    centre, z_t = 0.5 * normal(1, 1), normal(1, 2)
    precision = sd**-2 + (t / (1 - t)) ** 2
    mean = (centre / sd**2 + t * z_t / (1 - t) ** 2) / precision
    z_1 = mean + normal(n, 3) / math.sqrt(precision)
    noise = (z_t - t * z_1) / (1 - t)
    forces = field.inverse_root @ ((centre - z_1) / sd**2)
    times, x = torch.full((n,), t, dtype=torch.float64), (field.root @ z_t).expand(n, -1, -1)
    said = field.residual(times[:1], x[:1]).expand(n, -1, -1)
    correction = rule(field, TERMS, forces, times, noise, x, said).flatten(1)
    error = correction.std(dim=0) / math.sqrt(n)
    assert (correction.std(dim=0) > 1e-3).any(), "nothing is corrected"
    moved = error > 1e-9
    assert (correction.mean(dim=0).abs() / error)[moved].max() < SIGMAS


@pytest.mark.parametrize("t", [0.4, 0.7, 0.95])
def test_the_correction_has_mean_zero(t: float) -> None:
    assert_mean_is_zero(newton_correction, t)


def with_doubled_forces(field, terms, forces, *others) -> Tensor:
    return newton_correction(field, terms, 2 * forces, *others)


def with_forces_alone(field, terms, forces, times, noise, *others) -> Tensor:
    return newton_correction(field, terms, forces, times, 0 * noise, *others)


def with_curvature_at_the_frame(field, terms, forces, times, noise, x, said) -> Tensor:
    """The frame's own curvature correlates with its score."""
    t = times[:, None, None]
    z_1 = (field.inverse_root @ x - (1 - t) * noise) / t
    norm = (t**2 + (1 - t) ** 2).sqrt()
    z_t = field.inverse_root @ x
    own = norm * ((z_1 - z_t) / (1 - t) - (2 * t - 1) / norm**2 * z_t)
    return newton_correction(field, terms, forces, times, noise, x, own)


@pytest.mark.parametrize(
    "wrong", [with_doubled_forces, with_forces_alone, with_curvature_at_the_frame]
)
def test_a_bias_would_be_noticed(wrong: Rule) -> None:
    with pytest.raises(AssertionError, match="tensor"):
        assert_mean_is_zero(wrong, 0.7)


@pytest.mark.parametrize("t", [0.3, 0.9, 0.99])
def test_no_variance_is_left_of_a_harmonic_molecule(t: float) -> None:
    """Where the density is Gaussian with the curvature that is assumed, all frames agree."""
    n, field = 50, random_denoiser(CHIRAL)
    z_t, rest, z_1 = normal(1, 1).expand(n, -1, -1), normal(1, 2), normal(n, 3)
    noise, x = (z_t - t * z_1) / (1 - t), field.root @ z_t
    times, norm = torch.full((n,), t, dtype=torch.float64), math.sqrt(t**2 + (1 - t) ** 2)
    said = field.residual(times[:1], x[:1]).expand(n, -1, -1)
    velocity = (2 * t - 1) / norm**2 * z_t + said / norm
    jacobian = TERMS.jacobian(field.root @ (z_t + (1 - t) * velocity))[0]
    whitened = torch.einsum("rac,am->rmc", jacobian, field.root).flatten(1)
    curvature = whitened.T @ whitened + DAMPING * (1 - t) ** 3 / ((1 - t) ** 3 + t**3) * torch.eye(
        15
    )
    score = -((z_1 - rest).flatten(1) @ curvature).view_as(z_1)
    forces = field.inverse_root @ score
    target = norm * (z_1 - noise) - (2 * t - 1) / norm * z_t
    corrected = target + newton_correction(field, TERMS, forces, times, noise, x, said)
    assert target.var(dim=0).sum() > 1
    torch.testing.assert_close(corrected, corrected[:1].expand(n, -1, -1), rtol=0, atol=1e-7)


def test_forces_without_stiff_terms_are_refused() -> None:
    x, times = normal(2, 0), torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="give the objective the stiff terms"):
        ResidualMatching(random_denoiser(CHIRAL)).correction(x, times, x, x, x)
