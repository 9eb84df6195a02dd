"""The denoiser's divergence by hand is the trace of its Jacobian; its symmetries are exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from miniatures import (
    CHIRAL,
    DIFFERENT_ATOMS,
    EQUAL_ATOMS,
    METHANOL,
    blind_geometry_of,
    geometry_of,
    prior_of,
    random_denoiser,
)
from torch import Tensor

from openmm_tbg.fields import block
from openmm_tbg.fields.denoiser import Denoiser
from openmm_tbg.fields.distances import DistanceFeatures
from openmm_tbg.fields.handedness import Handedness, Volumes
from openmm_tbg.fields.protocol import VectorField

EXACT = 1e-12
TIMES = (0.0, 0.3, 0.9, 1.0)
each_time = pytest.mark.parametrize("time", TIMES)


def positions(smiles: str = METHANOL, n: int = 3) -> Tensor:
    return prior_of(smiles).sample(n, torch.Generator().manual_seed(1))


def at(time: float) -> Tensor:
    return torch.tensor(time, dtype=torch.float64)


def orthogonal(determinant: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    return q if torch.det(q).sign() == determinant else -q


def trace_by_autograd(field: Denoiser, t: Tensor, x: Tensor) -> Tensor:
    def of_row(row: Tensor) -> Tensor:
        jacobian = torch.func.jacfwd(lambda y: field.velocity(t, y[None])[0])(row)
        return jacobian.reshape(row.numel(), row.numel()).trace()

    return torch.stack([of_row(row) for row in x])


def assert_divergence_is_the_trace(field: Denoiser, time: float, x: Tensor) -> None:
    v, divergence = field.velocity_and_divergence(at(time), x)
    torch.testing.assert_close(v, field.velocity(at(time), x), rtol=0, atol=EXACT)
    expected = trace_by_autograd(field, at(time), x)
    torch.testing.assert_close(divergence, expected, rtol=1e-9, atol=1e-9)


@each_time
@pytest.mark.parametrize("smiles", [METHANOL, CHIRAL])
def test_divergence_is_the_trace_of_the_jacobian(smiles: str, time: float) -> None:
    assert_divergence_is_the_trace(random_denoiser(smiles), time, positions(smiles))


@pytest.mark.parametrize("layers", [1, 3])
def test_divergence_is_the_trace_for_any_number_of_blocks(layers: int) -> None:
    assert_divergence_is_the_trace(random_denoiser(layers=layers), 0.7, positions())


def test_divergence_at_one_time_for_all_or_one_for_each() -> None:
    field, x = random_denoiser(CHIRAL), positions(CHIRAL)
    times = torch.linspace(0.1, 0.9, len(x), dtype=torch.float64)
    together = field.velocity_and_divergence(times, x)
    for row, time in enumerate(times):
        alone = field.velocity_and_divergence(time, x[row : row + 1])
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-11, atol=1e-11)


def test_divergence_off_the_centre_is_the_same() -> None:
    field, x = random_denoiser(), positions()
    centred = field.velocity_and_divergence(at(0.6), x)[1]
    moved = field.velocity_and_divergence(at(0.6), x + torch.tensor([0.1, -0.2, 0.05]).double())[1]
    torch.testing.assert_close(moved, centred, rtol=0, atol=1e-10)


Fault = Callable[[pytest.MonkeyPatch], None]


def steeper_features(monkeypatch: pytest.MonkeyPatch) -> None:
    slope = DistanceFeatures.slope
    monkeypatch.setattr(DistanceFeatures, "slope", lambda *args: 1.001 * slope(*args))


def slope_of_a_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "silu_slope", torch.sigmoid)


def no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Denoiser.velocity_and_divergence

    def without_drift(field: Denoiser, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        v, divergence = whole(field, t, x)
        return v, divergence - 3 * (x.shape[1] - 1) * (2 * t - 1) / (t**2 + (1 - t) ** 2)

    monkeypatch.setattr(Denoiser, "velocity_and_divergence", without_drift)


def drift_of_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Denoiser.velocity_and_divergence

    def with_three_more(field: Denoiser, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        v, divergence = whole(field, t, x)
        return v, divergence + 3 * (2 * t - 1) / (t**2 + (1 - t) ** 2)

    monkeypatch.setattr(Denoiser, "velocity_and_divergence", with_three_more)


@pytest.mark.parametrize(
    "plant", [steeper_features, slope_of_a_sigmoid, no_drift, drift_of_the_centre]
)
def test_a_wrong_derivative_would_be_noticed(plant: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="not close"):
        assert_divergence_is_the_trace(random_denoiser(), 0.9, positions())


@each_time
def test_slopes_of_features_are_their_derivatives(time: float) -> None:
    features = DistanceFeatures(geometry_of(METHANOL))
    scales = features.scales(torch.tensor([time, 0.5 * time], dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    distance = 0.05 + 0.3 * torch.rand(2, 6, 6, dtype=torch.float64, generator=generator)

    def of_distances(d: Tensor) -> Tensor:
        return features(d, scales)

    _, derivative = torch.func.jvp(of_distances, (distance,), (torch.ones_like(distance),))
    found = features.slope(distance, scales)
    assert found.shape[-1] == DistanceFeatures.n_features
    torch.testing.assert_close(found, derivative, rtol=0, atol=1e-10 * float(derivative.max()))


def without_network(smiles: str = METHANOL) -> Denoiser:
    """A denoiser that pushes nothing: only the best linear field is left."""
    field = random_denoiser(smiles)
    for part in [field.gate, *(one.pair for one in field.blocks)]:
        part.weight.zero_()
        part.bias.zero_()
    return field


@each_time
def test_without_its_network_it_is_the_best_linear_field(time: float) -> None:
    x, (v, divergence) = (
        positions(),
        without_network().velocity_and_divergence(at(time), positions()),
    )
    rate = (2 * time - 1) / (time**2 + (1 - time) ** 2)
    torch.testing.assert_close(v, rate * x, rtol=0, atol=EXACT)
    expected = torch.full((3,), 3 * 5 * rate, dtype=torch.float64)
    torch.testing.assert_close(divergence, expected, rtol=0, atol=EXACT)


@each_time
def test_velocity_is_the_residual_in_positions(time: float) -> None:
    field, x = random_denoiser(), positions()
    residual = field.residual(at(time)[None], x)
    norm_square = time**2 + (1 - time) ** 2
    expected = (2 * time - 1) / norm_square * x + field.root @ residual / norm_square**0.5
    assert (field.root @ residual).abs().mean() > 1e-3
    torch.testing.assert_close(field.velocity(at(time), x), expected, rtol=0, atol=EXACT)


@each_time
@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_turns_with_the_molecule(determinant: int, time: float) -> None:
    field, x, turn = random_denoiser(), positions(), orthogonal(determinant)
    v, divergence = field.velocity_and_divergence(at(time), x)
    turned, of_turned = field.velocity_and_divergence(at(time), x @ turn)
    torch.testing.assert_close(turned, v @ turn, rtol=0, atol=1e-11)
    torch.testing.assert_close(of_turned, divergence, rtol=0, atol=1e-9)


def test_a_field_with_a_stereocentre_turns_but_tells_mirror_images_apart() -> None:
    field, x, t = random_denoiser(CHIRAL), positions(CHIRAL), at(0.6)
    v, divergence = field.velocity_and_divergence(t, x)
    turn, mirror = orthogonal(1), orthogonal(-1)
    turned, of_turned = field.velocity_and_divergence(t, x @ turn)
    torch.testing.assert_close(turned, v @ turn, rtol=0, atol=1e-11)
    torch.testing.assert_close(of_turned, divergence, rtol=0, atol=1e-9)
    mirrored, of_mirrored = field.velocity_and_divergence(t, x @ mirror)
    assert (mirrored - v @ mirror).abs().max() > 1e-3
    assert (of_mirrored - divergence).abs().max() > 1e-3


def test_without_stereocentres_mirror_images_are_alike() -> None:
    """Fresh weights take no notice of the hand either."""
    torch.manual_seed(0)
    fresh = Denoiser(geometry_of(CHIRAL), 8, 2, torch.float64)
    blind = Denoiser(blind_geometry_of(CHIRAL), 8, 2, torch.float64)
    blind.load_state_dict(random_denoiser(CHIRAL).state_dict())
    for field in (fresh, blind):
        x, t = positions(CHIRAL), at(0.6)
        torch.testing.assert_close(field.velocity(t, -x), -field.velocity(t, x), rtol=0, atol=1e-12)


def volume_of_half_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Handedness.tangents

    def wrong(self: Handedness, saved: Volumes, *others: Tensor) -> tuple[Tensor, Tensor]:
        return right(self, saved._replace(features=saved.features * 0), *others)

    monkeypatch.setattr(Handedness, "tangents", wrong)


def strength_without_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Handedness.tangents

    def wrong(self: Handedness, saved: Volumes, *others: Tensor) -> tuple[Tensor, Tensor]:
        return right(self, saved._replace(strength=saved.strength * 0.9), *others)

    monkeypatch.setattr(Handedness, "tangents", wrong)


@pytest.mark.parametrize("plant", [volume_of_half_slope, strength_without_turn])
def test_a_fault_in_the_handedness_would_be_noticed(
    plant: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        assert_divergence_is_the_trace(random_denoiser(CHIRAL), 0.7, positions(CHIRAL))


def test_permutes_equal_atoms_and_only_those() -> None:
    field, x, t = random_denoiser(), positions(), at(0.6)
    v = field.velocity(t, x)
    permuted = field.velocity(t, x[:, EQUAL_ATOMS])
    torch.testing.assert_close(permuted, v[:, EQUAL_ATOMS], rtol=0, atol=1e-11)
    swapped = field.velocity(t, x[:, DIFFERENT_ATOMS])
    assert (swapped - v[:, DIFFERENT_ATOMS]).abs().max() > 1e-3


@each_time
def test_does_not_feel_a_translation_and_keeps_the_centre(time: float) -> None:
    field, x = random_denoiser(), positions()
    v = field.velocity(at(time), x)
    moved = field.velocity(at(time), x + torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64))
    torch.testing.assert_close(moved, v, rtol=0, atol=1e-11)
    assert v.mean(dim=1).abs().max() < EXACT


def test_one_time_for_all_or_one_for_each() -> None:
    field, x = random_denoiser(), positions(n=len(TIMES))
    times = torch.tensor(TIMES, dtype=torch.float64)
    each = [field.residual(t[None], row[None]) for t, row in zip(times, x, strict=True)]
    torch.testing.assert_close(field.residual(times, x), torch.cat(each), rtol=0, atol=EXACT)
    same = field.residual(at(0.3).expand(len(x)), x)
    torch.testing.assert_close(field.residual(at(0.3)[None], x), same, rtol=0, atol=EXACT)


def test_a_row_does_not_feel_its_batch() -> None:
    field, x = random_denoiser(), positions()
    together = field.velocity_and_divergence(at(0.8), x)
    for k, row in enumerate(x):
        v, divergence = field.velocity_and_divergence(at(0.8), row[None])
        torch.testing.assert_close(v[0], together[0][k], rtol=0, atol=EXACT)
        torch.testing.assert_close(divergence[0], together[1][k], rtol=0, atol=1e-10)


@each_time
def test_single_precision_is_close_and_answers_in_that_of_the_positions(time: float) -> None:
    """Positions 0.1 nm long are rounded by 1e-8 nm, the stiffest of these pairs is 0.03 nm wide."""
    x = positions()
    v, divergence = random_denoiser().velocity_and_divergence(at(time), x)
    rounded_v, rounded = random_denoiser(dtype=torch.float32).velocity_and_divergence(at(time), x)
    assert rounded_v.dtype == rounded.dtype == torch.float64
    assert 0 < (rounded_v - v).abs().max() < 1e-5 * v.abs().max()
    assert 0 < (rounded - divergence).abs().max() < 1e-5 * 3 * 5 / 0.03


def test_coincident_atoms_give_finite_values_and_gradients() -> None:
    field = random_denoiser()
    x = torch.zeros(1, 6, 3, dtype=torch.float64, requires_grad=True)
    v, divergence = field.velocity_and_divergence(at(0.5), x)
    (v.square().sum() + divergence.sum()).backward()
    assert torch.isfinite(divergence).all()
    assert torch.isfinite(x.grad).all()


def test_weights_do_not_hold_the_molecule() -> None:
    buffers = dict(random_denoiser().named_buffers())
    assert buffers
    assert not set(buffers) & set(random_denoiser().state_dict())


def test_is_a_vector_field() -> None:
    assert isinstance(random_denoiser(), VectorField)
