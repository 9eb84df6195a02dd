"""A model adapted to a target gains, is another model, and stays an exact density."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from miniatures import CHIRAL, SETTINGS, trained
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.states import SamplerState, ThermodynamicState
from structures import structure_from_smiles
from toys import KT

from openmm_tbg.adaptation import AdaptationSettings, adapt
from openmm_tbg.adaptation_record import Adaptation
from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.checkpoint import TrainedModel, file_sha256
from openmm_tbg.generator import BoltzmannGenerator, load_generator
from openmm_tbg.move import TBGMove
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.store import ProposalStore
from openmm_tbg.training import Task

SIGMAS = 4.0
BOND_WIDTH_NM, ANGLE_WIDTH_RAD = 0.01, 0.08  # the model was trained on wider ones
SHORT = AdaptationSettings(
    n_rounds=2,
    n_proposals=192,
    batch_size=64,
    training=replace(SETTINGS, n_steps=150, learning_rate=5e-3, ema_decay=0.95),
)


def state_of(temperature_K: float = 300.0) -> ThermodynamicState:
    """Harmonic bonds and angles around the structure of CHFClBr."""
    structure = structure_from_smiles(CHIRAL)
    x, molecule, carbon = structure.positions_nm, structure.molecule, 1
    system = openmm.System()
    for atom in structure.topology.atoms():
        system.addParticle(atom.element.mass)
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for i, j in molecule.bonds:
        bonds.addBond(i, j, np.linalg.norm(x[i] - x[j]), KT / BOND_WIDTH_NM**2)
    for i, k in itertools.combinations(molecule.neighbours(carbon), 2):
        u, v = x[i] - x[carbon], x[k] - x[carbon]
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        angles.addAngle(i, carbon, k, np.arccos(cosine), KT / ANGLE_WIDTH_RAD**2)
    system.addForce(bonds)
    system.addForce(angles)
    return ThermodynamicState(system, temperature_K * unit.kelvin)


def potential_of(state: ThermodynamicState) -> ReducedPotential:
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> BoltzmannGenerator:
    path = tmp_path_factory.mktemp("models") / "miniature.safetensors"
    trained(sees_hand=True).model.save(path)
    return BoltzmannGenerator(TrainedModel.load(path), str(path), file_sha256(path))


@pytest.fixture(scope="module")
def adapted(generator: BoltzmannGenerator, tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    folder = tmp_path_factory.mktemp("adaptation")
    return adapt(generator, potential_of(state_of()), folder, SHORT, lambda progress: None)


def folder_of(adapted: Adaptation) -> Path:
    return Path(adapted.generator.reference).parent


def test_the_effective_sample_size_grows(adapted: Adaptation) -> None:
    assert adapted.gain.value > SIGMAS * adapted.gain.error
    assert adapted.after.effective_sample_size.value > 0.2
    assert adapted.after.n_usable > adapted.before.n_usable


def test_each_model_is_measured_by_proposals_of_its_own(
    adapted: Adaptation, generator: BoltzmannGenerator
) -> None:
    stores = [ProposalStore(folder_of(adapted) / f"proposals_{k}") for k in range(3)]
    assert [s.manifest["sha256"] for s in stores] == [m.sha256 for m in adapted.models]
    assert len({s.manifest["seed"] for s in stores}) == 3
    assert adapted.before.sha256 == generator.sha256
    assert adapted.after.sha256 == adapted.generator.sha256


def test_the_adapted_model_is_another_and_cannot_take_the_place_of_the_first(
    adapted: Adaptation, generator: BoltzmannGenerator
) -> None:
    assert len({model.sha256 for model in adapted.models}) == 3
    with pytest.raises(ValueError, match="holds other proposals: sha256 is"):
        ProposalStore(folder_of(adapted) / "proposals_0").require_same(adapted.generator)
    with pytest.raises(RuntimeError, match="is not the one of the stored run"):
        load_generator(adapted.generator.reference, generator.sha256)
    again = load_generator(adapted.generator.reference, adapted.generator.sha256)
    assert again.card == adapted.generator.card


def test_the_card_says_what_it_was_adapted_from_and_to(
    adapted: Adaptation, generator: BoltzmannGenerator
) -> None:
    card = adapted.generator.card
    assert card.training["adapted_from_sha256"] == generator.sha256
    assert card.training["target_sha256"] == potential_of(state_of()).sha256
    assert [m["sha256"] for m in card.training["models_before"]] == [
        model.sha256 for model in adapted.models[:2]
    ]
    assert 0 < card.training["power_of_weights"] < 1


def test_log_q_of_the_adapted_model_is_that_of_its_proposals(adapted: Adaptation) -> None:
    exact = BoltzmannGenerator(adapted.generator.model, "exact", "none")
    exact.flow = adapted.generator.model.flow(dtype=torch.float64)
    proposals = exact.propose(4, np.random.default_rng(1))
    again = exact.evaluate(proposals.positions_nm)
    error = exact.log_prob_error(4, np.random.default_rng(1))
    deviation = np.abs(again.log_q - proposals.log_q)[proposals.passes]
    assert 0 < deviation.max() <= error.round_trip_max + 1e-6


def test_it_trains_on_all_proposals_so_far_by_their_tempered_weights(
    adapted: Adaptation,
    generator: BoltzmannGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks: list[Task] = []

    def interrupted(given: Sequence[Task], *arguments: object) -> None:
        tasks.extend(given)
        raise KeyboardInterrupt

    folder = tmp_path / "ended_before_the_last_round"
    shutil.copytree(folder_of(adapted), folder, ignore=shutil.ignore_patterns("*_2*"))
    monkeypatch.setattr("openmm_tbg.adaptation.Trainer", interrupted)
    potential = potential_of(state_of())
    with pytest.raises(KeyboardInterrupt):
        adapt(generator, potential, folder, SHORT)
    frames = tasks[0].frames

    drawn = [ProposalStore(folder / f"proposals_{k}").read() for k in range(2)]
    drawn = [each[each.passes] for each in drawn]
    positions_nm = np.concatenate([each.positions_nm for each in drawn])
    log_weights = -potential(positions_nm) - np.concatenate([each.log_q for each in drawn])
    trained = np.arange(len(log_weights)) % 8 > 0
    power = adapted.generator.card.training["power_of_weights"]
    assert effective_sample_size(power * log_weights) == pytest.approx(SHORT.effective_share)
    np.testing.assert_array_equal(frames.positions_nm, positions_nm[trained])
    np.testing.assert_allclose(frames.forces_per_nm, potential.forces(positions_nm[trained]))
    np.testing.assert_allclose(frames.log_weights, power * log_weights[trained])


def test_the_same_call_finds_everything_done(
    adapted: Adaptation, generator: BoltzmannGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("drawn or trained again")

    monkeypatch.setattr(BoltzmannGenerator, "propose", never)
    monkeypatch.setattr("openmm_tbg.adaptation.Trainer", never)
    again = adapt(generator, potential_of(state_of()), folder_of(adapted), SHORT)
    assert again.models == adapted.models
    json.dumps(again.generator.card.training)


def test_the_folder_of_another_target_or_of_other_settings_is_refused(
    adapted: Adaptation, generator: BoltzmannGenerator
) -> None:
    folder = folder_of(adapted)
    with pytest.raises(ValueError, match=r"another adaptation .target_sha256 differ"):
        adapt(generator, potential_of(state_of(310.0)), folder, SHORT)
    with pytest.raises(ValueError, match=r"another adaptation .settings differ"):
        adapt(generator, potential_of(state_of()), folder, replace(SHORT, effective_share=0.4))


def test_a_chain_refuses_a_generator_that_was_changed_under_it(
    generator: BoltzmannGenerator,
) -> None:
    mutable = BoltzmannGenerator(generator.model, generator.reference, generator.sha256)
    move = TBGMove(mutable, n_proposals=2, seed=1)
    sampler = SamplerState(structure_from_smiles(CHIRAL).positions_nm * unit.nanometer)
    cache = ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))
    move.apply(state_of(), sampler, cache)
    with torch.no_grad():
        next(mutable.flow.field.parameters()).add_(1e-6)
    with pytest.raises(RuntimeError, match="has changed since it was loaded"):
        move.apply(state_of(), sampler, cache)
    with pytest.raises(RuntimeError, match="train a copy, save it"):
        mutable.evaluate(sampler.positions.value_in_unit(unit.nanometer)[None])


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        AdaptationSettings(n_rounds=0)
    with pytest.raises(ValueError, match="n_proposals is 100: take a multiple of the batch size"):
        AdaptationSettings(n_proposals=100)
    with pytest.raises(ValueError, match="give a share between 0 and 1"):
        AdaptationSettings(effective_share=1.0)


def test_too_few_usable_proposals_are_said(generator: BoltzmannGenerator, tmp_path: Path) -> None:
    few = replace(SHORT, n_proposals=4, batch_size=4)
    with pytest.raises(ValueError, match=r"of 4 proposals pass .* raise n_proposals"):
        adapt(generator, potential_of(state_of()), tmp_path, few)
