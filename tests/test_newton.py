"""Forces take noise from the target and nothing else: the conditional mean stays what it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from miniatures import CHIRAL, random_denoiser
from structures import structure_from_smiles
from torch import Tensor

from openmm_tbg.training import ResidualMatching, StiffTerms
from openmm_tbg.training.newton import DAMPING, Curvature, newton_step

SIGMAS = 4.0
N_ATOMS = 5
TERMS = StiffTerms.from_lists(
    bonds=[[0, 1], [1, 2], [1, 3], [1, 4]],
    bond_stiffness=[9e3, 5e3, 4e3, 1e4],
    angles=[[0, 1, 2], [2, 1, 3], [3, 1, 4], [4, 1, 0]],
    angle_stiffness=[150.0, 120.0, 90.0, 60.0],
)
ROOT = random_denoiser(CHIRAL).root
INVERSE_ROOT = random_denoiser(CHIRAL).inverse_root


def normal(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, N_ATOMS, 3, dtype=torch.float64, generator=generator)
    return noise - noise.mean(dim=1, keepdim=True)


def near_a_molecule(n: int, seed: int, width_nm: float = 0.01) -> Tensor:
    """Configurations around CHFClBr with the carbon second, as the terms want it."""
    rest = torch.from_numpy(structure_from_smiles(CHIRAL).positions_nm)
    return rest - rest.mean(dim=0) + width_nm * normal(n, seed)


def values(x: Tensor) -> Tensor:
    """Square roots of the stiffness times the length or angle of each term, in one frame."""
    first, second = TERMS.bonds.T
    i, vertex, k = (x[atoms] for atoms in TERMS.angles.T)
    u, v = i - vertex, k - vertex
    cosine = (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1))
    lengths = (x[first] - x[second]).norm(dim=-1) * TERMS.bond_stiffness.sqrt()
    return torch.cat([lengths, cosine.acos() * TERMS.angle_stiffness.sqrt()])


def gradients(x: Tensor) -> Tensor:
    found: Tensor = torch.func.jacrev(values)(x)
    return found


def test_the_jacobian_is_that_of_lengths_and_angles() -> None:
    x = near_a_molecule(3, 0)
    expected = torch.stack([gradients(frame) for frame in x])
    torch.testing.assert_close(TERMS.at(x).jacobian(N_ATOMS), expected, rtol=1e-9, atol=1e-9)


def assert_slope_is_the_divergence(slope: Callable[[Curvature, Tensor], Tensor]) -> None:
    """The divergence of M, by differentiating every entry of the matrix."""

    def inverse_curvature(x: Tensor) -> Tensor:
        jacobian = gradients(x).flatten(1)
        size = jacobian.shape[1]
        return torch.linalg.inv(jacobian.T @ jacobian + 2e3 * torch.eye(size).double())

    x = near_a_molecule(1, 4)
    size = 3 * N_ATOMS
    derivative = torch.func.jacfwd(inverse_curvature)(x[0]).reshape(size, size, size)
    expected = torch.einsum("abb->a", derivative)
    inverse = inverse_curvature(x[0])
    found = -inverse @ slope(TERMS.at(x), inverse.view(1, N_ATOMS, 3, N_ATOMS, 3)).flatten()
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_slope_gives_the_divergence_of_the_inverse_curvature() -> None:
    assert_slope_is_the_divergence(Curvature.slope)


def test_a_slope_without_the_angles_mixed_derivatives_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Curvature._angle_second_derivatives

    def without_mixed(self: Curvature) -> tuple[Tensor, Tensor, Tensor]:
        uu, uv, vv = right(self)
        return uu, 0 * uv, vv

    monkeypatch.setattr(Curvature, "_angle_second_derivatives", without_mixed)
    with pytest.raises(AssertionError, match="not close"):
        assert_slope_is_the_divergence(Curvature.slope)


Rule = Callable[..., Tensor]


def assert_mean_is_zero(rule: Rule, t: float) -> None:
    r"""At one x_t, over frames drawn from their exact conditional law.

    With data from a Gaussian of standard deviation s in each whitened direction around m, the frame
    given $z_t$ is Gaussian of precision $s^{-2} + t^2 / (1 - t)^2$. It is wide enough for the
    curvature of the terms to vary, so that its divergence counts.
    """
    n, sd = 20_000, 0.5
    centre = INVERSE_ROOT @ near_a_molecule(1, 1, 0.0)
    z_t = t * centre + 0.3 * normal(1, 2)
    precision = sd**-2 + (t / (1 - t)) ** 2
    mean = (centre / sd**2 + t * z_t / (1 - t) ** 2) / precision
    z_1 = mean + normal(n, 3) / math.sqrt(precision)
    forces = INVERSE_ROOT @ ((centre - z_1) / sd**2)
    times = torch.full((n,), t, dtype=torch.float64)
    step = rule(ROOT, TERMS, ROOT @ z_1, forces, times, (z_t - t * z_1) / (1 - t)).flatten(1)
    error = step.std(dim=0) / math.sqrt(n)
    assert (step.mean(dim=0).abs() / error).max() < SIGMAS


@pytest.mark.parametrize("t", [0.4, 0.7, 0.95])
def test_the_step_has_mean_zero(t: float) -> None:
    assert_mean_is_zero(newton_step, t)


def with_doubled_forces(root, terms, frames, forces, *others) -> Tensor:
    return newton_step(root, terms, frames, 2 * forces, *others)


def without_noise(root, terms, frames, forces, times, noise) -> Tensor:
    return newton_step(root, terms, frames, forces, times, 0 * noise)


@pytest.mark.parametrize("wrong", [with_doubled_forces, without_noise])
def test_a_bias_would_be_noticed(wrong: Rule) -> None:
    with pytest.raises(AssertionError):
        assert_mean_is_zero(wrong, 0.7)


def test_a_neglected_divergence_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curvature, "slope", lambda self, inverse: 0 * inverse[:, :, :, 0, 0])
    with pytest.raises(AssertionError):
        assert_mean_is_zero(newton_step, 0.7)


@pytest.mark.parametrize(("t", "largest"), [(0.3, 1e-2), (0.9, 1e-5), (0.99, 1e-5)])
def test_no_variance_is_left_of_a_harmonic_molecule(t: float, largest: float) -> None:
    """Small vibrations under the very curvature that is assumed: all frames agree on the target.

    Early on the divergence, which a harmonic molecule would not have, leaves a little.
    """
    n, left = 50, 1 - t
    rest = near_a_molecule(1, 0, 0.0)
    frames = rest + 1e-5 * normal(n, 3)
    jacobian = torch.einsum("rac,am->rmc", TERMS.at(rest).jacobian(N_ATOMS)[0], ROOT).flatten(1)
    one = torch.eye(3 * N_ATOMS, dtype=torch.float64)
    curvature = jacobian.T @ jacobian + DAMPING * left**3 / (left**3 + t**3) * one
    away = INVERSE_ROOT @ (frames - rest)
    forces = INVERSE_ROOT @ -(away.flatten(1) @ curvature).view_as(away)
    z_1 = INVERSE_ROOT @ frames
    noise = (t * z_1[:1] + 1e-4 * normal(1, 5) - t * z_1) / left
    times = torch.full((n,), t, dtype=torch.float64)
    landed = z_1 + newton_step(ROOT, TERMS, frames, forces, times, noise)
    assert landed.var(dim=0).sum() < largest * z_1.var(dim=0).sum()


def test_the_objective_counts_the_step_in_the_units_of_its_target() -> None:
    field = random_denoiser(CHIRAL)
    frames, noise = near_a_molecule(4, 0), normal(4, 1)
    forces, times = 100 * normal(4, 2), torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
    objective = ResidualMatching(field, TERMS)
    step = newton_step(field.root, TERMS, frames, forces, times, noise)
    moved = frames + field.root @ step
    x, target = objective.pairs(frames, times, noise)
    t = times[:, None, None]
    led_here = field.inverse_root @ (x - t * moved) / (1 - t)
    _, expected = objective.pairs(moved, times, led_here)
    found = target + objective.correction(frames, forces, times, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_forces_without_stiff_terms_are_refused() -> None:
    x, times = normal(2, 0), torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="give the objective the stiff terms"):
        ResidualMatching(random_denoiser(CHIRAL)).correction(x, x, times, x)
