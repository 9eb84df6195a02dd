"""Reference systems: a molecule with its force field, its temperature and its basins."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import app, unit

from .arrays import Frame, Positions
from .torsions import Dihedral, dihedral, with_dihedral

ALANINE_PHI: Dihedral = (4, 6, 8, 14)
ALANINE_PSI: Dihedral = (6, 8, 14, 16)
ALANINE_RAMACHANDRAN = (4, 6, 8, 14, 16)


@dataclass(frozen=True)
class ReferenceSystem:
    """A molecule, its force field and temperature, and where its simulations start.

    Args:
        topology: atoms and bonds.
        system: the force field, without constraints.
        starts_nm: a frame in each basin to be sampled; the first is the reference frame.
        temperature_K: temperature in K.
        force_field: the names under which the force field is known.
    """

    topology: app.Topology
    system: openmm.System
    starts_nm: Positions
    temperature_K: float
    force_field: tuple[str, ...]

    @property
    def positions_nm(self) -> Frame:
        """The reference frame."""
        first: Frame = self.starts_nm[0]
        return first


def alanine_dipeptide() -> ReferenceSystem:
    """ACE-ALA-NME, 22 atoms in openmmtools' order, AMBER99SB-ILDN with OBC solvent, 300 K.

    No cutoff and no constraints. The starts are the lowest minima with phi below and above 0 that
    a scan of phi and psi finds.
    """
    from openmmtools.testsystems import AlanineDipeptideVacuum  # takes two seconds

    template = AlanineDipeptideVacuum(constraints=None)
    force_field = ("amber99sbildn.xml", "amber99_obc.xml")
    system = app.ForceField(*force_field).createSystem(
        template.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    frame = template.positions.value_in_unit(unit.nanometer)
    starts = np.stack([_lowest_alanine_minimum(system, frame, sign) for sign in (-1, 1)])
    return ReferenceSystem(template.topology, system, starts, 300.0, force_field)


def _lowest_alanine_minimum(system: openmm.System, frame: Frame, phi_sign: int) -> Frame:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    minima: list[tuple[float, Frame]] = []
    for phi, psi in itertools.product((60, 90, 150), range(-150, 180, 60)):
        turned = with_dihedral(frame, ALANINE_PHI, range(9, 22), np.radians(phi_sign * phi))
        turned = with_dihedral(turned, ALANINE_PSI, range(15, 22), np.radians(psi))
        context.setPositions(turned)
        openmm.LocalEnergyMinimizer.minimize(context)
        state = context.getState(positions=True, energy=True)
        minimum: Frame = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if np.sign(dihedral(minimum, ALANINE_PHI)) == phi_sign:
            minima.append((energy, minimum - minimum.mean(axis=0)))
    return min(minima, key=lambda candidate: candidate[0])[1]
