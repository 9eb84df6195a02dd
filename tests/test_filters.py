"""Filters: sound frames pass, planted faults fail with their cause, arrangements count equally."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations, permutations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from scipy.spatial.transform import Rotation
from structures import Alanine, structure_from_smiles

from openmm_tbg.arrays import Cause, Frame, Positions
from openmm_tbg.encoding import AtomEncoding, encode_elements, encode_full
from openmm_tbg.filters import BOND_STRETCH, TopologyFilter
from openmm_tbg.molecule import Molecule

Encode = Callable[[Molecule], AtomEncoding]

L_THREONINE = "CC(=O)N[C@@H]([C@@H](C)O)C(=O)NC"
D_THREONINE = "CC(=O)N[C@H]([C@H](C)O)C(=O)NC"
L_ALLOTHREONINE = "CC(=O)N[C@@H]([C@H](C)O)C(=O)NC"
D_ALLOTHREONINE = "CC(=O)N[C@H]([C@@H](C)O)C(=O)NC"
ACE_H, ACE_C, CA, CB, CB_H = 0, 1, 8, 10, 11

each_encoding = pytest.mark.parametrize("encode", [encode_full, encode_elements])


def filter_of(molecule: Molecule, encode: Encode = encode_full) -> TopologyFilter:
    return TopologyFilter(molecule, encode(molecule).labels)


def causes(topology_filter: TopologyFilter, *frames: Frame) -> list[Cause]:
    return [Cause(cause) for cause in topology_filter.screen(np.stack(frames)).cause]


def bonds_of(molecule: Molecule, frame: Frame) -> set[tuple[int, int]]:
    """Pair by pair, as the definition says."""
    table = Chem.GetPeriodicTable()
    radii = [0.1 * table.GetRcovalent(number) for number in molecule.atomic_numbers]
    return {
        (i, j)
        for i, j in combinations(range(molecule.n_atoms), 2)
        if np.linalg.norm(frame[i] - frame[j]) < BOND_STRETCH * (radii[i] + radii[j])
    }


def labelled_graph(labels: tuple[int, ...], bonds: set[tuple[int, int]]) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from((atom, {"label": label}) for atom, label in enumerate(labels))
    graph.add_edges_from(bonds)
    return graph


def moved(frame: Frame, atom: int, *, to: np.ndarray) -> Frame:
    changed = frame.copy()
    changed[atom] = to
    return changed


@each_encoding
def test_frames_of_molecular_dynamics_come_back_as_they_are(
    alanine: Alanine, md_frames: Positions, encode: Encode
) -> None:
    screened = filter_of(alanine.molecule, encode).screen(md_frames)
    assert screened.passes.all()
    assert np.array_equal(screened.positions_nm, md_frames)


@each_encoding
def test_mirrored_frames_come_back_to_the_right_hand(
    alanine: Alanine, md_frames: Positions, encode: Encode
) -> None:
    topology_filter = filter_of(alanine.molecule, encode)
    screened = topology_filter.screen(-md_frames)
    assert screened.passes.all()
    assert np.array_equal(screened.positions_nm, md_frames)
    assert topology_filter.log_fold == math.log(2)


@each_encoding
def test_broken_and_extra_bonds_fail(
    alanine: Alanine, md_frames: Positions, encode: Encode
) -> None:
    frame = md_frames[0]
    torn = moved(frame, CB_H, to=frame[CB] + 2 * (frame[CB_H] - frame[CB]))
    touching = moved(frame, ACE_H, to=frame[CB_H] + [0.05, 0, 0])
    found = causes(filter_of(alanine.molecule, encode), torn, frame, touching)
    assert found == [Cause.BOND_GRAPH, Cause.NONE, Cause.BOND_GRAPH]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_fail_without_a_warning(
    alanine: Alanine, md_frames: Positions, bad: float
) -> None:
    poisoned = md_frames[0].copy()
    poisoned[3, 1] = bad
    found = causes(filter_of(alanine.molecule), poisoned, md_frames[0])
    assert found == [Cause.ENERGY_NOT_FINITE, Cause.NONE]


@pytest.mark.filterwarnings("error")
def test_atoms_that_flew_away_fail_without_a_warning(
    alanine: Alanine, md_frames: Positions
) -> None:
    far = moved(md_frames[0], 3, to=np.full(3, 1e200))
    assert causes(filter_of(alanine.molecule), far) == [Cause.BOND_GRAPH]


def test_one_of_two_centres_inverted_fails() -> None:
    frames = [
        structure_from_smiles(smiles).positions_nm
        for smiles in (L_THREONINE, D_THREONINE, L_ALLOTHREONINE, D_ALLOTHREONINE)
    ]
    threonine = filter_of(structure_from_smiles(L_THREONINE).molecule)
    screened = threonine.screen(np.stack(frames))
    assert screened.cause.tolist() == [Cause.NONE, Cause.NONE, Cause.CHIRALITY, Cause.CHIRALITY]
    assert np.array_equal(screened.positions_nm[:2], [frames[0], -frames[1]])


def test_an_achiral_molecule_is_neither_mirrored_nor_folded() -> None:
    glycine = structure_from_smiles("CC(=O)NCC(=O)NC")
    frames = np.stack([glycine.positions_nm, -glycine.positions_nm])
    topology_filter = filter_of(glycine.molecule)
    screened = topology_filter.screen(frames)
    assert topology_filter.log_fold == 0.0
    assert screened.passes.all()
    assert np.array_equal(screened.positions_nm, frames)


def test_hydrogens_swapped_between_methyls_fail_where_labels_tell_them_apart(
    alanine: Alanine, md_frames: Positions
) -> None:
    swapped = md_frames.copy()
    swapped[:, [ACE_H, CB_H]] = md_frames[:, [CB_H, ACE_H]]
    screened = filter_of(alanine.molecule, encode_full).screen(swapped)
    assert (screened.cause == Cause.BOND_GRAPH).all()


def test_hydrogens_swapped_between_methyls_are_reordered_where_labels_are_elements(
    alanine: Alanine, md_frames: Positions
) -> None:
    swapped = md_frames.copy()
    swapped[:, [ACE_H, CB_H]] = md_frames[:, [CB_H, ACE_H]]
    screened = filter_of(alanine.molecule, encode_elements).screen(swapped)
    assert screened.passes.all()
    methyls = [[0, 2, 3], [11, 12, 13], [19, 20, 21]]
    others = [[atom] for atom in range(22) if atom not in np.ravel(methyls)]
    for atoms in methyls + others:
        for found, original in zip(screened.positions_nm, md_frames, strict=True):
            assert {tuple(x) for x in found[atoms]} == {tuple(x) for x in original[atoms]}


@pytest.mark.parametrize(
    ("encode", "arrangements"), [(encode_elements, 4), (encode_full, 1)], ids=["elements", "full"]
)
def test_each_frame_in_order_is_reached_from_equally_many_arrangements(
    encode: Encode, arrangements: int
) -> None:
    """All 4! orders of the hydrogens of methanol; 3! of them are symmetries of the molecule.

    An equal count makes reordering a constant factor of the density, prod_l n_l! / |A|.
    """
    methanol = structure_from_smiles("CO")
    orders = [[0, 1, *hydrogens] for hydrogens in permutations(range(2, 6))]
    screened = filter_of(methanol.molecule, encode).screen(methanol.positions_nm[orders])
    in_order = screened.positions_nm[screened.passes]
    assert all(bonds_of(methanol.molecule, x) == set(methanol.molecule.bonds) for x in in_order)
    counts = Counter(frame.tobytes() for frame in in_order)
    assert list(counts.values()) == [arrangements] * 6


@each_encoding
def test_networkx_agrees_on_perturbed_frames(
    alanine: Alanine, md_frames: Positions, encode: Encode
) -> None:
    rng = np.random.default_rng(0)
    molecule, labels = alanine.molecule, encode(alanine.molecule).labels
    frames = np.concatenate([md_frames] * 4)
    frames += rng.normal(scale=rng.uniform(0, 0.03, (len(frames), 1, 1)), size=frames.shape)
    for frame in frames:
        same_label = np.flatnonzero(np.array(labels) == labels[rng.integers(22)])
        frame[same_label] = frame[rng.permutation(same_label)]
        if rng.random() < 0.2:
            any_two = rng.choice(22, size=2, replace=False)
            frame[any_two] = frame[any_two[::-1]]

    reference = labelled_graph(labels, set(molecule.bonds))
    same_label = nx.algorithms.isomorphism.categorical_node_match("label", None)
    expected = [
        nx.is_isomorphic(reference, labelled_graph(labels, bonds_of(molecule, frame)), same_label)
        for frame in frames
    ]
    assert 0.2 < np.mean(expected) < 0.8
    screened = TopologyFilter(molecule, labels).screen(frames)
    assert (screened.cause != Cause.BOND_GRAPH).tolist() == expected
    for frame in screened.positions_nm[screened.passes]:
        assert bonds_of(molecule, frame) == set(molecule.bonds)


@settings(max_examples=50)
@given(
    quaternion=st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(
        lambda q: np.linalg.norm(q) > 0.1
    ),
    shift=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
)
def test_screening_does_not_depend_on_where_a_frame_lies_and_how_it_is_turned(
    alanine: Alanine, md_frames: Positions, quaternion: list[float], shift: list[float]
) -> None:
    turn = Rotation.from_quat(quaternion).as_matrix().T
    torn = moved(md_frames[1], CB_H, to=np.zeros(3))
    frames = np.stack([md_frames[0], -md_frames[1], torn])
    topology_filter = filter_of(alanine.molecule)
    screened, turned = topology_filter.screen(frames), topology_filter.screen(frames @ turn)
    assert screened.cause.tolist() == [Cause.NONE, Cause.NONE, Cause.BOND_GRAPH]
    assert turned.cause.tolist() == screened.cause.tolist()
    assert np.allclose(turned.positions_nm, screened.positions_nm @ turn, rtol=0, atol=1e-12)
    assert topology_filter.screen(frames + shift).cause.tolist() == screened.cause.tolist()


@settings(max_examples=25)
@given(splits=st.lists(st.integers(0, 50), max_size=4).map(sorted))
def test_screening_does_not_depend_on_the_batch(
    alanine: Alanine, md_frames: Positions, splits: list[int]
) -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=md_frames.shape)
    frames = md_frames * np.resize([1, -1], (50, 1, 1)) + noise
    topology_filter = filter_of(alanine.molecule)
    whole = topology_filter.screen(frames)
    parts = [topology_filter.screen(part) for part in np.split(frames, splits)]
    assert 0.2 < whole.passes.mean() < 0.8
    assert np.array_equal(np.concatenate([part.cause for part in parts]), whole.cause)
    assert np.array_equal(np.concatenate([p.positions_nm for p in parts]), whole.positions_nm)


def test_the_frames_given_are_left_alone(alanine: Alanine, md_frames: Positions) -> None:
    frames = -md_frames
    filter_of(alanine.molecule).screen(frames)
    assert np.array_equal(frames, -md_frames)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (range(21), "labels: 21 labels for 22 atoms; give one for each atom"),
        ([0] * 22, r"labels: atom 1 \(CH3\) shares label 0 with another element"),
    ],
)
def test_unfit_labels_are_refused(alanine: Alanine, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopologyFilter(alanine.molecule, labels)


def test_frames_of_another_molecule_are_refused(alanine: Alanine) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 23, 3\) where \(batch, 22, 3\) is needed"):
        filter_of(alanine.molecule).screen(np.zeros((2, 23, 3)))
