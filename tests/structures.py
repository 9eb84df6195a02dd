"""Molecules with one frame each, for the tests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import numpy as np
import openmm
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from openmm_tbg.arrays import Frame
from openmm_tbg.molecule import Molecule

logging.getLogger("pymbar").setLevel(logging.ERROR)  # openmmtools imports it, and it has a banner
from openmmtools.testsystems import AlanineDipeptideVacuum  # noqa: E402


@dataclass(frozen=True)
class Structure:
    """A topology with one frame in nm."""

    topology: app.Topology
    positions_nm: Frame

    @property
    def molecule(self) -> Molecule:
        return Molecule.from_topology(self.topology, self.positions_nm)


@dataclass(frozen=True)
class Alanine(Structure):
    """ACE-ALA-NME in openmmtools' order of atoms; amber99sbildn, OBC, no cutoff, no constraints."""

    system: openmm.System

    @classmethod
    def build(cls, hydrogen_mass_amu: float | None = None) -> Alanine:
        built = AlanineDipeptideVacuum(constraints=None)
        system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(
            built.topology,
            nonbondedMethod=app.NoCutoff,
            constraints=None,
            hydrogenMass=hydrogen_mass_amu and hydrogen_mass_amu * unit.amu,
        )
        positions_nm = np.array(built.positions.value_in_unit(unit.nanometer))
        return cls(built.topology, positions_nm, system)


def structure_of(mol: Chem.Mol) -> Structure:
    """An RDKit molecule as one residue, embedded in space; hydrogens come after the heavy atoms."""
    mol = Chem.AddHs(mol)
    assert EmbedMolecule(mol, randomSeed=1) == 0
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [
        topology.addAtom(
            f"{atom.GetSymbol()}{atom.GetIdx()}",
            app.Element.getByAtomicNumber(atom.GetAtomicNum()),
            residue,
        )
        for atom in mol.GetAtoms()
    ]
    for bond in mol.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    positions_nm = 0.1 * mol.GetConformer().GetPositions()
    return Structure(topology, positions_nm - positions_nm.mean(axis=0))


@cache
def structure_from_smiles(smiles: str) -> Structure:
    return structure_of(Chem.MolFromSmiles(smiles))
