"""A report opens offline in a browser, draws its structures, and says what the API says."""

from __future__ import annotations

import html
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from jaxtyping import Float64
from openmm import app
from oracles import FRAME, MOLECULE, WIDTH_NM, GaussianGenerator, half_space, harmonic_system

from openmm_tbg.analysis import effective_sample_size, independence_acceptance, pareto_k
from openmm_tbg.arrays import Cause, Frame, Positions, Scalars
from openmm_tbg.citations import CITATIONS, citations_of
from openmm_tbg.free_energy import (
    free_energy_difference,
    free_energy_difference_of_chain,
    log_normalising_constant,
    multistate,
)
from openmm_tbg.metropolis import log_weights
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.report import (
    Report,
    report_on_run,
    report_on_store,
    view,
    write_chain_report,
    write_report,
)
from openmm_tbg.report.pictures import pictures_of
from openmm_tbg.report.plots import (
    plot_angles,
    plot_convergence,
    plot_surface,
    plot_trace,
    plot_weights,
)
from openmm_tbg.report.structures import superposed
from openmm_tbg.run_record import COUNTS, RunRecord
from openmm_tbg.store import ProposalStore
from openmm_tbg.torsions import dihedral
from openmm_tbg.verdict import Verdict, doubts_of_chain, doubts_of_number
from openmm_tbg.visits import Visits

RAMACHANDRAN = (2, 0, 1, 3), (3, 0, 2, 1)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


def potential(positions_nm: Positions) -> Scalars:
    return np.square((positions_nm - FRAME) / WIDTH_NM).sum(axis=(1, 2)) / 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ProposalStore:
    generator = GaussianGenerator(width_nm=1.2 * WIDTH_NM, filter=half_space)
    path = tmp_path_factory.mktemp("report") / "store"
    store = ProposalStore.create(path, generator, n_batches=2, batch_size=200, seed=1)
    store.fill(generator)
    return store


@pytest.fixture(scope="module")
def report(store: ProposalStore) -> Report:
    x = np.random.default_rng(0).normal(size=200)
    states = multistate(np.stack([x**2 / 2, (x - 0.1) ** 2 / 2]), np.array([100, 100]))
    return report_on_store(store, potential, RAMACHANDRAN, states=states)


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(report, path)
    return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium and chromedriver to open the report with")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_figures_are_those_of_the_api(store: ProposalStore, report: Report, page: Path) -> None:
    proposals = store.read()
    u = proposals.reduced_potentials(potential)
    weights = log_weights(u, proposals.log_q, proposals.passes)
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["n_proposals"] == len(weights) == 400
    assert found["effective_sample_size"] == effective_sample_size(weights)
    assert found["acceptance"] == independence_acceptance(weights)
    assert found["pareto_k"] == pareto_k(weights)
    log_z = log_normalising_constant(weights)
    assert found["free_energies"]["ln Z"]["value"] == log_z.value
    assert found["free_energies"]["ln Z"]["error"] == log_z.error
    assert found["fates"]["passes"] == proposals.passes.mean() < 1
    assert sum(found["fates"].values()) == pytest.approx(1)
    assert found["overlap"] == report.states.overlap.tolist()
    ends = {name: found["convergence"][name][-1] for name in ("forward", "reverse")}
    assert ends == dict.fromkeys(ends, log_z.value)
    assert found["convergence"]["n"] == list(range(40, 401, 40))
    half = log_normalising_constant(weights[200:])
    assert found["convergence"]["reverse"][4] == half.value


def test_the_table_has_the_basin_of_phi(store: ProposalStore, report: Report) -> None:
    used = report.log_weights > -np.inf
    phi = dihedral(store.read().positions_nm, RAMACHANDRAN[0])
    there = (phi > 0) & (phi < 2)
    expected = free_energy_difference(report.log_weights, there & used, ~there & used)
    found = report.free_energies["F(0 < phi < 2 rad) - F(rest)"]
    assert found.value == expected.value
    assert list(report_on_store(store, potential).free_energies) == ["ln Z"]


