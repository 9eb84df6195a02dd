"""Proposals are drawn once and for all, and their figures are those of theory."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from oracles import (
    DIMENSIONS,
    FRAME,
    MOLECULE,
    N_ATOMS,
    WIDTH_NM,
    GaussianGenerator,
    half_space,
    mean_free_normal,
    reject_all,
)

from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.arrays import Cause, Causes, Positions, Scalars
from openmm_tbg.evaluation import (
    Estimate,
    Evaluation,
    MolecularDynamics,
    ScoredProposals,
    draw_scored,
    evaluate,
    picture,
)
from openmm_tbg.evaluation.figures import free_energy_difference, negative_log_likelihood
from openmm_tbg.proposals import Proposals
from openmm_tbg.torsions import dihedral

PHI, PSI = (2, 0, 1, 3), (3, 0, 2, 1)
COLUMNS = ("positions_nm", "log_q", "cause", "u_kT")
SHIFT_NM = 0.3 * WIDTH_NM * np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])


def potential(positions_nm: Positions) -> Scalars:
    """The harmonic molecule's: exp(-u) is Gaussian around FRAME on centred positions."""
    return np.square((positions_nm - FRAME) / WIDTH_NM).sum(axis=(1, 2)) / 2


def wide(**changes: object) -> GaussianGenerator:
    """Wider than the target, and shifted against it."""
    return GaussianGenerator(**{"width_nm": 1.2 * WIDTH_NM, "shift_nm": SHIFT_NM} | changes)


def frames(n: int = 20_000, width_nm: float = WIDTH_NM, **changes: object) -> MolecularDynamics:
    positions_nm = FRAME + width_nm * mean_free_normal(n, np.random.default_rng(7))
    columns = {"positions_nm": positions_nm, "u_kT": potential(positions_nm)}
    return MolecularDynamics(MOLECULE, PHI, PSI, 300.0, **columns | changes)


def measured(
    generator: GaussianGenerator, n: int = 8192, dynamics: MolecularDynamics | None = None
) -> Evaluation:
    scored = draw_scored(generator, potential, n, seed=3, batch=2048)
    return evaluate(scored, dynamics or frames(), seeds=(3,))


def assert_same(left: ScoredProposals, right: ScoredProposals) -> None:
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(left, column), getattr(right, column))


@dataclasses.dataclass
class Interrupted(GaussianGenerator):
    """Ends after a number of batches, in a way of its own."""

    n_batches: int = 2
    end: Callable[[], None] = lambda: None
    n_drawn: int = 0

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        if self.n_drawn == self.n_batches:
            self.end()
        self.n_drawn += 1
        return super().propose(n, rng)


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Drawing


def test_a_seed_determines_all_batches_and_each_batch_is_new() -> None:
    scored = draw_scored(wide(), potential, 50, seed=1, batch=10)
    assert len(scored) == 50
    assert_same(scored, draw_scored(wide(), potential, 50, seed=1, batch=10))
    both = np.concatenate([scored.log_q, draw_scored(wide(), potential, 50, 2, batch=10).log_q])
    assert len(np.unique(both)) == 100


def test_fewer_proposals_are_the_first_of_more() -> None:
    more = draw_scored(wide(), potential, 50, seed=1, batch=16)
    assert_same(draw_scored(wide(), potential, 37, seed=1, batch=16), more[:37])
    assert_same(draw_scored(wide(), potential, 5, seed=1, batch=16), more[:5])


def test_a_failed_proposal_keeps_its_row_and_is_not_evaluated() -> None:
    evaluated = []

    def counting(positions_nm: Positions) -> Scalars:
        evaluated.append(len(positions_nm))
        return potential(positions_nm)

    scored = draw_scored(wide(filter=half_space), counting, 100, seed=1, batch=50)
    assert 0 < scored.passes.sum() < 100 == len(scored)
    assert sum(evaluated) == scored.passes.sum()
    np.testing.assert_array_equal(np.isnan(scored.u_kT), ~scored.passes)
    np.testing.assert_array_equal(scored.log_weights == -np.inf, ~scored.passes)
    passing = scored[scored.passes]
    expected = -potential(passing.positions_nm) - passing.log_q
    np.testing.assert_array_equal(passing.log_weights, expected)


def test_the_seconds_of_all_rows_are_those_that_passed() -> None:
    started = time.perf_counter()
    scored = draw_scored(wide(), lambda x: time.sleep(0.05) or potential(x), 30, 1, batch=10)
    assert 0.15 <= scored.seconds.sum() <= time.perf_counter() - started


