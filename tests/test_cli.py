"""The command line: what it prints with right input and wrong, and that it is quick and quiet."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from click.testing import CliRunner, Result
from miniatures import CARD, SETTINGS
from openmm import app, unit
from openmmtools.states import ThermodynamicState
from peptides import peptide
from structures import Alanine, Structure, structure_from_smiles
from test_architecture import HEAVY

from openmm_tbg import BoltzmannGenerator, ProposalStore, ReducedPotential, doctor, read_run
from openmm_tbg.arrays import Cause, Positions
from openmm_tbg.checkpoint import TrainedModel, file_sha256
from openmm_tbg.cli.application import main
from openmm_tbg.cli.formats import write_frames, write_rows
from openmm_tbg.cli.notes import note_other_target
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.frames import FrameStore, load_frames
from openmm_tbg.free_energy import log_normalising_constant
from openmm_tbg.grid import TimeGrid
from openmm_tbg.metropolis import log_weights
from openmm_tbg.peptides import assembled
from openmm_tbg.potential import energy_platform
from openmm_tbg.proposals import Proposals
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.torsions import dihedral
from openmm_tbg.training import MoleculeFrames, ResidualMatching, Task, Trainer

ROOT = Path(__file__).parents[1]


def test_help_is_quick_and_quiet() -> None:
    code = (
        "import json, sys, time; start = time.process_time()\n"
        "from openmm_tbg.cli.application import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print(json.dumps([time.process_time() - start, list(sys.modules)]), file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, modules = json.loads(answer.stderr)  # nothing else is there
    assert seconds < 0.5
    assert not HEAVY.intersection(modules)
    assert "models" in answer.stdout


PHASE, WIDTH_NM, WIDTH_RAD = 1.0, 0.01, 0.1  # of the target below, whose answer is known
LENGTHS_NM, ANGLE_RAD = (0.145, 0.097, 0.097), math.radians(100)
H_O_O_H = (2, 0, 1, 3)


def hydrogen_peroxide_target() -> openmm.System:
    """Bonds and angles on springs, and u = cos(phi - 1 rad) in kT at 300 K, independent of them."""
    kT = unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin
    system, bonds, angles = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    torsion = openmm.PeriodicTorsionForce()
    for mass in (16.0, 16.0, 1.0, 1.0):
        system.addParticle(mass)
    for pair, length in zip(((0, 1), (0, 2), (1, 3)), LENGTHS_NM, strict=True):
        bonds.addBond(*pair, length, kT / (WIDTH_NM * unit.nanometer) ** 2)
    for triple in ((2, 0, 1), (3, 1, 0)):
        angles.addAngle(*triple, ANGLE_RAD, kT / (WIDTH_RAD * unit.radian) ** 2)
    torsion.addTorsion(*H_O_O_H, 1, PHASE, kT)
    for force in (bonds, angles, torsion):
        system.addForce(force)
    return system


def known_free_energy(low_deg: float, high_deg: float) -> float:
    """F(low < phi < high) - F(rest) in kT: bonds and angles drop out of the ratio."""
    phi = np.linspace(-np.pi, np.pi, 200_001)
    weight = np.exp(-np.cos(phi - PHASE))
    inside = (phi > math.radians(low_deg)) & (phi < math.radians(high_deg))
    return -math.log(weight[inside].sum() / weight[~inside].sum())


def frames_of_hydrogen_peroxide(n: int) -> Positions:
    """Independent frames near the target: Gaussian bonds and angles, phi by rejection."""
    rng = np.random.default_rng(0)
    phi = rng.uniform(-np.pi, np.pi, 8 * n)
    phi = phi[rng.random(8 * n) < np.exp(-np.cos(phi - PHASE) - 1)][:n]
    o_o, first, second = np.array(LENGTHS_NM)[:, None] + WIDTH_NM * rng.normal(size=(3, n))
    one, other = ANGLE_RAD + WIDTH_RAD * rng.normal(size=(2, n))
    frames = np.zeros((n, 4, 3))
    frames[:, 1, 0] = o_o
    frames[:, 2, :2] = (first * np.array([np.cos(one), np.sin(one)])).T
    across = second * np.sin(other)
    frames[:, 3] = np.array(
        [o_o - second * np.cos(other), across * np.cos(phi), across * np.sin(phi)]
    ).T
    return frames - frames.mean(axis=1, keepdims=True)


def model_of_hydrogen_peroxide(folder: Path) -> TrainedModel:
    molecule = structure_from_smiles("OO").molecule
    frames, encoding = frames_of_hydrogen_peroxide(2000), encode_full(molecule)
    geometry = ReferenceGeometry.from_frames(molecule, encoding, frames)
    torch.manual_seed(0)
    architecture = DenoiserArchitecture(hidden=16, layers=2)
    columns = MoleculeFrames(torch.from_numpy(frames).float())
    task = Task(ResidualMatching(architecture.field(geometry)), columns[50:], columns[:50])
    settings = replace(SETTINGS, n_steps=300, batch_size=64)
    trainer = Trainer([task], settings, folder / "training.pt")
    trainer.run(lambda progress: None, every=300)
    weights = trainer.averaged_field().state_dict()
    return TrainedModel(CARD, molecule, encoding, geometry, architecture, TimeGrid(8, 1), weights)


def write_peptides(folder: Path) -> None:
    """A dipeptide without hydrogens and one of D-amino acids, one longer, and one with caps."""
    dipeptide = Structure(*assembled("KS"))
    modeller = app.Modeller(dipeptide.topology, dipeptide.positions_nm * unit.nanometer)
    modeller.delete([atom for atom in modeller.topology.atoms() if atom.element.symbol == "H"])
    capped, longer = Alanine.build(), peptide("AAA")
    for name, topology, positions_nm in (
        ("bare", modeller.topology, modeller.positions.value_in_unit(unit.nanometer)),
        ("mirrored", dipeptide.topology, -dipeptide.positions_nm),
        ("longer", longer.topology, longer.positions_nm),
        ("capped", capped.topology, capped.positions_nm),
    ):
        with (folder / f"{name}.pdb").open("w") as file:
            app.PDBFile.writeFile(topology, np.array(positions_nm) * unit.nanometer, file)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The structure of hydrogen peroxide and its System."""
    folder = tmp_path_factory.mktemp("cli")
    structure = structure_from_smiles("OO")
    with (folder / "hooh.pdb").open("w") as file:
        app.PDBFile.writeFile(structure.topology, structure.positions_nm * 10, file)
    target = openmm.XmlSerializer.serialize(hydrogen_peroxide_target())
    (folder / "system.xml").write_text(target)
    return folder