def test_the_convergence_of_a_chain_is_drawn(record: RunRecord, tmp_path: Path) -> None:
    chain = replace(
        record,
        positions_nm=np.tile(record.positions_nm, (4, 1, 1)),
        u=np.tile(record.u, 4),
        log_q=np.tile(record.log_q, 4),
        counts=np.tile(record.counts, (4, 1)),
    )
    report = report_on_run(chain, RAMACHANDRAN)
    there = report.angles[:, 0] > 0
    assert report.convergence.n[4] == 12
    assert report.convergence.forward[4] == free_energy_difference_of_chain(there[:12]).value
    assert report.convergence.reverse[0] == free_energy_difference_of_chain(there[-2:]).value
    axes = plot_convergence(report.convergence, "F")
    first, last = (each.get_children()[0].get_ydata() for each in axes.containers)
    np.testing.assert_array_equal(first, report.convergence.forward)
    np.testing.assert_array_equal(last, report.convergence.reverse)
    write_chain_report(report, tmp_path / "chain.html")
    assert "from the first and from the last states" in (tmp_path / "chain.html").read_text()
    assert report_on_run(record, RAMACHANDRAN).convergence is None  # six states are too few
    still = replace(chain, positions_nm=np.tile(record.positions_nm[:1], (24, 1, 1)))
    assert report_on_run(still, RAMACHANDRAN).convergence is None  # it never crossed


def test_causes_are_counted(store: ProposalStore, report: Report) -> None:
    cause = store.read().cause
    assert report.fates["chirality"] == (cause == Cause.CHIRALITY).mean() > 0
    assert report.fates["bond graph"] == report.fates["energy not finite"] == 0

    def broken(positions_nm: Positions) -> Scalars:
        u = potential(positions_nm)
        return np.where(u < np.median(u), np.nan, u)

    spoilt = report_on_store(store, broken)
    n_passing = int((cause == Cause.NONE).sum())
    assert spoilt.fates["energy not finite"] == n_passing // 2 / len(cause)
    assert spoilt.fates["chirality"] == report.fates["chirality"]
    assert sum(spoilt.fates.values()) == pytest.approx(1)


def test_the_surface_is_over_phi_and_psi_in_this_order(
    store: ProposalStore, report: Report
) -> None:
    positions_nm, used = store.read().positions_nm, report.log_weights > -np.inf
    phi, psi = (dihedral(positions_nm[used], atoms) for atoms in RAMACHANDRAN)
    edges = report.surface.edges[0]
    weights = np.exp(report.log_weights[used])
    share, _, _ = np.histogram2d(phi, psi, (edges, edges), weights=weights)
    known = share > 0
    expected = -np.log(share[known] / share.max())
    np.testing.assert_allclose(report.surface.free_energy_kT[known], expected, atol=1e-9)
    assert not np.isfinite(report.surface.free_energy_kT[~known]).any()
    axes = plot_surface(report.surface)
    drawn = np.ma.filled(axes.collections[0].get_array(), np.nan)  # rows go up, with psi
    np.testing.assert_array_equal(np.isfinite(drawn), known.T)
    np.testing.assert_allclose(drawn.T[known], expected, atol=1e-9)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("phi / degrees", "psi / degrees")


def test_the_drawn_tail_falls_with_k() -> None:
    u = np.random.default_rng(2).random(1000)
    axes = plot_weights(-0.6 * np.log(u), 0.6)
    points, line = axes.lines[0], axes.lines[1]
    ranks, weights = (np.log(each) for each in line.get_data())
    np.testing.assert_allclose(np.diff(weights) / np.diff(ranks), -0.6)
    assert np.exp(weights[-1]) == pytest.approx(points.get_ydata()[len(ranks) - 1])
    assert "0.60" in axes.get_legend().get_texts()[0].get_text()


def test_structures_are_drawn_by_weight(report: Report) -> None:
    rows, weights = [7, 19, 100, 399], np.array([0.1, 0.5, 0.25, 0.15])
    log_weights = np.full(len(report.log_weights), -np.inf)
    log_weights[rows] = np.log(weights) + 800  # not to be taken to the exponent as it stands
    frames, shares = replace(report, log_weights=log_weights).structures()
    np.testing.assert_allclose(shares, weights)
    for frame, row in zip(frames, rows, strict=True):
        np.testing.assert_allclose(spans(frame), spans(report.positions_nm[row]), atol=1e-12)


