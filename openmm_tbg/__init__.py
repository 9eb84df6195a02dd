"""Trained Transferable Boltzmann Generators as exact moves for OpenMM samplers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis import effective_sample_size as effective_sample_size
    from .generator import BoltzmannGenerator as BoltzmannGenerator
    from .models import registered_models as registered_models
    from .move import TBGMove as TBGMove
    from .potential import ReducedPotential as ReducedPotential
    from .proposals import ProposalPool as ProposalPool
    from .proposals import Proposals as Proposals
    from .ranks import Rank as Rank
    from .run import MCMCRun as MCMCRun
    from .run_store import read_run as read_run
    from .store import ProposalStore as ProposalStore
    from .stored import StoredProposals as StoredProposals
    from .thinning import ThinnedGenerator as ThinnedGenerator
    from .workers import fill_with as fill_with

__version__ = "0.1.0"

# Loaded on first use: torch, OpenMM and openmmtools take seconds to import.
_HOMES = {
    "BoltzmannGenerator": "generator",
    "MCMCRun": "run",
    "ProposalPool": "proposals",
    "ProposalStore": "store",
    "Proposals": "proposals",
    "Rank": "ranks",
    "ReducedPotential": "potential",
    "StoredProposals": "stored",
    "TBGMove": "move",
    "ThinnedGenerator": "thinning",
    "effective_sample_size": "analysis",
    "fill_with": "workers",
    "read_run": "run_store",
    "registered_models": "models",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