@pytest.fixture(scope="module")
def folder(inputs: Path) -> Path:
    """The same folder with a model and proposals of it."""
    model_of_hydrogen_peroxide(inputs).save(inputs / "tiny.safetensors")
    (inputs / "wrong.yaml").write_text("proposls: 4\n")
    (inputs / "no.yaml").write_text("{")
    (inputs / "notes.txt").write_text("x")
    write_peptides(inputs)
    answer = run(inputs, *SAMPLE)
    assert answer.exit_code == 0, answer.output
    return inputs


SAMPLE = "sample hooh.pdb --model tiny.safetensors -n 2048 --batch-size 512 --out drawn".split()  # noqa: SIM905
TARGET = "--system system.xml --temperature 300".split()  # noqa: SIM905
REGION = "--angle 2,0,1,3 --inside 0 120".split()  # noqa: SIM905


def run(folder: Path, *arguments: str) -> Result:
    with chdir(folder):
        return CliRunner().invoke(main, arguments)


def test_sample_goes_on_and_refuses_other_proposals(folder: Path) -> None:
    batches = sorted((folder / "drawn" / "log_q" / "c.0").parent.glob("c*"))
    before = [batch.stat().st_mtime_ns for batch in batches]
    assert run(folder, *SAMPLE).exit_code == 0
    assert [batch.stat().st_mtime_ns for batch in batches] == before
    answer = run(folder, *SAMPLE, "--seed", "2")
    assert answer.exit_code == 1
    assert "seed is 1 there and 2 here" in answer.stderr


def test_reweight_is_that_of_the_library(folder: Path) -> None:
    answer = run(
        folder, "reweight", "hooh.pdb", "drawn", *TARGET, "--out", "r.json", "--export", "w.npz"
    )
    assert answer.exit_code == 0, answer.output
    assert f"the model was trained for {CARD.force_field[0]}" in answer.stderr
    proposals, stored = ProposalStore(folder / "drawn").read(), np.load(folder / "w.npz")
    assert not proposals.passes.all()
    state = ThermodynamicState(hydrogen_peroxide_target(), 300 * unit.kelvin)
    potential = ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001)))
    u = proposals.reduced_potentials(potential)
    weights = log_weights(u, proposals.log_q, proposals.passes)
    np.testing.assert_allclose(stored["log_weights"], weights, rtol=1e-9)
    found = json.loads((folder / "r.json").read_text())
    assert found["rows"][0]["value"] == pytest.approx(log_normalising_constant(weights).value)


def test_the_next_step_is_more_proposals_until_a_figure_can_be_trusted(folder: Path) -> None:
    few = [*SAMPLE, "--seed", "3", "--out", "few"]
    few[few.index("-n") + 1], few[few.index("--batch-size") + 1] = "16", "8"
    assert run(folder, *few).exit_code == 0
    answer = run(folder, "reweight", "hooh.pdb", "few", *TARGET)
    assert "verdict                 do not trust\n" in answer.stdout
    last = answer.stdout.splitlines()[-1]
    assert last.startswith("next: openmm-tbg sample hooh.pdb --model ")
    assert last.endswith("--out few -n 64, which adds to the 16 that are there")
    line = last.removeprefix("next: openmm-tbg ").partition(", which")[0].split()
    assert "few: 64 proposals" in run(folder, *line).stdout  # as it stands
    answer = run(folder, "free-energy", "hooh.pdb", "drawn", *TARGET, *REGION)
    assert answer.stdout.endswith("next: openmm-tbg report hooh.pdb drawn --out report.html\n")
    answer = run(folder, "free-energy", "hooh.pdb", "few", *TARGET, *REGION)
    assert "effective proposals in 0 < 2,0,1,3 < 120 degrees, fewer than" in answer.stdout


