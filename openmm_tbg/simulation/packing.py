"""Many independent molecules in one System, so far apart that they do not interact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openmm
from jaxtyping import Float64
from openmm import unit

from .merging import merge
from .trajectory import AUXILIARY_GROUP

SHORTEST_CUTOFF_NM = 2.0
STRETCH = 1.1  # how much longer than its bonds at rest a chain may become
RESTRAINT_KJ_PER_NM2 = 100.0
RESTRAINT_REACH_NM = 1.0  # six standard deviations at 300 K

COULOMB_KJ_NM = (
    unit.AVOGADRO_CONSTANT_NA
    * (1.0 * unit.elementary_charge) ** 2
    / (4 * np.pi * 8.8541878128e-12 * unit.farad / unit.meter)
).value_in_unit(unit.kilojoule_per_mole * unit.nanometer)


@dataclass(frozen=True, eq=False)
class PackedSystem:
    r"""Molecules on a cubic grid, and how to place and read them.

    One atom of each molecule, its anchor, is held near its grid point by a weak spring. The
    anchor's position is independent of all positions relative to it, so the spring leaves these
    distributed as in the molecule alone. It is in `AUXILIARY_GROUP`.

    Args:
        system: all particles, molecule after molecule.
        first_atoms: index of the first particle of each molecule.
        anchors: index of each anchor within its molecule.
        origins_nm: (molecules, 3), the grid points.
        cutoff_nm: longer than any distance in a molecule, shorter than any between two.
        energy_shift_kJ: what the cutoff adds to each molecule's energy, see `energy_shift`.
    """

    system: openmm.System
    first_atoms: tuple[int, ...]
    anchors: tuple[int, ...]
    origins_nm: Float64[np.ndarray, "molecules 3"]
    cutoff_nm: float
    energy_shift_kJ: Float64[np.ndarray, " molecules"]

    def place(
        self, frames_nm: Sequence[Float64[np.ndarray, "_ 3"]]
    ) -> Float64[np.ndarray, "particles 3"]:
        """Positions of all particles, with each molecule's anchor on its grid point."""
        molecules = zip(frames_nm, self.anchors, self.origins_nm, strict=True)
        return np.concatenate(
            [frame - frame[anchor] + origin for frame, anchor, origin in molecules]
        )


def pack(
    systems: Sequence[openmm.System],
    anchors: Sequence[int] | None = None,
    spacing_nm: float | None = None,
) -> PackedSystem:
    """Put molecules into one System, in which each moves as if it were alone.

    The cutoff exceeds the length of the longest path of bonds in any molecule, so no interaction
    inside a molecule is cut.

    Args:
        systems: one for each molecule; the same may come several times.
        anchors: an atom of each molecule; by default the one from which all others are nearest.
        spacing_nm: distance between grid points; by default the shortest that keeps all distances
            between molecules above the cutoff.

    Raises:
        ValueError: for a System that cannot be packed (named with its force), a molecule whose
            atoms are not all connected by bonds, an anchor that it does not have, or a spacing
            that is too short.
    """
    if not systems:
        raise ValueError("systems is empty: give at least one")
    paths = [_paths_nm(system, index) for index, system in enumerate(systems)]
    if anchors is None:
        anchors = [int(path.max(axis=1).argmin()) for path in paths]
    for index, (anchor, path) in enumerate(zip(anchors, paths, strict=True)):
        if not 0 <= anchor < len(path):
            raise ValueError(f"anchor {anchor} of system {index}: it has {len(path)} atoms")
    cutoff_nm = max(SHORTEST_CUTOFF_NM, *(STRETCH * path.max() for path in paths))
    reach_nm = max(
        STRETCH * path[anchor].max() for anchor, path in zip(anchors, paths, strict=True)
    )
    shortest = cutoff_nm + 2 * (reach_nm + RESTRAINT_REACH_NM)
    if spacing_nm is not None and spacing_nm < shortest:
        raise ValueError(f"spacing_nm is {spacing_nm}: these molecules need {shortest:.2f}")
    system = merge(systems, cutoff_nm)
    first_atoms = np.cumsum([0] + [len(path) for path in paths])[:-1]
    origins_nm = _grid(len(systems)) * (spacing_nm or shortest)
    system.addForce(_springs(first_atoms + np.array(anchors), origins_nm))
    return PackedSystem(
        system,
        tuple(first_atoms.tolist()),
        tuple(anchors),
        origins_nm,
        float(cutoff_nm),
        np.array([energy_shift(system, cutoff_nm) for system in systems]),
    )


