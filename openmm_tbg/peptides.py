"""Uncapped dipeptides from their sequence: atoms, force field and structures."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import openmm
import PeptideBuilder
from openmm import app, unit

from .arrays import Frame
from .reference import ReferenceSystem
from .torsions import Dihedral, with_dihedral

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
FORCE_FIELD = ("amber14-all.xml", "implicit/obc1.xml")
TEMPERATURE_K = 310.0
EXTENDED_PHI_DEGREES, EXTENDED_PSI_DEGREES = -140.0, 130.0
RARE_PHI_DEGREES = 60.0


def dipeptide(sequence: str) -> ReferenceSystem:
    """An uncapped dipeptide as at pH 7, AMBER ff14SB with OBC1 solvent, no constraints, 310 K.

    Protonation: NH3+ and COO- at the ends; ASP, GLU, LYS and ARG charged; HIS neutral with its
    hydrogen on NE2 (HIE); CYS and TYR neutral; no disulphide. Starts are minima next to
    phi = -140 and +60 degrees, of proline next to the first. Built with PeptideBuilder (Tien et al.
    2013, doi:10.7717/peerj.80) and OpenMM's Modeller; the same call gives the same atoms in the
    same places.

    Args:
        sequence: two one-letter codes of the 20 amino acids, from the N to the C terminus.

    Raises:
        ValueError: for any other sequence.

    Warns:
        UserWarning: where proline comes first, which no published training set contains.

    Example:
        >>> lysine_serine = dipeptide("KS")
        >>> lysine_serine.topology.getNumAtoms(), lysine_serine.starts_nm.shape
        (36, (2, 36, 3))
    """
    topology, frame = assembled(sequence)
    warn_of_first_proline(sequence)
    system = system_of(topology)
    frames = [frame]
    if sequence[1] != "P":
        _, second = topology.residues()
        moving = [atom.index for atom in second.atoms() if atom.name not in ("N", "H", "CA")]
        phi = phi_of_dipeptide(topology)
        frames.append(with_dihedral(frame, phi, moving, np.radians(RARE_PHI_DEGREES)))
    starts = np.stack([_minimum(system, each) for each in frames])
    return ReferenceSystem(topology, system, starts, TEMPERATURE_K, FORCE_FIELD)


def assembled(sequence: str) -> tuple[app.Topology, Frame]:
    """All atoms of a dipeptide in the order of `dipeptide`, extended, not yet in a minimum (nm).

    Raises:
        ValueError: as `dipeptide` does.
    """
    require_sequence(sequence)
    first, second = (PeptideBuilder.Geometry.geometry(letter) for letter in sequence)
    second.phi, second.psi_im1 = EXTENDED_PHI_DEGREES, EXTENDED_PSI_DEGREES
    heavy = PeptideBuilder.initialize_res(first)
    PeptideBuilder.add_residue(heavy, second)
    PeptideBuilder.add_terminal_OXT(heavy)
    topology = app.Topology()
    chain = topology.addChain()
    for built in heavy.get_residues():
        residue = topology.addResidue(built.get_resname(), chain)
        for atom in built:
            topology.addAtom(atom.name, app.Element.getBySymbol(atom.element), residue)
    topology.createStandardBonds()
    positions_nm = 0.1 * np.array([atom.coord for atom in heavy.get_atoms()], dtype=np.float64)
    modeller = app.Modeller(topology, positions_nm * unit.nanometer)
    with _seeded():
        modeller.addHydrogens(
            _force_field(),
            variants=["HIE" if letter == "H" else None for letter in sequence],
            platform=openmm.Platform.getPlatformByName("Reference"),
        )
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer))


def phi_of_dipeptide(topology: app.Topology) -> Dihedral:
    """Atoms of the only dihedral phi of a dipeptide: C of the first residue, N-CA-C of the second.

    Args:
        topology: of two residues.

    Example:
        >>> topology, _ = assembled("AA")
        >>> names = [atom.name for atom in topology.atoms()]
        >>> [names[atom] for atom in phi_of_dipeptide(topology)]
        ['C', 'N', 'CA', 'C']
    """
    first, second = (
        {atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()
    )
    return first["C"], second["N"], second["CA"], second["C"]


def system_of(topology: app.Topology) -> openmm.System:
    """AMBER ff14SB with OBC1 solvent, without cutoff and constraints, as `dipeptide` has it."""
    return _force_field().createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )


def warn_of_first_proline(sequence: str) -> None:
    """Say so where proline comes first; to the caller of the function that calls this.

    Warns:
        UserWarning: no published training set contains such a dipeptide.
    """
    if sequence.startswith("P"):
        warnings.warn(
            f"{sequence}: N-terminal proline is in no training set of the dipeptides; expect few "
            "acceptances, and check them",
            stacklevel=3,
        )


def require_sequence(sequence: str) -> None:
    """Refuse what is no dipeptide.

    Raises:
        ValueError: for anything but two one-letter codes of the 20 amino acids.
    """
    unknown = [letter for letter in sequence if letter.upper() not in AMINO_ACIDS]
    if unknown:
        raise ValueError(
            f"sequence: {unknown[0]!r} in {sequence!r} is none of the 20 amino acids; use "
            f"one-letter codes out of {AMINO_ACIDS}"
        )
    if sequence != sequence.upper():
        raise ValueError(
            f"sequence: {sequence!r} has lower-case letters; write {sequence.upper()!r} for "
            "L-amino acids (D-amino acids are not known)"
        )
    if len(sequence) != 2:
        raise ValueError(
            f"sequence: {sequence!r} has {len(sequence)} amino acids where 2 are needed; give the "
            "one-letter codes of an uncapped dipeptide, such as 'KS'"
        )


@cache
def _force_field() -> app.ForceField:
    return app.ForceField(*FORCE_FIELD)


@contextmanager
def _seeded() -> Iterator[None]:
    """`addHydrogens` draws from the global generator, which is the user's."""
    state = random.getstate()
    random.seed(1)
    try:
        yield
    finally:
        random.setstate(state)


def _minimum(system: openmm.System, frame: Frame) -> Frame:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(frame)
    openmm.LocalEnergyMinimizer.minimize(context)
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    minimum: Frame = positions.value_in_unit(unit.nanometer)
    centred: Frame = minimum - minimum.mean(axis=0)
    return centred
