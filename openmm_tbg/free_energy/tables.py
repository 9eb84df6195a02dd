"""States and their samples as the table that alchemlyb reads."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from .states import Counts, ReducedPotentials, require_states

if TYPE_CHECKING:
    from pandas import DataFrame


def u_nk(u_kn: ReducedPotentials, n_k: Counts, temperature_K: float) -> DataFrame:
    """Reduced potentials of samples in states, in the form of alchemlyb's `u_nk`.

    Rows are samples, columns states; states are numbered as the rows of `u_kn`. The index names
    the place of a sample among those of its own state (`time`), and that state (`state`).

    alchemlyb starts its MBAR from BAR between neighbours, which takes finite potentials and samples
    of both: elsewhere use `alchemlyb.estimators.MBAR(initial_f_k=None)`.

    Args:
        u_kn: Reduced potential of every sample in every state, as for `multistate`.
        n_k: Samples drawn from each state; 0 for a state that is only reweighted to.
        temperature_K: By which alchemlyb turns kT into other units; the reduced potentials may be
            at other temperatures, and alchemlyb's results in kT do not depend on it.

    Raises:
        ValueError: `temperature_K` is not above zero, or as for `multistate`.

    Reference:
        https://alchemlyb.readthedocs.io, "standard form of raw data".

    Example:
        >>> u_nk(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), np.array([1, 2]), 300.0)
                      0    1
        time state
        0    0      0.0  3.0
             1      1.0  4.0
        1    1      2.0  5.0
    """
    require_states(u_kn, n_k)
    if not _is_temperature(temperature_K):
        raise ValueError(f"temperature_K is {temperature_K}: give one above zero, in kelvin")
    import pandas as pd

    time = np.concatenate([np.arange(n) for n in n_k])
    own = np.repeat(np.arange(len(n_k)), n_k)
    index = pd.MultiIndex.from_arrays([time, own], names=["time", "state"])
    table = pd.DataFrame(u_kn.T, index=index, columns=np.arange(len(n_k)))
    table.attrs = {"temperature": temperature_K, "energy_unit": "kT"}
    return table


def _is_temperature(number: object) -> bool:
    return isinstance(number, Real) and 0 < float(number) < np.inf
