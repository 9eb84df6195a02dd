"""GFN2-xTB as a target: the energies of tblite in OpenMM's units, forces that belong to them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmtools.states import ThermodynamicState
from structures import Alanine, Structure, structure_from_smiles
from tblite.interface import Calculator

from openmm_tbg import ReducedPotential
from openmm_tbg.arrays import Frame
from openmm_tbg.potential import require_supported
from openmm_tbg.semi_empirical import KJ_PER_MOL_PER_HARTREE, NM_PER_BOHR, gfn2_xtb_system

# The molecule of tblite's documentation and its energy there, in atomic units.
NUMBERS = [1, 1, 6, 5, 1, 15, 8, 17, 13, 15, 5, 1, 9, 15, 1, 15]
POSITIONS_BOHR = np.array(
    [
        [+2.79274810283778, +3.82998228828316, -2.79287054959216],
        [-1.43447454186833, +0.43418729987882, +5.53854345129809],
        [-3.26268343665218, -2.50644032426151, -1.56631149351046],
        [+2.14548759959147, -0.88798018953965, -2.24592534506187],
        [-4.30233097423181, -3.93631518670031, -0.48930754109119],
        [+0.06107643564880, -3.82467931731366, -2.22333344469482],
        [+0.41168550401858, +0.58105573172764, +5.56854609916143],
        [+4.41363836635653, +3.92515871809283, +2.57961724984000],
        [+1.33707758998700, +1.40194471661647, +1.97530004949523],
        [+3.08342709834868, +1.72520024666801, -4.42666116106828],
        [-3.02346932078505, +0.04438199934191, -0.27636197425010],
        [+1.11508390868455, -0.97617412809198, +6.25462847718180],
        [+0.61938955433011, +2.17903547389232, -6.21279842416963],
        [-2.67491681346835, +3.00175899761859, +1.05038813614845],
        [-4.13181080289514, -2.34226739863660, -3.44356159392859],
        [+2.85007173009739, -2.64884892757600, +0.71010806424206],
    ]
)
HARTREE = -31.716159156026254


def context_of(system: openmm.System) -> openmm.Context:
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform)


def energy_of(context: openmm.Context, positions_nm: Frame) -> float:
    context.setPositions(positions_nm)
    return float(context.getState(energy=True).getPotentialEnergy()._value)


def test_the_energy_of_the_documentation() -> None:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number in NUMBERS:
        topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
    context = context_of(gfn2_xtb_system(topology, charge=0))
    found = energy_of(context, POSITIONS_BOHR * 0.052917721)  # nm
    assert found == pytest.approx(HARTREE * 2625.4996, rel=1e-7)


@pytest.mark.parametrize(
    ("smiles", "charge", "solvent"),
    [("[NH4+]", 1, None), ("CC(=O)[O-]", -1, None), ("CC(=O)[O-]", -1, "water")],
)
def test_charge_and_solvent_are_those_asked_for(
    smiles: str, charge: int, solvent: str | None
) -> None:
    ion = structure_from_smiles(smiles)
    numbers = np.array([atom.element.atomic_number for atom in ion.topology.atoms()])
    alone = Calculator("GFN2-xTB", numbers, ion.positions_nm / NM_PER_BOHR, charge=charge)
    alone.set("verbosity", 0)
    if solvent:
        alone.add("alpb-solvation", solvent)
    expected = alone.singlepoint().get("energy") * KJ_PER_MOL_PER_HARTREE
    context = context_of(gfn2_xtb_system(ion.topology, charge, solvent))
    assert energy_of(context, ion.positions_nm) == pytest.approx(expected, rel=1e-10)


def test_water_holds_an_ion_as_born_says() -> None:
    """Born: 69.5 (1 - 1/78) q^2 / r in kJ/mol nm, 280 to 400 for r = 0.17 to 0.25 nm."""
    ion = structure_from_smiles("CC(=O)[O-]")
    vacuum, water = (
        energy_of(context_of(gfn2_xtb_system(ion.topology, -1, solvent)), ion.positions_nm)
        for solvent in (None, "water")
    )
    assert 280 < vacuum - water < 400


@pytest.mark.parametrize("solvent", [None, "water"])
def test_forces_are_the_slope_of_the_energy(solvent: str | None) -> None:
    molecule: Structure = structure_from_smiles("CO")
    rng = np.random.default_rng(0)
    frame = molecule.positions_nm + rng.normal(0, 0.005, molecule.positions_nm.shape)
    along = rng.normal(size=frame.shape)
    context = context_of(gfn2_xtb_system(molecule.topology, 0, solvent))
    step = 1e-4
    ahead, behind = (energy_of(context, frame + sign * step * along) for sign in (1, -1))
    context.setPositions(frame)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    assert -np.sum(forces * along) == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


@pytest.fixture(scope="module")
def potential(alanine: Alanine) -> ReducedPotential:
    return reduced_potential(gfn2_xtb_system(alanine.topology, charge=0))


def reduced_potential(system: openmm.System) -> ReducedPotential:
    state = ThermodynamicState(system, 300 * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


def test_is_a_target_like_any_other(potential: ReducedPotential, alanine: Alanine) -> None:
    """In units of kT, through copies of the System and its XML, under one digest."""
    system = gfn2_xtb_system(alanine.topology, charge=0)
    require_supported(system, 22)
    expected = energy_of(context_of(system), alanine.positions_nm) / (8.31446261815324e-3 * 300)
    assert potential(alanine.positions_nm[None])[0] == pytest.approx(expected, rel=1e-9)
    copy = reduced_potential(openmm.XmlSerializer.clone(system))
    assert copy.sha256 == potential.sha256
    assert copy(alanine.positions_nm[None])[0] == pytest.approx(expected, rel=1e-9)
    wet = reduced_potential(gfn2_xtb_system(alanine.topology, 0, "water"))
    assert wet.sha256 != potential.sha256


def test_an_energy_does_not_depend_on_what_came_before(
    potential: ReducedPotential, alanine: Alanine
) -> None:
    frames = alanine.positions_nm + np.random.default_rng(1).normal(0, 0.01, (3, 22, 3))
    np.testing.assert_array_equal(potential(frames), potential(frames[::-1])[::-1])


def test_threads_share_nothing(alanine: Alanine) -> None:
    system = gfn2_xtb_system(alanine.topology, charge=0)
    frames = alanine.positions_nm + np.random.default_rng(2).normal(0, 0.01, (2, 4, 22, 3))
    both = [reduced_potential(system) for _ in frames]
    expected = [each(part) for each, part in zip(both, frames, strict=True)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda pair: pair[0](pair[1]), zip(both, frames, strict=True)))
    np.testing.assert_array_equal(found, expected)


def test_a_configuration_without_a_solution_has_no_energy(
    potential: ReducedPotential, alanine: Alanine
) -> None:
    frames = np.repeat(alanine.positions_nm[None], 3, axis=0)
    frames[1, 3] = np.nan
    u = potential(frames)
    assert np.isnan(u[1])
    assert np.isfinite(u[[0, 2]]).all()


def test_an_odd_number_of_electrons_is_refused() -> None:
    with pytest.raises(ValueError, match="charge is 0, which leaves 11 electrons"):
        gfn2_xtb_system(structure_from_smiles("[NH4+]").topology, charge=0)


def test_without_tblite_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, alanine: Alanine
) -> None:
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(ImportError, match=r"pip install 'openmm-tbg\[xtb\]'"):
        gfn2_xtb_system(alanine.topology, charge=0)
