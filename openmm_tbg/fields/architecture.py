"""The architectures by name: what a stored model needs to rebuild its field and its prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ..prior import MeanFreeGaussian
from .denoiser import Denoiser
from .egnn import EGNN
from .geometry import ReferenceGeometry


@dataclass(frozen=True)
class DenoiserArchitecture:
    """The project's field, whose prior has the covariance of the data.

    Args:
        hidden: channels of an atom.
        layers: blocks of the network.
    """

    hidden: int = 48
    layers: int = 6

    def sees_hand(self, geometry: ReferenceGeometry) -> bool:
        """Whether the field tells mirror images apart: where it knows stereocentres."""
        return len(geometry.stereocentres) > 0

    def field(self, geometry: ReferenceGeometry, dtype: torch.dtype = torch.float32) -> Denoiser:
        """The network for one molecule, with fresh weights."""
        return Denoiser(geometry, self.hidden, self.layers, dtype)

    def prior(self, geometry: ReferenceGeometry) -> MeanFreeGaussian:
        """The density from which its flow starts."""
        return MeanFreeGaussian(torch.from_numpy(geometry.covariance))


@dataclass(frozen=True)
class EGNNArchitecture:
    """The published field, whose prior is isotropic with width 1 / `units_per_nm`.

    Args:
        hidden: width of features and messages.
        layers: rounds of messages.
        units_per_nm: the network sees lengths multiplied by this.
    """

    hidden: int = 64
    layers: int = 5
    units_per_nm: float = 10.0

    def sees_hand(self, geometry: ReferenceGeometry) -> bool:
        """Whether the field tells mirror images apart: it sees distances only."""
        return False

    def field(self, geometry: ReferenceGeometry, dtype: torch.dtype = torch.float32) -> EGNN:
        """The network for one molecule, with fresh weights."""
        one_hot = torch.from_numpy(geometry.one_hot)
        return EGNN(one_hot, self.hidden, self.layers, self.units_per_nm).to(dtype)

    def prior(self, geometry: ReferenceGeometry) -> MeanFreeGaussian:
        """The density from which its flow starts."""
        return MeanFreeGaussian.isotropic(len(geometry.one_hot), 1 / self.units_per_nm)


Architecture = DenoiserArchitecture | EGNNArchitecture

ARCHITECTURES: Mapping[str, type[Architecture]] = {
    "denoiser": DenoiserArchitecture,
    "egnn": EGNNArchitecture,
}


def describe(architecture: Architecture) -> dict[str, Any]:
    """Name and sizes, as plain values.

    Example:
        >>> describe(DenoiserArchitecture(hidden=8, layers=2))
        {'architecture': 'denoiser', 'hidden': 8, 'layers': 2}
    """
    names = {kind: name for name, kind in ARCHITECTURES.items()}
    return {"architecture": names[type(architecture)]} | asdict(architecture)


def from_description(description: Mapping[str, Any]) -> Architecture:
    """The architecture that `describe` described; other keys are ignored.

    Raises:
        ValueError: for a name that is not known.
    """
    name = description["architecture"]
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is not one of {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[name]
    return kind(**{field.name: description[field.name] for field in fields(kind)})