def test_a_batch_without_a_valid_proposal_needs_no_energies() -> None:
    def never(positions_nm: Positions) -> Scalars:
        raise AssertionError

    scored = draw_scored(wide(filter=reject_all), never, 10, seed=1, batch=10)
    assert np.isneginf(scored.log_weights).all()


def test_numbers_below_one_are_refused() -> None:
    for n, batch in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one proposal"):
            draw_scored(wide(), potential, n, seed=1, batch=batch)


def test_a_generator_that_drops_rows_is_refused() -> None:
    class Drops(GaussianGenerator):
        def propose(self, n: int, rng: np.random.Generator) -> Proposals:
            return super().propose(n, rng)[:-1]

    with pytest.raises(RuntimeError, match="9 rows where 10 were asked for"):
        draw_scored(Drops(), potential, 10, seed=1, batch=10)


def test_a_log_says_of_which_model_the_proposals_are(capsys: pytest.CaptureFixture[str]) -> None:
    draw_scored(wide(), potential, 10, 1, batch=10)
    assert capsys.readouterr().err.splitlines()[-1].startswith("toy: proposal 10/10, ")


def test_a_folder_changes_nothing_and_is_not_drawn_twice(tmp_path: Path) -> None:
    plain = draw_scored(wide(filter=half_space), potential, 40, seed=1, batch=16)
    for _ in range(2):
        stored = draw_scored(wide(filter=half_space), potential, 40, 1, tmp_path / "a", batch=16)
        assert_same(stored, plain)
    again = Interrupted(1.2 * WIDTH_NM, SHIFT_NM, half_space, n_batches=0, end=interrupt)
    loaded = draw_scored(again, potential, 48, 1, tmp_path / "a", batch=16)
    np.testing.assert_array_equal(loaded.seconds[:40], stored.seconds)
    assert again.n_drawn == 0


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        draw_scored(Interrupted(end=interrupt), potential, 50, 1, tmp_path, batch=10)
    rest = Interrupted(n_batches=100)
    resumed = draw_scored(rest, potential, 50, 1, tmp_path, batch=10)
    assert rest.n_drawn == 3
    assert_same(resumed, draw_scored(GaussianGenerator(), potential, 50, 1, batch=10))


