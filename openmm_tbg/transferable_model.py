"""One trained field for many molecules: the same weights, and what it knows of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from .checkpoint import (
    WEIGHT,
    ModelCard,
    TrainedModel,
    read_description,
    read_model_file,
    with_prefix,
    write_model_file,
)
from .encoding import AtomEncoding
from .fields.architecture import Architecture, describe, from_description
from .fields.geometry import ReferenceGeometry
from .grid import TimeGrid
from .molecule import Molecule
from .transferable import ENCODINGS, RESIDUES

if TYPE_CHECKING:
    from openmm.app import Topology

MOMENTS = "moments."
ENCODING_KEY = "transferable_encoding"
LETTERS = dict(zip(RESIDUES, "ARNDCQEGHILKMFPSTWYV", strict=True)) | {"HIE": "H"}

Moments = Float32[np.ndarray, "2 pairs"]


@dataclass(frozen=True)
class TransferableModel:
    r"""A field's weights, and the geometry of every uncapped dipeptide that it may be used for.

    A geometry is kept as the mean and the standard deviation of each distance (nm, float32, pairs
    $i < j$ in the order of `numpy.triu_indices`), from which all else follows. It belongs to the
    definition of the density, as the weights do, and so it is in the file.

    Args:
        card: what made the model.
        encoding: name of a published encoding, one of `transferable.ENCODINGS`.
        architecture: kind and sizes of the field.
        grid: time grid on which log q is defined.
        weights: parameters of the field.
        moments: of each sequence.

    Raises:
        ValueError: for an unknown encoding.
    """

    card: ModelCard
    encoding: str
    architecture: Architecture
    grid: TimeGrid
    weights: dict[str, Tensor]
    moments: Mapping[str, Moments]

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"encoding {self.encoding!r} is not known: take one of {', '.join(ENCODINGS)}"
            )

    def for_sequence(self, sequence: str) -> TrainedModel:
        """The model of one dipeptide, which may be one that it has never seen.

        Args:
            sequence: two one-letter codes, from the N to the C terminus.

        Raises:
            ValueError: if this is no dipeptide, or one whose geometry the model lacks.

        Warns:
            UserWarning: where proline comes first, which no published training set contains.
        """
        from .peptides import assembled, require_sequence, warn_of_first_proline

        require_sequence(sequence)
        if sequence not in self.moments:
            raise ValueError(
                f"sequence: the model {self.card.name!r} has no geometry of {sequence}; it knows "
                f"{len(self.moments)} dipeptides, see `moments`"
            )
        warn_of_first_proline(sequence)
        molecule = Molecule.from_topology(*assembled(sequence))
        encoding = ENCODINGS[self.encoding](molecule)
        return TrainedModel(
            card=self.card,
            molecule=molecule,
            encoding=encoding,
            geometry=geometry_from_moments(molecule, encoding, self.moments[sequence]),
            architecture=self.architecture,
            grid=self.grid,
            weights=self.weights,
        )

    def save(self, path: Path) -> str:
        """Write a safetensors file, whole or not at all; return its sha256."""
        tensors = {MOMENTS + name: torch.from_numpy(each) for name, each in self.moments.items()}
        tensors |= {WEIGHT + name: values.contiguous() for name, values in self.weights.items()}
        description = {
            "card": asdict(self.card),
            ENCODING_KEY: self.encoding,
            "grid": asdict(self.grid),
            **describe(self.architecture),
        }
        return write_model_file(path, description, tensors)

    @classmethod
    def load(cls, path: Path) -> TransferableModel:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is truncated, or is no model of many molecules.
        """
        description, tensors = read_model_file(path)
        if ENCODING_KEY not in description:
            name = description["card"]["name"]
            raise ValueError(
                f"sequence: {name!r} is a model of one molecule; give its topology instead"
            )
        return cls(
            card=ModelCard.from_dict(description["card"]),
            encoding=description[ENCODING_KEY],
            architecture=from_description(description),
            grid=TimeGrid(**description["grid"]),
            weights=with_prefix(tensors, WEIGHT),
            moments={name: each.numpy() for name, each in with_prefix(tensors, MOMENTS).items()},
        )


def is_transferable(path: Path) -> bool:
    """Whether a file holds a model of many molecules; errors as in `read_model_file`."""
    return ENCODING_KEY in read_description(path)


def sequence_of(topology: Topology) -> str:
    """One-letter codes of the residues, by their names.

    Raises:
        ValueError: for a residue that is none of the 20 amino acids.

    Example:
        >>> from openmm_tbg.peptides import assembled
        >>> sequence_of(assembled("KS")[0])
        'KS'
    """
    names = [residue.name for residue in topology.residues()]
    unknown = [name for name in names if name not in LETTERS]
    if unknown:
        raise ValueError(
            f"topology: {unknown[0]} is none of the 20 amino acids; give an uncapped dipeptide in "
            "the order and with the names of dipeptide(sequence), see match_dipeptide"
        )
    return "".join(LETTERS[name] for name in names)


def moments_of(geometry: ReferenceGeometry) -> Moments:
    """What has to be stored of a geometry."""
    pairs = np.triu_indices(len(geometry.distance_mean), 1)
    rows = np.stack([geometry.distance_mean[pairs], geometry.distance_sd[pairs]])
    return rows.astype(np.float32)


def geometry_from_moments(
    molecule: Molecule, encoding: AtomEncoding, moments: Moments
) -> ReferenceGeometry:
    """The geometry of which `moments_of` is `moments`.

    Raises:
        ValueError: if they are of another number of atoms.
    """
    n_atoms = molecule.n_atoms
    pairs = np.triu_indices(n_atoms, 1)
    if moments.shape != (2, len(pairs[0])):
        raise ValueError(f"moments of shape {moments.shape}: {n_atoms} atoms have {len(pairs[0])}")
    mean, sd = np.zeros((2, n_atoms, n_atoms))
    for matrix, values in ((mean, moments[0]), (sd, moments[1])):
        matrix[pairs] = values
        matrix += matrix.T
    return ReferenceGeometry.from_moments(molecule, encoding, mean, sd)
