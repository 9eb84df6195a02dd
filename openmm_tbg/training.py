"""Flow matching: fits the denoiser to frames of molecular dynamics."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .fields.denoiser import Denoiser
from .fields.geometry import ReferenceGeometry

Frames = Float[Tensor, "frames atoms 3"]
HeldBack = Float[Tensor, "held_back atoms 3"]
Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]

VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run is: the network, the optimiser and the schedule.

    Args:
        hidden: channels of an atom.
        layers: blocks of the network.
        n_steps: steps of the optimiser, over which the learning rate falls to zero (cosine).
        batch_size: configurations a step; small batches and many steps learn fastest on a CPU.
        learning_rate: the highest learning rate of AdamW.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises.
        ema_decay: decay of the averaged weights, which are the ones that are kept.
        clip_norm: largest norm of a gradient.
        shortest_noise: half of the times are log-uniform in 1 - t from this to 1, half uniform.
        seed: of the initial weights, batches, times and noise.
    """

    hidden: int = 48
    layers: int = 6
    n_steps: int = 80_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 200
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    shortest_noise: float = 0.005
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of one step."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.n_steps)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * cosine


@dataclass(frozen=True)
class Progress:
    """How a run stands: its running loss, and validation losses at `VALIDATION_TIMES`."""

    step: int
    minutes: float
    loss: float
    validation: tuple[float, ...]

    def __str__(self) -> str:
        values = " ".join(f"{v:.3f}" for v in self.validation)
        return (
            f"step {self.step}  {self.minutes:.1f} min  loss {self.loss:.4f}  validation {values}"
        )


def flow_matching_pairs(
    field: Denoiser, frames: Batch, times: Times, noise: Batch
) -> tuple[Batch, Batch]:
    r"""Positions on the paths from noise to frames, and what the residual network should say there.

    $$ x_t = (1 - t) x_0 + t x_1, \qquad F = n (z_1 - z_0) - \frac{2t - 1}{n} z_t $$

    with $z = K^{-1/2} x$; conditional flow matching with independent coupling (Lipman et al. 2023,
    arXiv:2210.02747), written for the residual of `Denoiser`, so that its target has unit variance
    at every time.

    Args:
        field: gives $K$.
        frames: centred configurations $x_1$ (batch, atoms, 3) in nm.
        times: $t$ of each.
        noise: standard normal $z_0$ (batch, atoms, 3); its mean is removed.
    """
    t = times[:, None, None]
    norm = (t**2 + (1 - t) ** 2).sqrt()
    z_0 = noise - noise.mean(dim=1, keepdim=True)
    z_1 = field.inverse_root @ frames
    z_t = (1 - t) * z_0 + t * z_1
    return field.root @ z_t, norm * (z_1 - z_0) - (2 * t - 1) / norm * z_t


def draw_times(n: int, shortest_noise: float, generator: torch.Generator) -> Times:
    """Times of a batch: one half uniform, the other log-uniform in 1 - t, where bonds form."""
    uniform = torch.rand(n, generator=generator)
    half = n // 2
    return torch.cat([uniform[:half], 1 - shortest_noise ** uniform[half:]])


class Trainer:
    """A resumable run: `run` goes on from wherever the checkpoint stands.

    Args:
        geometry: the molecule as the field sees it.
        settings: refused if the checkpoint was made with others, except for `n_steps`.
        frames: training configurations, centred, nm.
        validation: frames that are held back, centred, nm.
        checkpoint: file to resume from and to write to.
        device: where to train.
        compile_network: compile the network first (a minute or two; 1.5 times as fast on a CPU).

    Raises:
        ValueError: if there are no frames, or the checkpoint belongs to other settings.
    """

    def __init__(
        self,
        geometry: ReferenceGeometry,
        settings: TrainingSettings,
        frames: Frames,
        validation: HeldBack,
        checkpoint: Path,
        device: str = "cpu",
        compile_network: bool = False,
    ) -> None:
        if not len(frames) or not len(validation):
            raise ValueError("frames and validation must both hold configurations")
        self.settings, self.checkpoint, self.device = settings, checkpoint, device
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.field = Denoiser(geometry, settings.hidden, settings.layers).to(device)
        self.average = AveragedModel(
            self.field,
            multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay),  # type: ignore[no-untyped-call]
        )
        self.optimizer = torch.optim.AdamW(
            self.field.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.frames = frames.to(self.field.root)
        self.validation = validation.to(self.field.root)
        self.step, self.minutes, self.loss = 0, 0.0, math.nan
        self.residual: Callable[[Tensor, Tensor], Tensor] = self.field.residual
        if compile_network:
            self.residual = torch.compile(self.field.residual)
        if checkpoint.exists():
            self._load()

    @property
    def averaged_field(self) -> Denoiser:
        """The field with the averaged weights."""
        field = self.average.module
        assert isinstance(field, Denoiser)
        return field

    def run(self, report: Callable[[Progress], None], every: int = 2000) -> None:
        """Train to `n_steps`, reporting and writing the checkpoint every `every` steps."""
        while self.step < self.settings.n_steps:
            started = time.perf_counter()
            until = min(self.settings.n_steps, (self.step // every + 1) * every)
            while self.step < until:
                self._advance()
            self.minutes += (time.perf_counter() - started) / 60
            self._save()
            report(Progress(self.step, self.minutes, self.loss, self.validation_losses()))

    def validation_losses(self) -> tuple[float, ...]:
        """Mean square error of the averaged network, with the same noise at every call."""
        generator = torch.Generator().manual_seed(0)
        losses = []
        with torch.no_grad():
            for value in VALIDATION_TIMES:
                times = torch.full((len(self.validation),), value, device=self.device)
                noise = torch.randn(self.validation.shape, generator=generator).to(self.device)
                x, target = flow_matching_pairs(self.averaged_field, self.validation, times, noise)
                parts = zip(torch.split(times, 64), torch.split(x, 64), strict=True)
                residual = torch.cat([self.averaged_field.residual(t, part) for t, part in parts])
                losses.append(float((residual - target).square().mean()))
        return tuple(losses)

    def _advance(self) -> None:
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(self.step)
        n = settings.batch_size
        chosen = torch.randint(len(self.frames), (n,), generator=self.generator)
        times = draw_times(n, settings.shortest_noise, self.generator).to(self.device)
        noise = torch.randn(n, *self.frames.shape[1:], generator=self.generator).to(self.device)
        frames = self.frames[chosen.to(self.device)]
        x, target = flow_matching_pairs(self.field, frames, times, noise)
        loss = (self.residual(times, x) - target).square().mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.field.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.field)
        self.step += 1
        value = loss.item()
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value

    def _save(self) -> None:
        state = {
            "settings": asdict(self.settings),
            "field": self.field.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "minutes": self.minutes,
            "loss": self.loss,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        mine, theirs = asdict(self.settings), state["settings"]
        other = [k for k in mine if k != "n_steps" and mine[k] != theirs.get(k)]
        if other:
            raise ValueError(
                f"checkpoint {self.checkpoint} was made with other settings ({', '.join(other)}): "
                "give the same settings, or another checkpoint file"
            )
        self.field.load_state_dict(state["field"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.minutes, self.loss = state["step"], state["minutes"], state["loss"]
