r"""A control variate for flow matching: forces and local curvature take the noise from the target.

Given a point $z_t$ of the path, the frame from which it came has the density

$$ p(z_1 | z_t) \propto e^{-u(z_1)} \, N(z_t; t z_1, (1 - t)^2) , \qquad
   \nabla \log p = K^{1/2} f + \frac{t}{1 - t} z_0 $$

with $f = -\nabla u$ the force in kT. For every matrix $M(z_1, t)$ the sum
$C = M \nabla \log p + \nabla \cdot M$ has mean zero under this density (Stein's identity, by
parts), so that adding it to $z_1$ leaves every conditional mean, and with it the field, what they
are. With $M$ the inverse curvature of $-\log p$ at the frame, $z_1 + C$ is a Newton step from the
frame to the mode, where, if the molecule were harmonic, all frames with this $z_t$ would meet.
Bonds and angles are nearly so: the mean square of what is left to a trained network falls from 0.56
to 0.06 at $t = 0.7$ and from 0.66 to 0.006 at $t = 0.9$ (alanine dipeptide).
Target score matching (De Bortoli et al. 2024, arXiv:2402.08667) is the case of a constant $M$.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

DAMPING = 5.0

Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]
Jacobian = Float[Tensor, "batch terms atoms 3"]
Matrix = Float[Tensor, "atoms atoms"]
Arms = Float[Tensor, "batch terms 3"]
AngleArms = Float[Tensor, "batch angles 3"]
Blocks = Float[Tensor, "batch atoms 3 atoms 3"]


@dataclass(frozen=True, eq=False)
class StiffTerms:
    """Harmonic bonds and angles, whose curvature is that of the molecule's fast vibrations.

    Any terms and stiffnesses leave the targets unbiased; those of the force field take most noise.
    No angle may be straight.

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
        """The terms of plain lists."""
        return cls(
            torch.tensor(bonds, dtype=torch.int64).reshape(-1, 2),
            torch.tensor(bond_stiffness, dtype=torch.float64),
            torch.tensor(angles, dtype=torch.int64).reshape(-1, 3),
            torch.tensor(angle_stiffness, dtype=torch.float64),
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> StiffTerms:
        """The terms that the metadata of simulated frames list."""
        return cls.from_lists(
            metadata["bonds"],
            metadata["bond_stiffness_kT_per_nm2"],
            metadata["angles"],
            metadata["angle_stiffness_kT_per_rad2"],
        )

    def to(self, like: Tensor) -> StiffTerms:
        """The same terms in the precision and on the device of a tensor."""
        return StiffTerms(
            self.bonds.to(like.device),
            self.bond_stiffness.to(like),
            self.angles.to(like.device),
            self.angle_stiffness.to(like),
        )

    def at(self, x: Batch) -> Curvature:
        """Gradients and curvatures of the terms in configurations in nm."""
        first, second = self.bonds.T
        i, vertex, k = self.angles.T
        bond, length = _unit(x[:, first] - x[:, second])
        p, length_u = _unit(x[:, i] - x[:, vertex])
        q, length_v = _unit(x[:, k] - x[:, vertex])
        cosine = (p * q).sum(-1, keepdim=True)
        sine = (1 - cosine**2).sqrt()
        return Curvature(
            terms=self,
            bond=bond,
            length=length,
            p=p,
            q=q,
            length_u=length_u,
            length_v=length_v,
            cosine=cosine,
            sine=sine,
            to_u=(cosine * p - q) / (length_u * sine),
            to_v=(cosine * q - p) / (length_v * sine),
        )


@dataclass(frozen=True, eq=False)
class Curvature:
    r"""First and second derivatives of the bond lengths and angles $r$ of a batch.

    A bond has the arm $x_i - x_j$ of direction `bond`, an angle the arms u and v of directions p
    and q from its vertex, with gradients `to_u` and `to_v`.
    """

    terms: StiffTerms
    bond: Arms
    length: Tensor
    p: AngleArms
    q: AngleArms
    length_u: Tensor
    length_v: Tensor
    cosine: Tensor
    sine: Tensor
    to_u: AngleArms
    to_v: AngleArms

    def jacobian(self, n_atoms: int) -> Jacobian:
        r"""$J$: $\sqrt{k}$ times the gradient of each term, bonds first; $J^T J$ the curvature."""
        bonds = self.bond * self.terms.bond_stiffness.sqrt()[:, None]
        root = self.terms.angle_stiffness.sqrt()[:, None]
        to_u, to_v = root * self.to_u, root * self.to_v
        first, second = self.terms.bonds.T
        i, vertex, k = self.terms.angles.T
        n_bonds = len(first)
        rows = torch.arange(n_bonds + len(i), device=bonds.device)
        result = bonds.new_zeros(len(bonds), len(rows), n_atoms, 3)
        result[:, rows[:n_bonds], first], result[:, rows[:n_bonds], second] = bonds, -bonds
        angles = rows[n_bonds:]
        result[:, angles, i], result[:, angles, k] = to_u, to_v
        result[:, angles, vertex] = -to_u - to_v
        return result

    def slope(self, inverse: Blocks) -> Batch:
        r"""$T_a = \sum_{jb} \partial_j (J^T J)_{ab} M_{bj}$, so that $\nabla \cdot M = -M T$.

        With $S_r$ the second derivatives of term $r$,
        $T = \sum_r k_r (S_r M \nabla r + \nabla r \, \mathrm{tr}(S_r M))$.

        Args:
            inverse: $M$, symmetric.
        """
        result = torch.zeros_like(inverse[:, :, :, 0, 0])
        first, second = self.terms.bonds.T
        along = self.terms.bond_stiffness[:, None] * self._from_bonds(inverse)
        result.index_add_(1, first, along).index_add_(1, second, -along)
        i, vertex, k = self.terms.angles.T
        from_u, from_v = self._from_angles(inverse)
        from_u = self.terms.angle_stiffness[:, None] * from_u
        from_v = self.terms.angle_stiffness[:, None] * from_v
        result.index_add_(1, i, from_u).index_add_(1, k, from_v)
        return result.index_add_(1, vertex, -from_u - from_v)

    def _from_bonds(self, inverse: Blocks) -> Arms:
        u, (first, second) = self.bond, self.terms.bonds.T
        between = _between(inverse, (first, second), (first, second))
        second_derivative = (_identity(u) - _outer(u, u)) / self.length[..., None]
        trace = (second_derivative * between).sum((-1, -2))
        return _apply(second_derivative, _apply(between, u)) + u * trace[..., None]

    def _from_angles(self, inverse: Blocks) -> tuple[Arms, Arms]:
        i, vertex, k = self.terms.angles.T
        uu = _between(inverse, (i, vertex), (i, vertex))
        uv = _between(inverse, (i, vertex), (k, vertex))
        vv = _between(inverse, (k, vertex), (k, vertex))
        s_uu, s_uv, s_vv = self._angle_second_derivatives()
        trace = ((s_uu * uu) + 2 * (s_uv * uv) + (s_vv * vv)).sum((-1, -2))[..., None]
        moved_u = _apply(uu, self.to_u) + _apply(uv, self.to_v)
        moved_v = _apply(uv.mT, self.to_u) + _apply(vv, self.to_v)
        from_u = _apply(s_uu, moved_u) + _apply(s_uv, moved_v) + self.to_u * trace
        from_v = _apply(s_uv.mT, moved_u) + _apply(s_vv, moved_v) + self.to_v * trace
        return from_u, from_v

    def _angle_second_derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """From those of the cosine c: d2(angle) = -(d2 c + c d(angle) d(angle)) / sine."""
        p, q = self.p, self.q
        one, cosine, sine = _identity(p), self.cosine[..., None], self.sine[..., None]
        length_u, length_v = self.length_u[..., None], self.length_v[..., None]
        pp, qq, pq = _outer(p, p), _outer(q, q), _outer(p, q)
        mixed = pq + pq.mT
        c_uu = (3 * cosine * pp - mixed - cosine * one) / length_u**2
        c_vv = (3 * cosine * qq - mixed - cosine * one) / length_v**2
        c_uv = (one - pp - qq + cosine * pq) / (length_u * length_v)
        return (
            -(c_uu + cosine * _outer(self.to_u, self.to_u)) / sine,
            -(c_uv + cosine * _outer(self.to_u, self.to_v)) / sine,
            -(c_vv + cosine * _outer(self.to_v, self.to_v)) / sine,
        )


def newton_step(
    root: Matrix, terms: StiffTerms, frames: Batch, forces: Batch, times: Times, noise: Batch
) -> Batch:
    r"""The step $C$ in whitened coordinates, of mean zero given $x_t$.

    $$ C = M (K^{1/2} f + \frac{t}{1 - t} z_0 - K^{1/2} T), \qquad
       M = (K^{1/2} H K^{1/2} + \frac{t^2}{(1 - t)^2} + c)^{-1}, \qquad
       c = 5 \frac{(1 - t)^3}{(1 - t)^3 + t^3} $$

    with $H$ the curvature of the stiff terms at the frame and $T$ from `Curvature.slope`. The
    damping $c$, which stands for all other terms, is what measures best.

    Args:
        root: $K^{1/2}$, nm.
        terms: bonds and angles.
        frames: $x_1$, nm.
        forces: $f(x_1)$, kT/nm.
        times: $t$ of each row.
        noise: $z_0$.
    """
    t = times[:, None, None]
    left = 1 - t
    n_atoms = frames.shape[1]
    curvature = terms.at(frames)
    jacobian = torch.einsum("brac,am->brmc", curvature.jacobian(n_atoms), root).flatten(2)
    precision = jacobian.mT @ jacobian
    diagonal = (t / left) ** 2 + DAMPING * left**3 / (left**3 + t**3)
    precision.diagonal(dim1=1, dim2=2).add_(diagonal[:, 0])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    blocks = inverse.view(-1, n_atoms, 3, n_atoms, 3)
    in_nm = torch.einsum("ai,bicjd,jm->bacmd", root, blocks, root)
    score = root @ (forces - curvature.slope(in_nm)) + t / left * noise
    return (inverse @ score.flatten(1)[..., None]).view_as(frames)


def _unit(vectors: Arms) -> tuple[Arms, Tensor]:
    lengths = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths, lengths


def _identity(like: Arms) -> Float[Tensor, "3 3"]:
    return torch.eye(3).to(like)


def _outer(a: Arms, b: Arms) -> Float[Tensor, "batch terms 3 3"]:
    return a[..., :, None] * b[..., None, :]


def _apply(matrix: Float[Tensor, "batch terms 3 3"], vector: Arms) -> Arms:
    return (matrix @ vector[..., None])[..., 0]


def _between(
    blocks: Blocks, arm: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch terms 3 3"]:
    """The matrix between the differences of atoms that two arms are."""
    (a, b), (c, d) = arm, other
    parts = blocks.permute(0, 1, 3, 2, 4)
    return parts[:, a, c] - parts[:, a, d] - parts[:, b, c] + parts[:, b, d]
