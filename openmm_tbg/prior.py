"""The base density of the flow: a Gaussian on the mean-free subspace."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

RANK_TOLERANCE = 1e-10


class MeanFreeGaussian(nn.Module):
    r"""Gaussian over atoms, isotropic in space, of configurations centred at the origin.

    $$ \log q_0(x) = -\tfrac12 \sum_c x_c^\top K^{+} x_c
       - \tfrac32 \sum_{m=1}^{N-1} \log (2 \pi \lambda_m) $$

    with $x_c$ one Cartesian component of all atoms, $K$ the covariance between atoms and
    $\lambda_m$ its $N - 1$ non-zero eigenvalues. The density is with respect to Lebesgue measure on
    the $3(N-1)$-dimensional subspace, in nm, and is invariant under rotations and reflections.
    `MeanFreeGaussian.isotropic` is the usual choice (Köhler, Klein & Noé 2020, arXiv:2006.02425);
    with the covariance of the data, linear relations between atoms (planar groups, tetrahedral
    hydrogens) already hold in the noise.

    Args:
        covariance: $K$ (atoms, atoms) in nm^2; symmetric, rows summing to zero, rank $N - 1$.

    Raises:
        ValueError: if `covariance` is not such a matrix.

    Example:
        >>> prior = MeanFreeGaussian.isotropic(n_atoms=2, scale_nm=1.0)
        >>> round(prior.log_prob(torch.zeros(1, 2, 3, dtype=torch.float64)).item(), 4)
        -2.7568
    """

    covariance: Tensor
    root: Tensor
    inverse_root: Tensor

    def __init__(self, covariance: Float[Tensor, "atoms atoms"]) -> None:
        super().__init__()
        covariance = covariance.detach().double()
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        scale = eigenvalues[-1]
        if not torch.allclose(covariance, covariance.T, rtol=0, atol=float(scale) * 1e-12):
            raise ValueError("covariance is not symmetric: average it with its transpose")
        if covariance.sum(1).abs().max() > 1e-8 * scale:
            raise ValueError("covariance has rows that do not sum to zero: centre each frame first")
        if len(eigenvalues) < 2 or eigenvalues[1] < RANK_TOLERANCE * scale:
            raise ValueError("covariance has a rank below atoms - 1: give more independent frames")
        kept, axes = eigenvalues[1:], vectors[:, 1:]
        self.register_buffer("covariance", covariance)
        self.register_buffer("root", (axes * kept.sqrt()) @ axes.T)
        self.register_buffer("inverse_root", (axes / kept.sqrt()) @ axes.T)
        self.log_normaliser = -1.5 * float((2 * math.pi * kept).log().sum())

    @classmethod
    def isotropic(cls, n_atoms: int, scale_nm: float) -> MeanFreeGaussian:
        """The Gaussian with standard deviation `scale_nm` in every direction of the subspace."""
        centring = torch.eye(n_atoms, dtype=torch.float64) - 1.0 / n_atoms
        return cls(scale_nm**2 * centring)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.covariance)

    def sample(self, n: int, generator: torch.Generator) -> Float64[Tensor, "batch atoms 3"]:
        """Draw `n` centred configurations in nm."""
        noise = torch.randn(n, self.n_atoms, 3, dtype=torch.float64, generator=generator)
        return self.root @ noise.to(self.root.device)

    def log_prob(self, x: Float64[Tensor, "batch atoms 3"]) -> Float64[Tensor, " batch"]:
        """Log-density of centred configurations, in nats for lengths in nm."""
        whitened = self.inverse_root @ x
        return self.log_normaliser - 0.5 * whitened.square().sum((1, 2))
