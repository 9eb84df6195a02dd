"""What trains and what samples needs torch and NumPy, and neither OpenMM nor RDKit.

A machine with a GPU often has the former alone: models are trained there and proposals drawn, and
energies are computed elsewhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from miniatures import CHIRAL, frames_of, trained
from rdkit import Chem
from structures import structure_from_smiles

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.filters import COVALENT_RADII
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.models import find_model
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.simulation import Dynamics, simulate

ROOT = Path(__file__).parents[1]
MISSING = (
    "arviz_stats", "matplotlib", "mdtraj", "openmm", "openmmtools", "pandas", "PeptideBuilder",
    "pymbar", "rdkit", "rustworkx", "yaml", "zarr",
)  # fmt: skip

FOR_DIPEPTIDES = {"openmm", "PeptideBuilder", "rdkit", "rustworkx"}  # on top of what trains

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing}))  # each import of one of them fails
from pathlib import Path
import numpy as np
import torch
"""

DRAW = """
from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.generator import BoltzmannGenerator
model, out, n = sys.argv[1:]
generator = BoltzmannGenerator(TrainedModel.load(Path(model)), model, "")
drawn = generator.propose(int(n), np.random.default_rng(3))
np.savez(out, positions_nm=drawn.positions_nm, log_q=drawn.log_q, cause=drawn.cause)
"""

TRAIN = """
from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.training import (
    MoleculeFrames, Trainer, TrainingSettings, held_out_likelihood, task_of, trained_model,
)
start, frames, out = sys.argv[1:]
model = TrainedModel.load(Path(start))
columns = MoleculeFrames(torch.from_numpy(np.load(frames)))
task = task_of(model, columns, None)
trainer = Trainer([task], TrainingSettings(n_steps=20), Path(out).with_suffix(".pt"))
trainer.run(lambda progress: None)
print(held_out_likelihood(model, trainer, 8))
trained_model(model, trainer).save(Path(out))
"""


EXAMPLE = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without(script: str, *arguments: str, missing: Iterable[str] = MISSING) -> str:
    code = WITHOUT.format(missing=sorted(missing)) + script
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_of_what_is_missing_fails() -> None:
    with pytest.raises(AssertionError, match="import of openmm halted"):
        run_without("import openmm_tbg.potential")


def assert_draws_the_same(model: Path, n: int, folder: Path) -> None:
    run_without(DRAW, str(model), str(folder / "drawn.npz"), str(n))
    generator = BoltzmannGenerator(TrainedModel.load(model), str(model), "")
    expected = generator.propose(n, np.random.default_rng(3))
    assert expected.passes.any()
    found = np.load(folder / "drawn.npz")
    for name in ("positions_nm", "log_q", "cause"):
        np.testing.assert_array_equal(found[name], getattr(expected, name))


def test_the_shipped_model_draws_the_same_proposals(tmp_path: Path) -> None:
    assert_draws_the_same(find_model("alanine-dipeptide"), 2, tmp_path)


def test_a_model_trains_and_says_how_likely_frames_are(tmp_path: Path) -> None:
    start, frames, out = (
        str(tmp_path / name) for name in ("a.safetensors", "f.npy", "b.safetensors")
    )
    trained(sees_hand=True).model.save(Path(start))
    np.save(frames, frames_of(structure_from_smiles(CHIRAL), 200).astype(np.float32))
    printed = run_without(TRAIN, start, frames, out)
    assert re.match(r"-log q -\d+\.\d\d \+- \d\.\d\d nats \(\d frames", printed)
    assert_draws_the_same(Path(out), 50, tmp_path)


def test_the_example_goes_on_training_the_shipped_model(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    dynamics = Dynamics(interval_ps=0.1, equilibration_ps=0.1)
    simulate(alanine_dipeptide(), frames, dynamics=dynamics, n_frames=40, n_walkers=1, seed=7)
    out, run = tmp_path / "trained.safetensors", tmp_path / "run.pt"
    line = f"--frames {frames} --start alanine-dipeptide --steps 2 --every 2"
    line += f" --held-out 2 --checkpoint {run} --out {out}"
    printed = run_without(EXAMPLE, str(ROOT / "examples" / "train_alanine.py"), *line.split())
    assert printed.startswith("step 2 of 2 ")
    card = TrainedModel.load(out).card
    assert (card.training["start"], card.training["held_out"]["n"]) == ("alanine-dipeptide", 2)
    assert f"-log q {card.training['held_out']['nll_nm']:.2f} " in printed


def test_dipeptides_are_built_and_simulated_without_openmmtools() -> None:
    script = "from openmm_tbg import simulation; from openmm_tbg.peptides import dipeptide\n"
    script += "print(len(dipeptide('AG').positions_nm))"
    assert run_without(script, missing=set(MISSING) - FOR_DIPEPTIDES) == "20\n"


def test_covalent_radii_are_those_of_rdkit() -> None:
    table = Chem.GetPeriodicTable()
    assert [table.GetRcovalent(1 + k) for k in range(len(COVALENT_RADII))] == list(COVALENT_RADII)
