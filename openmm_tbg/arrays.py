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