def test_what_a_folder_rests_on_is_cited(folder: Path) -> None:
    """Of proposals and of a chain; the tiny model has a force field that asks for no citation."""
    line = [*CHAIN, "--out", "cited", "--proposals", "2"]
    assert run(folder, *line, "--block-size", "2", "--iterations", "2").exit_code == 0
    for source in ("drawn", "cited"):
        answer = run(folder, "cite", source)
        assert answer.exit_code == 0, answer.output
        assert answer.stdout == run(folder, "cite", "tiny.safetensors").stdout
    assert run(folder, "cite", "alanine-dipeptide", "--out", "a.bib").exit_code == 0
    assert "Onufriev2004" in (folder / "a.bib").read_text()


def test_energies_leave_the_settings_of_the_process_alone() -> None:
    platform = openmm.Platform.getPlatformByName("CPU")
    before = platform.getPropertyDefaultValue("Threads")
    molecule = alanine_dipeptide()
    assert energy_platform(molecule.system)[0].getName() == "Reference"
    with_custom_gb = app.ForceField("amber14-all.xml", "implicit/obc1.xml")
    system = with_custom_gb.createSystem(molecule.topology)
    state = ThermodynamicState(system, 300 * unit.kelvin)
    context = ReducedPotential.from_state(state)._context
    assert context.getPlatform().getName() == "CPU"
    assert context.getPlatform().getPropertyValue(context, "Threads") == "1"
    assert platform.getPropertyDefaultValue("Threads") == before


def test_free_energy_of_proposals_is_the_known_one(folder: Path) -> None:
    line = ["free-energy", "hooh.pdb", "drawn", "--system", "system.xml", *REGION]
    answer = run(folder, *line, "--out", "f.json")  # the temperature is that of the model's card
    assert answer.exit_code == 0, answer.output
    (found,) = json.loads((folder / "f.json").read_text())["rows"]
    assert found["error"] < 0.2
    assert abs(found["value"] - known_free_energy(0, 120)) < 4 * found["error"]
    assert f"{found['value']:.3f} +- {found['error']:.3f}" in answer.stdout


CHAIN = "mcmc hooh.pdb --model tiny.safetensors --out chain --local-steps 2".split()  # noqa: SIM905
CHAIN += [*TARGET, "--block-size", "4", "--proposals", "4"]


