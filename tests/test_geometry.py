"""Moments of the training data are those of the frames, rotated and with equal atoms exchanged."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from miniatures import CHIRAL, DIFFERENT_ATOMS, EQUAL_ATOMS, METHANOL, frames_of
from scipy.spatial.transform import Rotation
from structures import structure_from_smiles

from openmm_tbg.arrays import Positions
from openmm_tbg.encoding import encode_elements, encode_full
from openmm_tbg.fields.distances import DistanceFeatures
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.prior import MeanFreeGaussian

METHYL_HYDROGENS = (2, 3, 4)
EXACT = 1e-15


def frames(smiles: str) -> Positions:
    return frames_of(structure_from_smiles(smiles), 12, width_nm=0.02)


def geometry(smiles: str, positions: Positions | None = None) -> ReferenceGeometry:
    molecule = structure_from_smiles(smiles).molecule
    positions = frames(smiles) if positions is None else positions
    return ReferenceGeometry.from_frames(molecule, encode_full(molecule), positions)


def rotated(positions: Positions) -> Positions:
    """All 24 rotations of a cube: second moments are those of all rotations, exactly."""
    group = Rotation.create_group("O").as_matrix()
    return np.concatenate([positions @ turn for turn in group])


def exchanged(positions: Positions) -> Positions:
    """All orders of methanol's methyl hydrogens."""
    orders = [[0, 1, *order, 5] for order in permutations(METHYL_HYDROGENS)]
    return np.concatenate([positions[:, order] for order in orders])


def test_covariance_is_that_of_rotated_frames() -> None:
    ensemble = rotated(frames(CHIRAL))
    for component in np.moveaxis(ensemble, 2, 0):
        empirical = component.T @ component / len(ensemble)
        np.testing.assert_allclose(geometry(CHIRAL).covariance, empirical, rtol=0, atol=EXACT)


def test_covariance_is_that_of_rotated_frames_with_equal_atoms_exchanged() -> None:
    ensemble = exchanged(rotated(frames(METHANOL)))
    empirical = ensemble[..., 0].T @ ensemble[..., 0] / len(ensemble)
    np.testing.assert_allclose(geometry(METHANOL).covariance, empirical, rtol=0, atol=EXACT)


@pytest.mark.parametrize("ensemble", [frames(METHANOL), rotated(frames(METHANOL))])
def test_frames_as_they_are_have_another_covariance(ensemble: Positions) -> None:
    empirical = ensemble[..., 0].T @ ensemble[..., 0] / len(ensemble)
    assert np.abs(geometry(METHANOL).covariance - empirical).max() > 1e-6


@pytest.mark.parametrize("smiles", [CHIRAL, METHANOL])
def test_distances_have_the_moments_of_the_frames(smiles: str) -> None:
    ensemble = exchanged(frames(smiles)) if smiles == METHANOL else frames(smiles)
    distances = np.linalg.norm(ensemble[:, :, None] - ensemble[:, None], axis=-1)
    of_pair = [distances[:, i, j] for i, j in [(0, 1), (0, 2), (1, 4), (2, 3)]]
    found = geometry(smiles)
    for (i, j), values in zip([(0, 1), (0, 2), (1, 4), (2, 3)], of_pair, strict=True):
        assert found.distance_mean[i, j] == pytest.approx(values.mean(), abs=1e-14)
        assert found.distance_sd[i, j] == pytest.approx(values.std(), abs=1e-10)
    assert not found.distance_mean.diagonal().any()
    assert not found.distance_sd.diagonal().any()


def test_equal_atoms_can_be_exchanged_and_only_those() -> None:
    found = geometry(METHANOL)
    for matrix in (found.covariance, found.distance_mean, found.distance_sd):
        np.testing.assert_allclose(matrix[EQUAL_ATOMS][:, EQUAL_ATOMS], matrix, rtol=0, atol=1e-17)
        swapped = matrix[DIFFERENT_ATOMS][:, DIFFERENT_ATOMS]
        assert np.abs(swapped - matrix).max() > 1e-4
    assert np.array_equal(found.one_hot[EQUAL_ATOMS], found.one_hot)
    assert not np.array_equal(found.one_hot[DIFFERENT_ATOMS], found.one_hot)


def test_where_the_frames_stand_and_point_does_not_matter() -> None:
    turns = Rotation.random(12, random_state=1).as_matrix()
    elsewhere = np.einsum("fic,fcd->fid", frames(CHIRAL), turns) + np.array([1.0, -2.0, 0.5])
    moved, found = geometry(CHIRAL, elsewhere), geometry(CHIRAL)
    np.testing.assert_allclose(moved.covariance, found.covariance, rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved.distance_mean, found.distance_mean, rtol=0, atol=1e-13)


@pytest.mark.parametrize("smiles", [CHIRAL, METHANOL])
def test_serves_as_covariance_of_a_prior(smiles: str) -> None:
    prior = MeanFreeGaussian(torch.from_numpy(geometry(smiles).covariance))
    product = prior.root @ prior.root
    torch.testing.assert_close(product, prior.covariance, rtol=0, atol=1e-15)


def test_pairs_spread_in_the_prior_as_in_the_data() -> None:
    """The prior keeps each mean square distance; `spread` is one component's share of it."""
    found = geometry(METHANOL)
    spread = DistanceFeatures(found).spread.numpy()
    mean_square = found.distance_mean**2 + found.distance_sd**2
    others = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(spread[others] ** 2, mean_square[others] / 3, rtol=1e-12)


def test_labels_by_element_tie_more_pairs_but_not_across_bonds() -> None:
    molecule = structure_from_smiles(METHANOL).molecule
    tied = ReferenceGeometry.from_frames(molecule, encode_elements(molecule), frames(METHANOL))
    assert tied.distance_mean[2, 3] == tied.distance_mean[3, 4]
    assert tied.distance_mean[2, 5] == tied.distance_mean[4, 5]
    assert abs(tied.distance_mean[2, 3] - tied.distance_mean[2, 5]) > 0.01
