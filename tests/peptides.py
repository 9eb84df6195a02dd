"""Uncapped peptides, from their sequence."""

from __future__ import annotations

import io
import random
from functools import cache

import numpy as np
import openmm
from openmm import app
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule
from structures import Structure


@cache
def peptide(sequence: str) -> Structure:
    """A zwitterion in a minimum of amber14 in vacuum."""
    whole = Chem.AddHs(Chem.MolFromSequence(sequence))
    assert EmbedMolecule(whole, randomSeed=1) == 0
    pdb = app.PDBFile(io.StringIO(Chem.MolToPDBBlock(Chem.RemoveHs(whole))))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    platform = openmm.Platform.getPlatformByName("Reference")
    force_field = app.ForceField("amber14-all.xml")
    random.seed(1)  # addHydrogens draws from it
    modeller.addHydrogens(force_field, pH=7.0, platform=platform)
    system = force_field.createSystem(modeller.topology)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    return Structure(modeller.topology, np.array(positions._value))
