"""A bias learnt by well-tempered metadynamics."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app, unit

from ..reference import ReferenceSystem
from ..torsions import Dihedral
from .bias import Backbone, RamachandranBias
from .dynamics import Dynamics, repartition_hydrogen_mass

HILL_KJ = 1.0
HILL_WIDTH_RAD = 0.35
STEPS_PER_HILL = 250
N_GRID = 60


def learn_bias(
    reference: ReferenceSystem,
    atoms: Backbone,
    *,
    n_steps: int,
    seed: int,
    bias_factor: float = 8.0,
    flatten: float = 0.75,
    cap_kT: float = 14.0,
) -> RamachandranBias:
    r"""The bias that takes most of the free-energy landscape of phi and psi away.

    Well-tempered metadynamics (Barducci et al. 2008, doi:10.1103/PhysRevLett.100.020603) raises
    hills V; with the bias factor g the free energy is $F = -\frac{g}{g-1} V$, with minimum zero,
    and the bias $b = -a \min(F, F_\mathrm{cap})$ with a = `flatten`. Steps of 2 fs, hydrogens of
    4 amu, on the Reference platform: alanine dipeptide takes 7 minutes for 15 ns.

    Args:
        reference: the molecule; the walk begins at its first start.
        atoms: C, N, CA, C, N of the residue.
        n_steps: steps of 2 fs; 10 ns and more visit the rare states of a dipeptide.
        seed: origin of all random numbers.
        bias_factor: g; hills vanish above a free energy of about (g - 1) kT.
        flatten: part a of the landscape that is taken away.
        cap_kT: free energy above which the landscape is left as it is.

    Raises:
        ValueError: for fewer steps than one hill takes, or numbers out of range.
    """
    if n_steps < STEPS_PER_HILL:
        raise ValueError(f"n_steps is {n_steps}: a hill takes {STEPS_PER_HILL}, so take many more")
    if bias_factor <= 1 or not 0 < flatten <= 1 or cap_kT <= 0:
        raise ValueError(
            f"bias_factor={bias_factor}, flatten={flatten}, cap_kT={cap_kT}: "
            "bias_factor must exceed 1, flatten lie within (0, 1], cap_kT exceed 0"
        )
    hills_kJ = _hills(reference, atoms, n_steps, seed, bias_factor)
    return _flattening(hills_kJ, atoms, reference.temperature_K, bias_factor, flatten, cap_kT)


def _hills(
    reference: ReferenceSystem, atoms: Backbone, n_steps: int, seed: int, bias_factor: float
) -> np.ndarray:
    dynamics = Dynamics(interval_ps=0.002)
    system = repartition_hydrogen_mass(
        reference.system, reference.topology, dynamics.hydrogen_mass_amu
    )
    angles = [_angle(atoms[:4]), _angle(atoms[1:])]
    temperature_K = reference.temperature_K
    metadynamics = app.Metadynamics(
        system, angles, temperature_K, bias_factor, HILL_KJ, STEPS_PER_HILL
    )
    platform = openmm.Platform.getPlatformByName("Reference")
    integrator = dynamics.integrator(temperature_K, seed % (2**31 - 1) + 1)
    simulation = app.Simulation(reference.topology, system, integrator, platform)
    simulation.context.setPositions(reference.positions_nm)
    simulation.context.setVelocitiesToTemperature(temperature_K, seed % (2**31 - 1) + 1)
    metadynamics.step(simulation, n_steps)
    free_energy = metadynamics.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole)
    return np.asarray(-(bias_factor - 1) / bias_factor * free_energy)


def _angle(atoms: Dihedral) -> app.BiasVariable:
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(*atoms, [])
    return app.BiasVariable(
        torsion, -np.pi, np.pi, HILL_WIDTH_RAD, periodic=True, gridWidth=N_GRID + 1
    )


def _flattening(
    hills_kJ: np.ndarray,
    atoms: Backbone,
    temperature_K: float,
    bias_factor: float,
    flatten: float,
    cap_kT: float,
) -> RamachandranBias:
    """From the hills of metadynamics, [psi, phi] with both ends, to the bias."""
    kT = unit.MOLAR_GAS_CONSTANT_R * temperature_K * unit.kelvin
    free_energy = -bias_factor / (bias_factor - 1) * hills_kJ.T[:-1, :-1]
    free_energy = (free_energy - free_energy.min()) / kT.value_in_unit(unit.kilojoule_per_mole)
    return RamachandranBias(atoms, -flatten * np.minimum(free_energy, cap_kT))
