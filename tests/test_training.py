"""The target is unbiased and of unit variance, and a run that stops goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from miniatures import (
    CHIRAL,
    METHANOL,
    SETTINGS,
    frames_of,
    geometry_of,
    prior_of,
    random_denoiser,
    trained,
)
from scipy.stats import kstest
from structures import structure_from_smiles
from torch import Tensor

from openmm_tbg.training import (
    Progress,
    Trainer,
    TrainingSettings,
    draw_times,
    flow_matching_pairs,
)

SIGMAS = 4.0
P_VALUE = math.erfc(SIGMAS / math.sqrt(2))  # of a deviation by 4 sigma
SHORT = replace(SETTINGS, n_steps=20)


def normal(n: int, seed: int, n_atoms: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_atoms, 3, dtype=torch.float64, generator=generator)


def times_of(n: int) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


# The pairs of flow matching.


def test_positions_lie_on_the_path_from_noise_to_the_frame() -> None:
    field, noise = random_denoiser(), normal(4, 1)
    x_1 = prior_of(METHANOL).sample(4, torch.Generator().manual_seed(2))
    t = torch.tensor([0.0, 0.25, 0.6, 1.0], dtype=torch.float64)
    x_t, _ = flow_matching_pairs(field, x_1, t, noise)
    x_0 = field.root @ noise
    weight = t[:, None, None]
    torch.testing.assert_close(x_t, (1 - weight) * x_0 + weight * x_1, rtol=0, atol=1e-14)


def test_the_target_stands_for_the_velocity_along_the_path() -> None:
    """With the target in place of the residual, the field's velocity is x_1 - x_0."""
    field, t, noise = random_denoiser(), times_of(4), normal(4, 1)
    x_1 = prior_of(METHANOL).sample(4, torch.Generator().manual_seed(2))
    x_t, target = flow_matching_pairs(field, x_1, t, noise)
    norm_square = (t**2 + (1 - t) ** 2)[:, None, None]
    drift = (2 * t[:, None, None] - 1) / norm_square
    velocity = drift * x_t + field.root @ target / norm_square.sqrt()
    torch.testing.assert_close(velocity, x_1 - field.root @ noise, rtol=0, atol=1e-13)


Rule = Callable[..., tuple[Tensor, Tensor]]


def assert_nothing_is_left_to_learn_of_gaussians(rule: Rule) -> None:
    r"""With data like the prior the best residual is 0, and the target's variance is 1.

    Over the three components and the five dimensions of six centred atoms, in an orthonormal basis.
    """
    n, field, prior = 4000, random_denoiser(), prior_of(METHANOL)
    frames, t = prior.sample(n, torch.Generator().manual_seed(2)), times_of(n)
    x_t, target = rule(field, frames, t, normal(n, 1))
    basis = torch.linalg.svd(field.root)[0][:, :5]
    norm = (t**2 + (1 - t) ** 2).sqrt()[:, None, None]
    f = (basis.T @ target).flatten(1)
    z = (basis.T @ (field.inverse_root @ x_t) / norm).flatten(1)
    assert (f.mean(dim=0) * math.sqrt(n)).abs().max() < SIGMAS
    assert (f.T @ z / n * math.sqrt(n)).abs().max() < SIGMAS
    late = t > 0.5
    assert (f[late].T @ z[late]).abs().max() < SIGMAS * late.sum().sqrt()
    one = torch.eye(15, dtype=torch.float64)
    deviation = (f.T @ f / n - one) / ((1 + one) / n).sqrt()
    assert deviation.abs().max() < SIGMAS


def test_nothing_is_left_to_learn_of_gaussians() -> None:
    assert_nothing_is_left_to_learn_of_gaussians(flow_matching_pairs)


def without_norm(field: object, frames: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    x_t, target = flow_matching_pairs(field, frames, t, noise)
    return x_t, target / (t**2 + (1 - t) ** 2).sqrt()[:, None, None]


def of_the_bare_velocity(
    field: object, frames: Tensor, t: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    x_t, _ = flow_matching_pairs(field, frames, t, noise)
    norm = (t**2 + (1 - t) ** 2).sqrt()[:, None, None]
    centred = noise - noise.mean(dim=1, keepdim=True)
    return x_t, norm * (field.inverse_root @ frames - centred)


@pytest.mark.parametrize("wrong", [without_norm, of_the_bare_velocity])
def test_a_wrong_target_would_be_noticed(wrong: Rule) -> None:
    with pytest.raises(AssertionError):
        assert_nothing_is_left_to_learn_of_gaussians(wrong)


def assert_laws_of_times(draw: Callable[[int, float, torch.Generator], Tensor]) -> None:
    t = draw(4000, 0.01, torch.Generator().manual_seed(1)).double().numpy()
    exponent = torch.from_numpy(1 - t[2000:]).log().numpy() / math.log(0.01)
    assert ((t >= 0) & (t <= 1)).all()
    assert kstest(t[:2000], "uniform").pvalue > P_VALUE
    assert kstest(exponent, "uniform").pvalue > P_VALUE


def test_half_of_the_times_are_uniform_half_log_uniform_in_what_is_left() -> None:
    assert_laws_of_times(draw_times)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, shortest, generator: 1 - draw_times(n, shortest, generator),
        lambda n, shortest, generator: draw_times(n, 1.15 * shortest, generator),
        lambda n, shortest, generator: torch.rand(n, generator=generator),
    ],
    ids=["dense at the wrong end", "another shortest noise", "all uniform"],
)
def test_other_laws_of_times_would_be_noticed(
    wrong: Callable[[int, float, torch.Generator], Tensor],
) -> None:
    with pytest.raises(AssertionError):
        assert_laws_of_times(wrong)


