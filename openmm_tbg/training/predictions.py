"""What the networks of many molecules say, as they are or through one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch._dynamo import config

from .objectives import Objective

Batch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]
Predict = Callable[[Times, Batch], Batch]


def plain_predictions(objectives: Sequence[Objective]) -> list[Predict]:
    """`predict` of each objective."""
    return [objective.predict for objective in objectives]


def compiled_predictions(objectives: Sequence[Objective]) -> list[Predict]:
    """`predict` of each objective, compiled at its first call.

    One molecule gets code for its very size. Where there are several, the number of atoms stays a
    variable of the code: a molecule of another size compiles nothing, only one with none, one or
    more stereocentres does.
    """
    if len(objectives) == 1:
        return [torch.compile(objectives[0].predict)]
    shared = torch.compile(_predict, dynamic=True)
    return [partial(_of_any_size, shared, objective) for objective in objectives]


def _predict(objective: Objective, times: Times, x: Batch) -> Batch:
    return objective.predict(times, x)


def _of_any_size(
    shared: Callable[..., Batch], objective: Objective, times: Times, x: Batch
) -> Batch:
    # By default the shapes of a module's tensors are constants, and each molecule's graph another.
    with config.patch(
        force_parameter_static_shapes=False, force_nn_module_property_static_shapes=False
    ):
        return shared(objective, times, x)
