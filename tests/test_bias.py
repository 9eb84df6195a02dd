"""The bias is the function it says, leaves the target's forces alone, and is undone by weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from assertions import assert_mean
from structures import Alanine
from toys import KT, backbone

from openmm_tbg.arrays import Positions
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI
from openmm_tbg.simulation import Dynamics, RamachandranBias, learn_bias, simulate
from openmm_tbg.torsions import dihedral, with_dihedral

ATOMS = (4, 6, 8, 14, 16)
CHAIN = (0, 1, 2, 3, 4)


@pytest.fixture
def bias() -> RamachandranBias:
    return RamachandranBias(ATOMS, np.random.default_rng(2).normal(0, 3, (24, 24)))


def energies_in_openmm(bias: RamachandranBias, positions_nm: Positions) -> np.ndarray:
    system = openmm.System()
    for _ in range(positions_nm.shape[1]):
        system.addParticle(12.0)
    system.addForce(bias.force(300.0))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies = []
    for frame in positions_nm:
        context.setPositions(frame)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(energies) / KT


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 17), (17, 3), (23, 12), (0, 23)])
def test_the_grid_is_phi_by_psi_from_minus_pi(
    bias: RamachandranBias, alanine: Alanine, row: int, column: int
) -> None:
    angles = np.linspace(-np.pi, np.pi, 24, endpoint=False)
    frame = with_dihedral(alanine.positions_nm, ALANINE_PHI, range(9, 22), angles[row])
    frame = with_dihedral(frame, ALANINE_PSI, range(15, 22), angles[column])[None]
    expected = pytest.approx(bias.energies_kT[row, column], abs=1e-7)
    assert bias.energy_kT(frame)[0] == expected
    assert energies_in_openmm(bias, frame)[0] == expected


def test_openmm_evaluates_the_same_spline(
    bias: RamachandranBias, md_frames: Positions, alanine: Alanine
) -> None:
    around = np.linspace(-np.pi, np.pi, 31)
    turned = [
        with_dihedral(alanine.positions_nm, ALANINE_PSI, range(15, 22), angle) for angle in around
    ]
    frames = np.concatenate([md_frames, np.array(turned)])
    energies = bias.energy_kT(frames)
    np.testing.assert_allclose(energies, energies_in_openmm(bias, frames), atol=1e-8)
    assert energies.std() > 1


def test_weights_undo_the_bias(tmp_path: Path) -> None:
    angles = np.linspace(-np.pi, np.pi, 24, endpoint=False)
    energies = 1.2 * np.cos(angles)[:, None] - 0.6 * np.sin(angles)[None, :]
    bias = RamachandranBias(CHAIN, energies)
    dynamics = Dynamics(interval_ps=0.2, friction_per_ps=5.0, equilibration_ps=2.0)
    frames = simulate(
        backbone(), tmp_path / "chain", dynamics=dynamics, n_frames=6000, n_walkers=2, seed=5,
        bias=bias,
    )  # fmt: skip
    positions = frames.positions_nm.astype(float)
    cos_phi, sin_psi = (
        np.cos(dihedral(positions, CHAIN[:4])),
        np.sin(dihedral(positions, CHAIN[1:])),
    )
    density = np.exp(-energies)
    assert_mean(cos_phi, (density * np.cos(angles)[:, None]).sum() / density.sum())
    assert_mean(sin_psi, (density * np.sin(angles)[None, :]).sum() / density.sum())
    assert frames.log_weights is not None
    weights = np.exp(frames.log_weights)
    weights /= weights.mean()
    for observable in (cos_phi, sin_psi, cos_phi * sin_psi):
        assert_mean(weights * observable, 0.0)


def test_stored_forces_are_those_of_the_target_alone(tmp_path: Path) -> None:
    reference = backbone(2.0)
    steep = RamachandranBias(CHAIN, np.random.default_rng(3).normal(0, 5, (12, 12)))
    frames = simulate(
        reference, tmp_path / "chain", dynamics=Dynamics(interval_ps=0.02), n_frames=20,
        n_walkers=1, seed=5, bias=steep,
    )  # fmt: skip
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(reference.system, openmm.VerletIntegrator(0.001), platform)
    assert frames.forces_per_nm is not None
    for positions, forces in zip(frames.positions_nm, frames.forces_per_nm, strict=True):
        context.setPositions(positions.astype(float))
        expected = context.getState(forces=True).getForces(asNumpy=True)._value / KT
        np.testing.assert_allclose(forces, expected, atol=0.01)  # of float32 positions
    np.testing.assert_allclose(
        frames.bias_kT, energies_in_openmm(steep, frames.positions_nm.astype(float)), atol=1e-4
    )


def test_metadynamics_learns_the_landscape() -> None:
    bias = learn_bias(backbone(2.0), CHAIN, n_steps=150_000, seed=1, flatten=0.5, cap_kT=3.0)
    angles = np.linspace(-np.pi, np.pi, 60, endpoint=False)
    free_energy = 2 * (1 + np.cos(angles))[:, None] + np.zeros(60)
    expected = -0.5 * np.minimum(free_energy, 3.0)
    error = bias.energies_kT - expected
    assert np.sqrt(np.mean((error - error.mean()) ** 2)) < 0.3
    assert bias.energies_kT.max() == 0
    assert bias.energies_kT.min() == -1.5


def test_a_bias_is_stored(bias: RamachandranBias, tmp_path: Path) -> None:
    bias.save(tmp_path / "bias.npz")
    again = RamachandranBias.load(tmp_path / "bias.npz")
    np.testing.assert_array_equal(again.energies_kT, bias.energies_kT)
    assert (again.atoms, again.description) == (bias.atoms, bias.description)
    with pytest.raises(FileExistsError):
        bias.save(tmp_path / "bias.npz")
    np.savez(tmp_path / "other.npz", positions_nm=np.zeros(3))
    with pytest.raises(ValueError, match=r"\['positions_nm'\]: give a file of a bias"):
        RamachandranBias.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("atoms", "energies", "message"),
    [
        ((0, 1, 2, 3, 0), np.zeros((9, 9)), "five different atoms"),
        (CHAIN, np.zeros((9, 8)), "square grid"),
        (CHAIN, np.full((9, 9), np.nan), "not finite"),
    ],
)
def test_a_bias_that_cannot_be_is_refused(
    atoms: tuple[int, ...], energies: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RamachandranBias(atoms, energies)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 100}, "n_steps is 100"),
        ({"bias_factor": 1.0}, "bias_factor must exceed 1"),
        ({"flatten": 1.5}, r"flatten lie within \(0, 1\]"),
    ],
)
def test_metadynamics_that_cannot_be_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_bias(backbone(), CHAIN, **({"n_steps": 1000, "seed": 1} | change))
