"""What results say of themselves at a prompt and in a notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from miniatures import trained
from oracles import GaussianGenerator

from openmm_tbg.free_energy import Estimated
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.run_record import COUNTS, RunRecord
from openmm_tbg.store import ProposalStore
from openmm_tbg.verdict import doubts_of_number


def test_a_generator_tells_its_model() -> None:
    model = trained().model
    generator = BoltzmannGenerator(model, "<tiny>", "0123456789abcdef")
    field = " + ".join(model.card.force_field)
    assert repr(generator) == (
        f"<BoltzmannGenerator model: <tiny>, sha256: 0123456789ab, atoms: 5, force field: {field}, "
        f"temperature: {model.card.temperature_K:g} K, device: cpu>"
    )
    assert "&lt;tiny&gt;" in generator._repr_html_()


def test_a_store_tells_how_far_it_is(tmp_path: Path) -> None:
    generator = GaussianGenerator()
    store = ProposalStore.create(tmp_path / "s", generator, n_batches=3, batch_size=4, seed=7)
    store.fill(generator, [1])
    expected = f"path: {tmp_path / 's'}, model: toy, batches: 1 of 3, batch size: 4, seed: 7"
    assert repr(store) == f"<ProposalStore {expected}>"
    assert "1 of 3</td>" in store._repr_html_()


def test_a_record_tells_its_acceptances() -> None:
    counts = np.zeros((2, len(COUNTS)), dtype=np.int64)
    counts[:, COUNTS.index("n_proposed")] = 3
    counts[1, COUNTS.index("n_accepted")] = 1
    record = RunRecord(np.zeros((2, 4, 3)), np.zeros(2), np.zeros(2), counts, {})
    assert repr(record) == "<RunRecord iterations: 2, atoms: 4, proposals: 6, accepted: 1>"


def test_an_estimate_shows_its_doubts_in_a_notebook() -> None:
    doubts = doubts_of_number(5, "crossings <b>", "run longer")
    estimated = Estimated(1.0, 0.1, "counting", (9,), 5.0, doubts=doubts)
    shown = estimated._repr_html_()
    assert "1.000 +- 0.100" in shown
    assert "5 crossings &lt;b&gt;, fewer than 10: run longer" in shown
