"""Fits a field to frames, or a model to its own proposals; no sampler imports it."""

from .adaptation import AdaptationSettings as AdaptationSettings
from .adaptation import adapt as adapt
from .adaptation_record import Adaptation as Adaptation
from .adaptation_record import ModelQuality as ModelQuality
from .data import MoleculeFrames as MoleculeFrames
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
