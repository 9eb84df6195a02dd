"""What commands read: a molecule, its target and its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .notes import note_other_target

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology

    from ..arrays import Positions
    from ..checkpoint import ModelCard
    from ..generator import BoltzmannGenerator
    from ..potential import ReducedPotential
    from ..reference import ReferenceSystem

ALANINE = "alanine-dipeptide"
STRUCTURE_FILES = (".pdb", ".cif")
MODEL_FILE = ".safetensors"


@dataclass(frozen=True)
class Structure:
    """A molecule, where its runs may start, and the force field that it takes if none is given."""

    name: str
    topology: Topology
    starts_nm: Positions
    force_field: tuple[str, ...] = ()
    temperature_K: float | None = None

    def as_trained(self, card: ModelCard) -> Structure:
        """The same with force field and temperature of a model's training data."""
        return replace(self, force_field=card.force_field, temperature_K=card.temperature_K)


def read_structure(molecule: str) -> Structure:
    """A molecule by the name of a reference, its sequence, or a file of its structure.

    Raises:
        UsageError: It is none of these.
        ValueError: The file cannot be read, or there is no such dipeptide.
    """
    if molecule == ALANINE:
        from ..reference import alanine_dipeptide

        return _of_reference(molecule, alanine_dipeptide())
    path = Path(molecule)
    if path.suffix.lower() in STRUCTURE_FILES:
        return _of_file(path)
    if path.exists() or not molecule.isalpha():
        raise click.UsageError(
            f"molecule {molecule!r} is neither {ALANINE!r}, a sequence such as KS, nor a file that "
            f"ends in {' or '.join(STRUCTURE_FILES)}"
        )
    from ..peptides import dipeptide

    return _of_reference(molecule, dipeptide(molecule))


def model_file(model: str) -> Path:
    """The file of a registered name, or the one that is named.

    Raises:
        ValueError: There is none, or it has changed.
    """
    from ..models import find_model

    path = Path(model)
    if path.suffix != MODEL_FILE:
        return find_model(model)
    if not path.exists():
        raise ValueError(f"{path}: there is no such model; openmm-tbg models list names some")
    return path


def read_generator(model: str | None, structure: Structure, device: str) -> BoltzmannGenerator:
    """The model of a name or file, or the one that comes with the package and knows the molecule.

    Raises:
        ValueError: There is none, or the structure has another hand.
    """
    from ..generator import BoltzmannGenerator
    from ..models import registered_models

    def load(name: str) -> BoltzmannGenerator:
        if Path(name).suffix == MODEL_FILE:
            known = BoltzmannGenerator.from_checkpoint(model_file(name), structure.topology, device)
        else:
            known = BoltzmannGenerator.from_pretrained(name, structure.topology, device)
        known.molecule.require_hand(structure.starts_nm[0])
        return known

    if model is not None:
        return load(model)
    reasons = []
    for name in registered_models():
        try:
            return load(name)
        except ValueError as error:
            reasons.append(f"{name}: {error}")
    raise ValueError(
        f"no model that comes with the package knows {structure.name} ({'; '.join(reasons)}); "
        "give --model, or train one with openmm-tbg train"
    )


def read_target(
    structure: Structure,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> ReferenceSystem:
    """The target: the given System or force field of the structure's molecule.

    Raises:
        ValueError: The force field does not know the molecule, the System is of another one, or it
            is not supported.
        UsageError: Force field or temperature are known from nowhere.
    """
    from ..potential import require_supported
    from ..reference import ReferenceSystem

    if system is not None and force_field:
        raise click.UsageError("--system and --force-field exclude each other: give one of them")
    temperature_K = temperature_K or structure.temperature_K
    force_field = force_field or structure.force_field
    if temperature_K is None:
        raise click.UsageError(
            f"the temperature of {structure.name} is unknown: give --temperature"
        )
    if system is not None:
        made = _read_system(system)
        names: tuple[str, ...] = (system.name,)
    elif force_field:
        made = _made_by(force_field, structure)
        names = force_field
    else:
        raise click.UsageError(
            f"the force field of {structure.name} is unknown: give --force-field or --system"
        )
    require_supported(made, structure.topology.getNumAtoms())
    return ReferenceSystem(structure.topology, made, structure.starts_nm, temperature_K, names)


def read_modelled(
    molecule: str,
    model: str | None,
    device: str,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> tuple[BoltzmannGenerator, ReferenceSystem]:
    """A molecule's generator and target: that which the model was trained for if none is given.

    Raises:
        UsageError, ValueError: As in `read_structure`, `read_generator` and `read_target`.
    """
    structure = read_structure(molecule)
    generator = read_generator(model, structure, device)
    card = generator.card
    return generator, target_of_model(card, structure, force_field, temperature_K, system)


def target_of_model(
    card: ModelCard,
    structure: Structure,
    force_field: tuple[str, ...],
    temperature_K: float | None,
    system: Path | None,
) -> ReferenceSystem:
    """The target of a model, or another one with a note; errors as in `read_target`."""
    target = read_target(structure.as_trained(card), force_field, temperature_K, system)
    note_other_target(card, target)
    return target


def reduced_potential(target: ReferenceSystem) -> ReducedPotential:
    """Reduced potential of a target."""
    from openmm import unit
    from openmmtools.states import ThermodynamicState

    from ..potential import ReducedPotential

    state = ThermodynamicState(target.system, target.temperature_K * unit.kelvin)
    return ReducedPotential.from_state(state)


def _made_by(force_field: tuple[str, ...], structure: Structure) -> openmm.System:
    from openmm import app

    try:
        known = app.ForceField(*force_field)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"force field {' + '.join(force_field)}: {error}; name files that come with OpenMM, or "
            "paths"
        ) from error
    except Exception as error:  # whatever a parser of XML stumbles over
        raise ValueError(f"{' or '.join(force_field)} is no force field ({error})") from error
    return known.createSystem(
        structure.topology,
        nonbondedMethod=app.NoCutoff,
        constraints=None,
        removeCMMotion=False,
    )


def _of_reference(name: str, reference: ReferenceSystem) -> Structure:
    return Structure(
        name,
        reference.topology,
        reference.starts_nm,
        reference.force_field,
        reference.temperature_K,
    )


def _of_file(path: Path) -> Structure:
    import numpy as np
    from openmm import app, unit

    if not path.exists():
        raise click.UsageError(f"{path}: there is no such file")
    try:
        read = app.PDBFile(str(path)) if path.suffix.lower() == ".pdb" else app.PDBxFile(str(path))
        frames = [read.getPositions(True, k) for k in range(read.getNumFrames())]
    except Exception as error:  # OpenMM raises whatever its parsing stumbles over
        raise ValueError(f"{path} is no structure that OpenMM can read ({error})") from error
    starts_nm = np.array([frame.value_in_unit(unit.nanometer) for frame in frames])
    return Structure(path.name, read.topology, starts_nm)


def _read_system(path: Path) -> openmm.System:
    import openmm

    try:
        system = openmm.XmlSerializer.deserialize(path.read_text())
    except (openmm.OpenMMException, UnicodeDecodeError, ValueError) as error:
        raise ValueError(
            f"{path} is no XML of OpenMM ({error}): write it with openmm.XmlSerializer.serialize"
        ) from error
    if not isinstance(system, openmm.System):
        raise ValueError(f"{path} holds a {type(system).__name__}: give the XML of a System")
    return system
