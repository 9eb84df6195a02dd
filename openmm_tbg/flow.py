"""Continuous normalizing flow: samples and exact log-likelihoods on a fixed time grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torchdiffeq import odeint

from .fields.protocol import VectorField
from .grid import TimeGrid
from .prior import MeanFreeGaussian

Positions64 = Float64[Tensor, "batch atoms 3"]
Scalars64 = Float64[Tensor, " batch"]
Paths64 = Float64[Tensor, "nodes batch atoms 3"]
Rows = Bool[Tensor, " batch"]


LARGER_CHUNKS = 4  # a velocity alone takes less than a quarter of the memory of a divergence
FORESIGHT_NODES = 6  # one step between each, 28 evaluations of the field


@dataclass(frozen=True)
class FlowSamples:
    """Configurations (centred, nm) and their log-densities on the mean-free subspace (nats, nm).

    Attributes:
        positions_nm: the configurations.
        log_q: their log-densities; NaN where none was wanted.
        log_q_estimate: the same from a fifth of the nodes.
        noise_nm: where their trajectories begin.
    """

    positions_nm: Positions64
    log_q: Scalars64
    log_q_estimate: Scalars64
    noise_nm: Positions64


@dataclass(frozen=True)
class LogProbError:
    """Numerical error of log q, in kT, over `n` samples.

    Attributes:
        n: number of samples.
        finer_rms: against the inverse on twice the nodes and steps; root mean square.
        finer_max: the same, largest.
        round_trip_rms: against the inverse on the same grid; root mean square.
        round_trip_max: the same, largest.
    """

    n: int
    finer_rms: float
    finer_max: float
    round_trip_rms: float
    round_trip_max: float

    def __str__(self) -> str:
        return (
            f"error of log q over {self.n} samples: {self.finer_rms:.4f} kT rms (largest "
            f"{self.finer_max:.4f}) against a finer grid, {self.round_trip_rms:.4f} kT rms "
            f"(largest {self.round_trip_max:.4f}) in the round trip"
        )


class ContinuousFlow:
    r"""The density of $x(1)$ where $\dot x = v(t, x)$ and $x(0)$ follows the prior.

    $$ \log q(x(1)) = \log q_0(x(0)) - \int_0^1 \nabla \cdot v(t, x(t)) \, dt $$

    The trajectory is integrated by RK4 on a fixed grid, and the divergence is evaluated only at
    Gauss-Legendre nodes. Both are independent of what else is in the batch, which an adaptive step
    is not, so $\log q$ is a function of the configuration alone. Chen et al. 2018
    (arXiv:1806.07366), eq. 8; Köhler, Klein & Noé 2020 (arXiv:2006.02425).

    Args:
        field: the velocity; computed in the field's own precision, everything else in float64.
        prior: the density at $t = 0$.
        grid: where the field is evaluated; part of what defines $\log q$ numerically.
        memory_limit_bytes: work is cut into chunks whose estimated memory stays below this.
    """

    def __init__(
        self,
        field: VectorField,
        prior: MeanFreeGaussian,
        grid: TimeGrid | None = None,
        memory_limit_bytes: int = 64 * 2**20,
    ) -> None:
        self.field = field
        self.prior = prior
        self.grid = TimeGrid() if grid is None else grid
        self.memory_limit_bytes = memory_limit_bytes

    @property
    def chunk_size(self) -> int:
        """Configurations whose divergence is evaluated at once."""
        return max(1, self.memory_limit_bytes // self.field.bytes_per_divergence)

    def sample_with_log_prob(
        self,
        n: int,
        generator: torch.Generator,
        passes: Callable[[Positions64], Rows] | None = None,
        keeps: Callable[[Positions64, Scalars64], Rows] | None = None,
    ) -> FlowSamples:
        """Draw `n` configurations with their log-densities from one integration each.

        Both callables save work on configurations that need no log-density, which is NaN then; each
        is called once for each chunk of samples, in their order.

        Args:
            n: number of configurations.
            generator: source of the noise, on the device of the flow.
            passes: tells which configurations need any log-density. None: all.
            keeps: tells by the estimates, NaN where `passes` says no, which need more. None: all.

        Raises:
            ValueError: if `n` is below 1.

        Example:
            >>> from openmm_tbg.flow import ContinuousFlow
            >>> from openmm_tbg.grid import TimeGrid
            >>> class Still:
            ...     bytes_per_divergence = 1
            ...     def velocity(self, t, x): return 0 * x
            ...     def velocity_and_divergence(self, t, x): return 0 * x, 0 * x[:, 0, 0]
            >>> prior = MeanFreeGaussian.isotropic(4, 0.1)
            >>> flow = ContinuousFlow(Still(), prior, TimeGrid(nodes=2))
            >>> samples = flow.sample_with_log_prob(3, torch.Generator().manual_seed(0))
            >>> bool((samples.log_q == flow.prior.log_prob(samples.positions_nm)).all())
            True
        """
        return self.push(self.noise(n, generator), passes, keeps)

    def noise(self, n: int, generator: torch.Generator) -> Positions64:
        """Where `n` trajectories begin, drawn from the prior.

        Raises:
            ValueError: if `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"n is {n}: at least one sample must be drawn")
        return self.prior.sample(n, generator)

    def push(
        self,
        noise_nm: Positions64,
        passes: Callable[[Positions64], Rows] | None = None,
        keeps: Callable[[Positions64, Scalars64], Rows] | None = None,
    ) -> FlowSamples:
        """The ends of trajectories that begin there, as in `sample_with_log_prob`."""

        def work(noise: Positions64) -> FlowSamples:
            end, path = self._integrate(noise, start=0.0, end=1.0)
            return self._with_densities(end, noise, path, passes, keeps)

        return self._in_chunks(noise_nm, work)

    def foresee(self, noise_nm: Positions64) -> Positions64:
        """Roughly where these trajectories end, on a grid of a few nodes."""
        coarse = TimeGrid(FORESIGHT_NODES, 1, self.grid.epsilon)
        rough = ContinuousFlow(self.field, self.prior, coarse)
        parts = torch.split(noise_nm, LARGER_CHUNKS * self.chunk_size)
        return torch.cat([rough._integrate(part, start=0.0, end=1.0)[0] for part in parts])

    def log_prob(self, x: Positions64) -> Scalars64:
        """Log-density of configurations (nm; their centre is removed) by the inverse flow."""
        return self.log_prob_and_estimate(x).log_q

    def log_prob_and_estimate(self, x: Positions64) -> FlowSamples:
        """The centred configurations with both log-densities, by the inverse flow."""

        def pull(chunk: Positions64) -> FlowSamples:
            noise, path = self._integrate(chunk, start=1.0, end=0.0)
            return self._with_densities(chunk, noise, path)

        return self._in_chunks(x - x.mean(dim=1, keepdim=True), pull)

    def log_prob_error(self, n: int, generator: torch.Generator) -> LogProbError:
        """Measure the numerical error of log q on `n` fresh samples, in kT."""
        samples = self.sample_with_log_prob(n, generator)
        finer = ContinuousFlow(self.field, self.prior, self.grid.refined(), self.memory_limit_bytes)
        finer_error = samples.log_q - finer.log_prob(samples.positions_nm)
        round_trip = samples.log_q - self.log_prob(samples.positions_nm)
        return LogProbError(
            n=n,
            finer_rms=float(finer_error.square().mean().sqrt()),
            finer_max=float(finer_error.abs().max()),
            round_trip_rms=float(round_trip.square().mean().sqrt()),
            round_trip_max=float(round_trip.abs().max()),
        )

    def _in_chunks(self, x: Positions64, work: Callable[[Positions64], FlowSamples]) -> FlowSamples:
        parts = [vars(work(chunk)) for chunk in torch.split(x, LARGER_CHUNKS * self.chunk_size)]
        return FlowSamples(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    @torch.no_grad()
    def _integrate(self, x: Positions64, start: float, end: float) -> tuple[Positions64, Paths64]:
        """The other end of the trajectory, and where it is at each node."""
        nodes, _ = self.grid.quadrature()
        if start > end:
            nodes = nodes.flip(0)
        stations = torch.cat([torch.tensor([start]), nodes, torch.tensor([end])]).to(x)
        path = []
        for here, there in itertools.pairwise(stations):
            steps = torch.linspace(0, 1, self.grid.steps + 1, dtype=x.dtype, device=x.device)
            x = odeint(self._slope, x, here + (there - here) * steps, method="rk4")[-1]
            path.append(x)
        at_nodes = torch.stack(path[:-1])
        return x, at_nodes.flip(0) if start > end else at_nodes

    @torch.no_grad()
    def _with_densities(
        self,
        end: Positions64,
        noise: Positions64,
        path: Paths64,
        passes: Callable[[Positions64], Rows] | None = None,
        keeps: Callable[[Positions64, Scalars64], Rows] | None = None,
    ) -> FlowSamples:
        r"""$\log q_0 - \int_0^1 \nabla \cdot v \, dt$ along trajectories known at the nodes."""
        nodes, weights = (each.to(path) for each in self.grid.quadrature())
        coarse, coarse_weights = (each.to(end.device) for each in self.grid.coarse_quadrature())
        times, log_prior = self.grid.time(nodes), self.prior.log_prob(noise)
        divergences = torch.full_like(path[:, :, 0, 0], torch.nan)

        def evaluate(which: Tensor, rows: Rows) -> None:
            pairs = torch.cartesian_prod(which, rows.nonzero()[:, 0])
            for part in torch.split(pairs, self.chunk_size) if len(pairs) else ():
                node, row = part.T
                _, found = self.field.velocity_and_divergence(times[node], path[node, row])
                divergences[node, row] = found

        rows = torch.ones_like(log_prior, dtype=torch.bool) if passes is None else passes(end)
        evaluate(coarse, rows)
        estimate = log_prior - coarse_weights @ divergences[coarse]
        every = torch.arange(len(nodes), device=end.device)
        evaluate(every[~torch.isin(every, coarse)], rows if keeps is None else keeps(end, estimate))
        return FlowSamples(end, log_prior - weights @ divergences, estimate, noise)

    def _slope(self, s: Tensor, x: Positions64) -> Positions64:
        return self.field.velocity(self.grid.time(s), x) * self.grid.speed(s)


def reference_log_prob(flow: ContinuousFlow, x: Positions64, tolerance: float = 1e-8) -> Scalars64:
    """log q by adaptive Dormand-Prince steps of the augmented state, to test the fixed grid.

    Steps are chosen for the whole batch, so a result depends on its neighbours to within the
    tolerance: do not use it in a Metropolis ratio.
    """

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return flow.field.velocity_and_divergence(t, state[0])

    centred = x - x.mean(dim=1, keepdim=True)
    start = (centred, torch.zeros(len(x), dtype=torch.float64, device=x.device))
    times = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        ends, totals = odeint(
            slope,
            start,
            times,
            rtol=tolerance,
            atol=tolerance,
            method="dopri5",
            options={"step_t": times[1:]},  # the field is not defined beyond t = 0
        )
    log_q: Tensor = flow.prior.log_prob(ends[-1]) + totals[-1]
    return log_q
