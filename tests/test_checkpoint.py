"""A model file gives back what was saved, bit for bit, and anything else is refused by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import trained
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openmm_tbg.checkpoint import METADATA_KEY, TrainedModel, file_sha256


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "miniature.safetensors"
    trained().model.save(path)
    return path


def test_everything_comes_back(path: Path) -> None:
    model, loaded = trained().model, TrainedModel.load(path)
    for name in ("card", "molecule", "encoding", "architecture", "grid"):
        assert getattr(loaded, name) == getattr(model, name)
    for name, values in vars(model.geometry).items():
        found = getattr(loaded.geometry, name)
        assert found.dtype == values.dtype
        assert np.array_equal(found, values)
    assert loaded.weights.keys() == model.weights.keys()
    assert all(torch.equal(loaded.weights[name], model.weights[name]) for name in model.weights)


def test_the_field_and_the_flow_are_the_same_bit_for_bit(path: Path) -> None:
    model, loaded = trained().model, TrainedModel.load(path)
    flow, loaded_flow = model.flow(), loaded.flow()
    x = flow.prior.sample(2, torch.Generator().manual_seed(1)).float()
    t = torch.tensor(0.7)
    for found, expected in zip(
        loaded.field().velocity_and_divergence(t, x),
        model.field().velocity_and_divergence(t, x),
        strict=True,
    ):
        assert torch.equal(found, expected)
    samples, again = (
        one.sample_with_log_prob(2, torch.Generator().manual_seed(1)) for one in (flow, loaded_flow)
    )
    assert torch.equal(again.positions_nm, samples.positions_nm)
    assert torch.equal(again.log_q, samples.log_q)


def test_a_loaded_field_is_for_evaluation(path: Path) -> None:
    field = TrainedModel.load(path).field(torch.float64)
    assert not field.training
    assert not any(weight.requires_grad for weight in field.parameters())
    assert {weight.dtype for weight in field.parameters()} == {torch.float64}


def test_sha256_is_that_of_the_bytes_and_does_not_change(path: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path) == digest
    assert trained().model.save(tmp_path / "again.safetensors") == digest
    assert TrainedModel.load(path).save(tmp_path / "resaved.safetensors") == digest


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    trained().model.save(tmp_path / "model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(kept: int, path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged .* copy it again"):
        TrainedModel.load(damaged)


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match=r"foreign\.safetensors is no model of openmm_tbg"):
        TrainedModel.load(foreign)


def test_another_version_of_the_format_is_refused(path: Path, tmp_path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    newer = tmp_path / "newer.safetensors"
    metadata = {METADATA_KEY: json.dumps(description | {"version": 99})}
    save_file(load_file(path), newer, metadata=metadata)
    with pytest.raises(ValueError, match=r"has format version 99, this openmm_tbg reads 2"):
        TrainedModel.load(newer)


def test_the_description_can_be_read_without_the_library(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    assert description["units"].startswith("nm, nats, 3(N-1)")
    assert description["card"] == json.loads(json.dumps(asdict(trained().model.card)))
