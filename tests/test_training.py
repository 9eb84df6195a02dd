"""The target is unbiased and of unit variance, and a run that stops goes on bit for bit."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
    random_egnn,
    task_of,
    trained,
)
from scipy.stats import kstest
from structures import structure_from_smiles
from torch import Tensor

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.denoiser import Denoiser
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.training import (
    MoleculeFrames,
    Progress,
    ResidualMatching,
    StiffTerms,
    Task,
    Trainer,
    TrainingSettings,
    VelocityMatching,
    held_out_likelihood,
    single,
    trained_model,
)
from openmm_tbg.training.data import draw_times
from openmm_tbg.training.trainer import VALIDATION_TIMES
from openmm_tbg.training.weighting import TimeWeights

SIGMAS = 4.0
P_VALUE = math.erfc(SIGMAS / math.sqrt(2))  # of a deviation by 4 sigma
SHORT = replace(SETTINGS, n_steps=20)
STIFF = StiffTerms.from_lists([[0, 1], [1, 2]], [1e4, 1e4], [[0, 1, 2]], [50.0])
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}


def flow_matching_pairs(
    field: Denoiser, frames: Tensor, t: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    return ResidualMatching(field).pairs(frames, t, noise - noise.mean(dim=1, keepdim=True))


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
    exponent = torch.from_numpy(1 - t[1000:]).log().numpy() / math.log(0.01)
    assert ((t >= 0) & (t <= 1)).all()
    assert kstest(t[:1000], "uniform").pvalue > P_VALUE
    assert kstest(exponent, "uniform").pvalue > P_VALUE


def test_a_quarter_of_the_times_is_uniform_the_rest_log_uniform_in_what_is_left() -> None:
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
    return Trainer([task_of(CHIRAL, 30, 10, geometry_of(CHIRAL))], settings, checkpoint)


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
        (second.fields.state_dict(), whole.fields.state_dict()),
        (second.averaged_field().state_dict(), whole.averaged_field().state_dict()),
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


def test_a_report_tells_the_time_left() -> None:
    report = Progress(step=30, n_steps=120, minutes=2.0, loss=0.5, validation=(0.25,))
    assert report.minutes_left == pytest.approx(6.0)
    assert str(report) == "step 30 of 120  2.0 min, 6.0 left  loss 0.5000  validation 0.2500"
    assert math.isnan(replace(report, step=0).minutes_left)


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
    average, last = run.averaged_field().state_dict(), run.fields[0].state_dict()
    assert all(torch.equal(average[name], last[name]) for name in last)


def test_the_averaged_network_is_the_decayed_sum_of_its_steps(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run.pt", replace(SHORT, n_steps=4, ema_decay=0.7))
    name, steps = "gate.weight", []
    run.run(
        lambda progress: steps.append(run.fields[0].state_dict()[name].double().clone()), every=1
    )
    expected = steps[0]
    for step in steps[1:]:
        expected = 0.7 * expected + 0.3 * step
    found = run.averaged_field().state_dict()[name].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 4), ("learning_rate", 0.5), ("seed", 9), ("weight_power", 0.5)],
)
def test_other_settings_than_the_checkpoints_are_refused(
    name: str, value: float, tmp_path: Path
) -> None:
    trainer(tmp_path / "run.pt", replace(SHORT, n_steps=1)).run(ignore)
    with pytest.raises(ValueError, match=rf"run\.pt was made with other settings \({name}\)"):
        trainer(tmp_path / "run.pt", replace(SHORT, **{name: value}))


def test_the_rate_rises_linearly_and_falls_to_zero_as_a_cosine() -> None:
    settings = TrainingSettings(n_steps=1000, warmup_steps=10, learning_rate=0.5)
    rise = [settings.rate_at(step) for step in range(3)]
    assert rise == pytest.approx([0.05, 0.1, 0.15], rel=1e-4)
    assert settings.rate_at(500) == pytest.approx(0.25)
    assert settings.rate_at(250) == pytest.approx(0.5 * math.cos(math.pi / 8) ** 2)
    assert settings.rate_at(1000) == settings.rate_at(2000) == 0


def test_two_processes_train_like_one_with_the_whole_batch(tmp_path: Path) -> None:
    def run(n_processes: int) -> list[dict[str, dict[str, Tensor]]]:
        folder = tmp_path / str(n_processes)
        folder.mkdir()
        script = Path(__file__).with_name("train_with_accelerate.py")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*launch, f"--nproc-per-node={n_processes}", str(script), str(folder), "6"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | ONE_THREAD)
        return [torch.load(path) for path in sorted(folder.glob("rank*.pt"))]

    (alone,), (first, second) = run(1), run(2)
    assert (alone["n"], first["n"]) == (1, 2)
    for name, expected in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], expected, rtol=1e-4, atol=2e-6)
        assert torch.equal(second["weights"][name], first["weights"][name])


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    three = SimpleNamespace(process_index=0, num_processes=3)
    with pytest.raises(ValueError, match="batch_size is 16: take a multiple of the 3 processes"):
        Trainer([task_of(CHIRAL, 5, 5)], SHORT, tmp_path / "run.pt", accelerator=three)


def test_the_likelihood_is_that_of_frames_held_back_by_their_weights(tmp_path: Path) -> None:
    """With nearly all weight on one frame, every draw is this one."""
    model = trained(sees_hand=True).model
    frames = torch.from_numpy(frames_of(structure_from_smiles(CHIRAL), 60, width_nm=0.005)).float()
    log_weights = torch.zeros(60, dtype=torch.float64)
    log_weights[2] = 50.0
    task = single.task_of(model, MoleculeFrames(frames, log_weights=log_weights), None)
    trainer = Trainer([task], replace(SETTINGS, n_steps=3), tmp_path / "run.pt")
    trainer.run(lambda progress: None)
    found = held_out_likelihood(model, trainer, 5)
    path = tmp_path / "trained.safetensors"
    trained_model(model, trainer).save(path)
    generator = BoltzmannGenerator(TrainedModel.load(path), "trained", "0")
    log_q = generator.evaluate(frames[2:3].double().numpy()).log_q[0]
    assert found.nll_nm == pytest.approx(-log_q, rel=1e-6)  # float32
    assert (found.error, found.n, found.n_failed) == (pytest.approx(0.0, abs=1e-5), 5, 0)
    with pytest.raises(ValueError, match="n is 1: an error takes at least two frames"):
        held_out_likelihood(model, trainer, 1)


def test_sigterm_leaves_a_checkpoint_that_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first = trainer(tmp_path / "whole.pt"), trainer(tmp_path / "parts.pt")
    whole.run(ignore, every=20)
    advance = first._advance

    def advance_and_be_told() -> None:
        advance()
        if first.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    first._advance = advance_and_be_told
    with pytest.raises(SystemExit, match=r"stopped at step 7, .*parts\.pt holds it; run again"):
        first.run(ignore, every=20)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    second = trainer(tmp_path / "parts.pt")
    assert second.step == 7
    second.run(ignore, every=20)
    for name, expected in whole.fields.state_dict().items():
        assert torch.equal(second.fields.state_dict()[name], expected)


def test_the_schedule_is_fitted_to_the_minutes(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run.pt", replace(SHORT, n_steps=10**6))
    reports: list[Progress] = []
    run.run(reports.append, every=25, minutes=0.05)
    assert run.step == run.settings.n_steps == reports[-1].step
    assert 0.025 < run.minutes < 0.1
    assert run.settings.rate_at(run.step) == 0
    again = trainer(tmp_path / "run.pt", replace(SHORT, n_steps=10**6))
    again.run(reports.append, every=25, minutes=0.05)
    assert again.step < run.step + 25  # the time is spent: no steps at a high rate


def test_molecules_share_what_they_learn(tmp_path: Path) -> None:
    """Two orders of the atoms of CHFClBr are two molecules of as many labels."""
    first = task_of(CHIRAL, 30, 10)
    geometry = geometry_of("Cl[C@H](F)Br")
    frames = torch.from_numpy(frames_of(structure_from_smiles("Cl[C@H](F)Br"), 40)).float()
    field = first.objective.field.for_molecule(geometry)
    columns = MoleculeFrames(frames)
    second = Task(ResidualMatching(field), columns[10:], columns[:10])
    run = Trainer([first, second], replace(SHORT, n_steps=200), tmp_path / "run.pt")
    assert len(run.parameters) == len(list(first.objective.field.parameters()))
    at = VALIDATION_TIMES.index(0.95)
    before = [run._validation_losses(k)[at] for k in (0, 1)]
    run.run(ignore, every=200)
    assert all(run._validation_losses(k)[at] < 0.95 * before[k] for k in (0, 1))
    averaged = [run.averaged_field(k) for k in (0, 1)]
    assert torch.equal(averaged[0].gate.weight, averaged[1].gate.weight)
    assert not torch.equal(averaged[0].root, averaged[1].root)
    again = Trainer([first, second], replace(SHORT, n_steps=200), tmp_path / "run.pt")
    assert again.validation_losses() == run.validation_losses()


def test_forces_lower_the_noise_of_the_loss(tmp_path: Path) -> None:
    """Frames of isotropic wells, with the forces of the wells and terms of another curvature."""
    plain = task_of(CHIRAL, 30, 10)
    rest = torch.from_numpy(structure_from_smiles(CHIRAL).positions_nm).float()
    rest = rest - rest.mean(dim=0)

    def with_forces(frames: MoleculeFrames) -> MoleculeFrames:
        return MoleculeFrames(frames.positions_nm, (rest - frames.positions_nm) / 0.01**2)

    forced = Task(
        ResidualMatching(plain.objective.field, STIFF),
        with_forces(plain.frames),
        with_forces(plain.validation),
    )
    losses = [
        Trainer([task], SHORT, tmp_path / "none.pt")._validation_losses(0)[-1]
        for task in (plain, forced)
    ]
    assert losses[1] < 0.8 * losses[0]


def test_a_run_draws_by_the_power_of_its_settings(tmp_path: Path) -> None:
    task = task_of(CHIRAL, 4, 2)
    log_weights = torch.tensor([0.0, 1.0, -2.0, 5.0], dtype=torch.float64)
    weighted = replace(task, frames=replace(task.frames, log_weights=log_weights))
    run = Trainer([weighted], replace(SHORT, weight_power=0.5), tmp_path / "run.pt")
    torch.testing.assert_close(run.tasks[0].frames.log_weights, log_weights / 2)


def test_frames_are_drawn_with_their_weights() -> None:
    positions = torch.zeros(3, 2, 3)
    log_weights = torch.tensor([0.0, math.log(3.0), -math.inf], dtype=torch.float64) + 700
    with pytest.raises(ValueError, match="log_weights holds numbers that are not finite"):
        MoleculeFrames(positions, log_weights=log_weights)
    frames = MoleculeFrames(positions[:2], log_weights=log_weights[:2])
    n = 20_000
    share = frames.draw(n, torch.Generator().manual_seed(0)).double().mean()
    assert abs(share - 0.75) < SIGMAS * math.sqrt(0.75 * 0.25 / n)
    root = frames.tempered(0.5).draw(n, torch.Generator().manual_seed(0)).double().mean()
    expected = math.sqrt(3) / (1 + math.sqrt(3))
    assert abs(root - expected) < SIGMAS * math.sqrt(expected * (1 - expected) / n)
    equal = MoleculeFrames(positions[:2]).draw(n, torch.Generator().manual_seed(0)).double().mean()
    assert abs(equal - 0.5) < SIGMAS * math.sqrt(0.25 / n)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((torch.zeros(0, 2, 3),), "positions_nm holds no frames"),
        ((torch.full((2, 2, 3), math.nan),), "positions_nm holds numbers that are not finite"),
        ((torch.zeros(2, 2, 3), torch.zeros(1, 2, 3)), "forces_per_nm has 1 rows for 2 frames"),
    ],
)
def test_frames_that_cannot_be_are_refused(columns: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoleculeFrames(*columns)


def test_another_network_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "run.pt", replace(SHORT, n_steps=1)).run(ignore)
    geometry = geometry_of(CHIRAL)
    task = task_of(CHIRAL, 5, 5)
    wider = Task(
        ResidualMatching(DenoiserArchitecture(12, 2).field(geometry)), task.frames, task.validation
    )
    with pytest.raises(ValueError, match=r"run\.pt holds another network"):
        Trainer([wider], SHORT, tmp_path / "run.pt")


def of_run(frames: MoleculeFrames, validation: MoleculeFrames | None = None) -> Task:
    field = random_denoiser(CHIRAL).requires_grad_(True)
    return Task(ResidualMatching(field, STIFF), frames, validation or frames[:3])


def forced(scale: float = 1.0, shift: float = 0.0) -> MoleculeFrames:
    """Ten frames with forces and weights, in a size and with a constant of one's own."""
    frames = torch.from_numpy(frames_of(structure_from_smiles(CHIRAL), 10))
    forces, log_weights = frames.roll(1, 0), torch.arange(10, dtype=torch.float64)
    return MoleculeFrames(frames, scale * forces, scale * log_weights + shift)


