r"""A control variate for flow matching: forces and local curvature take the noise from the target.

Given a point $z_t$ of the path, the frame from which it came has the density

$$ p(z_1 | z_t) \propto e^{-u(z_1)} \, N(z_t; t z_1, (1 - t)^2) , $$

whose score $s = K^{1/2} f + \frac{t}{1 - t} z_0$, with $f = -\nabla u$ the force in kT, has mean
zero. So has $M s$ for any matrix $M$ that depends on $z_t$ and $t$ alone, and adding it to $z_1$
leaves every conditional mean, and with it the field, what they are. The best $M$ is the inverse of
the curvature of $-\log p(z_1 | z_t)$: the sum $z_1 + M s$ is then a Newton step from the frame to
the mode, where, if the molecule were harmonic, all frames with this $z_t$ would meet. Bonds and
angles are: their curvature, taken where the network itself sees the molecule now, reduces the
variance of the target a hundredfold at $t = 0.95$.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..fields.denoiser import Denoiser

SHORTEST_ARM_NM = 0.04
SMALLEST_SINE = 0.1
DAMPING = 120.0

Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]
Jacobian = Float[Tensor, "batch terms atoms 3"]


@dataclass(frozen=True, eq=False)
class StiffTerms:
    """Harmonic bonds and angles, whose curvature is that of the molecule's fast vibrations.

    Args:
        bonds: pairs of atoms.
        bond_stiffness: in kT/nm^2.
        angles: triples of atoms, the vertex in the middle.
        angle_stiffness: in kT/rad^2.
    """

    bonds: Int[Tensor, "bonds 2"]
    bond_stiffness: Float[Tensor, " bonds"]
    angles: Int[Tensor, "angles 3"]
    angle_stiffness: Float[Tensor, " angles"]

    @classmethod
    def from_lists(
        cls,
        bonds: Sequence[Sequence[int]],
        bond_stiffness: Sequence[float],
        angles: Sequence[Sequence[int]],
        angle_stiffness: Sequence[float],
    ) -> StiffTerms:
        """The terms as the metadata of frames list them."""
        return cls(
            torch.tensor(bonds, dtype=torch.int64).reshape(-1, 2),
            torch.tensor(bond_stiffness, dtype=torch.float64),
            torch.tensor(angles, dtype=torch.int64).reshape(-1, 3),
            torch.tensor(angle_stiffness, dtype=torch.float64),
        )

    def to(self, like: Tensor) -> StiffTerms:
        """The same terms in the precision and on the device of a tensor."""
        return StiffTerms(
            self.bonds.to(like.device),
            self.bond_stiffness.to(like),
            self.angles.to(like.device),
            self.angle_stiffness.to(like),
        )

    def jacobian(self, x: Batch) -> Jacobian:
        r"""$\sqrt{k}$ times the gradient of each bond length and angle, in nm^-1.

        Its square is the curvature of the terms (Gauss-Newton). Where atoms coincide, as they do in
        the mean of many structures, arms count as 0.04 nm long.
        """
        first, second = self.bonds.T
        i, vertex, k = self.angles.T
        along, _ = _unit(x[:, first] - x[:, second])
        along = along * self.bond_stiffness.sqrt()[:, None]
        u, length_u = _unit(x[:, i] - x[:, vertex])
        v, length_v = _unit(x[:, k] - x[:, vertex])
        cosine = (u * v).sum(-1, keepdim=True)
        root = self.angle_stiffness.sqrt()[:, None]
        scale = root / (1 - cosine**2).clamp_min(SMALLEST_SINE**2).sqrt()
        to_i, to_k = scale * (cosine * u - v) / length_u, scale * (cosine * v - u) / length_v
        n_bonds = len(self.bonds)
        rows = torch.arange(n_bonds + len(self.angles), device=x.device)
        at_bonds, at_angles = rows[:n_bonds], rows[n_bonds:]
        result = x.new_zeros(len(x), len(rows), x.shape[1], 3)
        result[:, at_bonds, first], result[:, at_bonds, second] = along, -along
        result[:, at_angles, i], result[:, at_angles, k] = to_i, to_k
        result[:, at_angles, vertex] = -to_i - to_k
        return result


def newton_correction(
    field: Denoiser,
    terms: StiffTerms,
    forces: Batch,
    times: Times,
    noise: Batch,
    x: Batch,
    residual: Batch,
) -> Batch:
    r"""What to add to the residual's target: $\frac{n}{1 - t} M s$, of mean zero given $x_t$.

    $$ M = (K^{1/2} H K^{1/2} + \frac{t^2}{(1 - t)^2} + c)^{-1}, \qquad
       c = 120 \frac{(1 - t)^3}{(1 - t)^3 + t^3} $$

    with $H$ the curvature of the stiff terms at $D(x_t)$, the structure that the network expects.
    The damping $c$ is what measures best: early on the orientation of the bonds is not yet known.

    Args:
        field: gives $K$.
        terms: bonds and angles.
        forces: $f(x_1)$, kT/nm.
        times: $t$ of each row.
        noise: $z_0$.
        x: $x_t$, nm.
        residual: what the network says at $x_t$; only decides the curvature.
    """
    t = times[:, None, None]
    noise_left = 1 - t
    norm = (t**2 + noise_left**2).sqrt()
    z_t = field.inverse_root @ x
    velocity = (2 * t - 1) / norm**2 * z_t + residual / norm
    expected = field.root @ (z_t + noise_left * velocity)
    jacobian = torch.einsum("brac,am->brmc", terms.jacobian(expected), field.root).flatten(2)
    ratio = (t / noise_left) ** 2
    diagonal = ratio + DAMPING * noise_left**3 / (noise_left**3 + t**3)
    curvature = jacobian.mT @ jacobian
    curvature.diagonal(dim1=1, dim2=2).add_(diagonal[:, 0])
    score = (field.root @ forces + t / noise_left * noise).flatten(1)
    step = torch.cholesky_solve(score[..., None], torch.linalg.cholesky(curvature))
    return norm / noise_left * step.view_as(x)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    lengths = vectors.norm(dim=-1, keepdim=True).clamp_min(SHORTEST_ARM_NM)
    return vectors / lengths, lengths
