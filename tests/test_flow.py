"""log q is the log-density of what the flow draws: against Jacobians, closed forms and itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import (
    CHIRAL,
    DIFFERENT_ATOMS,
    EQUAL_ATOMS,
    METHANOL,
    prior_of,
    random_denoiser,
    random_egnn,
)
from scipy.spatial.transform import Rotation
from torch import Tensor

from openmm_tbg.fields.protocol import VectorField
from openmm_tbg.flow import ContinuousFlow, reference_log_prob
from openmm_tbg.grid import TimeGrid
from openmm_tbg.prior import MeanFreeGaussian

FINE = TimeGrid(nodes=24, steps=3, epsilon=1.0)
COARSE = TimeGrid(nodes=3, steps=1, epsilon=0.2)
FIELDS: dict[str, Callable[[], VectorField]] = {
    "denoiser": partial(random_denoiser, layers=1),
    "EGNN": random_egnn,
}
each_field = pytest.mark.parametrize("field", FIELDS)


def flow_of(field: str, grid: TimeGrid = COARSE) -> ContinuousFlow:
    return ContinuousFlow(FIELDS[field](), prior_of(METHANOL), grid)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def basis_of(n_atoms: int) -> Tensor:
    centring = torch.eye(n_atoms, dtype=torch.float64) - 1 / n_atoms
    return torch.linalg.svd(centring)[0][:, : n_atoms - 1]


# The Jacobian of the map from noise to samples, integrated without the flow.


def pushed(field: VectorField, noise: Tensor) -> Tensor:
    """The ends of trajectories by the classical Runge-Kutta rule, in t itself."""
    u = torch.linspace(0, 1, 49, dtype=torch.float64)
    x = noise
    for t, end in itertools.pairwise(u**2 * (3 - 2 * u)):
        h = end - t
        k1 = field.velocity(t, x)
        k2 = field.velocity(t + h / 2, x + h / 2 * k1)
        k3 = field.velocity(t + h / 2, x + h / 2 * k2)
        k4 = field.velocity(end, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@cache
def sample_and_log_q_by_jacobian(field: str) -> tuple[Tensor, Tensor]:
    """The first sample of seed 1, and its log q from the determinant on the subspace."""
    prior, velocity = prior_of(METHANOL), FIELDS[field]()
    noise, basis = prior.sample(1, seeded()), basis_of(prior.n_atoms)
    size = noise.numel() - 3
    axes = torch.eye(size, dtype=torch.float64).view(size, -1, 3)
    x, changes = torch.func.jvp(
        lambda start: pushed(velocity, start), (noise.repeat(size, 1, 1),), (basis @ axes,)
    )
    jacobian = (basis.T @ changes).reshape(size, size)
    log_volume = torch.linalg.slogdet(jacobian).logabsdet
    assert abs(log_volume) > 0.5
    return x[0], prior.log_prob(noise)[0] - log_volume


def assert_log_q_is_that_of_the_jacobian(flow: ContinuousFlow, field: str) -> None:
    samples = flow.sample_with_log_prob(1, seeded())
    position, log_q = sample_and_log_q_by_jacobian(field)
    torch.testing.assert_close(samples.positions_nm[0], position, rtol=0, atol=1e-7)
    torch.testing.assert_close(samples.log_q[0], log_q, rtol=0, atol=1e-6)


@each_field
def test_log_q_is_that_of_the_jacobian_of_the_whole_map(field: str) -> None:
    assert_log_q_is_that_of_the_jacobian(flow_of(field, FINE), field)


@dataclass(frozen=True)
class Misreported:
    """A field that tells a wrong divergence."""

    inner: VectorField
    wrong: Callable[[Tensor], Tensor]
    bytes_per_divergence: int = 1

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        return self.inner.velocity(t, x)

    def velocity_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        v, divergence = self.inner.velocity_and_divergence(t, x)
        return v, self.wrong(divergence)


WRONG_DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.neg,
    "scale": lambda divergence: 1.001 * divergence,
}


@pytest.mark.parametrize("wrong", WRONG_DIVERGENCES)
def test_a_wrong_divergence_would_be_noticed(wrong: str) -> None:
    lying = Misreported(FIELDS["denoiser"](), WRONG_DIVERGENCES[wrong])
    with pytest.raises(AssertionError, match="not close"):
        assert_log_q_is_that_of_the_jacobian(
            ContinuousFlow(lying, prior_of(METHANOL), FINE), "denoiser"
        )


def test_wrong_weights_of_the_quadrature_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TimeGrid.quadrature

    def without_speed(grid: TimeGrid) -> tuple[Tensor, Tensor]:
        nodes, weights = right(grid)
        return nodes, weights / grid.speed(nodes)

    monkeypatch.setattr(TimeGrid, "quadrature", without_speed)
    with pytest.raises(AssertionError, match="not close"):
        assert_log_q_is_that_of_the_jacobian(flow_of("denoiser", FINE), "denoiser")


# A linear field, whose flow and density are known.


@dataclass(frozen=True)
class LinearField:
    r"""$v = a(t) B x$ with $a = \cos 3t + 1/2$, and B mixing the atoms of a molecule."""

    matrix: Tensor
    bytes_per_divergence: int = 1
    calls: list[int] = field(default_factory=list)

    @classmethod
    def random(cls, n_atoms: int) -> LinearField:
        """Symmetric, and blind to the centre."""
        basis = basis_of(n_atoms)
        inner = torch.randn(n_atoms - 1, n_atoms - 1, dtype=torch.float64, generator=seeded())
        return cls(basis @ (inner + inner.T) @ basis.T / 2)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return (torch.cos(3 * t) + 0.5).reshape(-1, 1, 1) * (self.matrix @ x)

    def velocity_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        trace = 3 * self.matrix.trace() * (torch.cos(3 * t) + 0.5)
        return self.velocity(t, x), trace.expand(len(x))

    @property
    def propagator(self) -> Tensor:
        return torch.linalg.matrix_exp((math.sin(3) / 3 + 0.5) * self.matrix)

    def pushed_prior(self, prior: MeanFreeGaussian) -> MeanFreeGaussian:
        covariance = self.propagator @ prior.covariance @ self.propagator.T
        return MeanFreeGaussian((covariance + covariance.T) / 2)


def test_a_linear_field_gives_the_gaussian_that_it_makes_of_the_prior() -> None:
    linear, prior = LinearField.random(6), prior_of(METHANOL)
    flow = ContinuousFlow(linear, prior, TimeGrid(nodes=24, steps=6, epsilon=0.2))
    samples = flow.sample_with_log_prob(4, seeded())
    x = samples.positions_nm
    torch.testing.assert_close(x, linear.propagator @ prior.sample(4, seeded()), rtol=0, atol=1e-8)
    expected = linear.pushed_prior(prior).log_prob(x)
    assert (expected - prior.log_prob(x)).abs().min() > 0.1
    torch.testing.assert_close(samples.log_q, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=0, atol=1e-6)


def test_the_best_linear_field_between_equal_gaussians_leaves_the_density_alone() -> None:
    still = random_denoiser()
    for part in [still.gate, *(block.pair for block in still.blocks)]:
        part.weight.zero_()
        part.bias.zero_()
    prior = prior_of(METHANOL)
    samples = ContinuousFlow(still, prior, FINE).sample_with_log_prob(3, seeded())
    expected = prior.log_prob(prior.sample(3, seeded()))
    torch.testing.assert_close(samples.log_q, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(samples.positions_nm, prior.sample(3, seeded()), rtol=0, atol=1e-7)


def test_trajectories_converge_at_the_fourth_order() -> None:
    linear, prior = LinearField.random(6), prior_of(METHANOL)
    noise = prior.sample(2, seeded())
    errors = []
    for steps in (8, 16, 32, 64):
        flow = ContinuousFlow(linear, prior, TimeGrid(nodes=1, steps=steps, epsilon=0.2))
        end = flow.sample_with_log_prob(2, seeded()).positions_nm
        errors.append((end - linear.propagator @ noise).square().mean().sqrt())
    orders = -torch.stack(errors).log2().diff()
    assert (abs(orders - 4) < 0.25).all(), orders


def test_quadrature_converges_faster_than_any_power() -> None:
    """The divergence of a linear field does not depend on x: only the quadrature errs."""
    linear, prior = LinearField.random(6), prior_of(METHANOL)
    exact = 3 * linear.matrix.trace() * (math.sin(3) / 3 + 0.5)
    base = prior.log_prob(prior.sample(1, seeded()))
    errors = []
    for nodes in (4, 8, 16):
        flow = ContinuousFlow(linear, prior, TimeGrid(nodes, 1, epsilon=0.2))
        errors.append(abs(float(base - flow.sample_with_log_prob(1, seeded()).log_q - exact)))
    assert errors[0] > 1e-5
    assert errors[1] < 1e-3 * errors[0]
    assert errors[2] < 1e-12


# The same density, whichever way it is asked for.


def assert_round_trip(flow: ContinuousFlow) -> None:
    samples = flow.sample_with_log_prob(1, seeded())
    again = flow.log_prob(samples.positions_nm)
    torch.testing.assert_close(again, samples.log_q, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("field", "steps"), [("denoiser", 14), ("EGNN", 7)])
def test_round_trip(field: str, steps: int) -> None:
    assert_round_trip(flow_of(field, TimeGrid(nodes=8, steps=steps, epsilon=1.0)))


@pytest.mark.parametrize("fault", ["nodes keep their order", "times run forwards"])
def test_a_wrong_way_back_would_be_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ContinuousFlow(LinearField.random(6), prior_of(METHANOL), TimeGrid(8, 28, 1.0))
    assert_round_trip(flow)
    if fault == "nodes keep their order":
        monkeypatch.setattr(Tensor, "flip", lambda tensor, _: tensor)
    else:
        forwards = ContinuousFlow._integrate
        monkeypatch.setattr(
            ContinuousFlow, "_integrate", lambda flow, x, start, end: forwards(flow, x, 0.0, 1.0)
        )
    with pytest.raises(AssertionError, match="not close"):
        assert_round_trip(flow)


@each_field
def test_adaptive_steps_agree(field: str) -> None:
    flow = flow_of(field, FINE)
    samples = flow.sample_with_log_prob(1, seeded())
    expected = reference_log_prob(flow, samples.positions_nm, tolerance=1e-8)
    torch.testing.assert_close(samples.log_q, expected, rtol=0, atol=1e-6)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches whose divergence is evaluated from now on."""
    sizes: list[int] = []
    divergence = LinearField.velocity_and_divergence

    def count(field: LinearField, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(x))
        return divergence(field, t, x)

    monkeypatch.setattr(LinearField, "velocity_and_divergence", count)
    return sizes