# Runs.


def ignore(progress: Progress) -> None:
    pass


def be_killed(progress: Progress) -> None:
    raise KeyboardInterrupt


def trainer(checkpoint: Path, settings: TrainingSettings = SHORT) -> Trainer:
    frames = torch.from_numpy(frames_of(structure_from_smiles(CHIRAL), 40)).float()
    return Trainer(geometry_of(CHIRAL), settings, frames[10:], frames[:10], checkpoint)


def test_training_lowers_the_loss() -> None:
    """Validation sees the same noise before and after."""
    at_late_times = [
        (before, after)
        for before, after in zip(trained().before, trained().after, strict=True)
        if after < 0.95 * before
    ]
    assert len(at_late_times) >= 3
    assert sum(trained().after) < 0.9 * sum(trained().before)


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first = trainer(tmp_path / "whole.pt"), trainer(tmp_path / "parts.pt")
    whole.run(ignore, every=10)
    with pytest.raises(KeyboardInterrupt):
        first.run(be_killed, every=10)
    torch.rand(7)  # something else used the global stream meanwhile
    second = trainer(tmp_path / "parts.pt")
    assert second.step == first.step == 10
    second.run(ignore, every=10)
    assert second.step == 20
    assert second.loss == whole.loss
    for state, expected in [
        (second.field.state_dict(), whole.field.state_dict()),
        (second.averaged_field.state_dict(), whole.averaged_field.state_dict()),
    ]:
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert second.validation_losses() == whole.validation_losses()


def test_a_finished_run_does_nothing_and_may_be_prolonged(tmp_path: Path) -> None:
    trainer(tmp_path / "run.pt").run(ignore)
    reports: list[Progress] = []
    trainer(tmp_path / "run.pt").run(reports.append)
    assert not reports
    trainer(tmp_path / "run.pt", replace(SHORT, n_steps=24)).run(reports.append, every=2)
    assert [report.step for report in reports] == [22, 24]
    assert "step 24" in str(reports[-1])


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    runs = [
        trainer(tmp_path / f"{k}.pt", replace(SHORT, n_steps=2, seed=seed))
        for k, seed in enumerate((0, 0, 1))
    ]
    for run in runs:
        run.run(ignore)
    assert runs[0].loss == runs[1].loss != runs[2].loss


def test_without_decay_the_average_is_the_last_network(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run.pt", replace(SHORT, n_steps=3, ema_decay=0.0))
    run.run(ignore)
    average, last = run.averaged_field.state_dict(), run.field.state_dict()
    assert all(torch.equal(average[name], last[name]) for name in last)


def test_the_averaged_network_is_the_decayed_sum_of_its_steps(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run.pt", replace(SHORT, n_steps=4, ema_decay=0.7))
    name, steps = "gate.weight", []
    run.run(lambda progress: steps.append(run.field.state_dict()[name].double().clone()), every=1)
    expected = steps[0]
    for step in steps[1:]:
        expected = 0.7 * expected + 0.3 * step
    found = run.averaged_field.state_dict()[name].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "value"), [("hidden", 4), ("learning_rate", 0.5), ("seed", 9)])
def test_other_settings_than_the_checkpoints_are_refused(
    name: str, value: float, tmp_path: Path
) -> None:
    trainer(tmp_path / "run.pt", replace(SHORT, n_steps=1)).run(ignore)
    with pytest.raises(ValueError, match=rf"run\.pt was made with other settings \({name}\)"):
        trainer(tmp_path / "run.pt", replace(SHORT, **{name: value}))


@pytest.mark.parametrize("empty", ["frames", "validation"])
def test_no_frames_are_refused(empty: str, tmp_path: Path) -> None:
    some, none = torch.zeros(2, 5, 3), torch.zeros(0, 5, 3)
    frames, validation = (none, some) if empty == "frames" else (some, none)
    with pytest.raises(ValueError, match="frames and validation must both hold configurations"):
        Trainer(geometry_of(CHIRAL), SHORT, frames, validation, tmp_path / "run.pt")


def test_the_rate_rises_linearly_and_falls_to_zero_as_a_cosine() -> None:
    settings = TrainingSettings(n_steps=1000, warmup_steps=10, learning_rate=0.5)
    rise = [settings.rate_at(step) for step in range(3)]
    assert rise == pytest.approx([0.05, 0.1, 0.15], rel=1e-4)
    assert settings.rate_at(500) == pytest.approx(0.25)
    assert settings.rate_at(250) == pytest.approx(0.5 * math.cos(math.pi / 8) ** 2)
    assert settings.rate_at(1000) == settings.rate_at(2000) == 0
