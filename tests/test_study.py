"""An evaluation of many molecules gives each its own figures, whatever becomes of the others."""

from __future__ import annotations

import csv
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools.states import ThermodynamicState
from oracles import (
    FRAME,
    MOLECULE,
    WIDTH_NM,
    GaussianGenerator,
    half_space,
    harmonic_system,
    mean_free_normal,
    reject_all,
)

from openmm_tbg.evaluation import (
    Estimate,
    MolecularDynamics,
    MoleculeFigures,
    Study,
    StudyTable,
    Target,
    draw_scored,
    evaluate,
)
from openmm_tbg.evaluation.study_table import Row, Spread
from openmm_tbg.frames import Frames
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.proposals import Proposals
from openmm_tbg.verdict import Trust

PHI = (2, 0, 1, 3)
WIDTHS = {"same": 1.0, "wide": 1.2, "wider": 1.5}
NAMES = tuple(WIDTHS)


def target_of(molecule: str, temperature_K: float = 300.0) -> Target:
    state = ThermodynamicState(harmonic_system(), temperature_K * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = state.create_context(openmm.VerletIntegrator(0.001), platform)
    return Target(ReducedPotential(state, context), PHI)


def generator_of(molecule: str, factor: float = 1.0) -> GaussianGenerator:
    return GaussianGenerator(factor * WIDTHS[molecule] * WIDTH_NM, filter=half_space)


def reference_of(molecule: str) -> Estimate | None:
    return Estimate(0.5, 0.3) if molecule == "wide" else None


STUDY = Study(generator_of, target_of, n=250, seed=4, batch=100, reference=reference_of)


@dataclass
class Draws:
    """How often proposals were drawn."""

    n: int = 0


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    counted, propose = Draws(), GaussianGenerator.propose

    def counting(self: GaussianGenerator, n: int, rng: np.random.Generator) -> Proposals:
        counted.n += 1
        return propose(self, n, rng)

    monkeypatch.setattr(GaussianGenerator, "propose", counting)
    return counted


def figures_of(table: StudyTable) -> dict[str, MoleculeFigures]:
    """Figures by name, without what the clock decides."""
    return {
        row.molecule: replace(row.figures, seconds_per_proposal=1.0)
        for row in table.rows
        if row.figures is not None
    }


def test_the_figures_are_those_of_one_evaluation(tmp_path: Path) -> None:
    table = STUDY.run(NAMES, tmp_path)
    for name, found in figures_of(table).items():
        target = target_of(name)
        scored = draw_scored(generator_of(name), target.potential, 250, seed=4, batch=100)
        frames = FRAME + WIDTH_NM * mean_free_normal(50, np.random.default_rng(0))
        u = target.potential(frames)
        alone = evaluate(scored, MolecularDynamics(MOLECULE, PHI, PHI, 300.0, frames, u), (4,))
        for figure in vars(found).keys() & vars(alone).keys():
            assert getattr(found, figure) == getattr(alone, figure), figure
        assert 0.5 < found.valid < 0.9


def test_a_generator_of_the_target_itself_has_the_known_figures(tmp_path: Path) -> None:
    exact = replace(STUDY, generator=lambda molecule: GaussianGenerator())
    (row,) = exact.run(["same"], tmp_path).rows
    assert row.figures is not None
    assert row.figures.effective_sample_size.value == pytest.approx(1.0, abs=1e-12)
    assert row.figures.acceptance.value == pytest.approx(1.0, abs=1e-9)
    assert row.figures.valid == row.figures.valid_bonds == row.figures.valid_chirality == 1.0
    seconds = row.figures.seconds_per_proposal
    assert row.figures.effective_samples_per_second == pytest.approx(1 / seconds)


def test_a_row_says_how_far_it_can_be_trusted(tmp_path: Path) -> None:
    few, many = (replace(STUDY, n=n).run(["wide"], tmp_path / f"{n}") for n in (8, 250))
    (found,), (trusted,) = few.rows, many.rows
    assert found.verdict is not None
    assert found.verdict.trust == Trust.NO
    assert "effective proposals, fewer than 10: draw more" in str(found.verdict)
    assert str(few).startswith("wide do not trust     valid ")
    assert str(trusted.verdict) == trusted.columns()["verdict"] == "trust"
    assert str(many).startswith("wide trust            valid ")


def test_a_deviation_from_a_reference_has_the_errors_of_both(tmp_path: Path) -> None:
    found = figures_of(STUDY.run(NAMES, tmp_path))
    difference = found["wide"].free_energy_difference_kT
    deviation = found["wide"].deviation_kT
    assert deviation is not None
    assert deviation.value == difference.value - 0.5
    assert deviation.error == math.hypot(difference.error, 0.3)
    assert found["same"].deviation_kT is None


def test_one_failure_is_a_row_and_does_not_stop_the_others(tmp_path: Path, draws: Draws) -> None:
    def failing(molecule: str) -> GaussianGenerator:
        if molecule == "wide":
            raise OSError("no such file")
        return generator_of(molecule)

    table = replace(STUDY, generator=failing).run(NAMES, tmp_path)
    assert table.failures == {"wide": "OSError: no such file"}
    assert set(figures_of(table)) == {"same", "wider"}
    assert table.spreads["effective_sample_size"].n == 2
    assert "over 2 of 3 molecules" in str(table)
    assert draws.n == 6
    mended = STUDY.run(NAMES, tmp_path)
    assert draws.n == 9
    assert not mended.failures


def test_no_usable_proposal_is_a_figure_of_zero(tmp_path: Path) -> None:
    useless = replace(STUDY, generator=lambda molecule: GaussianGenerator(filter=reject_all))
    table = useless.run(["same"], tmp_path)
    (row,) = table.rows
    assert row.figures is not None
    assert row.figures.effective_sample_size == row.figures.acceptance == Estimate(0.0, math.inf)
    assert row.figures.valid == row.figures.valid_bonds == 0.0
    assert table.spreads["effective_sample_size"] == Spread(0.0, math.nan, 1)
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["pareto_k"] is None


def test_the_same_study_draws_nothing_again(tmp_path: Path, draws: Draws) -> None:
    first = STUDY.run(NAMES, tmp_path)
    assert draws.n == 9
    again = replace(STUDY, reference=None).run(NAMES, tmp_path)
    assert draws.n == 9
    assert figures_of(again) == {
        name: replace(found, reference_kT=None) for name, found in figures_of(first).items()
    }


@pytest.mark.parametrize(
    ("changed", "n_drawn"),
    [
        ({"generator": partial(generator_of, factor=1.1)}, 3),
        ({"target": partial(target_of, temperature_K=310.0)}, 3),
        ({"seed": 5}, 3),
        ({"batch": 125}, 2),
        ({"n": 400}, 1),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_origin_is_drawn_anew(
    tmp_path: Path, draws: Draws, changed: dict[str, object], n_drawn: int
) -> None:
    before = figures_of(STUDY.run(["wide"], tmp_path))
    draws.n = 0
    study = replace(STUDY, **changed)
    after = study.run(["wide"], tmp_path)
    assert draws.n == n_drawn
    assert figures_of(after) == figures_of(study.run(["wide"], tmp_path / "apart")) != before
    assert figures_of(STUDY.run(["wide"], tmp_path)) == before


def test_rows_of_another_model_are_never_in_the_same_table(tmp_path: Path) -> None:
    STUDY.run(NAMES, tmp_path)

    def interrupted(molecule: str) -> GaussianGenerator:
        if molecule == "wide":
            raise KeyboardInterrupt
        return generator_of(molecule, factor=1.1)

    with pytest.raises(KeyboardInterrupt):
        replace(STUDY, generator=interrupted).run(NAMES, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["molecule"] for row in rows] == ["same"]


def test_ranks_share_the_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = figures_of(STUDY.run(NAMES, tmp_path / "one"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in ((1, {"wide"}), (0, set(NAMES))):
        monkeypatch.setenv("RANK", str(rank))
        found = figures_of(STUDY.run(NAMES, tmp_path / "two"))
        assert set(found) == there
    assert found == together
    rows = json.loads((tmp_path / "two" / "results.json").read_text())["rows"]
    assert [row["molecule"] for row in rows] == list(NAMES)


def test_a_study_travels_to_a_worker(tmp_path: Path) -> None:
    copy: Study = pickle.loads(pickle.dumps(STUDY))
    evaluated: Callable[[str], Row] = partial(copy.evaluate, folder=tmp_path)
    assert figures_of(StudyTable((evaluated("wide"),))) == {
        "wide": figures_of(STUDY.run(NAMES, tmp_path / "here"))["wide"]
    }


def test_the_files_hold_the_rows_and_their_spread(tmp_path: Path) -> None:
    table = STUDY.run(NAMES, tmp_path)
    found = {row.molecule: row.figures for row in table.rows}
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        figures = found[row["molecule"]]
        assert figures is not None
        assert float(row["effective_sample_size"]) == figures.effective_sample_size.value
        assert float(row["effective_sample_size_error"]) == figures.effective_sample_size.error
        assert float(row["energy_quartiles_kT_25"]) == figures.energy_quartiles_kT[0]
    assert [bool(row["deviation_kT"]) for row in rows] == [False, True, False]
    spread = json.loads((tmp_path / "results.json").read_text())["spreads"]["acceptance"]
    values = [figures.acceptance.value for figures in found.values() if figures is not None]
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["standard_deviation"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("same", "same"), "comes twice"),
        (("../same",), "cannot name a folder"),
        (("..",), "cannot name a folder"),
        (("",), "cannot name a folder"),
    ],
)
def test_names_that_cannot_be_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        STUDY.run(names, tmp_path)


def test_stored_frames_are_taken_evenly_with_their_weights_and_energies() -> None:
    positions_nm = FRAME + WIDTH_NM * mean_free_normal(10, np.random.default_rng(0))
    bias_kT = np.arange(10, dtype=np.float32)
    stored = Frames(positions_nm.astype(np.float32), None, bias_kT, {})
    potential = target_of("same").potential
    found = MolecularDynamics.of_frames(stored, potential, MOLECULE, PHI, PHI, n=4)
    assert found.log_weights is not None
    assert found.log_weights.tolist() == [0, 3, 6, 9]
    np.testing.assert_allclose(found.positions_nm, positions_nm[::3], atol=1e-7)
    np.testing.assert_allclose(found.u_kT, potential(positions_nm[::3]), rtol=1e-5)
    assert found.temperature_K == 300
    everything = MolecularDynamics.of_frames(stored, potential, MOLECULE, PHI, PHI)
    assert len(everything.u_kT) == 10
    none = Frames(stored.positions_nm[:0], None, None, {})
    with pytest.raises(ValueError, match=r"the columns have \[0, 0\] frames: give one or more"):
        MolecularDynamics.of_frames(none, potential, MOLECULE, PHI, PHI)


def test_no_proposals_are_refused() -> None:
    with pytest.raises(ValueError, match="n is 0, batch 64"):
        replace(STUDY, n=0, batch=64)