def reversed_rows(frames: MoleculeFrames) -> MoleculeFrames:
    return frames[torch.arange(len(frames)).flip(0)]


PLAIN = MoleculeFrames(forced().positions_nm)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([of_run(PLAIN[:9], PLAIN[:3])], r"positions_nm for training\)"),
        ([of_run(reversed_rows(PLAIN), PLAIN[:3])], r"\(positions_nm for training\)"),
        ([of_run(PLAIN, PLAIN[1:4])], r"\(positions_nm for validation\)"),
        ([of_run(forced(), PLAIN[:3])], r"\(log_weights for training\)"),
        ([of_run(PLAIN), of_run(PLAIN)], r"another number of molecules \(1, not 2\)"),
    ],
    ids=["fewer", "another order", "other validation", "weights", "one more molecule"],
)
def test_other_frames_than_the_checkpoints_are_refused(
    tasks: list[Task], said: str, tmp_path: Path
) -> None:
    Trainer([of_run(PLAIN)], replace(SHORT, n_steps=1), tmp_path / "run.pt").run(ignore)
    with pytest.raises(ValueError, match=rf"run\.pt was made with .*{said}"):
        Trainer(tasks, SHORT, tmp_path / "run.pt")


def test_the_molecule_with_other_frames_is_named(tmp_path: Path) -> None:
    settings = replace(SHORT, n_steps=1)
    Trainer([of_run(PLAIN), of_run(PLAIN)], settings, tmp_path / "run.pt").run(ignore)
    changed = [of_run(PLAIN), of_run(PLAIN, PLAIN[1:4])]
    with pytest.raises(ValueError, match=r"\(positions_nm for validation of molecule 2 of 2\)"):
        Trainer(changed, SHORT, tmp_path / "run.pt")