def test_only_configurations_that_pass_get_a_density(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ContinuousFlow(LinearField.random(6), prior_of(METHANOL), COARSE)
    every = flow.sample_with_log_prob(5, seeded())
    weighed = counted(monkeypatch)
    right = every.positions_nm[:, 0, 0] > 0
    some = flow.sample_with_log_prob(5, seeded(), lambda x: x[:, 0, 0] > 0)
    none = flow.sample_with_log_prob(5, seeded(), lambda x: x[:, 0, 0] > torch.inf)
    assert 0 < right.sum() < 5
    assert sum(weighed) == right.sum() * COARSE.nodes
    torch.testing.assert_close(some.positions_nm, every.positions_nm, rtol=0, atol=0)
    for found, expected in ((some.log_q, every.log_q), (some.log_q_estimate, every.log_q_estimate)):
        torch.testing.assert_close(found[right], expected[right], rtol=0, atol=1e-12)
        assert found[~right].isnan().all()
    assert none.log_q.isnan().all()


def test_only_configurations_that_are_kept_get_more_than_an_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = ContinuousFlow(LinearField.random(6), prior_of(METHANOL), TimeGrid(10, 1))
    every = flow.sample_with_log_prob(5, seeded())
    weighed = counted(monkeypatch)
    seen: list[Tensor] = []

    def keeps(x: Tensor, log_q_estimate: Tensor) -> Tensor:
        seen.append(log_q_estimate)
        return x[:, 0, 0] > 0

    some = flow.sample_with_log_prob(5, seeded(), None, keeps)
    kept = every.positions_nm[:, 0, 0] > 0
    assert weighed == [5 * 2, int(kept.sum()) * 8]
    torch.testing.assert_close(seen[0], every.log_q_estimate, rtol=0, atol=1e-12)
    torch.testing.assert_close(some.log_q[kept], every.log_q[kept], rtol=0, atol=1e-12)
    assert some.log_q[~kept].isnan().all()


@pytest.mark.parametrize("nodes", [3, 15, 24, 40])
def test_the_estimate_integrates_polynomials_below_its_order(nodes: int) -> None:
    grid = TimeGrid(nodes, 1)
    chosen, weights = grid.coarse_quadrature()
    s = grid.quadrature()[0][chosen]
    assert len(chosen) == max(1, nodes // 5)
    assert (weights > 0).all()
    for power in range(len(chosen)):
        integral = (weights / grid.speed(s) * s**power).sum()
        assert float(integral) == pytest.approx(1 / (power + 1), abs=1e-12)


@each_field
def test_the_estimate_tends_to_the_density_and_is_the_same_both_ways(field: str) -> None:
    errors = []
    for nodes in (20, 60):
        flow = flow_of(field, TimeGrid(nodes, 2))
        samples = flow.sample_with_log_prob(3, seeded())
        back = flow.log_prob_and_estimate(samples.positions_nm)
        torch.testing.assert_close(back.log_q_estimate, samples.log_q_estimate, rtol=0, atol=1e-4)
        errors.append(float((samples.log_q_estimate - samples.log_q).abs().max()))
    assert errors[1] < max(0.05 * errors[0], 1e-6)


@each_field
def test_log_q_does_not_depend_on_the_batch(field: str) -> None:
    flow = flow_of(field)
    x = prior_of(METHANOL).sample(4, seeded()) * torch.tensor([1.0, 1.0, 1.0, 5.0])[:, None, None]
    together = flow.log_prob(x)
    alone = torch.cat([flow.log_prob(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-10)


def test_chunks_do_not_change_results() -> None:
    whole, cut = flow_of("denoiser"), flow_of("denoiser")
    cut.memory_limit_bytes = 2 * cut.field.bytes_per_divergence + 1
    assert whole.chunk_size > 5
    assert cut.chunk_size == 2
    samples, in_parts = (flow.sample_with_log_prob(5, seeded()) for flow in (whole, cut))
    torch.testing.assert_close(in_parts.positions_nm, samples.positions_nm, rtol=0, atol=1e-12)
    torch.testing.assert_close(in_parts.log_q, samples.log_q, rtol=0, atol=1e-10)
    x = samples.positions_nm
    torch.testing.assert_close(cut.log_prob(x), whole.log_prob(x), rtol=0, atol=1e-10)


def test_chunks_keep_to_the_limit_but_hold_at_least_one() -> None:
    linear = LinearField(torch.zeros(6, 6, dtype=torch.float64), bytes_per_divergence=1000)
    flow = ContinuousFlow(linear, prior_of(METHANOL), COARSE, memory_limit_bytes=3999)
    flow.sample_with_log_prob(7, seeded())
    assert set(linear.calls) == {1, 2, 3, 7}  # of velocities alone, up to four times as many
    flow.memory_limit_bytes = 1
    assert flow.chunk_size == 1


# Symmetries.


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), sign=st.sampled_from([1, -1]), shift=st.floats(-1, 1))
@each_field
def test_log_q_ignores_pose_and_hand(field: str, seed: int, sign: int, shift: float) -> None:
    flow, x = flow_of(field), prior_of(METHANOL).sample(2, seeded(seed))
    turn = sign * torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    moved = x @ turn + shift * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(moved), flow.log_prob(x), rtol=0, atol=1e-10)


@each_field
def test_log_q_ignores_the_order_of_equal_atoms_and_only_of_those(field: str) -> None:
    flow, x = flow_of(field), prior_of(METHANOL).sample(2, seeded())
    log_q = flow.log_prob(x)
    torch.testing.assert_close(flow.log_prob(x[:, EQUAL_ATOMS]), log_q, rtol=0, atol=1e-10)
    assert (flow.log_prob(x[:, DIFFERENT_ATOMS]) - log_q).abs().min() > 1e-3


# The grid, and the error that is reported.


def test_time_runs_from_0_to_1_at_its_speed() -> None:
    grid = TimeGrid(epsilon=0.01)
    s = torch.linspace(0, 1, 11, dtype=torch.float64)
    t, speed = torch.func.jvp(grid.time, (s,), (torch.ones_like(s),))
    torch.testing.assert_close(grid.speed(s), speed, rtol=1e-13, atol=0)
    assert t[0] == 0
    assert t[-1].item() == pytest.approx(1, abs=1e-15)
    remaining = 1.01 * torch.exp(-math.log(101) * s) - 0.01
    torch.testing.assert_close(1 - t, remaining, rtol=0, atol=1e-14)


@pytest.mark.parametrize("power", [0, 1, 2, 5, 9])
def test_weights_integrate_powers_of_time(power: int) -> None:
    s, weights = TimeGrid(nodes=24).quadrature()
    integral = (weights * TimeGrid().time(s) ** power).sum()
    assert integral.item() == pytest.approx(1 / (power + 1), abs=1e-12)


def test_refined_doubles_nodes_and_steps() -> None:
    assert TimeGrid(5, 3, 0.2).refined() == TimeGrid(10, 6, 0.2)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"steps": 0}, {"epsilon": 0.0}, {"epsilon": -0.1}])
