"""The examples run, at a size that a test can bear."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import yaml
from openmm import unit
from openmmtools.states import ThermodynamicState
from structures import Alanine

from openmm_tbg import BoltzmannGenerator, ProposalStore, ReducedPotential
from openmm_tbg.free_energy import free_energy_difference
from openmm_tbg.peptides import assembled

EXAMPLES = Path(__file__).parents[1] / "examples"

each_shell_script = pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.sh")), ids=lambda path: path.name
)
each_python_script = pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name
)


@each_shell_script
def test_bash_understands(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


@each_python_script
def test_python_understands(path: Path) -> None:
    compile(path.read_text(), path, "exec")


def test_alanine_mcmc(tmp_path: Path) -> None:
    picture = tmp_path / "ramachandran.png"
    size = ["--iterations", "2", "--proposals", "2", "--batch", "4"]
    run = subprocess.run(
        [sys.executable, EXAMPLES / "alanine_mcmc.py", *size, "--picture", picture],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^proposals +4$", run.stdout, flags=re.MULTILINE)
    assert "bond graph 0.0%" in run.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_compare_force_fields(tmp_path: Path, alanine: Alanine) -> None:
    """The row at 350 K follows from the stored proposals and their energies at 300 K."""
    store, table = tmp_path / "proposals", tmp_path / "table.json"
    run = subprocess.run(
        [sys.executable, EXAMPLES / "compare_force_fields.py", "--batches", "1", "--batch", "2"]
        + ["--store", store, "--out", table],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(table.read_text())["rows"]
    assert all(row["target"] in run.stdout for row in rows)
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    state = ThermodynamicState(alanine.system, 300 * unit.kelvin)
    context = state.create_context(openmm.VerletIntegrator(0.001))
    proposals = ProposalStore(store).read()
    proposals = proposals[proposals.passes]
    u = ReducedPotential(state, context)(proposals.positions_nm)
    own, hot = (-scale * u - proposals.log_q for scale in (1.0, 300 / 350))
    expected = np.logaddexp.reduce(own) - np.logaddexp.reduce(hot)
    assert rows[1]["from_own"]["value"] == pytest.approx(expected, abs=1e-3)


FEWER = (
    "import free_energy_problem as problem, free_energy_by_flow as flow; "
    "import free_energy_by_dynamics as dynamics; "
    "flow.BATCH = flow.BATCH_IN_SETS = 2; "
    "flow.PILOT, dynamics.WINDOWS, dynamics.UMBRELLA_KT = 4, 6, 6.0; "
    "problem.EQUILIBRATION_STEPS = problem.LANGEVIN_STEPS = 20; dynamics.WINDOW_STEPS = 200; "
)
SLOW = "('proposals', 'moves', 'tempering', 'densities')"
COUNTED = (
    f"flow.until = dynamics.until = lambda clock, name, end: range(2 if name in {SLOW} else 60); "
)


@pytest.mark.parametrize(
    ("example", "until", "options", "reference"),
    [
        ("alanine_free_energy", "", [], "reference 3.75 +- 0.04 (biased dynamics, 100 ns)"),
        ("dipeptide_free_energy", COUNTED, ["GG"], "(umbrella sampling, 6 minutes; "),
    ],
)
def test_six_methods(
    example: str, until: str, options: list[str], reference: str, tmp_path: Path
) -> None:
    """Every method leaves a row: a figure with its verdict, or the reason why there is none."""
    out = tmp_path / "free_energy.json"
    run = subprocess.run(
        [sys.executable, "-c", f"{FEWER} {until} import {example}; {example}.main()", *options]
        + ["--minutes", "0.01", "--out", out],
        capture_output=True,
        text=True,
        check=True,
        cwd=EXAMPLES,
    )
    record = json.loads(out.read_text())
    assert reference in run.stdout
    assert ("the model was trained on it" in run.stdout) == (options == ["GG"])
    assert len(record["rows"]) == 6
    for row in record["rows"]:
        (line,) = re.findall(f"^{re.escape(row['method'])} .*$", run.stdout, flags=re.MULTILINE)
        assert line.endswith(row["verdict"])
        assert (row["found"] is None) == bool(row["why_none"]) == (row["verdict"] == "no figure")
    assert record["rows"][0]["verdict"] in ("do not trust", "no figure")  # of so few proposals
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_umbrellas_over_a_free_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows drawn exactly, whose bias leaves the uniform distribution once it is undone."""
    monkeypatch.syspath_prepend(EXAMPLES)
    dynamics = importlib.import_module("free_energy_by_dynamics")
    monkeypatch.setattr(dynamics, "UMBRELLA_KT", 2.0)
    centres, n = np.linspace(-np.pi, np.pi, 3, endpoint=False), np.array([400, 700, 1000])
    spread = np.random.default_rng(1).normal(size=n.sum()) / math.sqrt(dynamics.UMBRELLA_KT)
    phi = (np.repeat(centres, n) + spread + np.pi) % (2 * np.pi) - np.pi
    sampled = dynamics.without_bias(np.stack([phi, phi], axis=-1), centres, n)
    found, there = sampled.estimate(), dynamics.in_basin(sampled.torsions)
    assert abs(found.value - math.log(math.pi - 1)) < 4 * found.error < 0.4
    again = free_energy_difference(sampled.log_weights, there, ~there)
    assert again.value == pytest.approx(found.value, abs=1e-6)


