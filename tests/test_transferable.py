"""The published encodings: one layout of columns for every dipeptide, and generators on them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import CARD
from structures import Alanine, structure_from_smiles

from openmm_tbg.arrays import Cause, Positions
from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.encoding import AtomEncoding
from openmm_tbg.fields.architecture import EGNNArchitecture
from openmm_tbg.fields.egnn import EGNN
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.grid import TimeGrid
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import AMINO_ACIDS, assembled
from openmm_tbg.transferable import ATOM_TYPES, ENCODINGS, RESIDUES, encode_full

each_encoding = pytest.mark.parametrize("name", ENCODINGS)


@cache
def molecule_of(sequence: str) -> Molecule:
    return Molecule.from_topology(*assembled(sequence))


def tied(sequence: str, name: str) -> set[frozenset[str]]:
    """Names of atoms of the first residue with one label."""
    molecule = molecule_of(sequence)
    first = [a for a in range(molecule.n_atoms) if molecule.residue_indices[a] == 0]
    labels = ENCODINGS[name](molecule).labels
    groups = {
        frozenset(molecule.names[a] for a in first if labels[a] == labels[atom]) for atom in first
    }
    return {group for group in groups if len(group) > 1}


@pytest.mark.parametrize(
    ("name", "columns", "published"),
    [("none", 5, 1_044_239), ("backbone", 13, 1_046_295), ("full", 76, 1_062_486)],
)
def test_the_network_has_as_many_parameters_as_published(
    name: str, columns: int, published: int
) -> None:
    """Those of "backbone" by the formula: 8 more columns, each 128 weights in and 129 out."""
    for sequence in ("GG", "WH"):
        one_hot = torch.from_numpy(ENCODINGS[name](molecule_of(sequence)).one_hot())
        assert one_hot.shape == (molecule_of(sequence).n_atoms, columns)
        field = EGNN(one_hot, hidden=128, layers=9)
        assert sum(weight.numel() for weight in field.parameters()) == published


def test_the_twenty_amino_acids_have_the_54_types_and_no_other() -> None:
    assert len(RESIDUES) == len(set(RESIDUES)) == 20
    assert len(ATOM_TYPES) == len(set(ATOM_TYPES)) == 54
    assert sorted(ATOM_TYPES) == ATOM_TYPES
    seen: set[int] = set()
    for letter in AMINO_ACIDS:
        rows = encode_full(molecule_of(f"G{letter}")).one_hot()
        assert np.array_equal(rows.sum(axis=1), [3] * len(rows))
        seen |= set(np.flatnonzero(rows[:, 22:].any(axis=0)))
    assert seen == set(range(54))


def test_columns_are_place_and_kind_of_the_residue_and_type_of_the_atom() -> None:
    molecule = molecule_of("KS")
    columns = [np.flatnonzero(row).tolist() for row in encode_full(molecule).one_hot()]
    for place, residue, name, found in zip(
        molecule.residue_indices, molecule.residue_names, molecule.names, columns, strict=True
    ):
        kind = name.rstrip("123") if name[0] == "H" else name
        expected = [place, 2 + RESIDUES.index(residue), 22 + ATOM_TYPES.index(kind)]
        assert found == expected


@pytest.mark.parametrize(
    ("sequence", "groups"),
    [
        ("GG", ["H H2 H3", "HA2 HA3"]),
        ("VG", ["H H2 H3", "HG11 HG12 HG13", "HG21 HG22 HG23"]),
        ("FG", ["H H2 H3", "HB2 HB3"]),
        ("DG", ["H H2 H3", "HB2 HB3", "OD1 OD2"]),
        ("HG", ["H H2 H3", "HB2 HB3"]),
        ("NG", ["H H2 H3", "HB2 HB3", "HD21 HD22"]),
        (
            "RG",
            ["H H2 H3", "HB2 HB3", "HG2 HG3", "HD2 HD3", "HH11 HH12", "HH21 HH22"],
        ),
    ],
)
def test_full_ties_what_the_published_types_tie(sequence: str, groups: list[str]) -> None:
    assert tied(sequence, "full") == {frozenset(group.split()) for group in groups}


def test_none_numbers_the_elements_as_published() -> None:
    molecule = molecule_of("CM")
    labels = list(ENCODINGS["none"](molecule).labels)
    assert tuple(np.array([1, 6, 7, 8, 16])[labels]) == molecule.atomic_numbers


def test_backbone_knows_eight_atoms_beside_the_elements() -> None:
    for sequence in ("GG", "PW"):
        labels = ENCODINGS["backbone"](molecule_of(sequence)).labels
        molecule = molecule_of(sequence)
        own = {
            labels[a]: (molecule.residue_indices[a], molecule.names[a]) for a in range(len(labels))
        }
        expected = itertools.product((0, 1), ("N", "CA", "C", "O"))
        assert {label: own[label] for label in range(5, 13)} == dict(enumerate(expected, start=5))
        assert max(labels) == 12


def test_other_molecules_are_refused(alanine: Alanine) -> None:
    with pytest.raises(ValueError, match="3 residues where the encoding has 2"):
        encode_full(alanine.molecule)
    renamed = replace(molecule_of("AG"), names=("QX", *molecule_of("AG").names[1:]))
    with pytest.raises(ValueError, match=r"no published type for QX of ALA.*match_dipeptide"):
        encode_full(renamed)
    with pytest.raises(ValueError, match="has atomic number 9, the encoding knows 1, 6, 7, 8, 16"):
        ENCODINGS["none"](structure_from_smiles("CF").molecule)


def test_blocks_have_to_make_up_the_labels() -> None:
    with pytest.raises(ValueError, match=r"blocks: the product of \(2, 3\) is not 5"):
        AtomEncoding((0,), 5, (2, 3))


ARCHITECTURE = EGNNArchitecture(hidden=8, layers=2, units_per_nm=30.0)


def weights_for(name: str) -> dict[str, torch.Tensor]:
    """Random weights that fit every dipeptide, and that move every atom."""
    torch.manual_seed(0)
    columns = torch.from_numpy(ENCODINGS[name](molecule_of("GG")).one_hot())
    field = EGNN(columns, ARCHITECTURE.hidden, ARCHITECTURE.layers, ARCHITECTURE.units_per_nm)
    for weight in field.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return field.state_dict()


def model_of(name: str, sequence: str) -> TrainedModel:
    molecule, positions_nm = molecule_of(sequence), assembled(sequence)[1]
    encoding = ENCODINGS[name](molecule)
    return TrainedModel(
        card=CARD,
        molecule=molecule,
        encoding=encoding,
        geometry=ReferenceGeometry.from_frames(molecule, encoding, positions_nm[None]),
        architecture=ARCHITECTURE,
        grid=TimeGrid(nodes=6, steps=1),
        weights=weights_for(name),
    )


def shuffled(frames: Positions, labels: tuple[int, ...]) -> Positions:
    rng, order = np.random.default_rng(0), np.arange(len(labels))
    for label in set(labels):
        alike = np.flatnonzero(np.array(labels) == label)
        order[alike] = rng.permutation(alike)
    return frames[:, order]


@each_encoding
@pytest.mark.parametrize("sequence", ["GA", "VC"])
def test_a_generator_gives_every_order_of_equal_atoms_the_same_density(
    name: str, sequence: str
) -> None:
    """One set of weights serves both molecules; shuffled frames come back in order."""
    model = model_of(name, sequence)
    generator = BoltzmannGenerator(model, "random", "0" * 64)
    frame = assembled(sequence)[1] - assembled(sequence)[1].mean(axis=0)
    given = shuffled(frame[None], model.encoding.labels)
    assert not np.array_equal(given[0], frame)
    evaluated = generator.evaluate(np.concatenate([frame[None], given]))
    assert evaluated.passes.all()
    assert np.isfinite(evaluated.log_q).all()
    assert evaluated.log_q[1] == pytest.approx(evaluated.log_q[0], rel=1e-6)
    bonds = model.molecule.bonds
    lengths = [[np.linalg.norm(x[i] - x[j]) for i, j in bonds] for x in evaluated.positions_nm]
    assert np.max(lengths) < 0.2


@each_encoding
def test_a_generator_proposes(name: str) -> None:
    proposals = BoltzmannGenerator(model_of(name, "GA"), "random", "0" * 64).propose(
        4, np.random.default_rng(0)
    )
    assert (proposals.cause == Cause.BOND_GRAPH).all()
    assert np.isfinite(proposals.positions_nm).all()


@each_encoding
def test_a_file_holds_the_encoding(name: str, tmp_path: Path) -> None:
    model = model_of(name, "GA")
    model.save(tmp_path / "model.safetensors")
    loaded = TrainedModel.load(tmp_path / "model.safetensors")
    assert loaded.encoding == model.encoding
    assert np.array_equal(loaded.geometry.one_hot, model.geometry.one_hot)