@pytest.fixture
def rows_drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that a generator draws from now on."""
    sizes, propose = [], BoltzmannGenerator.propose

    def counting(self: BoltzmannGenerator, n: int, *rest: Any) -> Proposals:
        sizes.append(n)
        return propose(self, n, *rest)

    monkeypatch.setattr(BoltzmannGenerator, "propose", counting)
    return sizes


def test_chain_goes_on_where_it_stopped_and_its_states_are_counted(
    folder: Path, rows_drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmm_tbg.cli.mcmc.ramachandran", lambda topology: (H_O_O_H, H_O_O_H))
    answer = run(folder, *CHAIN, "--iterations", "4")
    assert answer.exit_code == 0, answer.output
    assert sum(rows_drawn) == 4 * 4
    first = read_run(folder / "chain").positions_nm
    answer = run(folder, *CHAIN, "--iterations", "12")
    assert "12 iterations" in answer.stdout
    assert sum(rows_drawn) == 12 * 4
    positions_nm = read_run(folder / "chain").positions_nm
    assert len(positions_nm) == 12
    np.testing.assert_array_equal(positions_nm[:4], first)
    phi = dihedral(positions_nm, H_O_O_H)
    there = (phi > 0) & (phi < 2)
    n_trips = np.count_nonzero(np.diff(there)) // 2
    assert f"round trips             {n_trips}, with {there.mean():.1%} of" in answer.stdout
    again = run(folder, *CHAIN, "--iterations", "12")
    assert again.stdout == answer.stdout
    assert sum(rows_drawn) == 12 * 4  # nothing is left to draw
    half = ["--angle", "2,0,1,3", "--inside", "-120", "0"]
    answer = run(folder, "free-energy", "hooh.pdb", "chain", *half, "--out", "c.json")
    assert answer.exit_code == 0, answer.output
    (found,) = json.loads((folder / "c.json").read_text())["rows"]
    degrees = np.degrees(dihedral(positions_nm, H_O_O_H))
    inside = ((degrees > -120) & (degrees < 0)).sum()
    assert found["value"] == pytest.approx(-math.log(inside / (12 - inside)))
    answer = run(folder, "free-energy", "hooh.pdb", "chain", *REGION, "--temperature", "310")
    assert answer.exit_code == 2
    assert "leave --force-field, --temperature and --system out" in answer.stderr


SIMULATE = "simulate hooh.pdb --out frames --walkers 2 --interval 0.02 --equilibration 0.2".split()  # noqa: SIM905
SIMULATE += TARGET


def test_the_report_of_a_chain_is_that_of_its_record(folder: Path) -> None:
    line = [*CHAIN, "--out", "reported", "--proposals", "2"]
    assert run(folder, *line, "--block-size", "2", "--iterations", "4").exit_code == 0
    record = read_run(folder / "reported")
    answer = run(folder, "report", "hooh.pdb", "reported", "--out", "chain.html")
    assert answer.exit_code == 0, answer.output
    found = json.loads((folder / "chain.json").read_text())
    assert found["n_accepted"] == record.n_accepted.sum()
    assert found["fates"]["bond graph"] == record.n_rejected(Cause.BOND_GRAPH).sum() / 8
    assert "verdict  do not trust" in answer.stdout
    answer = run(folder, "report", "alanine-dipeptide", "reported", "--out", "other.html")
    assert "is a chain of 4 atoms, alanine-dipeptide has" in answer.stderr
    answer = run(folder, "report", "hooh.pdb", "reported", *TARGET, "--out", "other.html")
    assert "leave --force-field, --temperature and --system out" in answer.stderr
    assert not (folder / "other.html").exists()


def test_simulate_goes_on_bit_for_bit_and_refuses_another_simulation(inputs: Path) -> None:
    answer = run(inputs, *SIMULATE, "--frames", "200")
    assert answer.exit_code == 0, answer.output
    assert "200 frames of hooh.pdb, 0 skipped" in answer.stdout
    whole = load_frames(inputs / "frames")
    manifest = whole.metadata
    assert (manifest["interval_ps"], manifest["equilibration_ps"]) == (0.02, 0.2)
    store = FrameStore(inputs / "frames", "r+")
    store.finish(1, 0)  # as if it had been stopped before the second walker
    (inputs / "frames" / "walker_0001.checkpoint").unlink()
    assert len(load_frames(inputs / "frames")) == 100
    assert run(inputs, *SIMULATE, "--frames", "200").exit_code == 0
    again = load_frames(inputs / "frames")
    np.testing.assert_array_equal(again.positions_nm, whole.positions_nm)
    np.testing.assert_array_equal(again.forces_per_nm, whole.forces_per_nm)
    spread = np.linalg.norm(again.positions_nm[:, 0] - again.positions_nm[:, 1], axis=-1).std()
    assert spread == pytest.approx(WIDTH_NM, rel=0.5)
    answer = run(inputs, *SIMULATE, "--frames", "200", "--seed", "2")
    assert answer.exit_code == 1
    assert "seed is 1 there, 2 here" in answer.stderr
    broken = np.full((1, 4, 3), np.nan)
    store.write(0, 0, broken, broken, np.zeros(1))
    answer = run(inputs, *SIMULATE, "--frames", "200")
    assert "199 frames of hooh.pdb, 1 skipped" in answer.stdout
    assert "1 of 200 frames are skipped" in answer.stderr


EVALUATE = "evaluate hooh.pdb --model tiny.safetensors --phi 2,0,1,3 -n 512".split()  # noqa: SIM905
EVALUATE += [*TARGET, "--batch-size", "256"]
PHI_DEG = (0, math.degrees(2))  # the basin of the figures


def test_evaluate_finds_the_known_free_energy_and_draws_nothing_twice(folder: Path) -> None:
    known = {"hooh.pdb": [0.5, 0.1], "KS": [1, 2]}
    (folder / "known.json").write_text(json.dumps(known))
    (folder / "record.json").write_text(json.dumps({"references": known, "rows": {}}))
    line = [*EVALUATE, "--out", "table"]
    answer = run(folder, *line, "--references", "known.json")
    assert answer.exit_code == 0, answer.output
    (row,) = json.loads((folder / "table" / "results.json").read_text())["rows"]
    difference, error = (row[f"free_energy_difference_kT{end}"] for end in ("", "_error"))
    assert error < 0.3
    assert abs(difference - known_free_energy(*PHI_DEG)) < 4 * error
    assert row["deviation_kT"] == difference - 0.5
    drawn = sorted((folder / "table" / "hooh.pdb").glob("proposals_*/batch_*"))
    written = [batch.stat().st_mtime_ns for batch in drawn]
    assert len(written) == 2
    more = [*line, "-n", "700", "--references", "record.json", "--write-config", "e.yaml"]
    assert run(folder, *more).exit_code == 0
    again = run(folder, "evaluate", "--config", "e.yaml")
    assert again.exit_code == 0, again.output
    assert [batch.stat().st_mtime_ns for batch in drawn] == written
    (row,) = json.loads((folder / "table" / "results.json").read_text())["rows"]
    assert row["n"] == 700
    assert row["deviation_kT"] == row["free_energy_difference_kT"] - 0.5


# A force field of hydrogen peroxide without forces.
FREE = """
<ForceField>
 <AtomTypes>
  <Type name="O" class="O" element="O" mass="16"/><Type name="H" class="H" element="H" mass="1"/>
 </AtomTypes>
 <Residues>
  <Residue name="MOL">
   <Atom name="O0" type="O"/><Atom name="O1" type="O"/>
   <Atom name="H2" type="H"/><Atom name="H3" type="H"/>
   <Bond atomName1="O0" atomName2="O1"/>
   <Bond atomName1="O0" atomName2="H2"/><Bond atomName1="O1" atomName2="H3"/>
  </Residue>
 </Residues>
