"""The generator draws and weighs the same density, keeps every row, and refuses what is not its."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import CHIRAL, METHANOL, trained
from openmm import app
from structures import Alanine, Structure, structure_from_smiles

import openmm_tbg
from openmm_tbg import models
from openmm_tbg.arrays import Cause, Positions
from openmm_tbg.checkpoint import TrainedModel, file_sha256, read_card
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.generator import BoltzmannGenerator, load_generator
from openmm_tbg.grid import TimeGrid
from openmm_tbg.models import find_model, registered_models
from openmm_tbg.proposals import ProposalGenerator, Proposals

SHIPPED = "alanine-dipeptide"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "miniature.safetensors"
    trained().model.save(path)
    return path


@pytest.fixture(scope="module")
def chiral() -> Structure:
    return structure_from_smiles(CHIRAL)


@pytest.fixture(scope="module")
def generator(path: Path, chiral: Structure) -> BoltzmannGenerator:
    return BoltzmannGenerator.from_checkpoint(path, chiral.topology)


@pytest.fixture(scope="module")
def exact(generator: BoltzmannGenerator) -> BoltzmannGenerator:
    """The same model in float64, where identities hold to the last digits."""
    exact = BoltzmannGenerator(generator.model, generator.reference, generator.sha256)
    exact.flow = generator.model.flow(dtype=torch.float64)
    return exact


@pytest.fixture(scope="module")
def proposals(generator: BoltzmannGenerator) -> Proposals:
    return generator.propose(16, np.random.default_rng(1))


def same_rows(first: Proposals, second: Proposals) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True)
        for name in ("positions_nm", "log_q", "cause")
    )


# What is drawn and what is weighed.


def test_satisfies_the_protocol(generator: BoltzmannGenerator, path: Path) -> None:
    assert isinstance(generator, ProposalGenerator)
    assert generator.molecule == trained().model.molecule
    assert generator.card == trained().model.card
    assert generator.reference == str(path.resolve())
    assert generator.sha256 == file_sha256(path)


def test_every_row_is_kept_with_its_cause(proposals: Proposals) -> None:
    assert len(proposals) == 16
    assert set(np.unique(proposals.cause)) == {Cause.NONE, Cause.BOND_GRAPH}
    assert (np.isfinite(proposals.log_q) == proposals.passes).all()
    assert np.abs(proposals.positions_nm.mean(axis=1)).max() < 1e-8


def test_evaluating_proposals_gives_their_log_q_within_the_reported_error(
    generator: BoltzmannGenerator, proposals: Proposals
) -> None:
    again = generator.evaluate(proposals.positions_nm)
    error = generator.log_prob_error(16, np.random.default_rng(1))
    deviation = np.abs(again.log_q - proposals.log_q)[proposals.passes]
    assert 0 < deviation.max() <= error.round_trip_max + 1e-4
    assert np.array_equal(again.cause, proposals.cause)


def test_a_failing_row_keeps_its_cause_and_has_no_log_q(
    generator: BoltzmannGenerator, proposals: Proposals
) -> None:
    again = generator.evaluate(proposals.positions_nm)
    assert np.isnan(again.log_q[~proposals.passes]).all()
    assert np.isfinite(again.log_q[proposals.passes]).all()


def test_log_q_counts_both_hands(exact: BoltzmannGenerator) -> None:
    drawn = exact.propose(16, np.random.default_rng(2))
    seed = int(np.random.default_rng(2).integers(2**63))
    samples = exact.flow.sample_with_log_prob(16, torch.Generator().manual_seed(seed))
    expected = np.where(drawn.passes, samples.log_q.numpy() + math.log(2), np.nan)
    np.testing.assert_allclose(drawn.log_q, expected, rtol=0, atol=1e-10)
    x = drawn.positions_nm[drawn.passes]
    expected = exact.flow.log_prob(torch.from_numpy(x)).numpy() + math.log(2)
    np.testing.assert_allclose(exact.evaluate(x).log_q, expected, rtol=0, atol=1e-10)


def test_half_of_the_samples_are_mirrored_and_none_is_of_the_wrong_hand(
    exact: BoltzmannGenerator,
) -> None:
    drawn = exact.propose(64, np.random.default_rng(2))
    seed = int(np.random.default_rng(2).integers(2**63))
    samples = exact.flow.sample_with_log_prob(64, torch.Generator().manual_seed(seed))
    rows = drawn.passes
    raw, folded = samples.positions_nm.numpy()[rows], drawn.positions_nm[rows]
    mirrored = (folded == -raw).all(axis=(1, 2))
    assert (mirrored | (folded == raw).all(axis=(1, 2))).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(raw))
    centre = exact.molecule.stereocentres[0]
    assert centre.inverted(raw).sum() == mirrored.sum()
    assert not centre.inverted(folded).any()


def test_the_mirror_image_has_the_same_log_q_and_comes_back_mirrored(
    exact: BoltzmannGenerator, proposals: Proposals
) -> None:
    x = proposals.positions_nm[proposals.passes][:3]
    given, mirrored = exact.evaluate(x), exact.evaluate(-x)
    np.testing.assert_allclose(mirrored.log_q, given.log_q, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(mirrored.positions_nm, given.positions_nm)


def test_nothing_is_folded_without_a_stereocentre(exact: BoltzmannGenerator) -> None:
    achiral = replace(exact.model, molecule=replace(exact.molecule, stereocentres=()))
    generator = BoltzmannGenerator(achiral, exact.reference, exact.sha256)
    generator.flow = exact.flow
    drawn, folded = (g.propose(4, np.random.default_rng(3)) for g in (generator, exact))
    np.testing.assert_allclose(drawn.log_q, folded.log_q - math.log(2), rtol=0, atol=1e-12)


def test_a_field_that_sees_the_hand_is_not_folded(chiral: Structure) -> None:
    model = trained(sees_hand=True).model
    generator = BoltzmannGenerator(model, "none", "none")
    drawn = generator.propose(64, np.random.default_rng(2))
    seed = int(np.random.default_rng(2).integers(2**63))
    samples = generator.flow.sample_with_log_prob(64, torch.Generator().manual_seed(seed))
    expected = np.where(drawn.passes, samples.log_q.numpy(), np.nan)
    # float32 rounds otherwise in a smaller batch; a fold would be 0.69.
    np.testing.assert_allclose(drawn.log_q, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(drawn.positions_nm, samples.positions_nm.numpy())
    x = drawn.positions_nm[drawn.passes]
    wrong = generator.molecule.stereocentres[0].inverted(drawn.positions_nm)
    assert (drawn.cause[wrong] != Cause.NONE).all()
    assert len(x) > 10
    assert (generator.evaluate(-x).cause == Cause.CHIRALITY).all()
    right, left = generator.flow.log_prob(torch.from_numpy(np.stack([x[0], -x[0]])))
    assert abs(right - left) > 0.1


def test_positions_that_are_not_finite_are_a_cause(
    generator: BoltzmannGenerator, proposals: Proposals
) -> None:
    x = proposals.positions_nm[proposals.passes][:3].copy()
    x[0, 1, 2], x[2, 0, 0] = np.nan, np.inf
    rows = generator.evaluate(x)
    assert rows.cause.tolist() == [Cause.ENERGY_NOT_FINITE, Cause.NONE, Cause.ENERGY_NOT_FINITE]
    assert np.isnan(rows.log_q).tolist() == [True, False, True]


def test_where_a_configuration_stands_and_points_does_not_matter(
    exact: BoltzmannGenerator, proposals: Proposals
) -> None:
    x = proposals.positions_nm[proposals.passes][:3]
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    moved = exact.evaluate(x @ turn + np.array([1.0, -2.0, 0.5]))
    np.testing.assert_allclose(moved.log_q, exact.evaluate(x).log_q, rtol=0, atol=1e-9)


def test_what_evaluate_returns_is_centred(
    generator: BoltzmannGenerator, proposals: Proposals
) -> None:
    x = proposals.positions_nm[proposals.passes][:2]
    rows = generator.evaluate(x + np.array([1.0, -2.0, 0.5]))
    np.testing.assert_allclose(rows.positions_nm, x, rtol=0, atol=1e-8)


def test_one_seed_gives_the_same_proposals(generator: BoltzmannGenerator) -> None:
    first, again, other = (generator.propose(2, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert same_rows(first, again)
    assert not same_rows(first, other)
    rng = np.random.default_rng(5)
    assert same_rows(generator.propose(2, rng), first)
    assert not same_rows(generator.propose(2, rng), first)


def test_proposals_do_not_touch_the_global_streams(generator: BoltzmannGenerator) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    generator.propose(1, np.random.default_rng(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_fewer_than_one_proposal_is_refused(generator: BoltzmannGenerator) -> None:
    with pytest.raises(ValueError, match="n is 0: at least one"):
        generator.propose(0, np.random.default_rng(1))


def test_positions_of_another_molecule_are_refused(generator: BoltzmannGenerator) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4, 3\) where \(batch, 5, 3\) is needed"):
        generator.evaluate(np.zeros((1, 4, 3)))


# What is refused when a generator is made.


def permuted(structure: Structure, order: list[int]) -> app.Topology:
    atoms = list(structure.topology.atoms())
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    new = {atoms[k]: topology.addAtom(atoms[k].name, atoms[k].element, residue) for k in order}
    for first, second in structure.topology.bonds():
        topology.addBond(new[first], new[second])
    return topology


def test_another_molecule_is_refused(path: Path) -> None:
    other = structure_from_smiles(METHANOL).topology
    with pytest.raises(ValueError, match=r"6 atoms where the molecule has 5.* choose a model"):
        BoltzmannGenerator.from_checkpoint(path, other)


def test_another_order_of_atoms_is_refused(path: Path, chiral: Structure) -> None:
    with pytest.raises(ValueError, match=r"atom 2 .* is Br where the molecule has Cl.*reorder"):
        BoltzmannGenerator.from_checkpoint(path, permuted(chiral, [0, 1, 3, 2, 4]))


def test_another_order_of_equal_elements_is_refused(alanine: Alanine) -> None:
    order = list(range(22))
    order[0], order[9] = 9, 0  # a hydrogen of the acetyl group and the one on the alpha carbon
    with pytest.raises(ValueError, match=r"bond between atoms 0 .*reorder the atoms"):
        BoltzmannGenerator.from_pretrained(SHIPPED, permuted(alanine, order))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_missing_gpu_is_said(device: str, path: Path, chiral: Structure) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', but torch finds no CUDA.*'cpu'"):
        BoltzmannGenerator.from_checkpoint(path, chiral.topology, device)


def test_a_generator_takes_the_gpu_of_its_process(
    path: Path, chiral: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a restored move, without a GPU: where its weights go is looked at."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    devices: list[str] = []
    flow = TrainedModel.flow

    def on_cpu(model: TrainedModel, device: str) -> ContinuousFlow:
        devices.append(device)
        return flow(model, "cpu")

    monkeypatch.setattr(TrainedModel, "flow", on_cpu)
    asked = BoltzmannGenerator.from_checkpoint(path, chiral.topology, "cuda")
    restored = load_generator(asked.reference, asked.sha256)
    assert devices == [asked.device, restored.device] == ["cuda:1", "cuda:1"]


# The generator of a stored run.


def test_a_stored_run_finds_its_generator_again(
    generator: BoltzmannGenerator, proposals: Proposals
) -> None:
    again = load_generator(generator.reference, generator.sha256)
    assert (again.reference, again.sha256) == (generator.reference, generator.sha256)
    if again.device == "cpu":
        assert same_rows(again.propose(16, np.random.default_rng(1)), proposals)


def test_a_stored_run_finds_a_registered_model() -> None:
    digest = registered_models()[SHIPPED]
    again = load_generator(SHIPPED, digest)
    assert (again.reference, again.sha256) == (SHIPPED, digest)


def test_another_model_than_the_stored_one_is_refused(path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"is not the one of the stored run .sha256 0000"):
        load_generator(str(path), "0" * 64)
    with pytest.raises(RuntimeError, match="put that one back, or start a new run"):
        load_generator(SHIPPED, "0" * 64)


def test_a_stored_run_whose_model_is_gone_says_so(tmp_path: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    with pytest.raises(RuntimeError, match=r"missing at .*gone\.safetensors: put it back there"):
        load_generator(str(gone), "0" * 64)


# The models that come with the package.


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the registry with all its models."""
    folder = tmp_path / "registry"
    shutil.copytree(models.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(models, "FOLDER", folder)
    monkeypatch.setattr(models, "REGISTRY", folder / "registry.json")
    return folder


def test_every_registered_model_is_the_one_of_the_registry() -> None:
    assert SHIPPED in registered_models()
    for name, digest in registered_models().items():
        assert file_sha256(find_model(name)) == digest
        card = read_card(find_model(name))
        assert card.name == name
        assert card.force_field
        assert card.licence


def test_every_file_of_weights_is_registered() -> None:
    files = {file.stem for file in models.FOLDER.glob("*.safetensors")}
    assert files == set(registered_models())


def test_an_unknown_name_lists_the_nearest(registry: Path) -> None:
    known = registered_models() | {"water": "0" * 64}
    (registry / "registry.json").write_text(json.dumps(known))
    everything = ", ".join(known)
    with pytest.raises(ValueError, match=rf"'alanin' .*nearest: {SHIPPED}; all: {everything}"):
        find_model("alanin")
    with pytest.raises(ValueError, match=rf"nearest: none; all: {SHIPPED}"):
        find_model("zzz")


def test_altered_weights_are_refused(registry: Path, alanine: Alanine) -> None:
    weights = registry / f"{SHIPPED}.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered, reinstall openmm_tbg"):
        BoltzmannGenerator.from_pretrained(SHIPPED, alanine.topology)


