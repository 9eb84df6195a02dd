"""2 fs with hydrogens of 4 amu leave bonds and angles as 0.5 fs with hydrogens of 1 amu do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
from assertions import assert_same_mean
from openmm import unit

from openmm_tbg.frames import Frames
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, RamachandranBias, simulate

pytestmark = pytest.mark.slow

RIGHT = openmm.LangevinMiddleIntegrator
FRICTION_PER_PS = 10.0  # forgets fast; it changes no average over positions
FINE = Dynamics(0.1, 0.5, FRICTION_PER_PS, hydrogen_mass_amu=1.008, equilibration_ps=5.0)
COARSE = Dynamics(0.1, 2.0, FRICTION_PER_PS, hydrogen_mass_amu=4.0, equilibration_ps=5.0)


def well() -> RamachandranBias:
    """Keeps phi and psi in one state: angles would take nanoseconds to average over several."""
    angles = np.linspace(-np.pi, np.pi, 36, endpoint=False)
    phi, psi = np.meshgrid(angles, angles, indexing="ij")
    depth = np.cos(phi - np.radians(-80)) + np.cos(psi - np.radians(150))
    return RamachandranBias((*ALANINE_PHI, ALANINE_PSI[-1]), 20 * (2 - depth))


def run(out: Path, dynamics: Dynamics, n_frames: int) -> Frames:
    return simulate(
        alanine_dipeptide(), out, dynamics=dynamics, n_frames=n_frames, n_walkers=1, seed=9,
        bias=well(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return run(tmp_path_factory.mktemp("fine"), FINE, 1000)


def lengths_nm(frames: Frames) -> np.ndarray:
    first, second = np.array(frames.metadata["bonds"]).T
    positions = frames.positions_nm.astype(float)
    return np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)


def angles_rad(frames: Frames) -> np.ndarray:
    first, middle, last = np.array(frames.metadata["angles"]).T
    positions = frames.positions_nm.astype(float)
    one, other = (
        positions[:, first] - positions[:, middle],
        positions[:, last] - positions[:, middle],
    )
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.arccos(np.sum(one * other, axis=-1) / norms)


def assert_bonds_and_angles_agree(coarse: Frames, fine: Frames) -> None:
    """Means and strain energies of all terms, and the strain of all together in kT."""
    history = fine.metadata
    for measure, rest, stiffness in (
        (lengths_nm, "bond_lengths_nm", "bond_stiffness_kT_per_nm2"),
        (angles_rad, "angles_rad", "angle_stiffness_kT_per_rad2"),
    ):
        values = [measure(frames) for frames in (coarse, fine)]
        strains = [
            0.5 * np.array(history[stiffness]) * (value - np.array(history[rest])) ** 2
            for value in values
        ]
        assert_same_mean(strains[0].sum(axis=1), strains[1].sum(axis=1))
        for of_coarse, of_fine in (values, strains):
            for term in range(of_fine.shape[1]):
                assert_same_mean(of_coarse[:, term], of_fine[:, term], min_ess=50)


def test_bonds_and_angles_do_not_feel_the_timestep(fine: Frames, tmp_path: Path) -> None:
    assert_bonds_and_angles_agree(run(tmp_path / "coarse", COARSE, 2000), fine)


def too_hot(temperature_K: float, *others: float) -> openmm.Integrator:
    return RIGHT(1.1 * temperature_K, *others)


def velocity_verlet(*settings: float) -> openmm.Integrator:
    """Langevin's noise about velocity Verlet: bonds widen by 1 / (1 - (omega dt)^2 / 4)."""
    from openmmtools.integrators import LangevinIntegrator

    temperature_K, friction_per_ps, timestep_ps = settings
    return LangevinIntegrator(
        temperature_K * unit.kelvin,
        friction_per_ps / unit.picosecond,
        timestep_ps * unit.picosecond,
        splitting="O V R V O",
    )


@pytest.mark.parametrize("bug", [too_hot, velocity_verlet])
def test_the_comparison_sees_planted_bugs(
    fine: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[..., object]
) -> None:
    monkeypatch.setattr(openmm, "LangevinMiddleIntegrator", bug)
    coarse = run(tmp_path / "coarse", COARSE, 1000)
    with pytest.raises(AssertionError, match="sigma from"):
        assert_bonds_and_angles_agree(coarse, fine)