def test_forces_and_weights_may_differ_in_the_last_digits_only(tmp_path: Path) -> None:
    Trainer([of_run(forced())], replace(SHORT, n_steps=1), tmp_path / "run.pt").run(ignore)
    assert Trainer([of_run(forced(1 + 1e-6, 300.0))], SHORT, tmp_path / "run.pt").step == 1
    with pytest.raises(ValueError, match="forces_per_nm for training, log_weights for training"):
        Trainer([of_run(forced(1.01))], SHORT, tmp_path / "run.pt")


@pytest.mark.parametrize("first_with", [True, False])
def test_a_run_may_go_on_without_forces_or_with_them(first_with: bool, tmp_path: Path) -> None:
    """They lower the noise of the targets, which otherwise stay what they are."""
    with_them = forced()
    without = replace(with_them, forces_per_nm=None)
    first, second = (with_them, without) if first_with else (without, with_them)
    Trainer([of_run(first)], replace(SHORT, n_steps=1), tmp_path / "run.pt").run(ignore)
    again = Trainer([of_run(second)], replace(SHORT, n_steps=2), tmp_path / "run.pt")
    assert again.step == 1
    again.run(ignore)
    moved = replace(second, positions_nm=second.positions_nm + 1e-3)
    with pytest.raises(ValueError, match=r"other frames \(positions_nm for training, positions_nm"):
        Trainer([of_run(moved)], SHORT, tmp_path / "run.pt")