def test_train_dipeptides(tmp_path: Path) -> None:
    """Trained on one peptide, asked for another; run again, it goes on from its checkpoint."""
    split, out = tmp_path / "split.json", tmp_path / "few.safetensors"
    split.write_text(json.dumps({"train": ["GG"]}))
    smaller = "import train_dipeptides as few; few.N_UNCHARGED = 60; few.main()"
    options = ["--data", tmp_path / "data", "--split", split, "--of", "GG", "GA"]
    options += ["--n-frames", "16", "--n-walkers", "2", "--equilibration-ps", "0.02"]
    options += ["--interval-ps", "0.01", "--batch-size", "4", "--every", "4", "--out", out]
    options += ["--hidden", "8", "--layers", "2", "--checkpoint", tmp_path / "run.pt"]
    again = ["--start", out, "--checkpoint", tmp_path / "again.pt"]
    for steps, also in (("4", []), ("8", []), ("6", again)):
        run = subprocess.run(
            [sys.executable, "-c", smaller, *options, "--steps", steps, *also],
            capture_output=True,
            text=True,
            check=True,
            cwd=EXAMPLES,
        )
        assert f"step {steps} of {steps}" in run.stdout
        assert ("step 4 of" in run.stdout) == (steps != "8")
    generator = BoltzmannGenerator.from_checkpoint(out, sequence="GA")
    assert generator.card.training["start"] == str(out)
    assert np.isfinite(generator.evaluate(assembled("GA")[1][None]).log_q).all()


def test_alanine_replica_exchange(tmp_path: Path) -> None:
    """The ladders get the same number of force evaluations, and those with the flow proposals."""
    smaller = (
        "import alanine_replica_exchange as ladder, numpy as np; "
        "print('trips', ladder.round_trips(np.array([[0, 2, 1, 0, 2, 0], [2, 1, 2, 1, 0, 2]]).T)); "
        "ladder.BATCH, ladder.FLOW_STEPS, ladder.EQUILIBRATION_STEPS = 2, 2000, 100; "
        "ladder.main()"
    )
    out = tmp_path / "ladders.json"
    size = ["--iterations", "2", "--proposals", "1", "--store", tmp_path / "proposals"]
    run = subprocess.run(
        [sys.executable, "-c", smaller, *size, "--out", out],
        capture_output=True,
        text=True,
        check=True,
        cwd=EXAMPLES,
    )
    record = json.loads(out.read_text())
    assert "trips 3" in run.stdout
    assert len(ProposalStore(tmp_path / "proposals").read()) == 2
    for row, drawn in zip(record["rows"], (0, 2, 2), strict=True):
        assert row["name"] in run.stdout
        assert row["n_iterations"] * row["n_steps"] * len(row["temperatures_K"]) == 4000
        assert row["seconds_of_drawing"] == drawn * record["seconds_a_proposal"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_ranks_script(tmp_path: Path) -> None:
    """With a srun of the test's own: the command understands what it gets, and draws nothing."""
    (tmp_path / "srun").write_text('#!/bin/bash\nexec "${@:3}" --write-config "$STORE.yaml"\n')
    (tmp_path / "srun").chmod(0o755)
    here = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    store = str(tmp_path / "store")
    variables = os.environ | {"PATH": here, "STORE": store, "SLURM_CPUS_PER_TASK": "1"}
    script = EXAMPLES / "slurm" / "ranks.sh"
    subprocess.run(["bash", script, "--proposals", "7"], env=variables, check=True)
    given = yaml.safe_load(Path(f"{store}.yaml").read_text())
    assert given["command"] == "sample"
    assert (given["out"], given["proposals"], given["device"]) == (store, 7, "cuda")


DASK_POOL = """
import runpy
import sys

import dask_jobqueue
from dask_jobqueue.local import LocalCluster

SLURMCluster = dask_jobqueue.SLURMCluster


class Here(LocalCluster):
    def __init__(self, job_cpu, **options):
        with SLURMCluster(job_cpu=job_cpu, **options) as slurm:
            print(slurm.job_script())
        super().__init__(scheduler_options={"dashboard_address": ":0"}, **options)


dask_jobqueue.SLURMCluster = Here
sys.path.insert(0, ".")
runpy.run_path("dask_pool.py", run_name="__main__")
"""


def test_dask_pool(tmp_path: Path) -> None:
    """Its jobs are processes here; what SLURM would get is looked at."""
    pytest.importorskip("dask_jobqueue")
    size = ["--proposals", "1", "--batch-size", "1", "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, "-c", DASK_POOL, tmp_path / "store", *size],
        capture_output=True,
        text=True,
        check=True,
        cwd=EXAMPLES / "slurm",
    )
    for directive in ("--cpus-per-task=4", "--mem=15G", "-t 04:00:00", "--gpus=1"):
        assert f"#SBATCH {directive}" in run.stdout.splitlines()
    assert ProposalStore(tmp_path / "store").finished.all()
