"""The loop: a resumable run over the frames of one or many molecules."""

from __future__ import annotations

import copy
import io
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..files import write_atomically, writing
from .data import MoleculeFrames, centred_noise, draw_times
from .objectives import Objective, Task
from .origin import fingerprints, require_origin, require_sound
from .predictions import compiled_predictions, plain_predictions
from .settings import Progress, TrainingSettings
from .weighting import TimeWeights

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]

VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
VALIDATION_CHUNK = 64


class Trainer:
    """A resumable run: `run` goes on from wherever the checkpoint stands.

    Each step draws one molecule and a batch of its frames. Where the frames come with forces, these
    take most of the noise from the targets (`newton`). Several processes, started by accelerate,
    each take their share of the same batch, so that their number does not change the result.

    Args:
        tasks: the molecules; one field, or fields that share their parameters. Other frames than
            the checkpoint was made with are refused; forces may be left out from now on, or come.
        settings: refused if the checkpoint was made with others, except for `n_steps`.
        checkpoint: file to resume from and to write to.
        compile_network: compile the network first (a minute or two; 1.5 times as fast on a CPU).
        accelerator: of the processes that train together, if there are several.

    Raises:
        ValueError: if there are no tasks, the batch cannot be shared evenly, or the checkpoint
            belongs to other settings, another network or other frames.
        RuntimeError: if the checkpoint is damaged.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        settings: TrainingSettings,
        checkpoint: Path,
        compile_network: bool = False,
        accelerator: Accelerator | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("tasks is empty: give at least one molecule")
        self._rank = 0 if accelerator is None else accelerator.process_index
        self._n_processes = 1 if accelerator is None else accelerator.num_processes
        if settings.batch_size % self._n_processes:
            raise ValueError(
                f"batch_size is {settings.batch_size}: take a multiple of the "
                f"{self._n_processes} processes"
            )
        self.settings, self.checkpoint, self._accelerator = settings, checkpoint, accelerator
        self.fields = nn.ModuleList(task.objective.field for task in tasks)
        self.parameters = list(self.fields.parameters())
        like = self.parameters[0]
        power = settings.weight_power
        self.tasks = [
            Task(t.objective, t.frames.to(like).tempered(power), t.validation.to(like))
            for t in tasks
        ]
        self._frames = fingerprints(self.tasks)
        # One field only: the others have its parameters, and buffers that no average changes.
        self.average = AveragedModel(
            self.fields[0],
            multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay),  # type: ignore[no-untyped-call]
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator(like.device).manual_seed(settings.seed)
        self.step, self.minutes, self.loss = 0, 0.0, math.nan
        self.weights = TimeWeights(like)
        predictions = compiled_predictions if compile_network else plain_predictions
        self._predict = predictions([task.objective for task in tasks])
        if checkpoint.exists():
            self._load()

    def averaged_field(self, task: int = 0) -> nn.Module:
        """A copy of the field of one task with the averaged weights."""
        field = copy.deepcopy(self.fields[task])
        field.load_state_dict(self.average.module.state_dict())
        return field

    def run(
        self, report: Callable[[Progress], None], every: int = 2000, minutes: float | None = None
    ) -> None:
        """Train to the last step, reporting and writing the checkpoint every `every` steps.

        Args:
            report: called with the progress.
            every: steps between reports and checkpoints.
            minutes: fit the number of steps to this time, counted over all runs of the checkpoint.

        Raises:
            SystemExit: after SIGTERM, with the checkpoint written.
            OSError: if the checkpoint cannot be written; the one before it is sound.
        """
        if minutes is not None and self.step:
            self._fit_to(minutes, self.minutes / self.step)
        with _terminated() as terminated:
            while self.step < self.settings.n_steps:
                until = min(self.settings.n_steps, (self.step // every + 1) * every)
                durations = []
                while self.step < until and not terminated:
                    started = time.perf_counter()
                    self._advance()
                    durations.append((time.perf_counter() - started) / 60)
                self.minutes += sum(durations)
                if minutes is not None and durations:
                    # The median: the first steps of a compiled network take a minute.
                    self._fit_to(minutes, sorted(durations)[len(durations) // 2])
                self._save()
                if terminated:
                    raise SystemExit(
                        f"SIGTERM: stopped at step {self.step}, {self.checkpoint} holds it; "
                        "run again to go on"
                    )
                report(self.progress())

    def progress(self) -> Progress:
        """How the run stands, with the validation losses of the averaged weights."""
        return Progress(
            self.step, self.settings.n_steps, self.minutes, self.loss, self.validation_losses()
        )

    def validation_losses(self) -> tuple[float, ...]:
        """Mean square error over the tasks at each time, with the same noise at every call."""
        tasks = range(len(self.tasks))
        losses = torch.tensor(
            [self._validation_losses(task) for task in tasks], dtype=torch.float64
        )
        return tuple(losses.mean(dim=0).tolist())

    def _validation_losses(self, index: int) -> list[float]:
        objective = self.tasks[index].objective.with_field(self.averaged_field(index))
        return [self._validation_loss(index, objective, t) for t in VALIDATION_TIMES]

    @torch.no_grad()
    def _validation_loss(self, index: int, objective: Objective, t: float) -> float:
        task = self.tasks[index]
        like = task.validation.positions_nm
        generator = torch.Generator().manual_seed(index)
        noise = centred_noise(len(like), task.validation.n_atoms, generator).to(like)
        times = torch.full((len(like),), t).to(like)
        total = 0.0
        for rows in torch.split(torch.arange(len(like), device=like.device), VALIDATION_CHUNK):
            x, target = objective.pairs(like[rows], times[rows], noise[rows])
            said = objective.predict(times[rows], x)
            target = target + _correction(
                objective, task.validation, rows, times[rows], noise[rows]
            )
            total += float((said - target).square().mean((1, 2)).sum())
        return total / len(like)

    def _advance(self) -> None:
        settings, n = self.settings, self.settings.batch_size
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(self.step)
        generator, like = self.generator, self.parameters[0]
        index = int(
            torch.randint(len(self.tasks), (), generator=generator, device=generator.device)
        )
        task, predict = self.tasks[index], self._predict[index]
        mine = slice(self._rank, None, self._n_processes)
        rows = task.frames.draw(n, generator)[mine]
        times = draw_times(n, settings.shortest_noise, generator)[mine].to(like)
        noise = centred_noise(n, task.frames.n_atoms, generator)[mine].to(like)
        x, target = task.objective.pairs(task.frames.positions_nm[rows], times, noise)
        said = predict(times, x)
        target = target + _correction(task.objective, task.frames, rows, times, noise)
        errors = (said - target).square().mean((1, 2))
        loss = (errors * self.weights(times)).mean()
        self.weights.update(self._reduce(self.weights.sums(times, errors.detach()), "sum"))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = self._reduce(parameter.grad, "mean")
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.fields[0])
        self.step += 1
        value = loss.item()
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        """The sum or mean over the processes."""
        if self._accelerator is None:
            return tensor
        reduced: Tensor = self._accelerator.reduce(tensor, how)
        return reduced

    def _fit_to(self, minutes: float, minutes_a_step: float) -> None:
        left = torch.tensor((minutes - self.minutes) / minutes_a_step).to(self.parameters[0])
        left = self._reduce(left, "mean")  # processes that disagreed would wait for each other
        self.settings = replace(self.settings, n_steps=self.step + max(0, int(left)))

    def _save(self) -> None:
        if self._rank:
            return
        state = {
            "settings": asdict(self.settings),
            "frames": self._frames,
            "field": self.fields[0].state_dict(),
            "average": self.average.module.state_dict(),
            "n_averaged": self.average.n_averaged,
            "time_weights": self.weights.mean_square,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "minutes": self.minutes,
            "loss": self.loss,
        }
        content = io.BytesIO()
        torch.save(state, content)
        with writing(f"checkpoint {self.checkpoint}", "run again; the one before it is sound"):
            write_atomically(self.checkpoint, content.getvalue())

    def _load(self) -> None:
        device = self.parameters[0].device
        require_sound(self.checkpoint)
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=device, weights_only=True)
        require_origin(state, self.settings, self.fields[0], self._frames, self.checkpoint)
        self.fields[0].load_state_dict(state["field"])
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.copy_(state["n_averaged"])
        self.weights.mean_square = state["time_weights"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.minutes, self.loss = state["step"], state["minutes"], state["loss"]


@torch.no_grad()
def _correction(
    objective: Objective, frames: MoleculeFrames, rows: Tensor, times: Times, noise: Batch
) -> Batch | float:
    if frames.forces_per_nm is None:
        return 0.0
    return objective.correction(frames.positions_nm[rows], frames.forces_per_nm[rows], times, noise)


@contextmanager
def _terminated() -> Iterator[list[int]]:
    """A list that fills when SIGTERM comes."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