def test_grids_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="nodes and steps must be at least 1, epsilon above 0"):
        TimeGrid(**wrong)


def test_the_reported_error_is_that_of_independent_calls() -> None:
    flow = flow_of("denoiser", TimeGrid(nodes=4, steps=1, epsilon=0.2))
    error = flow.log_prob_error(3, seeded())
    samples = flow.sample_with_log_prob(3, seeded())
    finer = ContinuousFlow(flow.field, flow.prior, TimeGrid(8, 2, 0.2))
    of_finer = samples.log_q - finer.log_prob(samples.positions_nm)
    of_trip = samples.log_q - flow.log_prob(samples.positions_nm)
    assert error.n == 3
    assert error.finer_rms == pytest.approx(math.sqrt(of_finer.square().mean()))
    assert error.finer_max == pytest.approx(of_finer.abs().max())
    assert error.round_trip_rms == pytest.approx(math.sqrt(of_trip.square().mean()))
    assert error.round_trip_max == pytest.approx(of_trip.abs().max())
    assert error.finer_max > error.finer_rms > 2 * error.round_trip_rms > 0
    assert f"{error.finer_rms:.4f} kT rms" in str(error)


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_sample_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}: at least one"):
        flow_of("denoiser").sample_with_log_prob(n, seeded())


def test_one_seed_gives_the_same_samples() -> None:
    flow = flow_of("denoiser")
    first, again, other = (flow.sample_with_log_prob(2, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.positions_nm, again.positions_nm)
    assert torch.equal(first.log_q, again.log_q)
    assert not torch.equal(first.log_q, other.log_q)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("smiles", [METHANOL, CHIRAL])
def test_the_gpu_gives_the_same_log_q(smiles: str) -> None:
    here = ContinuousFlow(random_denoiser(smiles), prior_of(smiles), FINE)
    there = ContinuousFlow(random_denoiser(smiles).to("cuda"), prior_of(smiles).to("cuda"), FINE)
    samples, on_gpu = (flow.sample_with_log_prob(4, seeded()) for flow in (here, there))
    torch.testing.assert_close(on_gpu.positions_nm.cpu(), samples.positions_nm, rtol=0, atol=1e-10)
    torch.testing.assert_close(on_gpu.log_q.cpu(), samples.log_q, rtol=0, atol=1e-8)
    x = samples.positions_nm
    torch.testing.assert_close(there.log_prob(x.cuda()).cpu(), here.log_prob(x), rtol=0, atol=1e-8)