</ForceField>
"""


def test_evaluate_tells_which_molecule_failed_and_tries_it_again(folder: Path) -> None:
    (folder / "free.xml").write_text(FREE)
    line = ["evaluate", "hooh.pdb", "later.pdb", "--model", "tiny.safetensors", "--out", "two"]
    line += ["--force-field", "free.xml", "--phi", "2,0,1,3", "-n", "4", "--batch-size", "4"]
    answer = run(folder, *line)
    assert answer.exit_code == 1
    assert "later.pdb UsageError: later.pdb: there is no such file" in answer.stdout
    assert answer.stderr.splitlines()[-1].startswith("error: 1 of 2 molecules failed")
    (folder / "later.pdb").write_bytes((folder / "hooh.pdb").read_bytes())
    answer = run(folder, *line)
    assert answer.exit_code == 0, answer.output
    first, second = json.loads((folder / "two" / "results.json").read_text())["rows"]
    assert first["valid"] == second["valid"] > 0


def test_evaluate_compares_one_molecule_with_its_dynamics(folder: Path) -> None:
    simulated = [*SIMULATE, "--frames", "202"]
    simulated[simulated.index("frames")] = "compared"
    assert run(folder, *simulated).exit_code == 0
    line = [*EVALUATE, "--psi", "3,1,0,2", "--frames", "compared", "--out", "full"]
    answer = run(folder, *line)
    assert answer.exit_code == 0, answer.output
    found = json.loads((folder / "full" / "figures.json").read_text())
    state = ThermodynamicState(hydrogen_peroxide_target(), 300 * unit.kelvin)
    potential = ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001)))
    u_md = potential(load_frames(folder / "compared").positions_nm.astype(np.float64))
    low, _, high = found["energy_quartiles_md_kT"]  # the median lies between two of 202 frames
    outer = np.quantile(u_md, (0.25, 0.75), method="inverted_cdf")
    assert [low, high] == pytest.approx(outer.tolist(), rel=1e-5)
    difference = found["free_energy_difference_kT"]
    assert abs(difference["value"] - known_free_energy(*PHI_DEG)) < 4 * difference["error"] < 1.2
    assert f"{difference['value']:.2f} +- {difference['error']:.2f} kT" in answer.stdout
    assert "verdict                     trust" in answer.stdout
    assert (folder / "full" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "seed is 1 there and 2 here" in run(folder, *line, "--seed", "2").stderr
    hot = run(folder, *line, "--temperature", "310", "--out", "hot")
    assert "simulated with system.xml at 300 K, the target is system.xml at 310 K" in hot.stderr
    assert not (folder / "hot").exists()


TRAIN = "train hooh.pdb md --hidden 8 --layers 2 --every 20 --out new.safetensors".split()  # noqa: SIM905


def test_train_goes_on_and_its_model_draws(inputs: Path) -> None:
    line = [*SIMULATE, "--frames", "100"]
    line[line.index("frames")] = "md"
    assert run(inputs, *line).exit_code == 0
    answer = run(inputs, *TRAIN, "--steps", "20")
    assert answer.exit_code == 0, answer.output
    answer = run(inputs, *TRAIN, "--steps", "40")
    assert "step 40 of 40" in answer.stdout
    assert "step 20 of" not in answer.stdout  # it went on from there
    model = TrainedModel.load(inputs / "new.safetensors")
    assert model.card.temperature_K == 300
    assert model.card.force_field == ("system.xml",)
    assert model.card.training["n_steps"] == 40
    answer = run(inputs, *TRAIN, "--steps", "40", "--batch-size", "8")
    assert "made with other settings (batch_size)" in answer.stderr
    line[line.index("md")] = "others"
    assert run(inputs, *line, "--seed", "2").exit_code == 0
    answer = run(inputs, *["others" if each == "md" else each for each in TRAIN], "--steps", "60")
    assert answer.exit_code == 1
    assert "new.pt was made with other frames (positions_nm for training, " in answer.stderr
    answer = run(inputs, "train", "alanine-dipeptide", *TRAIN[2:])
    assert answer.exit_code == 1
    assert "another molecule than alanine-dipeptide" in answer.stderr
    draw = "sample hooh.pdb --model new.safetensors -n 16 --out fresh".split()  # noqa: SIM905
    assert "16 proposals" in run(inputs, *draw).stdout


def test_adapt_measures_its_gain_and_goes_on_where_it_stopped(folder: Path) -> None:
    command = ["adapt", "hooh.pdb", "--model", "tiny.safetensors", *TARGET, "--out", "adapted"]
    command += ["--rounds", "1", "-n", "60", "--batch-size", "32", "--steps", "2"]
    answer = run(folder, *command)
    assert answer.exit_code == 0, answer.output
    model = folder / "adapted" / "model_1.safetensors"
    stores = [ProposalStore(folder / "adapted" / f"proposals_{k}") for k in range(2)]
    for number, store in enumerate(stores):
        assert f"model {number}  {store.manifest['sha256'][:12]}  64 proposals" in answer.stdout
    assert stores[1].manifest["sha256"] == file_sha256(model)
    assert "gain in ESS" in answer.stdout
    written = model.stat().st_mtime_ns
    again = run(folder, *command)
    assert again.stdout.splitlines()[-4:] == answer.stdout.splitlines()[-4:]
    assert model.stat().st_mtime_ns == written
    sample = ["sample", "hooh.pdb", "--model", str(model), "-n", "2", "--out", "drawn_of_adapted"]
    assert run(folder, *sample).exit_code == 0
    assert "(settings differ)" in run(folder, *command, "--seed", "2").stderr


def test_report_is_that_of_the_library(folder: Path) -> None:
    answer = run(folder, "report", "hooh.pdb", "drawn", *TARGET, "--out", "page.html")
    assert answer.exit_code == 0, answer.output
    run(folder, "reweight", "hooh.pdb", "drawn", *TARGET, "--out", "same.json")
    found = json.loads((folder / "page.json").read_text())
    same = json.loads((folder / "same.json").read_text())
    for name in ("effective_sample_size", "pareto_k", "acceptance"):
        assert found[name] == same["about"][name]
    assert found["free_energies"]["ln Z"]["value"] == same["rows"][0]["value"]
    assert found["provenance"]["temperature"] == "300 K"
    assert f"verdict  {found['verdict']}" in answer.stdout
    assert (folder / "page.html").read_text().endswith("</html>\n")


def test_each_rank_draws_a_share_and_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "sample hooh.pdb --model tiny.safetensors -n 6 --batch-size 2 --out shared".split()  # noqa: SIM905
    for rank, n_drawn, said in (
        (1, 2, "not drawn yet           4, the share of other"),
        (0, 6, ""),
    ):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        answer = run(folder, *line)
        assert f"shared: {n_drawn} proposals" in answer.stdout
        assert ("not drawn yet" in answer.stdout) == bool(said)
        assert said in answer.stdout


def test_slurm_writes_a_script_that_runs_the_command(tmp_path: Path) -> None:
    """With a srun of the test's own, which tells what it gets."""
    line = ["--tasks", "3", "--cpus", "2", "sample", "KS", "--out", "its proposals"]
    script = run(tmp_path, "slurm", *line).stdout
    assert {"#SBATCH --ntasks=3", "#SBATCH --cpus-per-task=2"} < set(script.splitlines())
    assert "gpus" not in script
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@"\n')
    srun.chmod(0o755)
    assert run(tmp_path, "slurm", "--out", "job.sh", *line).exit_code == 0
    assert (tmp_path / "job.sh").read_text() == script
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "SLURM_CPUS_PER_TASK": "2"}
    command = ["bash", tmp_path / "job.sh"]
    said = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    threads, *options, program = said.stdout.splitlines()[:4]
    assert (threads, options) == ("2", ["--cpus-per-task=2", "--kill-on-bad-exit=0"])
    assert Path(program).name == "openmm-tbg"
    assert said.stdout.splitlines()[4:] == line[4:]