def test_missing_weights_are_said(registry: Path) -> None:
    (registry / f"{SHIPPED}.safetensors").unlink()
    with pytest.raises(ValueError, match=f"weights of '{SHIPPED}' are missing .* reinstall"):
        find_model(SHIPPED)


def test_the_shipped_model_works_without_a_network(
    alanine: Alanine, md_frames: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", no_network)
    generator = BoltzmannGenerator.from_pretrained(SHIPPED, alanine.topology)
    assert generator.reference == SHIPPED
    assert generator.sha256 == registered_models()[SHIPPED]
    assert generator.molecule.n_atoms == 22
    generator.flow.grid = TimeGrid(nodes=2, steps=1)
    rows = generator.evaluate(np.stack([md_frames[0], -md_frames[0]]))
    assert rows.cause.tolist() == [Cause.NONE, Cause.CHIRALITY]
    assert np.isfinite(rows.log_q).tolist() == [True, False]


def test_the_shipped_flow_follows_its_card(alanine: Alanine) -> None:
    model = TrainedModel.load(find_model(SHIPPED))
    model.molecule.require_same(alanine.topology)
    flow = model.flow()
    assert isinstance(flow, ContinuousFlow)
    assert flow.grid == model.grid
    assert flow.prior.n_atoms == len(model.encoding.labels) == 22


def test_the_package_lists_its_public_names() -> None:
    assert set(openmm_tbg.__all__) <= set(dir(openmm_tbg))
