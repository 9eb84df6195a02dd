"""What a run's model says of frames that it was not trained on, by its exact density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..checkpoint import TrainedModel
from ..generator import BoltzmannGenerator
from .single import trained_model
from .trainer import Trainer


@dataclass(frozen=True)
class HeldOutLikelihood:
    """The mean of -log q over frames held back.

    Attributes:
        nll_nm: In nats, for lengths in nm; NaN where no frame passes the filters.
        error: Its standard error.
        n: Frames that count.
        n_failed: Frames that fail the filters, and so have no density.
    """

    nll_nm: float
    error: float
    n: int
    n_failed: int

    def __str__(self) -> str:
        failed = f", {self.n_failed} more fail the filters" if self.n_failed else ""
        return f"-log q {self.nll_nm:.2f} +- {self.error:.2f} nats ({self.n} frames{failed})"


def held_out_likelihood(model: TrainedModel, trainer: Trainer, n: int) -> HeldOutLikelihood:
    r"""Measure $-\langle \log q \rangle$ of frames of the target that a run holds back.

    Unlike the loss, it is a figure of the density with which proposals are weighted, and models of
    any architecture and objective can be compared by it. Frames are drawn with their weights, the
    same ones at every call; TF32, in which a GPU may train, is off meanwhile.

    Args:
        model: with which the run began.
        trainer: the run; its averaged weights count, and the first of its tasks.
        n: number of frames, each of which takes as long as an exact proposal.

    Raises:
        ValueError: if `n` is below 2.
    """
    if n < 2:
        raise ValueError(f"n is {n}: an error takes at least two frames")
    frames = trainer.tasks[0].validation
    device = frames.positions_nm.device
    rows = frames.draw(n, torch.Generator(device).manual_seed(0))
    positions_nm = frames.positions_nm[rows].double().cpu().numpy()
    generator = BoltzmannGenerator(trained_model(model, trainer), "in training", "", str(device))
    with full_float32():
        log_q = generator.evaluate(positions_nm).log_q
    known = log_q[~np.isnan(log_q)]
    if len(known) < 2:
        return HeldOutLikelihood(math.nan, math.nan, len(known), n - len(known))
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return HeldOutLikelihood(-float(known.mean()), error, len(known), n - len(known))


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products without the rounding that training may allow."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