def spans(frame: Frame) -> Float64[np.ndarray, "atoms atoms"]:
    return np.linalg.norm(frame[:, None] - frame[None], axis=-1)


def test_superposing_keeps_distances_and_the_hand() -> None:
    frames = np.random.default_rng(1).normal(size=(5, 4, 3))
    frames[1] = -frames[0]  # the mirror image must not be mirrored back
    turned = superposed(frames)
    for before, after in zip(frames, turned, strict=True):
        span = np.linalg.det(before[1:] - before[0])
        assert np.linalg.det(after[1:] - after[0]) == pytest.approx(span, rel=1e-9)


def test_only_html_and_png_are_written(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.html or \.png"):
        write_report(report, tmp_path / "report.pdf")


def test_the_sheet_has_the_pictures_of_the_page(
    report: Report, page: Path, record: RunRecord, tmp_path: Path
) -> None:
    write_report(report, tmp_path / "sheet.png")
    beside = (tmp_path / "sheet.json").read_text()
    assert beside == page.with_suffix(".json").read_text()
    titles = [picture.title for picture in pictures_of(report).values()]
    assert len(titles) == len(set(titles)) == 8
    assert all(f'alt="{title}"' in page.read_text() for title in titles)
    drawn = matplotlib.image.imread(tmp_path / "sheet.png")
    heights, widths = (np.array_split(np.arange(n), 3) for n in drawn.shape[:2])
    panels = [drawn[np.ix_(rows, columns)] for rows in heights for columns in widths]
    inked = [(panel[..., :3].min(axis=-1) < 0.5).mean() > 0.002 for panel in panels]
    assert inked == [True] * 8 + [False]
    write_chain_report(report_on_run(record, RAMACHANDRAN), tmp_path / "chain.png")
    assert matplotlib.image.imread(tmp_path / "chain.png").std() > 0


def test_few_proposals_read_as_few_in_tile_and_verdict(report: Report, tmp_path: Path) -> None:
    share = 9.99 / len(report.log_weights)
    few = replace(
        report,
        effective_sample_size=share,
        verdict=Verdict(doubts_of_number(9.99, "effective proposals", "draw more")),
    )
    write_report(few, tmp_path / "few.html")
    page = (tmp_path / "few.html").read_text()
    assert "9.9 effective proposals, fewer than 10" in page
    assert "<dt>effective proposals</dt><dd>9.9</dd>" in page


def test_the_target_is_told_and_cited(store: ProposalStore, tmp_path: Path) -> None:
    names = ("amber99sbildn.xml", "amber99_obc.xml")
    target = ReferenceSystem(app.Topology(), harmonic_system(), FRAME[np.newaxis], 300.0, names)
    write_report(report_on_store(store, potential, target=target), tmp_path / "of.html")
    found = json.loads((tmp_path / "of.json").read_text())
    assert found["provenance"]["force field"] == " + ".join(names)
    assert found["citations"] == {each.reason: each.text() for each in citations_of(names)}
    page = html.unescape((tmp_path / "of.html").read_text())
    assert all(each.text() in page for each in citations_of(names))
    assert not any("{" in each.text() for each in CITATIONS)


@pytest.fixture
def record() -> RunRecord:
    """Six iterations of two steps, each with two proposals; the third and sixth accept.

    Mirrored frames have phi on the other side of 0: four crossings.
    """
    counts = np.zeros((6, len(COUNTS)), dtype=np.int64)

    def column(name: str) -> Any:
        return counts[:, COUNTS.index(name)]

    column("n_steps")[:], column("n_proposed")[:] = 2, 4
    column("n_accepted")[[2, 5]] = [1, 2]
    column("n_rejected_bond_graph")[:] = 1
    column("n_rejected_metropolis")[:] = 3 - column("n_accepted")
    positions_nm = FRAME + WIDTH_NM * np.random.default_rng(0).normal(size=(6, 4, 3))
    positions_nm[[1, 2, 4]] *= -1
    topology = {"bonds": [[2, 0, 0, 0], [0, 1, 0, 0], [1, 3, 0, 0]]}
    metadata = {"topology": topology, "move": {"kind": "toy"}, "seed": 5, "versions": {}}
    return RunRecord(positions_nm, potential(positions_nm), np.zeros(6), counts, metadata)


def test_a_chain_is_told_as_it_was(record: RunRecord, tmp_path: Path) -> None:
    report = report_on_run(record, RAMACHANDRAN)
    assert report.fates == {
        "accepted": 3 / 24,
        "bond graph": 6 / 24,
        "chirality": 0,
        "energy not finite": 0,
        "metropolis": 15 / 24,
        "thinned": 0,
    }
    assert (report.n_steps, report.n_accepted, report.longest_run) == (12, 3, 4)
    visits = Visits("0 < phi < 2 rad", 3 / 6, 4)
    assert report.visits == visits
    assert report.verdict == Verdict(doubts_of_chain(12, 3, 4, visits))
    assert report_on_run(record).visits is None
    closed = record.metadata["topology"]["bonds"] + [[2, 3, 0, 0]]
    in_a_ring = replace(record, metadata=record.metadata | {"topology": {"bonds": closed}})
    assert report_on_run(in_a_ring, RAMACHANDRAN).visits is None
    assert report_on_run(in_a_ring, RAMACHANDRAN).angles is not None
    for column, atoms in enumerate(RAMACHANDRAN):
        expected = dihedral(record.positions_nm, atoms)
        np.testing.assert_array_equal(report.angles[:, column], expected)
    axes = plot_trace(report.u_kT, report.accepted)
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [3, 6])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), record.u[[2, 5]])
    points = plot_angles(report.angles).collections[0].get_offsets()
    np.testing.assert_array_equal(points, np.degrees(report.angles))
    write_chain_report(report, tmp_path / "chain.html")
    found = json.loads((tmp_path / "chain.json").read_text())
    assert found["longest_run"] == 4
    assert found["verdict"] == "do not trust"
    page = (tmp_path / "chain.html").read_text()
    assert "3 accepted steps of 12, fewer than 10" in page
    assert "4 effective states for the population of 0 &lt; phi &lt; 2 rad, fewer than 10" in page
    assert found["visits"] == {"where": visits.where, "share": 3 / 6, "n_crossings": 4}