def energy_shift(system: openmm.System, cutoff_nm: float) -> float:
    r"""What a cutoff that cuts nothing adds to the energy of a molecule, in kJ/mol.

    OpenMM's reaction field with dielectric 1 is $q_i q_j (1/r - 1/r_c)$ for each pair that is no
    exception, and its GBSAOBCForce shifts the generalised-Born term of every pair likewise, with
    the opposite sign and $1/\epsilon_\mathrm{solute} - 1/\epsilon_\mathrm{solvent}$ in front. Both
    are constants, so forces stay as they are. Lennard-Jones, exceptions and CustomGBForce are
    not shifted.

    Args:
        system: the molecule, without cutoff.
        cutoff_nm: $r_c$.
    """
    shift = 0.0
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            charges = _charges(force)
            pairs = _sum_over_pairs(charges)
            for k in range(force.getNumExceptions()):
                one, other, *_ = force.getExceptionParameters(k)
                pairs -= charges[one] * charges[other]
            shift -= COULOMB_KJ_NM * pairs / cutoff_nm
        if isinstance(force, openmm.GBSAOBCForce):
            factor = 1 / force.getSoluteDielectric() - 1 / force.getSolventDielectric()
            shift += COULOMB_KJ_NM * factor * _sum_over_pairs(_charges(force)) / cutoff_nm
    return float(shift)


def _charges(
    force: openmm.NonbondedForce | openmm.GBSAOBCForce,
) -> Float64[np.ndarray, " atoms"]:
    charges = (force.getParticleParameters(k)[0] for k in range(force.getNumParticles()))
    return np.array([charge.value_in_unit(unit.elementary_charge) for charge in charges])


def _sum_over_pairs(charges: Float64[np.ndarray, " atoms"]) -> float:
    return float((charges.sum() ** 2 - (charges**2).sum()) / 2)


def _paths_nm(system: openmm.System, index: int) -> Float64[np.ndarray, "atoms atoms"]:
    """Length of the shortest path of bonds between all atoms: no distance can be longer."""
    n_atoms = system.getNumParticles()
    paths = np.full((n_atoms, n_atoms), np.inf)
    np.fill_diagonal(paths, 0)
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                one, other, length, _ = force.getBondParameters(k)
                paths[one, other] = paths[other, one] = length.value_in_unit(unit.nanometer)
    for between in range(n_atoms):
        np.minimum(paths, paths[:, between, None] + paths[None, between], out=paths)
    if not np.isfinite(paths).all():
        raise ValueError(f"the bonds of system {index} do not connect all atoms: pack molecules")
    return paths


def _grid(n: int) -> Float64[np.ndarray, "points 3"]:
    """The first n points of a cube of unit spacing about zero, where floats are finest."""
    side = round(np.ceil(n ** (1 / 3) - 1e-9))
    points = np.stack(np.unravel_index(np.arange(n), (side, side, side)), axis=1)
    return np.asarray(points - (side - 1) / 2)


def _springs(
    anchors: np.ndarray, origins_nm: Float64[np.ndarray, "molecules 3"]
) -> openmm.CustomExternalForce:
    springs = openmm.CustomExternalForce("0.5 * k * ((x - x0)^2 + (y - y0)^2 + (z - z0)^2)")
    springs.addGlobalParameter("k", RESTRAINT_KJ_PER_NM2)
    for name in ("x0", "y0", "z0"):
        springs.addPerParticleParameter(name)
    for anchor, origin in zip(anchors.tolist(), origins_nm.tolist(), strict=True):
        springs.addParticle(anchor, origin)
    springs.setForceGroup(AUXILIARY_GROUP)
    return springs
