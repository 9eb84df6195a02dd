"""One file for many molecules: what it holds of each, and the generators that come from it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import ARCHITECTURE, CARD, CHIRAL, trained
from structures import Alanine, structure_from_smiles

from openmm_tbg.checkpoint import TrainedModel, read_card
from openmm_tbg.fields.architecture import EGNNArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.generator import BoltzmannGenerator, load_generator
from openmm_tbg.grid import TimeGrid
from openmm_tbg.models import find_model
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import AMINO_ACIDS, FORCE_FIELD, assembled, dipeptide
from openmm_tbg.transferable import ENCODINGS, encode_full
from openmm_tbg.transferable_model import (
    TransferableModel,
    geometry_from_moments,
    moments_of,
    sequence_of,
)


def molecule_of(sequence: str) -> Molecule:
    return Molecule.from_topology(*assembled(sequence))


@cache
def geometry_of(sequence: str) -> ReferenceGeometry:
    """Moments of an extended structure with wide noise: any will do."""
    molecule = molecule_of(sequence)
    frame = assembled(sequence)[1]
    noise = np.random.default_rng(0).normal(size=(300, *frame.shape))
    frames = frame + 0.02 * noise
    return ReferenceGeometry.from_frames(
        molecule, encode_full(molecule), frames - frames.mean(axis=1, keepdims=True)
    )


@cache
def model() -> TransferableModel:
    torch.manual_seed(3)
    field = ARCHITECTURE.field(geometry_of("AA"))
    for hand in field.hands:
        torch.nn.init.normal_(hand.out.weight, std=0.3)
        torch.nn.init.normal_(hand.push.weight, std=0.5)
    return TransferableModel(
        card=CARD,
        encoding="full",
        architecture=ARCHITECTURE,
        grid=TimeGrid(nodes=6, steps=1),
        weights={name: weight.detach() for name, weight in field.state_dict().items()},
        moments={each: moments_of(geometry_of(each)) for each in ("AA", "AG", "PA")},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "few.safetensors"
    model().save(path)
    return path


def test_moments_give_back_the_whole_geometry() -> None:
    geometry, molecule = geometry_of("AG"), molecule_of("AG")
    again = geometry_from_moments(molecule, encode_full(molecule), moments_of(geometry))
    for name, values in vars(geometry).items():
        np.testing.assert_allclose(vars(again)[name], values, rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_covariance_stays_positive_in_single_precision() -> None:
    """A bond of width 0.003 nm must survive the rounding of distances of a nanometre."""
    molecule = molecule_of("AA")
    again = geometry_from_moments(molecule, encode_full(molecule), moments_of(geometry_of("AA")))
    variances = np.linalg.eigvalsh(again.covariance)
    assert abs(variances[0]) < 1e-15  # the centre
    np.testing.assert_allclose(
        variances[1:], np.linalg.eigvalsh(geometry_of("AA").covariance)[1:], rtol=0.01
    )


def test_a_saved_model_defines_the_same_density(path: Path) -> None:
    loaded = TransferableModel.load(path)
    assert set(loaded.moments) == {"AA", "AG", "PA"}
    assert (loaded.card, loaded.encoding, loaded.grid) == (CARD, "full", model().grid)
    x = torch.from_numpy(assembled("AG")[1][None])
    x = x - x.mean(1, keepdim=True)
    before, after = (
        each.for_sequence("AG").flow(dtype=torch.float64).log_prob_and_estimate(x)
        for each in (model(), loaded)
    )
    assert torch.equal(before.log_q, after.log_q)
    assert torch.isfinite(before.log_q).all()


def test_molecules_share_the_weights_and_nothing_else() -> None:
    one, other = model().for_sequence("AA"), model().for_sequence("AG")
    assert one.weights is other.weights
    assert (one.molecule.n_atoms, other.molecule.n_atoms) == (23, 20)
    assert len(other.geometry.stereocentres) == 1  # glycine has none


def test_equal_atoms_may_change_places() -> None:
    """The density of a dipeptide takes the hydrogens of CH3 and of NH3+ for the same."""
    trained_model = model().for_sequence("AG")
    labels = np.array(trained_model.encoding.labels)
    repeated = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    order = np.arange(len(labels))
    for same in repeated:
        order[same] = np.roll(same, 1)
    assert (order != np.arange(len(labels))).sum() >= 6
    x = assembled("AG")[1][None] + 0.01 * np.random.default_rng(1).normal(size=(1, 20, 3))
    x = torch.from_numpy(x - x.mean(axis=1, keepdims=True))
    flow = trained_model.flow(dtype=torch.float64)
    both = flow.log_prob_and_estimate(torch.cat([x, x[:, order]])).log_q
    assert both[0] == pytest.approx(both[1].item(), abs=1e-9)


def shuffled_within_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    order, rng = np.arange(len(labels)), np.random.default_rng(seed)
    for label in np.unique(labels):
        alike = np.flatnonzero(labels == label)
        order[alike] = rng.permutation(alike)
    return order


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_generator_works_in_each_published_encoding(encoding: str) -> None:
    """In any order of atoms that the labels allow: the filter finds it, the density ignores it."""
    architecture, molecule = EGNNArchitecture(hidden=8, layers=1), molecule_of("AG")
    labels = ENCODINGS[encoding](molecule)
    frame = assembled("AG")[1] - assembled("AG")[1].mean(axis=0)
    frames = frame + 0.02 * np.random.default_rng(0).normal(size=(300, *frame.shape))
    geometry = ReferenceGeometry.from_frames(molecule, labels, frames)
    torch.manual_seed(3)
    weights = architecture.field(geometry).state_dict()
    shared = TransferableModel(
        CARD, encoding, architecture, TimeGrid(6, 1), weights, {"AG": moments_of(geometry)}
    )
    one = shared.for_sequence("AG")
    order = shuffled_within_labels(np.array(labels.labels), 1)
    assert (order != np.arange(20)).sum() >= 5
    generator = BoltzmannGenerator(one, "AG", "none")
    found = generator.evaluate(np.stack([frame, frame[order]]))
    assert found.passes.all()
    first, second = np.array(molecule.bonds).T
    in_order = found.positions_nm[1]
    assert np.linalg.norm(in_order[first] - in_order[second], axis=1).max() < 0.16  # nm: C-C
    flow, x = one.flow(dtype=torch.float64), torch.from_numpy(np.stack([frame, frame[order]]))
    density = flow.log_prob(x).numpy()
    assert density[1] == pytest.approx(density[0], abs=1e-9)
    np.testing.assert_allclose(found.log_q, density + math.log(2), atol=1e-4)


@pytest.mark.parametrize("encoding", ["none", "backbone"])
def test_a_denoiser_is_refused_where_equal_labels_are_different_atoms(encoding: str) -> None:
    """It knows the bonds: its density changes with the order of atoms, which filters change."""
    molecule = molecule_of("AG")
    frames = 0.15 * np.random.default_rng(0).normal(size=(300, molecule.n_atoms, 3))
    geometry = ReferenceGeometry.from_frames(molecule, ENCODINGS[encoding](molecule), frames)
    with pytest.raises(ValueError, match="the bonds tell them apart, and so does a denoiser"):
        ARCHITECTURE.field(geometry)


def test_a_generator_is_made_from_a_sequence_and_found_again(path: Path) -> None:
    generator = BoltzmannGenerator.from_checkpoint(path, sequence="AG")
    again = load_generator(generator.reference, generator.sha256)
    assert generator.reference == f"{path}#AG"
    assert again.molecule == generator.molecule == molecule_of("AG")
    frame = assembled("AG")[1][None]
    log_q = generator.evaluate(frame).log_q
    assert np.isfinite(log_q).all()
    np.testing.assert_array_equal(again.evaluate(frame).log_q, log_q)


def test_a_topology_says_which_molecule_is_meant(path: Path, alanine: Alanine) -> None:
    topology, _ = assembled("AG")
    generator = BoltzmannGenerator.from_checkpoint(path, topology)
    assert generator.reference == f"{path}#AG"
    assert read_card(path) == CARD
    with pytest.raises(ValueError, match="atoms"):
        BoltzmannGenerator.from_checkpoint(path, topology, sequence="AA")
    with pytest.raises(ValueError, match="ACE is none of the 20 amino acids"):
        BoltzmannGenerator.from_checkpoint(path, alanine.topology)


def test_the_usual_name_of_histidine_is_known() -> None:
    topology, _ = assembled("HA")
    next(topology.residues()).name = "HIE"
    assert sequence_of(topology) == "HA"
    next(topology.residues()).name = "HID"  # another protonation
    with pytest.raises(ValueError, match="HID is none of the 20 amino acids"):
        sequence_of(topology)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("AC", "no geometry of AC; it knows 3"),
        ("aa", "write 'AA'"),
        ("AAA", "2 are needed"),
        ("AX", "none of the 20"),
    ],
)
def test_sequences_that_it_does_not_know_are_refused(sequence: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().for_sequence(sequence)


def test_first_proline_is_said() -> None:
    with pytest.warns(UserWarning, match="PA: N-terminal proline"):
        model().for_sequence("PA")


def test_one_kind_of_file_is_not_taken_for_the_other(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of many molecules: say of which one by a sequence"):
        TrainedModel.load(path)
    with pytest.raises(TypeError, match="or the sequence"):
        BoltzmannGenerator.from_checkpoint(path)
    single = tmp_path / "single.safetensors"
    trained().model.save(single)
    with pytest.raises(ValueError, match="model of one molecule; give its topology"):
        BoltzmannGenerator.from_checkpoint(
            single, structure_from_smiles(CHIRAL).topology, sequence="AA"
        )


def test_wrong_contents_are_refused() -> None:
    with pytest.raises(ValueError, match="take one of none, backbone, full"):
        replace(model(), encoding="whole")
    molecule = molecule_of("AA")
    with pytest.raises(ValueError, match="23 atoms have 253"):
        geometry_from_moments(molecule, encode_full(molecule), model().moments["AG"])


def test_the_shipped_model_knows_every_dipeptide() -> None:
    shipped = TransferableModel.load(find_model("dipeptides"))
    assert set(shipped.moments) == {"".join(pair) for pair in product(AMINO_ACIDS, repeat=2)}
    assert shipped.card.force_field == FORCE_FIELD
    generator = BoltzmannGenerator.from_pretrained("dipeptides", sequence="KS")
    again = BoltzmannGenerator.from_pretrained("dipeptides", dipeptide("KS").topology)
    assert again.reference == generator.reference == "dipeptides#KS"
    assert np.isfinite(generator.evaluate(dipeptide("KS").starts_nm[:1]).log_q).all()