def test_a_chain_without_proposals_is_refused(record: RunRecord) -> None:
    with pytest.raises(ValueError, match="report on a chain with a TBGMove"):
        report_on_run(replace(record, counts=np.zeros_like(record.counts)))


def open_at(browser: Any, page: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def shown(browser: Any, name: str) -> float:
    return float(browser.find_element("id", name).get_attribute("value"))


def assert_readable(browser: Any) -> None:
    """Nothing is wider than the window, and every picture is drawn."""
    spread = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(spread) <= 0
    scrolling = "return [...document.querySelectorAll('table, .scroll')].filter("
    scrolling += "(each) => each.scrollWidth > each.clientWidth).length"
    assert browser.execute_script(scrolling) == 0
    drawn = "return [...document.images].map((each) => each.complete && each.naturalWidth > 100)"
    assert len(browser.execute_script(drawn)) >= 4
    assert all(browser.execute_script(drawn))


def assert_drawn(browser: Any, element: str) -> None:
    """The viewer shows more than a background."""
    picture = matplotlib.image.imread(
        io.BytesIO(browser.find_element("css selector", element).screenshot_as_png)
    )
    colours = len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0))
    assert colours > 10, "the viewer is blank"


def assert_offline(browser: Any, page: Path) -> None:
    """No error on the console, and nothing asked of a network."""
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []
    messages = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = {
        each["params"]["request"]["url"]
        for each in messages
        if each["method"] == "Network.requestWillBeSent"
        and each["params"]["documentURL"] == page.as_uri()  # not the browser's own first tab
    }
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {page.as_uri()}


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_offline(page: Path, report: Report, browser: Any, width: int) -> None:
    open_at(browser, page, width)
    assert shown(browser, "ess") == report.effective_sample_size
    assert shown(browser, "k") == report.pareto_k
    assert_readable(browser)
    inside, around = (browser.find_element("css selector", css) for css in ("canvas", ".frame"))
    assert inside.rect["x"] + inside.rect["width"] < around.rect["x"] + around.rect["width"]
    assert_drawn(browser, "#viewer")
    assert_offline(browser, page)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_chain_works_offline(
    record: RunRecord, browser: Any, width: int, tmp_path: Path
) -> None:
    report, page = report_on_run(record, RAMACHANDRAN), tmp_path / "chain.html"
    write_chain_report(report, page)
    open_at(browser, page, width)
    assert shown(browser, "acceptance") == report.acceptance
    assert shown(browser, "run") == report.longest_run
    assert shown(browser, "trips") == report.visits.n_round_trips
    assert shown(browser, "share") == report.visits.share
    doubt = report.verdict.doubts[0]
    verdict = browser.find_element("css selector", ".verdict").text
    assert f"{doubt.reason}. Next: {doubt.advice}." in verdict
    assert_readable(browser)
    assert_offline(browser, page)


