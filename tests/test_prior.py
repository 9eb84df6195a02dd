"""The prior is a normalised density on the 3(N-1)-dimensional subspace; samples follow it."""

from __future__ import annotations

import math

import pytest
import torch
from miniatures import METHANOL, prior_of
from torch import Tensor
from torch.distributions import MultivariateNormal

from openmm_tbg.prior import MeanFreeGaussian

SCALE_NM = 0.1
EXACT = 1e-12
SIGMAS = 4.0


def orthonormal_basis(n_atoms: int) -> Tensor:
    """Columns span the vectors over atoms whose entries sum to zero."""
    shifted = torch.eye(n_atoms, dtype=torch.float64) - 1 / n_atoms
    return torch.linalg.svd(shifted)[0][:, : n_atoms - 1]


def random_covariance(n_atoms: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(n_atoms, n_atoms, dtype=torch.float64, generator=generator)
    factor = factor - factor.mean(dim=0)
    return SCALE_NM**2 * factor @ factor.T


def random_positions(n: int, n_atoms: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = SCALE_NM * torch.randn(n, n_atoms, 3, dtype=torch.float64, generator=generator)
    return x - x.mean(dim=1, keepdim=True)


def assert_normalised(prior: MeanFreeGaussian) -> None:
    """Integrate over the three orthonormal coordinates of two atoms by the trapezoidal rule."""
    axis = SCALE_NM * torch.linspace(-8, 8, 65, dtype=torch.float64)
    coordinates = torch.cartesian_prod(axis, axis, axis)
    x = torch.stack([coordinates, -coordinates], dim=1) / math.sqrt(2)
    integral = prior.log_prob(x).exp().sum() * (axis[1] - axis[0]) ** 3
    torch.testing.assert_close(integral.item(), 1.0, rtol=0, atol=EXACT)


def test_integrates_to_one() -> None:
    assert_normalised(MeanFreeGaussian.isotropic(2, SCALE_NM))


def test_the_constant_of_all_3n_coordinates_would_be_noticed() -> None:
    right = MeanFreeGaussian.isotropic(2, SCALE_NM)
    wrong = MeanFreeGaussian.isotropic(2, SCALE_NM)
    wrong.log_normaliser = -1.5 * 2 * math.log(2 * math.pi * SCALE_NM**2)
    x = random_positions(3, 2)
    difference = 1.5 * math.log(2 * math.pi) + 3 * math.log(SCALE_NM)
    torch.testing.assert_close(
        right.log_prob(x) - wrong.log_prob(x), torch.full((3,), difference).double()
    )
    with pytest.raises(AssertionError, match="not close"):
        assert_normalised(wrong)


@pytest.mark.parametrize("n_atoms", [2, 3, 7])
def test_is_the_normal_density_in_an_orthonormal_basis(n_atoms: int) -> None:
    covariance, x = random_covariance(n_atoms), random_positions(5, n_atoms)
    basis = orthonormal_basis(n_atoms)
    one_component = MultivariateNormal(
        torch.zeros(n_atoms - 1, dtype=torch.float64), basis.T @ covariance @ basis
    )
    expected = one_component.log_prob((basis.T @ x).transpose(1, 2)).sum(dim=1)
    found = MeanFreeGaussian(covariance).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)


def test_scaling_lengths_costs_its_logarithm_for_each_dimension() -> None:
    covariance, x = random_covariance(5), random_positions(4, 5)
    small, large = MeanFreeGaussian(covariance), MeanFreeGaussian(10.0**2 * covariance)
    expected = small.log_prob(x) - 3 * 4 * math.log(10.0)
    torch.testing.assert_close(large.log_prob(10.0 * x), expected, rtol=EXACT, atol=EXACT)


def test_isotropic_is_the_identity_of_the_subspace() -> None:
    prior = MeanFreeGaussian.isotropic(4, SCALE_NM)
    x = random_positions(3, 4)
    constant = 9 / 2 * math.log(2 * math.pi * SCALE_NM**2)
    expected = -x.square().sum(dim=(1, 2)) / (2 * SCALE_NM**2) - constant
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=EXACT, atol=EXACT)


def assert_samples_have_the_covariance(prior: MeanFreeGaussian, covariance: Tensor) -> None:
    """Whitened coordinates have unit covariance: products have mean 0 or 1, variance 1 or 2."""
    n, basis = 4000, orthonormal_basis(prior.n_atoms)
    x = prior.sample(n, torch.Generator().manual_seed(3))
    factor = torch.linalg.cholesky(basis.T @ covariance @ basis)
    whitened = torch.linalg.solve_triangular(factor, basis.T @ x, upper=False).flatten(1)
    one = torch.eye(whitened.shape[1], dtype=torch.float64)
    deviation = (whitened.T @ whitened / n - one) / ((1 + one) / n).sqrt()
    assert deviation.abs().max() < SIGMAS
    assert (whitened.mean(dim=0) * math.sqrt(n)).abs().max() < SIGMAS


def test_samples_have_the_covariance() -> None:
    covariance = random_covariance(4)
    assert_samples_have_the_covariance(MeanFreeGaussian(covariance), covariance)


@pytest.mark.parametrize("fault", ["4% too wide", "its square root forgotten"])
def test_samples_of_another_covariance_would_be_noticed(fault: str) -> None:
    covariance = random_covariance(4)
    prior = MeanFreeGaussian(covariance)
    prior.root = 1.04 * prior.root if fault == "4% too wide" else covariance
    with pytest.raises(AssertionError):
        assert_samples_have_the_covariance(prior, covariance)


def test_samples_are_centred_and_follow_their_seed() -> None:
    prior = prior_of(METHANOL)
    x, again = (prior.sample(8, torch.Generator().manual_seed(4)) for _ in range(2))
    assert x.mean(dim=1).abs().max() < 1e-15
    assert torch.equal(x, again)
    assert not torch.equal(x, prior.sample(8, torch.Generator().manual_seed(5)))


def not_symmetric() -> Tensor:
    covariance = random_covariance(4)
    covariance[0, 1] += 1e-3 * covariance[0, 0]
    return covariance


def not_centred() -> Tensor:
    return SCALE_NM**2 * torch.eye(4, dtype=torch.float64)


def of_low_rank() -> Tensor:
    plane = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    return SCALE_NM**2 * plane @ plane.T


def with_a_negative_mode() -> Tensor:
    basis = orthonormal_basis(4)
    return basis @ torch.diag(torch.tensor([1.0, 1.0, -0.1], dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (not_symmetric(), "not symmetric: average it with its transpose"),
        (not_centred(), "do not sum to zero: centre each frame"),
        (of_low_rank(), "rank below atoms - 1: give more independent frames"),
        (with_a_negative_mode(), "rank below atoms - 1"),
        (torch.zeros(1, 1, dtype=torch.float64), "rank below atoms - 1"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanFreeGaussian(covariance)