@pytest.mark.parametrize(
    ("line", "directives"),
    [
        ("sample KS --out a --device cuda", ["--ntasks=8", "--gpus-per-task=1"]),
        ("--time 1-0 mcmc KS --out a", ["--ntasks=1", "--time=1-0"]),
    ],
)
def test_slurm_takes_what_the_command_needs(
    tmp_path: Path, line: str, directives: list[str]
) -> None:
    lines = run(tmp_path, "slurm", *line.split()).stdout.splitlines()
    assert {f"#SBATCH {directive}" for directive in directives} < set(lines)


def test_a_written_configuration_gives_the_same_command(folder: Path) -> None:
    assert run(folder, *SAMPLE, "--write-config", "s.yaml").exit_code == 0
    answer = run(folder, "sample", "--config", "s.yaml")
    assert answer.exit_code == 0, answer.output
    assert "2048 proposals" in answer.stdout
    # the command line goes before the file, and the store refuses the other seed
    assert "2 here" in run(folder, "sample", "--config", "s.yaml", "--seed", "2").stderr


WRONG = [
    ("modls", 2, "there is no command 'modls'; nearest: models"),
    ("sample", 2, "Missing argument 'MOLECULE'"),
    ("sample KS", 2, "Missing option '--out'"),
    ("sample KS --out d -n 0", 2, "0 is not in the range x>=1"),
    ("sample KS --out d -n many", 2, "'many' is not a valid integer"),
    ("sample KS --out notes.txt", 2, "is a file: name a folder"),
    ("sample KS --out d --seed -1", 2, "-1 is not in the range x>=0"),
    ("sample KS --out d --batch-size 0", 2, "0 is not in the range x>=1"),
    ("sample KS --out d --export a.doc", 2, "ends in one of .pdb, .xtc, .dcd, .npz"),
    ("sample KS --out d --export no/a.pdb", 2, "'no' is no folder: make it first"),
    ("sample KS --out d --config no.yaml", 2, "is no YAML"),
    ("sample KS --out d --config wrong.yaml", 2, "no option 'proposls'; nearest: proposals"),
    ("sample KS --out d --config gone.yaml", 2, "'gone.yaml' does not exist"),
    ("sample KS --out d --write-config a.ini", 2, "ends in one of .yaml, .yml"),
    ("sample KS --out d --nonsense", 2, "No such option '--nonsense'"),
    ("sample notes.txt --out d", 2, "neither 'alanine-dipeptide', a sequence such as KS"),
    ("sample gone.pdb --out d", 2, "gone.pdb: there is no such file"),
    ("sample KB --out d", 1, "none of the 20 amino acids"),
    ("sample ks --out d", 1, "write 'KS' for L-amino acids"),
    ("sample KSA --out d", 1, "has 3 amino acids where 2 are needed"),
    ("sample bare.pdb --out d --model dipeptides", 1, "no hydrogens where the molecule has 20"),
    (
        "sample mirrored.pdb --out d --model dipeptides",
        1,
        "CA of LYS and CA of SER not of",
    ),
    ("mcmc mirrored.pdb --out d", 1, "check for a mirror image, or a D- or allo-residue"),
    ("sample longer.pdb --out d --model dipeptides", 1, "has 3 amino acids where 2 are needed"),
    ("sample capped.pdb --out d --model dipeptides", 1, "ACE is none of the 20 amino acids"),
    ("sample hooh.pdb --out d", 1, "give --model, or train one"),
    ("sample hooh.pdb --out d --model gone.safetensors", 1, "there is no such model"),
    ("sample hooh.pdb --out d --model alanin", 1, "nearest: alanine-dipeptide"),
    ("sample hooh.pdb --out d --model alanine-dipeptide", 1, "choose a model of this molecule"),
    ("sample hooh.pdb --out d --model tiny.safetensors --device cuda", 1, "use device='cpu'"),
    ("reweight hooh.pdb", 2, "Missing argument 'PROPOSALS'"),
    ("reweight hooh.pdb gone", 2, "'gone' does not exist"),
    ("reweight hooh.pdb .", 1, "holds no proposals: give a folder of openmm-tbg sample"),
    ("reweight alanine-dipeptide drawn", 1, "another molecule than alanine-dipeptide"),
    ("reweight hooh.pdb drawn --temperature 0", 2, "0.0 is not in the range x>0"),
    ("report hooh.pdb drawn", 2, "Missing option '--out'"),
    ("report hooh.pdb drawn --out a.pdf", 2, "ends in one of .html"),
    ("report hooh.pdb drawn --out no/a.html", 2, "'no' is no folder: make it first"),
    ("report hooh.pdb . --out d.html", 1, "no run"),
    ("report alanine-dipeptide drawn --out d.html", 1, "atoms where the molecule has 4"),
    ("simulate hooh.pdb --out d", 2, "the temperature of hooh.pdb is unknown"),
    ("simulate hooh.pdb --out d --temperature 9", 2, "give --force-field or --system"),
    ("reweight hooh.pdb drawn --system gone.xml", 2, "'gone.xml' does not exist"),
    ("reweight hooh.pdb drawn --temperature 9 --system notes.txt", 1, "is no XML of OpenMM"),
    (
        "reweight hooh.pdb drawn --temperature 9 --system system.xml --force-field a.xml",
        2,
        "exclude each other",
    ),
    ("reweight hooh.pdb drawn --temperature 9 --force-field gone.xml", 1, "gone.xml"),
    ("free-energy hooh.pdb drawn --inside 90 0", 2, "give -180 <= LOW < HIGH <= 180"),
    ("free-energy hooh.pdb drawn", 2, "no residue has one; give four atoms"),
    ("free-energy hooh.pdb drawn --angle omega", 2, "give phi, psi or atoms such as 4,6,8,14"),
    ("free-energy hooh.pdb drawn --angle 1,2,3,99", 2, "different atoms from 0 to 3"),
    ("mcmc hooh.pdb --out d --local verlet", 2, "'verlet' is not one of"),
    ("adapt hooh.pdb", 2, "Missing option '--out'"),
    ("adapt KS --out d --rounds 0", 2, "0 is not in the range x>=1"),
    ("adapt KS --out d --steps 0", 2, "0 is not in the range x>=1"),
    ("adapt KS --out notes.txt", 2, "is a file: name a folder"),
    ("adapt hooh.pdb --out d", 1, "give --model, or train one"),
    ("adapt hooh.pdb --out d --model tiny.safetensors --force-field gone.xml", 1, "gone.xml"),
    (
        "simulate hooh.pdb --system system.xml --temperature 9 --out d --frames 3 --walkers 2",
        1,
        "a multiple of n_walkers",
    ),
    ("evaluate", 2, "Missing argument 'MOLECULES"),
    ("evaluate KS", 2, "Missing option '--out'"),
    ("evaluate KB --out d", 1, "none of the 20 amino acids"),
    ("evaluate hooh.pdb --out d", 1, "give --model, or train one"),
    ("evaluate hooh.pdb --out d --model tiny.safetensors --system system.xml", 2, "--phi phi: no"),
    ("evaluate KS KS --out d", 1, "'KS' comes twice: name each once"),
    ("evaluate KS AT --out d --system system.xml", 2, "name one MOLECULE"),
    ("evaluate KS AT --out d --frames drawn", 2, "name one MOLECULE"),
    ("evaluate KS --out d --frames drawn --references wrong.yaml", 2, "leave --references out"),
    ("evaluate KS --out d --references wrong.yaml", 1, "wrong.yaml holds no references"),
    (f"{' '.join(EVALUATE)} --out d --frames drawn", 1, "drawn holds no manifest.json"),
    ("models show gone", 1, "is no registered model"),
    ("cite --out a.txt", 2, "ends in one of .bib"),
    ("slurm smple KS --out d", 2, "there is no command 'smple' to run"),
    ("slurm slurm sample KS --out d", 2, "there is no command 'slurm' to run"),
    ("slurm sample KS --out d -n 0", 2, "0 is not in the range x>=1; see openmm-tbg sample"),
    ("slurm --tasks 2 mcmc KS --out d", 2, "mcmc runs in one process"),
    ("slurm --out a.txt sample KS --out d", 2, "ends in one of .sh"),
    ("cite gone", 1, "'gone' is no registered model"),
    ("cite .", 1, "holds no run"),
]


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line for line, *_ in WRONG])
def test_wrong_input_takes_one_line(folder: Path, line: str, code: int, said: str) -> None:
    answer = run(folder, *line.split())
    assert answer.exit_code == code, answer.output
    *notes, error = answer.stderr.splitlines()
    assert error.startswith("error: ")
    assert all(note.startswith("note: ") for note in notes)
    assert not (folder / "d.sh").exists()
    assert said in error
    assert not (folder / "d").exists()