def test_a_run_killed_while_it_writes_loses_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def dying(partial: Path, target: Path) -> Path:
        if target.name == "batch_000002.npz":
            partial.write_bytes(partial.read_bytes()[:100])
            raise KeyboardInterrupt
        return replace(partial, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        draw_scored(GaussianGenerator(), potential, 50, 1, tmp_path, batch=10)
    monkeypatch.undo()
    rest = Interrupted(n_batches=100)
    resumed = draw_scored(rest, potential, 50, 1, tmp_path, batch=10)
    assert rest.n_drawn == 3
    assert_same(resumed, draw_scored(GaussianGenerator(), potential, 50, 1, batch=10))


def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        draw_scored(Interrupted(end=kill), potential, 50, 1, tmp_path, batch=10)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    rest = Interrupted(n_batches=100)
    resumed = draw_scored(rest, potential, 50, 1, tmp_path, batch=10)
    assert rest.n_drawn == 3
    assert_same(resumed, draw_scored(GaussianGenerator(), potential, 50, 1, batch=10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": wide(width_nm=0.03)}, "sha256 is '.*' there and"),
        ({"seed": 2}, "seed is 1 there and 2 here"),
        ({"batch": 5}, "batch is 10 there and 5 here"),
        ({"potential": lambda x: potential(x) + 0.5}, "for which potential gives"),
        ({"potential": lambda x: potential(x) * np.nan}, "for which potential gives nan"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    call = {"generator": wide(), "potential": potential, "n": 10, "seed": 1, "batch": 10}
    first = draw_scored(**call, out=tmp_path)
    with pytest.raises(ValueError, match=message):
        draw_scored(**call | changes, out=tmp_path)
    assert_same(draw_scored(**call, out=tmp_path), first)


def test_a_folder_of_other_arrays_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros(1))
    with pytest.raises(FileExistsError, match=r"holds arrays, but no manifest\.json"):
        draw_scored(wide(), potential, 10, 1, tmp_path)


def test_a_full_and_a_read_only_disk(small_disk: Path) -> None:
    def draw(n: int, name: str = "drawn") -> ScoredProposals:
        return draw_scored(wide(), potential, n, 1, small_disk / name, batch=10)

    with pytest.raises(OSError, match=r"batch \d+ of .*drawn cannot .*No space .*draw again; the"):
        draw(1000)
    n_drawn = 10 * len(list((small_disk / "drawn").glob("*.npz")))
    assert 0 < n_drawn < 1000
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("drawn", "new"):
        with pytest.raises(OSError, match=rf"{name} cannot be written \(Read-only file system\)"):
            draw(1000, name)
    subprocess.run(["mount", "-o", "remount,rw,size=4m", small_disk], check=True)
    assert_same(draw(1000), draw_scored(wide(), potential, 1000, 1, batch=10))


@pytest.mark.parametrize("length", [0, 10, 100, -1])
def test_a_damaged_batch_is_drawn_again(
    length: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = draw_scored(wide(), potential, 30, 1, tmp_path, batch=10)
    file = tmp_path / "batch_000001.npz"
    content = file.read_bytes()
    file.write_bytes(content[:length])
    assert_same(draw_scored(wide(), potential, 30, 1, tmp_path, batch=10), first)
    assert f"{file} is damaged" in caplog.text
    assert len(file.read_bytes()) == len(content)


def test_columns_of_different_length_are_refused() -> None:
    scored = draw_scored(wide(), potential, 10, 1, batch=10)
    uneven = vars(scored) | {"seconds": scored.seconds[:9]}
    with pytest.raises(ValueError, match=r"\(10, 10, 10, 10, 9\) rows"):
        # Not the constructor, where the type checker of the tests would speak first.
        ScoredProposals.__post_init__(SimpleNamespace(**uneven))


# Figures


def theory_of_wide() -> float:
    """Kish's ESS of the shifted, wider Gaussian: the product of one factor for each dimension."""
    s = 1.2
    m = np.linalg.norm(wide().centre_nm - FRAME) / WIDTH_NM
    a, b, c = 1 - 1 / (2 * s**2), m / s**2, m**2 / (2 * s**2)
    return (np.sqrt(2 * a) / s) ** DIMENSIONS * np.exp(-(b**2) / (4 * a) - c)


def test_proposals_from_the_target_itself() -> None:
    found = measured(GaussianGenerator(), n=500)
    log_z = DIMENSIONS * np.log(np.sqrt(2 * np.pi) * WIDTH_NM)
    for estimate, expected in (
        (found.effective_sample_size, 1),
        (found.acceptance, 1),
        (found.log_mean_weight, log_z),
    ):
        assert estimate.value == pytest.approx(expected, abs=1e-11)
        assert estimate.error == pytest.approx(0, abs=1e-11)
    assert (found.valid_bonds, found.valid_chirality, found.valid) == (1, 1, 1)


def test_gaussians_have_the_figures_of_theory() -> None:
    found = measured(wide())
    exact = FRAME + WIDTH_NM * mean_free_normal(400_000, np.random.default_rng(8))
    for estimate, expected in (
        (found.effective_sample_size, theory_of_wide()),
        (found.log_mean_weight, DIMENSIONS * np.log(np.sqrt(2 * np.pi) * WIDTH_NM)),
        (
            found.free_energy_difference_kT,
            free_energy_difference(np.zeros(len(exact)), dihedral(exact, PHI)),
        ),
    ):
        assert 0 < estimate.error < 0.1
        assert abs(estimate.value - expected) < 4 * estimate.error
    assert (
        found.effective_sample_size_clipped_1_percent
        > found.effective_sample_size_clipped_0_2_percent
        > found.effective_sample_size.value
    )
    assert found.bond_width_ratio == pytest.approx(1.2, rel=0.03)
    assert found.bond_width_ratio_worst == pytest.approx(1.2, rel=0.05)
    median = found.energy_quartiles_md_kT[1]
    assert median == pytest.approx((DIMENSIONS - 2 / 3) / 2, abs=0.1)  # median of chi squared / 2
    assert found.energy_quartiles_kT[1] > 1.4 * median


def test_reweighting_undoes_the_shift_that_the_proposals_have() -> None:
    """The proposals' own basins differ from the target's by many errors."""
    scored = draw_scored(wide(shift_nm=3 * SHIFT_NM), potential, 40_000, seed=3, batch=8000)
    found = evaluate(scored, frames(), seeds=(3,))
    difference, md = found.free_energy_difference_kT, found.free_energy_difference_md_kT
    raw = ScoredProposals(**vars(scored) | {"u_kT": -scored.log_q})
    unweighted = evaluate(raw, frames(), seeds=(3,)).free_energy_difference_kT
    assert abs(difference.value - md) < 4 * difference.error + 0.05
    assert abs(unweighted.value - md) > 0.3 + 4 * unweighted.error


def test_biased_frames_carry_their_weights() -> None:
    plain, wider = frames(), frames(40_000, 1.2 * WIDTH_NM)
    deviations = np.square((wider.positions_nm - FRAME) / WIDTH_NM).sum(axis=(1, 2)) / 2
    biased = dataclasses.replace(wider, log_weights=-deviations * (1 - 1 / 1.2**2))
    left, right = (measured(GaussianGenerator(), 200, md) for md in (plain, biased))
    assert left.free_energy_difference_md_kT == pytest.approx(
        right.free_energy_difference_md_kT, abs=0.1
    )
    assert left.energy_quartiles_md_kT == pytest.approx(right.energy_quartiles_md_kT, abs=0.1)
    assert left.bond_width_ratio == pytest.approx(right.bond_width_ratio, rel=0.03)
    neglected = measured(GaussianGenerator(), 200, wider)
    assert neglected.energy_quartiles_md_kT[1] > 1.3 * left.energy_quartiles_md_kT[1]


def test_each_filter_has_its_share() -> None:
    def by_turns(positions: Positions) -> Causes:
        """Of ten rows: one not finite, three broken, two of the wrong hand, four sound."""
        pattern = [
            Cause.ENERGY_NOT_FINITE,
            *[Cause.BOND_GRAPH] * 3,
            *[Cause.CHIRALITY] * 2,
            *[Cause.NONE] * 4,
        ]
        return np.resize(np.array(pattern, dtype=np.int8), len(positions))

    scored = draw_scored(GaussianGenerator(filter=by_turns), potential, 100, 1, batch=50)
    scored.positions_nm[::10] = np.nan
    found = evaluate(scored, frames(), seeds=(1,))
    assert (found.valid_bonds, found.valid) == (0.6, 0.4)
    assert found.valid_chirality == pytest.approx(4 / 6)
    assert found.effective_sample_size.value == pytest.approx(0.4)
    assert found.acceptance.value == pytest.approx(39 / 99)


def test_too_few_usable_proposals_are_refused_with_their_causes() -> None:
    scored = draw_scored(wide(filter=reject_all), potential, 10, 1, batch=10)
    with pytest.raises(ValueError, match=r"0 of 10 .*train for longer.*{'bond_graph': 10}"):
        evaluate(scored, frames(), seeds=(1,))


def test_thinned_proposals_are_refused() -> None:
    scored = draw_scored(wide(), potential, 10, 1, batch=10)
    scored.cause[3] = Cause.THINNED
    with pytest.raises(ValueError, match="no fair sample of the flow's: score those of the gen"):
        evaluate(scored, frames(), seeds=(1,))


def test_frames_that_cannot_be_measured_against_are_refused() -> None:
    good = frames(10)
    with pytest.raises(ValueError, match="equally many"):
        MolecularDynamics.__post_init__(SimpleNamespace(**vars(good) | {"u_kT": good.u_kT[:9]}))
    with pytest.raises(ValueError, match="one or more"):
        frames(0)
    with pytest.raises(ValueError, match="not finite"):
        dataclasses.replace(good, log_weights=np.full(10, np.nan))


def test_the_free_energy_difference_counts_the_basin() -> None:
    phi = np.array([-1.0, -0.1, 0.1, 1.9, 2.1, 3.0])
    assert free_energy_difference(np.zeros(6), phi) == pytest.approx(np.log(4 / 2))
    weights = np.log([1.0, 1, 2, 4, 1, 1]) - 1000
    assert free_energy_difference(weights, phi) == pytest.approx(np.log(4 / 6))
    assert free_energy_difference(np.zeros(2), phi[:2]) == np.inf
    assert free_energy_difference(np.zeros(2), phi[2:4]) == -np.inf


def test_the_likelihood_of_scaled_lengths_is_that_of_a_scaled_density() -> None:
    scale = 30.0
    generator = wide()
    held_out = frames(400).positions_nm
    log_q = generator.evaluate(held_out).log_q
    deviations = (scale * held_out - scale * generator.centre_nm) / (scale * generator.width_nm)
    constant = DIMENSIONS * np.log(np.sqrt(2 * np.pi) * scale * generator.width_nm)
    scaled_log_q = -np.square(deviations).sum(axis=(1, 2)) / 2 - constant
    scored = draw_scored(generator, potential, 100, 1, batch=100)
    with_failures = np.concatenate([log_q, [np.nan] * 3])
    found = evaluate(scored, frames(), (1,), with_failures, length_scale=scale)
    error = log_q.std(ddof=1) / 20
    assert (found.n_held_out, found.n_held_out_failed) == (403, 3)
    assert dataclasses.astuple(found.nll_nm) == pytest.approx((-log_q.mean(), error))
    assert dataclasses.astuple(found.nll_scaled) == pytest.approx((-scaled_log_q.mean(), error))


def test_the_likelihood_needs_frames_and_a_scale() -> None:
    assert measured(wide(), 100).nll_nm is None
    assert negative_log_likelihood(np.array([np.nan]), 9, 1.0) is None
    assert negative_log_likelihood(np.array([-2.0, np.nan]), 9, 1.0) == Estimate(2.0, np.inf)
    scored = draw_scored(wide(), potential, 10, 1, batch=10)
    with pytest.raises(ValueError, match="length_scale is 0"):
        evaluate(scored, frames(), (1,), length_scale=0.0)


def test_seeds_together_are_measured_as_one_sample() -> None:
    parts = [draw_scored(wide(), potential, 200, seed, batch=100) for seed in (1, 2)]
    together = evaluate(ScoredProposals.concatenate(parts), frames(), seeds=(1, 2))
    log_weights = np.concatenate([part.log_weights for part in parts])
    assert (together.n, together.seeds) == (400, (1, 2))
    assert together.effective_sample_size.value == effective_sample_size(log_weights)
    seconds = sum(part.seconds.sum() for part in parts)
    assert together.samples_per_second == pytest.approx(400 / seconds)


# What is shown


def test_json_holds_plain_numbers_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    found = dataclasses.replace(measured(wide(), 100), pareto_k=np.nan, made_with="here")
    found.to_json(tmp_path / "found.json")
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["n"] == 100
    assert stored["pareto_k"] is None
    assert stored["nll_nm"] is None
    assert stored["made_with"] == "here"
    assert stored["effective_sample_size"] == vars(found.effective_sample_size)
    assert stored["energy_quartiles_kT"] == list(found.energy_quartiles_kT)
    assert list(stored) == [field.name for field in dataclasses.fields(Evaluation)]
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


def test_the_table_names_what_is_biased_and_fits_a_terminal() -> None:
    generator = wide()
    scored = draw_scored(generator, potential, 200, 1, batch=100)
    log_q = generator.evaluate(frames(50).positions_nm).log_q
    text = str(evaluate(scored, frames(), (1,), log_q, 30.0, "a processor"))
    for part in (
        "nothing clipped",
        "0.2 % clipped (biased)",
        "1 % clipped (biased)",
        "Pareto k",
        "  in nm / 30",
        "a processor",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.fixture(scope="module")
def drawn() -> Figure:
    scored = draw_scored(wide(filter=half_space), potential, 2000, 1, batch=1000)
    dynamics = frames(5000)
    return picture(evaluate(scored, dynamics, (1,)), scored, dynamics)


def test_every_axis_of_the_picture_has_a_label_with_a_unit(drawn: Figure, tmp_path: Path) -> None:
    drawn.savefig(tmp_path / "picture.png", dpi=50)
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert len(panels) == 6
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels)
    titles = " ".join(axes.get_title() for axes in panels)
    assert all(part in titles for part in ("energies", "all pairs", "Pareto k", "over phi"))


def test_the_surfaces_of_the_picture_share_their_colours(drawn: Figure) -> None:
    meshes = [axes.collections[0] for axes in drawn.axes if "free energy, " in axes.get_title()]
    assert len(meshes) == 2
    assert meshes[0].get_clim() == meshes[1].get_clim() == (0, 10)


def test_the_first_surface_is_minus_the_log_of_the_frames_over_phi_and_psi(drawn: Figure) -> None:
    (mesh,) = [axes.collections[0] for axes in drawn.axes if "dynamics" in axes.get_title()]
    positions_nm, edges = frames(5000).positions_nm, np.linspace(-np.pi, np.pi, 61)
    angles = (dihedral(positions_nm, atoms) for atoms in (PHI, PSI))
    counts = np.histogram2d(*angles, (edges, edges))[0].T  # rows go up, with psi
    with np.errstate(divide="ignore"):
        expected = -np.log(counts / counts.max())
    expected[counts == 0] = np.nan
    np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan), expected, atol=1e-9)


def test_the_reweighted_energies_of_the_picture_are_those_of_molecular_dynamics(
    drawn: Figure,
) -> None:
    energies = next(axes for axes in drawn.axes if axes.get_title() == "energies")
    curves = {patch.get_label(): patch.get_data() for patch in energies.patches}
    means = {}
    for name, (density, edges, _) in curves.items():
        middles = (edges[1:] + edges[:-1]) / 2
        means[name] = density @ middles / density.sum()
        assert density @ np.diff(edges) == pytest.approx(1, abs=0.12)
    assert means["reweighted"] == pytest.approx(means["molecular dynamics"], rel=0.05)
    assert means["proposals"] > 1.2 * means["molecular dynamics"]
    assert N_ATOMS * 3 - 3 == DIMENSIONS
