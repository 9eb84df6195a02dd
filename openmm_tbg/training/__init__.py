"""Fits a field to frames; no sampler imports it, and it needs neither OpenMM nor RDKit."""

from .data import MoleculeFrames as MoleculeFrames
from .likelihood import HeldOutLikelihood as HeldOutLikelihood
from .likelihood import held_out_likelihood as held_out_likelihood
from .newton import StiffTerms as StiffTerms
from .objectives import ResidualMatching as ResidualMatching
from .objectives import Task as Task
from .objectives import VelocityMatching as VelocityMatching
from .settings import Progress as Progress
from .settings import TrainingSettings as TrainingSettings
from .single import task_of as task_of
from .single import trained_model as trained_model
from .single import training_columns as training_columns
from .single import untrained as untrained
from .trainer import Trainer as Trainer