def test_a_note_says_where_the_target_is_not_that_of_the_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = alanine_dipeptide()
    card = replace(CARD, force_field=target.force_field, temperature_K=target.temperature_K)
    note_other_target(card, target)
    assert capsys.readouterr().err == ""
    note_other_target(card, replace(target, force_field=("amber14-all.xml",)))
    assert "trained for amber99sbildn.xml + amber99_obc.xml at 300 K" in capsys.readouterr().err
    note_other_target(card, replace(target, temperature_K=310.0))
    assert "the fewer proposals are accepted" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["xtc", "dcd", "pdb", "npz"])
@pytest.mark.parametrize("n_pages", [1, -1], ids=["far too little room", "a page too little"])
def test_an_export_to_a_full_disk_is_said_and_leaves_the_earlier_one(
    small_disk: Path, alanine: Alanine, ending: str, n_pages: int
) -> None:
    """MDTraj says nothing where the last page of an XTC has no room."""
    subprocess.run(["mount", "-o", "remount,size=400k", small_disk], check=True)
    frames = alanine.positions_nm + np.random.default_rng(0).normal(0, 0.1, (100, 22, 3))
    file, filler = small_disk / f"run.{ending}", small_disk / "filler"
    write_frames(file, alanine.topology, frames[:9])
    earlier, whole = file.read_bytes(), small_disk.parent / file.name
    write_frames(whole, alanine.topology, frames)
    if n_pages < 0:
        n_pages += -(-whole.stat().st_size // 4096)
    filler.touch()
    filler.write_bytes(bytes(4096 * (os.statvfs(small_disk).f_bavail - n_pages)))
    with pytest.raises(OSError, match=rf"run\.{ending} cannot be written \(.*export again"):
        write_frames(file, alanine.topology, frames)
    assert file.read_bytes() == earlier
    assert {path.name for path in small_disk.iterdir()} == {file.name, filler.name}
    filler.unlink()
    write_frames(file, alanine.topology, frames)
    assert file.stat().st_size == whole.stat().st_size


def test_tables_hold_no_python(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"value": 0.5, "n": (3, 4), "doubts": ()}], {})
    assert (tmp_path / "t.csv").read_text().splitlines() == ["value,n,doubts", "0.5,3; 4,"]


