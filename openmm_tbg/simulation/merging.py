"""Many Systems in one: forces of one kind become one force over all particles."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import openmm

Append = Callable[[Any, Any, int], None]


def merge(systems: Sequence[openmm.System], cutoff_nm: float) -> openmm.System:
    """One System that holds the particles of all, in turn, and their forces.

    Non-bonded forces get a cutoff, which keeps molecules that lie further apart from interacting.

    Args:
        systems: without constraints, virtual sites, box and cutoff.
        cutoff_nm: more than the longest distance inside a molecule.

    Raises:
        ValueError: for a force that cannot be merged, or non-bonded forces that not all Systems
            have in the same form.
    """
    merged = openmm.System()
    forces: dict[str, Any] = {}
    uses: Counter[str] = Counter()
    for index, system in enumerate(systems):
        _require_free(system, index)
        first = merged.getNumParticles()
        for particle in range(system.getNumParticles()):
            merged.addParticle(system.getParticleMass(particle))
        for force in system.getForces():
            if isinstance(force, openmm.CMMotionRemover):
                continue
            if type(force) not in APPEND:
                known = ", ".join(sorted(kind.__name__ for kind in APPEND))
                raise ValueError(
                    f"system {index} has a {type(force).__name__}, which cannot be packed: "
                    f"simulate it alone, or take a force field of {known}"
                )
            empty = _empty_like(force, cutoff_nm)
            form = openmm.XmlSerializer.serialize(empty)
            uses[form] += 1
            APPEND[type(force)](forces.setdefault(form, empty), force, first)
    for form, force in forces.items():
        if type(force) in NONBONDED and uses[form] != len(systems):
            raise ValueError(
                f"{len(systems) - uses[form]} of {len(systems)} systems lack a "
                f"{type(force).__name__} of the form that others have (expressions, tables, "
                "dielectrics, force group): pack molecules of one force field"
            )
        merged.addForce(force)
    return merged


def _require_free(system: openmm.System, index: int) -> None:
    obstacles = {
        "constraints": system.getNumConstraints() > 0,
        "virtual sites": any(map(system.isVirtualSite, range(system.getNumParticles()))),
        "a periodic box": system.usesPeriodicBoundaryConditions(),
    }
    for obstacle, present in obstacles.items():
        if present:
            raise ValueError(
                f"system {index} has {obstacle}, and cannot be packed: create it with "
                "constraints=None and nonbondedMethod=NoCutoff"
            )
    for force in system.getForces():
        if type(force) in NONBONDED and force.getNonbondedMethod() != type(force).NoCutoff:
            raise ValueError(
                f"{type(force).__name__} of system {index} has a cutoff: create it with NoCutoff"
            )


def _empty_like(force: Any, cutoff_nm: float) -> Any:
    """A force of the same form without particles; its XML tells forms apart."""
    empty = EMPTY.get(type(force), lambda force: type(force)())(force)
    empty.setForceGroup(force.getForceGroup())
    if type(force) in NONBONDED:
        empty.setNonbondedMethod(type(force).CutoffNonPeriodic)
        empty.setCutoffDistance(cutoff_nm)
    return empty


def _empty_nonbonded(force: openmm.NonbondedForce) -> openmm.NonbondedForce:
    if force.getNumParticleParameterOffsets() + force.getNumExceptionParameterOffsets():
        raise ValueError("a NonbondedForce with parameter offsets cannot be packed: remove them")
    empty = openmm.NonbondedForce()
    empty.setReactionFieldDielectric(1.0)  # plain Coulomb up to a constant, see `energy_shift`
    return empty


def _empty_obc(force: openmm.GBSAOBCForce) -> openmm.GBSAOBCForce:
    empty = openmm.GBSAOBCForce()
    empty.setSolventDielectric(force.getSolventDielectric())
    empty.setSoluteDielectric(force.getSoluteDielectric())
    empty.setSurfaceAreaEnergy(force.getSurfaceAreaEnergy())
    return empty


def _empty_gb(force: openmm.CustomGBForce) -> openmm.CustomGBForce:
    empty = openmm.CustomGBForce()
    for k in range(force.getNumPerParticleParameters()):
        empty.addPerParticleParameter(force.getPerParticleParameterName(k))
    _copy_globals_and_tables(force, empty)
    for k in range(force.getNumComputedValues()):
        empty.addComputedValue(*force.getComputedValueParameters(k))
    for k in range(force.getNumEnergyTerms()):
        empty.addEnergyTerm(*force.getEnergyTermParameters(k))
    return empty


def _empty_compound(force: openmm.CustomCompoundBondForce) -> openmm.CustomCompoundBondForce:
    empty = openmm.CustomCompoundBondForce(
        force.getNumParticlesPerBond(), force.getEnergyFunction()
    )
    for k in range(force.getNumPerBondParameters()):
        empty.addPerBondParameter(force.getPerBondParameterName(k))
    _copy_globals_and_tables(force, empty)
    return empty


def _copy_globals_and_tables(force: Any, empty: Any) -> None:
    if force.getNumEnergyParameterDerivatives():
        raise ValueError(
            f"a {type(force).__name__} with energy parameter derivatives cannot be packed"
        )
    for k in range(force.getNumGlobalParameters()):
        value = force.getGlobalParameterDefaultValue(k)
        empty.addGlobalParameter(force.getGlobalParameterName(k), value)
    for k in range(force.getNumTabulatedFunctions()):
        function = copy.deepcopy(force.getTabulatedFunction(k))
        empty.addTabulatedFunction(force.getTabulatedFunctionName(k), function)


def _append_bonds(merged: Any, force: openmm.HarmonicBondForce, first: int) -> None:
    for k in range(force.getNumBonds()):
        *atoms, length, stiffness = force.getBondParameters(k)
        merged.addBond(*(first + atom for atom in atoms), length, stiffness)


def _append_angles(merged: Any, force: openmm.HarmonicAngleForce, first: int) -> None:
    for k in range(force.getNumAngles()):
        *atoms, angle, stiffness = force.getAngleParameters(k)
        merged.addAngle(*(first + atom for atom in atoms), angle, stiffness)


def _append_torsions(merged: Any, force: openmm.PeriodicTorsionForce, first: int) -> None:
    for k in range(force.getNumTorsions()):
        *atoms, periodicity, phase, height = force.getTorsionParameters(k)
        merged.addTorsion(*(first + atom for atom in atoms), periodicity, phase, height)


def _append_maps(merged: Any, force: openmm.CMAPTorsionForce, first: int) -> None:
    own: dict[int, int] = {}  # force fields add the maps of all residues to every System
    for k in range(force.getNumTorsions()):
        table, *atoms = force.getTorsionParameters(k)
        if table not in own:
            own[table] = merged.addMap(*force.getMapParameters(table))
        merged.addTorsion(own[table], *(first + atom for atom in atoms))


def _append_compounds(merged: Any, force: openmm.CustomCompoundBondForce, first: int) -> None:
    for k in range(force.getNumBonds()):
        atoms, parameters = force.getBondParameters(k)
        merged.addBond([first + atom for atom in atoms], parameters)


def _append_nonbonded(merged: Any, force: openmm.NonbondedForce, first: int) -> None:
    for k in range(force.getNumParticles()):
        merged.addParticle(*force.getParticleParameters(k))
    for k in range(force.getNumExceptions()):
        one, other, *parameters = force.getExceptionParameters(k)
        merged.addException(first + one, first + other, *parameters)


def _append_obc(merged: Any, force: openmm.GBSAOBCForce, first: int) -> None:
    for k in range(force.getNumParticles()):
        merged.addParticle(*force.getParticleParameters(k))


def _append_gb(merged: Any, force: openmm.CustomGBForce, first: int) -> None:
    for k in range(force.getNumParticles()):
        merged.addParticle(force.getParticleParameters(k))
    for k in range(force.getNumExclusions()):
        one, other = force.getExclusionParticles(k)
        merged.addExclusion(first + one, first + other)


NONBONDED = {openmm.NonbondedForce, openmm.GBSAOBCForce, openmm.CustomGBForce}
EMPTY: dict[type, Callable[[Any], Any]] = {
    openmm.NonbondedForce: _empty_nonbonded,
    openmm.GBSAOBCForce: _empty_obc,
    openmm.CustomGBForce: _empty_gb,
    openmm.CustomCompoundBondForce: _empty_compound,
}
APPEND: dict[type, Append] = {
    openmm.HarmonicBondForce: _append_bonds,
    openmm.HarmonicAngleForce: _append_angles,
    openmm.PeriodicTorsionForce: _append_torsions,
    openmm.CMAPTorsionForce: _append_maps,
    openmm.CustomCompoundBondForce: _append_compounds,
    openmm.NonbondedForce: _append_nonbonded,
    openmm.GBSAOBCForce: _append_obc,
    openmm.CustomGBForce: _append_gb,
}
