"""Training data: molecular dynamics of small molecules, biased where states are rare."""

from __future__ import annotations

from .bias import RamachandranBias
from .dynamics import Dynamics, repartition_hydrogen_mass
from .metadynamics import learn_bias
from .packed import simulate_packed
from .packing import PackedSystem, pack
from .uncharged import uncharged_frames
from .walkers import simulate
from .walls import torsion_wall

__all__ = [
    "Dynamics",
    "PackedSystem",
    "RamachandranBias",
    "learn_bias",
    "pack",
    "repartition_hydrogen_mass",
    "simulate",
    "simulate_packed",
    "torsion_wall",
    "uncharged_frames",
]