def test_doctor_finds_a_broken_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.models().is_well
    monkeypatch.setattr("openmm_tbg.models.FOLDER", tmp_path)
    (tmp_path / "alanine-dipeptide.safetensors").write_text("cut short")
    found = doctor.models()
    assert "truncated or altered" in found.found
    assert "reinstall" in found.remedy


def test_doctor_finds_a_missing_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.platforms().is_well
    monkeypatch.setattr(openmm.Platform, "getNumPlatforms", lambda: 1)
    found = doctor.platforms()
    assert "without CPU" in found.found
    assert "pip install" in found.remedy


def test_doctor_finds_an_uneven_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "requires", lambda name: ["numpy>=99", "nowhere", "x; extra == 'y'"]
    )
    found = doctor.environment()
    assert "numpy is" in found.found
    assert "nowhere is missing" in found.found
    assert not found.is_well


def tiny_generator(folder: Path, grid: TimeGrid) -> BoltzmannGenerator:
    model = TrainedModel.load(folder / "tiny.safetensors")
    return BoltzmannGenerator(replace(model, grid=grid), "tiny", "0")


def test_doctor_tells_the_error_of_each_log_q(folder: Path) -> None:
    generator = tiny_generator(folder, TimeGrid(nodes=12, steps=1))
    found = doctor.proposals_of(generator)
    assert found.is_well
    drawn = generator.propose(10, np.random.default_rng(0))
    drawn = drawn[drawn.passes]
    fine = ContinuousFlow(generator.flow.field, generator.flow.prior, TimeGrid(40, 2))
    expected = drawn.log_q - fine.log_prob(torch.from_numpy(drawn.positions_nm)).numpy()
    assert np.abs(expected).max() > 5e-3
    assert found.found.startswith(f"{len(drawn)} of 10 pass, ")
    rms, each = found.found.partition("error of log q ")[2].split(" kT rms (")
    assert float(rms) == pytest.approx(np.sqrt(np.square(expected).mean()), abs=2e-3)
    shown = [float(one) for one in each.removesuffix(")").split()]
    np.testing.assert_allclose(shown, expected, atol=2e-3)


def test_doctor_finds_a_wrong_density(folder: Path) -> None:
    found = doctor.proposals_of(tiny_generator(folder, TimeGrid(nodes=2, steps=1)))
    assert "the arithmetic of torch differs" in found.remedy