def test_samples_are_viewed_by_weight_and_offline(browser: Any, tmp_path: Path) -> None:
    """3Dmol.js holds the frames of weight, with their bonds, and draws them."""
    frames = FRAME + WIDTH_NM * np.random.default_rng(3).normal(size=(5, 4, 3))
    log_weights = np.array([-np.inf, 0.0, -np.inf, 1.0, 2.0])
    frames[0] = np.nan  # as a proposal that failed
    page = tmp_path / "view.html"
    page.write_text(f"<html><body>{view(MOLECULE, frames, log_weights).write_html()}</body></html>")
    open_at(browser, page, 1280)
    browser.implicitly_wait(10)
    browser.find_element("css selector", "canvas")
    models = """
        const name = Object.keys(window).find((each) => /^viewer_[0-9]+$/.test(each));
        return [0, 1, 2].map((k) => window[name].getModel(k).selectedAtoms({}).map(
            (each) => [each.elem, each.x, each.y, each.z, each.bonds]));
    """
    expected = 10 * superposed(frames[[1, 3, 4]])
    for atoms, frame in zip(browser.execute_script(models), expected, strict=True):
        assert [atom[0] for atom in atoms] == ["C", "H", "O", "N"]
        np.testing.assert_allclose([atom[1:4] for atom in atoms], frame, atol=1e-4)
        neighbours = [sorted(MOLECULE.neighbours(atom)) for atom in range(4)]
        assert [sorted(atom[4]) for atom in atoms] == neighbours
    assert_drawn(browser, "canvas")
    assert_offline(browser, page)
    open_at(browser, page, 400)
    canvas = browser.find_element("css selector", "canvas").rect
    assert canvas["x"] + canvas["width"] <= 400


def test_samples_without_weights_are_spread_evenly() -> None:
    frames = FRAME + WIDTH_NM * np.random.default_rng(3).normal(size=(10, 4, 3))
    page = view(MOLECULE, frames, n=5).write_html()
    assert page.count("V2000") == 5
    for frame in superposed(frames[::2]):
        assert f"{10 * frame[0, 0]:.4f}".rjust(10) in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0: draw at least one sample"),
        ({"positions_nm": np.zeros((2, 3, 3))}, r"the shape \(2, 3, 3\), the molecule 4 atoms"),
        ({"log_weights": np.zeros(3)}, "log_weights 3 rows"),
        ({"log_weights": np.full(2, -np.inf)}, "no sample has a weight"),
        ({"positions_nm": np.full((2, 4, 3), np.nan)}, "a sample is not finite"),
    ],
)
def test_what_cannot_be_viewed_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(**{"molecule": MOLECULE, "positions_nm": np.zeros((2, 4, 3))} | arguments)


def test_a_missing_viewer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(ImportError, match=r"pip install 'openmm-tbg\[notebook\]'"):
        view(MOLECULE, FRAME[np.newaxis])
