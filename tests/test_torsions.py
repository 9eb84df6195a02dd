"""Dihedrals agree with MDTraj's, and turning about a bond turns nothing else."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from openmm_tbg.torsions import dihedral, with_dihedral

ATOMS = (3, 0, 2, 1)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, 5, 3))


def test_agrees_with_mdtraj(frames: np.ndarray) -> None:
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(frames.shape[1]):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    expected = mdtraj.compute_dihedrals(mdtraj.Trajectory(frames, topology), [ATOMS])[:, 0]
    np.testing.assert_allclose(dihedral(frames, ATOMS), expected, rtol=0, atol=1e-5)


def test_a_frame_alone_and_nested_stacks(frames: np.ndarray) -> None:
    angles = dihedral(frames, ATOMS)
    np.testing.assert_array_equal(dihedral(frames.reshape(5, 10, 5, 3), ATOMS).ravel(), angles)
    assert dihedral(frames[7], ATOMS) == angles[7]


def test_a_mirror_image_turns_the_other_way(frames: np.ndarray) -> None:
    np.testing.assert_array_equal(dihedral(-frames, ATOMS), -dihedral(frames, ATOMS))


@pytest.mark.parametrize("angle", [-3.0, -0.4, 0.0, 1.3])
def test_sets_the_dihedral_and_moves_what_it_is_told(frames: np.ndarray, angle: float) -> None:
    for frame in frames:
        turned = with_dihedral(frame, ATOMS, [1, 4], angle)
        assert dihedral(turned, ATOMS) == pytest.approx(angle, abs=1e-12)
        np.testing.assert_array_equal(turned[[0, 2, 3]], frame[[0, 2, 3]])
        for end in (0, 2):
            before = np.linalg.norm(frame[[1, 4]] - frame[end], axis=1)
            after = np.linalg.norm(turned[[1, 4]] - turned[end], axis=1)
            np.testing.assert_allclose(after, before, rtol=1e-12)
