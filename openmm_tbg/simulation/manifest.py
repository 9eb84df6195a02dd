"""What a folder of frames says about how its frames come about."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
import openmm
from openmm import unit

from ..reference import ReferenceSystem
from .bias import RamachandranBias
from .dynamics import Dynamics, masses_amu


def manifest(
    reference: ReferenceSystem,
    system: openmm.System,
    dynamics: Dynamics,
    bias: RamachandranBias | None,
    *,
    walkers: int,
    frames_per_walker: int,
    seed: int,
    platform: str,
    packed_with: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The manifest of a simulation.

    Args:
        reference: the molecule, and where its walkers start.
        system: what is simulated, without the bias.
        dynamics: how it moves.
        bias: what is added to the energy.
        walkers: number of independent trajectories.
        frames_per_walker: number of stored frames of each.
        seed: origin of all random numbers.
        platform: OpenMM's name of the platform.
        packed_with: names of all molecules in the Context.
    """
    n_starts = len(reference.starts_nm)
    rare_states = {"bias": bias is not None, "starts": n_starts > 1}
    return {
        "force_field": list(reference.force_field),
        "temperature_K": reference.temperature_K,
        "atoms": reference.topology.getNumAtoms(),
        "elements": [atom.element.symbol for atom in reference.topology.atoms()],
        **asdict(dynamics),
        "seed": seed,
        "walkers": walkers,
        "frames_per_walker": frames_per_walker,
        "start_of_walker": [k % n_starts for k in range(walkers)],
        "starts_nm": reference.starts_nm.tolist(),
        "rare_states_by": [means for means, used in rare_states.items() if used],
        "bias": None if bias is None else bias.description,
        "platform": platform,
        **({"packed_with": list(packed_with)} if packed_with else {}),
        "versions": {"openmm": openmm.version.full_version, "numpy": np.__version__},
        "system_sha256": hashlib.sha256(
            openmm.XmlSerializer.serialize(system).encode()
        ).hexdigest(),
        "masses_amu": masses_amu(system).tolist(),
        **stiff_terms(system, reference.temperature_K),
    }


def stiff_terms(system: openmm.System, temperature_K: float) -> dict[str, list[Any]]:
    r"""The harmonic terms $\frac{k}{2} (r - r_0)^2$ of bonds and angles, in kT, nm and rad.

    Returns:
        `bonds` and `angles`, lists of atoms; `bond_stiffness_kT_per_nm2` and
        `angle_stiffness_kT_per_rad2`, their k; `bond_lengths_nm` and `angles_rad`, where they rest.
    """
    kT = unit.MOLAR_GAS_CONSTANT_R * temperature_K * unit.kelvin
    bonds, angles = [], []
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            bonds += [force.getBondParameters(k) for k in range(force.getNumBonds())]
        if isinstance(force, openmm.HarmonicAngleForce):
            angles += [force.getAngleParameters(k) for k in range(force.getNumAngles())]
    return {
        "bonds": [term[:2] for term in bonds],
        "bond_lengths_nm": [term[2].value_in_unit(unit.nanometer) for term in bonds],
        "bond_stiffness_kT_per_nm2": [term[3] / kT * unit.nanometer**2 for term in bonds],
        "angles": [term[:3] for term in angles],
        "angles_rad": [term[3].value_in_unit(unit.radian) for term in angles],
        "angle_stiffness_kT_per_rad2": [term[4] / kT * unit.radian**2 for term in angles],
    }
