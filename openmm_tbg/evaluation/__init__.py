"""How good a generator is: scored proposals, figures with error bars, and a picture."""

from __future__ import annotations

from .drawing import ScoredProposals, draw_scored
from .dynamics import MolecularDynamics
from .figures import evaluate
from .molecule_figures import MoleculeFigures
from .picture import picture
from .record import Estimate, Evaluation
from .study import Study, Target
from .study_table import StudyTable

__all__ = [
    "Estimate",
    "Evaluation",
    "MolecularDynamics",
    "MoleculeFigures",
    "ScoredProposals",
    "Study",
    "StudyTable",
    "Target",
    "draw_scored",
    "evaluate",
    "picture",
]
