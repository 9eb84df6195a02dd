"""Fits a field to frames of molecular dynamics; no sampler imports it."""

from .data import MoleculeFrames as MoleculeFrames
from .newton import StiffTerms as StiffTerms
from .objectives import ResidualMatching as ResidualMatching
from .objectives import VelocityMatching as VelocityMatching
from .settings import Progress as Progress
from .settings import TrainingSettings as TrainingSettings
from .trainer import Task as Task
from .trainer import Trainer as Trainer
