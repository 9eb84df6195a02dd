"""The command line: what it prints with right input and wrong, and that it is quick and quiet."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import openmm
import pytest
from click.testing import CliRunner, Result
from miniatures import CHIRAL, trained
from openmm import app, unit
from openmmtools.states import ThermodynamicState
from structures import structure_from_smiles
from test_architecture import HEAVY

from openmm_tbg import ProposalStore, ReducedPotential, doctor, read_run
from openmm_tbg.cli.application import main
from openmm_tbg.free_energy import free_energy_difference, log_normalising_constant
from openmm_tbg.metropolis import log_weights
from openmm_tbg.torsions import dihedral

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of CHFClBr, its structure, its System, and proposals of it."""
    folder = tmp_path_factory.mktemp("cli")
    structure = structure_from_smiles(CHIRAL)
    with (folder / "chiral.pdb").open("w") as file:
        app.PDBFile.writeFile(structure.topology, structure.positions_nm * 10, file)
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for atom in structure.topology.atoms():
        system.addParticle(atom.element.mass)
    for one, other in structure.molecule.bonds:
        length = np.linalg.norm(structure.positions_nm[one] - structure.positions_nm[other])
        bonds.addBond(one, other, length, 25_000.0)
    system.addForce(bonds)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    trained().model.save(folder / "tiny.safetensors")
    (folder / "wrong.yaml").write_text("proposls: 4\n")
    (folder / "no.yaml").write_text("{")
    (folder / "notes.txt").write_text("x")
    answer = run(folder, *SAMPLE)
    assert answer.exit_code == 0, answer.output
    return folder


SAMPLE = "sample chiral.pdb --model tiny.safetensors -n 64 --batch-size 32 --out drawn".split()  # noqa: SIM905
TARGET = "--system system.xml --temperature 300".split()  # noqa: SIM905


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


def test_reweight_and_free_energy_are_those_of_the_library(folder: Path) -> None:
    answer = run(
        folder, "reweight", "chiral.pdb", "drawn", *TARGET, "--out", "r.json", "--export", "w.npz"
    )
    assert answer.exit_code == 0, answer.output
    proposals, stored = ProposalStore(folder / "drawn").read(), np.load(folder / "w.npz")
    system = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text())
    state = ThermodynamicState(system, 300 * unit.kelvin)
    potential = ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001)))
    u = proposals.reduced_potentials(potential)
    weights = log_weights(u, proposals.log_q, proposals.passes)
    np.testing.assert_allclose(stored["log_weights"], weights, rtol=1e-9)
    found = json.loads((folder / "r.json").read_text())
    assert found["rows"][0]["value"] == pytest.approx(log_normalising_constant(weights).value)
    region = ["--angle", "1,0,2,3", "--inside", "-180", "0"]
    answer = run(folder, "free-energy", "chiral.pdb", "drawn", *TARGET, *region, "--out", "f.csv")
    angle = np.degrees(dihedral(proposals.positions_nm, (1, 0, 2, 3)))
    inside = (angle > -180) & (angle < 0) & proposals.passes
    if inside.any() and (~inside & proposals.passes).any():
        expected = free_energy_difference(weights, inside, ~inside & proposals.passes)
        assert str(expected).splitlines()[0] in answer.output
    else:
        assert answer.exit_code == 1
        assert "draw more, or choose" in answer.stderr


def test_mcmc_goes_on_where_it_stopped(folder: Path) -> None:
    chain = ["mcmc", "chiral.pdb", "--model", "tiny.safetensors", *TARGET, "--out", "chain"]
    chain += ["--block-size", "2", "--local-steps", "2", "--proposals", "2"]
    answer = run(folder, *chain, "--iterations", "2")
    assert answer.exit_code == 0, answer.output
    first = read_run(folder / "chain").positions_nm
    answer = run(folder, *chain, "--iterations", "4")
    assert "4 iterations" in answer.stdout
    np.testing.assert_array_equal(read_run(folder / "chain").positions_nm[:2], first)
    assert len(read_run(folder / "chain")) == 4


def test_a_written_configuration_gives_the_same_command(folder: Path) -> None:
    assert run(folder, *SAMPLE, "--write-config", "s.yaml").exit_code == 0
    answer = run(folder, "sample", "--config", "s.yaml")
    assert answer.exit_code == 0, answer.output
    assert "64 proposals" in answer.stdout
    # the command line goes before the file, and the store refuses the other seed
    assert "2 here" in run(folder, "sample", "--config", "s.yaml", "--seed", "2").stderr


WRONG = [
    ("modls", 2, "No such command 'modls'"),
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
    ("sample chiral.pdb --out d", 1, "give --model, or train one"),
    ("sample chiral.pdb --out d --model gone.safetensors", 1, "there is no such model"),
    ("sample chiral.pdb --out d --model alanin", 1, "nearest: alanine-dipeptide"),
    ("sample chiral.pdb --out d --model alanine-dipeptide", 1, "choose a model of this molecule"),
    ("sample chiral.pdb --out d --model tiny.safetensors --device cuda", 1, "use device='cpu'"),
    ("reweight chiral.pdb", 2, "Missing argument 'PROPOSALS'"),
    ("reweight chiral.pdb gone", 2, "'gone' does not exist"),
    ("reweight chiral.pdb .", 1, "no store of proposals"),
    ("reweight KS drawn", 1, "atoms where the molecule has 5"),
    ("reweight chiral.pdb drawn --temperature 0", 2, "0.0 is not in the range x>0"),
    ("simulate chiral.pdb --out d", 2, "the temperature of chiral.pdb is unknown"),
    ("simulate chiral.pdb --out d --temperature 9", 2, "give --force-field or --system"),
    ("reweight chiral.pdb drawn --system gone.xml", 2, "'gone.xml' does not exist"),
    ("reweight chiral.pdb drawn --temperature 9 --system notes.txt", 1, "is no XML of OpenMM"),
    (
        "reweight chiral.pdb drawn --temperature 9 --system system.xml --force-field a.xml",
        2,
        "exclude each other",
    ),
    ("reweight chiral.pdb drawn --temperature 9 --force-field gone.xml", 1, "gone.xml"),
    ("free-energy chiral.pdb drawn --inside 90 0", 2, "give -180 <= LOW < HIGH <= 180"),
    ("free-energy chiral.pdb drawn", 2, "no residue has one; give four atoms"),
    ("free-energy chiral.pdb drawn --angle omega", 2, "give phi, psi or atoms such as 4,6,8,14"),
    ("free-energy chiral.pdb drawn --angle 1,2,3,99", 2, "different atoms from 0 to 4"),
    ("mcmc chiral.pdb --out d --local verlet", 2, "'verlet' is not one of"),
    ("simulate KS --out d --frames 3 --walkers 2", 1, "a multiple of n_walkers"),
    ("models show gone", 1, "is no registered model"),
    ("cite --out a.txt", 2, "ends in one of .bib"),
]


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line for line, *_ in WRONG])
def test_wrong_input_takes_one_line(folder: Path, line: str, code: int, said: str) -> None:
    answer = run(folder, *line.split())
    assert answer.exit_code == code, answer.output
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) == 1
    assert said in answer.stderr
    assert not (folder / "d").exists()


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
