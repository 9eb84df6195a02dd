"""Shapes of the NumPy arrays that cross module borders, and the causes of rejection.

Lengths are in nm, energies in kT, densities in nats; log-densities are always float64.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float64, Int8

Positions = Float64[np.ndarray, "batch atoms 3"]
Frame = Float64[np.ndarray, "atoms 3"]
Scalars = Float64[np.ndarray, " batch"]
Mask = Bool[np.ndarray, " batch"]
Causes = Int8[np.ndarray, " batch"]


class Cause(IntEnum):
    """Why a configuration was not accepted; `NONE` while nothing speaks against it."""

    NONE = 0
    BOND_GRAPH = 1
    CHIRALITY = 2
    ENERGY_NOT_FINITE = 3
    METROPOLIS = 4
    THINNED = 5

    @property
    def label(self) -> str:
        """The name to read, such as "bond graph"."""
        return self.name.lower().replace("_", " ")


def is_array(thing: object, kinds: str, n_axes: int) -> bool:
    """Whether it is a NumPy array of so many axes and one of NumPy's kinds: "f", "i", "b".

    Example:
        >>> is_array(np.zeros(3), "f", 1), is_array([0.0], "f", 1), is_array(np.arange(3), "f", 1)
        (True, False, False)
    """
    return isinstance(thing, np.ndarray) and thing.dtype.kind in kinds and thing.ndim == n_axes


def require_numbers(**columns: object) -> None:
    """Refuse what is no array of one number for each row, such as a list or a Quantity.

    Raises:
        ValueError: A column is not a one-dimensional NumPy array of floats.
    """
    for name, column in columns.items():
        if not is_array(column, "f", 1):
            raise ValueError(
                f"{name} is {_described(column)}: give a one-dimensional NumPy array of floats, "
                "without a unit, energies in kT"
            )


def require_masks(**sets: object) -> None:
    """Refuse what does not say of each row whether it is in, such as indices or zeros and ones.

    Raises:
        ValueError: A set is not a one-dimensional NumPy array of bool.
    """
    for name, rows in sets.items():
        if not is_array(rows, "b", 1):
            raise ValueError(
                f"{name} is {_described(rows)}: give a one-dimensional NumPy array of bool, one "
                "for each row"
            )


def _described(thing: object) -> str:
    if isinstance(thing, np.ndarray):
        return f"an array of {thing.dtype} of the shape {thing.shape}"
    return f"of the type {type(thing).__name__}"
