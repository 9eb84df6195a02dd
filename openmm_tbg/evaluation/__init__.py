"""How good a generator is: scored proposals, figures with error bars, and a picture."""

from __future__ import annotations

from .drawing import ScoredProposals, draw_scored
from .dynamics import MolecularDynamics
from .figures import evaluate
from .picture import picture
from .record import Estimate, Evaluation

__all__ = [
    "Estimate",
    "Evaluation",
    "MolecularDynamics",
    "ScoredProposals",
    "draw_scored",
    "evaluate",
    "picture",
]
