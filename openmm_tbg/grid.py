"""Where in time a flow is integrated, and where its divergence is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TimeGrid:
    r"""Where the flow is integrated: Runge-Kutta steps in $s$ between Gauss-Legendre nodes.

    $$ 1 - t = (1 + \epsilon) e^{-L s} - \epsilon, \qquad
       L = \log\frac{1 + \epsilon}{\epsilon}, \qquad s \in [0, 1] $$

    The field turns sharply where $1 - t$ reaches the ratio of a bond's width in the data to that in
    the prior; as a function of $s$ it is smooth there.

    Args:
        nodes: Gauss-Legendre nodes at which the divergence is evaluated.
        steps: fourth-order Runge-Kutta steps between neighbouring nodes.
        epsilon: the ratio at which resolution in $1 - t$ saturates.
    """

    nodes: int = 24
    steps: int = 2
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.steps < 1 or self.epsilon <= 0:
            raise ValueError(f"{self}: nodes and steps must be at least 1, epsilon above 0")

    @property
    def rate(self) -> float:
        """$L$."""
        return math.log1p(1 / self.epsilon)

    def time(self, s: Tensor) -> Tensor:
        """$t(s)$."""
        return -torch.expm1(-self.rate * s) * (1 + self.epsilon)

    def speed(self, s: Tensor) -> Tensor:
        """$dt/ds$."""
        return (1 + self.epsilon) * self.rate * torch.exp(-self.rate * s)

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Nodes in $s$ and weights for an integral over $t$."""
        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)
        s = torch.from_numpy(0.5 * (nodes + 1))
        return s, torch.from_numpy(0.5 * weights) * self.speed(s)

    def coarse_quadrature(self) -> tuple[Tensor, Tensor]:
        """A fifth of the nodes, as indices, and weights for a first estimate of the integral.

        They are the nodes closest to those of the Gauss-Legendre rule of that order; the weights
        make every polynomial in $s$ below that order exact.
        """
        nodes, _ = np.polynomial.legendre.leggauss(self.nodes)
        wished, _ = np.polynomial.legendre.leggauss(max(1, self.nodes // 5))
        chosen = np.unique(np.abs(nodes[:, None] - wished).argmin(axis=0))
        moments = np.polynomial.legendre.legvander(nodes[chosen], len(chosen) - 1).T
        weights = np.linalg.solve(moments, 2.0 * np.eye(len(chosen))[0])
        s = torch.from_numpy(0.5 * (nodes[chosen] + 1))
        return torch.from_numpy(chosen), torch.from_numpy(0.5 * weights) * self.speed(s)

    def refined(self) -> TimeGrid:
        """A grid with twice the nodes and twice the steps, to measure the error of this one."""
        return TimeGrid(2 * self.nodes, 2 * self.steps, self.epsilon)