def test_damage_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """torch reads a flipped byte of the weights without a word."""
    file = tmp_path / "run.pt"
    trainer(file, replace(SHORT, n_steps=1)).run(ignore)
    whole = file.read_bytes()
    expected = trainer(file).fields.state_dict()
    n_missed = 0
    for place in range(40, len(whole), len(whole) // 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        found = expected  # between the records nothing is read
        with contextlib.suppress(RuntimeError):
            found = trainer(file).fields.state_dict()
            n_missed += 1
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert n_missed < 30
    for content in (whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        with pytest.raises(RuntimeError, match=r"run\.pt is damaged: put a copy"):
            trainer(file)


def test_a_full_and_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=300k", small_disk], check=True)
    file, filler = small_disk / "run.pt", small_disk / "filler"
    with pytest.raises(KeyboardInterrupt):
        trainer(file).run(be_killed, every=5)
    filler.write_bytes(bytes(100_000))
    for change, why in ((None, "No space left on device"), ("remount,ro", "Read-only file system")):
        if change:
            subprocess.run(["mount", "-o", change, small_disk], check=True)
        said = rf"run\.pt cannot be written \({why}\).*the one before it is sound"
        with pytest.raises(OSError, match=said):
            trainer(file).run(ignore, every=5)
        assert trainer(file).step == 5
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    filler.unlink()
    second = trainer(file)
    second.run(ignore)
    whole = trainer(small_disk.parent / "whole.pt")
    whole.run(ignore)
    for name, expected in whole.fields.state_dict().items():
        assert torch.equal(second.fields.state_dict()[name], expected)


def test_a_checkpoint_that_says_nothing_of_its_frames_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "run.pt", replace(SHORT, n_steps=1)).run(ignore)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "frames"}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt does not say with which frames it was made"):
        trainer(tmp_path / "run.pt")


def test_the_published_objective_is_the_velocity(tmp_path: Path) -> None:
    field = random_egnn().float()
    objective, t = VelocityMatching(field), times_of(4).float()
    noise, x_1 = normal(4, 1).float(), 0.1 * normal(4, 2).float()
    x_t, target = objective.pairs(x_1, t, noise)
    later, _ = objective.pairs(x_1, t + 1e-3, noise)
    torch.testing.assert_close((later - x_t) / 1e-3 * 10, target, rtol=0, atol=2e-3)
    said = objective.predict(t[:1], x_t[:1])
    torch.testing.assert_close(said, 10 * field.velocity(t[0], x_t[:1]))


def test_weights_follow_the_inverse_root_of_the_errors() -> None:
    weights = TimeWeights(torch.zeros(()))
    times = torch.tensor([0.1, 0.9, 0.9])
    assert weights(times).tolist() == [1, 1, 1]
    for _ in range(1000):
        weights.update(weights.sums(times, torch.tensor([0.25, 0.03, 0.05])))
    expected = torch.tensor([0.25, 0.04, 0.04]).rsqrt()
    torch.testing.assert_close(weights(times), expected)
    assert weights(torch.tensor([0.5])).item() == 1
