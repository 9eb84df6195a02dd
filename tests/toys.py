"""Systems of a few atoms whose distributions are known in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import openmm
from openmm import app, unit

from openmm_tbg.reference import ReferenceSystem

LENGTH_NM = 0.11
WIDTH_NM = 0.01
KT = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)


def topology_of(symbols: str) -> app.Topology:
    """Atoms bound one to the next."""
    topology = app.Topology()
    residue = topology.addResidue("TOY", topology.addChain())
    atoms = [
        topology.addAtom(f"{symbol}{k}", app.Element.getBySymbol(symbol), residue)
        for k, symbol in enumerate(symbols)
    ]
    for first, second in itertools.pairwise(atoms):
        topology.addBond(first, second)
    return topology


def chain_system(topology: app.Topology) -> openmm.System:
    """Harmonic bonds: sqrt(kT / k) is `WIDTH_NM`."""
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    bonds = openmm.HarmonicBondForce()
    for first, second in topology.bonds():
        bonds.addBond(first.index, second.index, LENGTH_NM, KT / WIDTH_NM**2)
    system.addForce(bonds)
    return system


def diatomic() -> ReferenceSystem:
    """A C-H bond in empty space: p(r) is r^2 exp(-(r - r0)^2 / 2 w^2)."""
    topology = topology_of("CH")
    starts_nm = np.array([[[0.0, 0, 0], [LENGTH_NM, 0, 0]], [[0.0, 0, 0], [0, 0.12, 0]]])
    return ReferenceSystem(topology, chain_system(topology), starts_nm, 300.0, ("harmonic",))


def backbone(phi_barrier_kT: float = 0.0) -> ReferenceSystem:
    """Five atoms with stiff right angles, p(phi, psi) = exp(-barrier (1 + cos phi)) / Z.

    The two dihedrals are uniform where the barrier is zero.
    """
    topology = topology_of("CNCCN")
    system = chain_system(topology)
    angles = openmm.HarmonicAngleForce()
    for k in range(3):
        angles.addAngle(k, k + 1, k + 2, np.pi / 2, 100 * KT)
    torsion = openmm.PeriodicTorsionForce()
    torsion.addTorsion(0, 1, 2, 3, 1, 0.0, phi_barrier_kT * KT)
    for force in (angles, torsion):
        system.addForce(force)
    start_nm = LENGTH_NM * np.array(
        [[1.0, 0, 0], [0, 0, 0], [0, 1, 0], [0.6, 1, 0.8], [0.6, 2, 0.8]]
    )
    return ReferenceSystem(topology, system, start_nm[None], 300.0, ("toy",))
