"""Seconds for one exact log q: the published recipe against this library, in one run.

    python examples/train_alanine.py --architecture egnn --minutes 10 --out egnn.safetensors
    python benchmarks/likelihood.py --egnn egnn.safetensors --out benchmarks/likelihood.json

The recipe is that of Klein & Noé 2024 (arXiv:2406.14426): an EGNN of 5 x 64, dopri5 with tolerances
of 1e-4 on the augmented state, and the trace of the Jacobian by reverse mode. Its published weights
are not at hand. At 22 atoms the EGNN given has been trained; at 35 and 51 all weights are fresh,
for which dopri5 takes few steps: those rows are lower bounds of the recipe's cost.

Three ways for each molecule, on the same positions, each row in a process of its own:

- recipe: as above.
- grid: the same EGNN with the same weights, on a fixed grid with forward mode.
- denoiser: the field of this library, at 22 atoms the model that ships.

A row that the file holds already is left as it is; --molecules and --ways choose. For each row:
seconds of the processor a configuration (median and range of the repeats), evaluations of the
divergence, memory by which the process grew, the error of log q against float64 on a grid twice as
fine in nodes and steps, and the arithmetic of one divergence with its share of the rate at which
this machine multiplies matrices of 1024 x 1024.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from openmm import app
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture, EGNNArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.fields.protocol import VectorField
from openmm_tbg.flow import ContinuousFlow, reference_log_prob
from openmm_tbg.grid import TimeGrid
from openmm_tbg.models import find_model
from openmm_tbg.molecule import Molecule

TOLERANCE = 1e-4
SHIPPED = "alanine-dipeptide"
MOLECULES = (SHIPPED, "VV", "WW")  # 22, 35 and 51 atoms
WAYS = ("recipe", "grid", "denoiser")
GRID = TimeGrid(nodes=40, steps=1, epsilon=0.1)


class ReverseMode:
    """A field with its divergence by reverse mode, one product for each coordinate."""

    def __init__(self, field: VectorField) -> None:
        self.field = field
        self.bytes_per_divergence = field.bytes_per_divergence
        self.evaluations = 0

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field.velocity(t, x)

    def velocity_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        def of_one(frame: Tensor) -> Tensor:
            return self.field.velocity(t, frame[None])[0]

        self.evaluations += 1
        jacobian = torch.func.vmap(torch.func.jacrev(of_one))(x)
        return self.field.velocity(t, x), torch.einsum("bicic->b", jacobian)


def molecule_of(sequence: str) -> tuple[Molecule, np.ndarray]:
    """The peptide with its atoms where RDKit puts them, nm."""
    whole = Chem.AddHs(Chem.MolFromSequence(sequence), addResidueInfo=True)
    assert EmbedMolecule(whole, randomSeed=1) == 0
    pdb = app.PDBFile(io.StringIO(Chem.MolToPDBBlock(whole)))
    positions_nm = np.array(pdb.getPositions(asNumpy=True)._value)
    return Molecule.from_topology(pdb.topology, positions_nm), positions_nm


def flow_of(name: str, way: str, egnn: Path | None, dtype: torch.dtype) -> ContinuousFlow:
    """The molecule's flow; weights that no file holds are those of seed 0."""
    if name == SHIPPED and (way == "denoiser" or egnn):
        path = find_model(SHIPPED) if way == "denoiser" else egnn
        flow = TrainedModel.load(path).flow(dtype=dtype)
        return flow if way == "denoiser" else ContinuousFlow(flow.field, flow.prior, GRID)
    if name == SHIPPED:
        model = TrainedModel.load(find_model(SHIPPED))
        encoding, geometry = model.encoding, model.geometry
    else:
        molecule, start_nm = molecule_of(name)
        encoding = encode_full(molecule)
        frames = start_nm + np.random.default_rng(0).normal(0, 0.05, (200, *start_nm.shape))
        geometry = ReferenceGeometry.from_frames(molecule, encoding, frames)
    torch.manual_seed(0)
    kind = DenoiserArchitecture() if way == "denoiser" else EGNNArchitecture()
    field = kind.field(geometry, dtype).requires_grad_(False)
    return ContinuousFlow(field, kind.prior(geometry), GRID)


def none(positions_nm: Tensor) -> Tensor:
    return torch.zeros(len(positions_nm), dtype=torch.bool)


def log_q_of(flow: ContinuousFlow, way: str, x: Tensor) -> tuple[Tensor, int]:
    """Log q by one of the ways, and how often it took the divergence."""
    if way != "recipe":
        return flow.log_prob(x), flow.grid.nodes
    counted = ReverseMode(flow.field)
    log_q = reference_log_prob(ContinuousFlow(counted, flow.prior), x, TOLERANCE)
    return log_q, counted.evaluations


def arithmetic(flow: ContinuousFlow, way: str, x: Tensor) -> dict[str, float]:
    """Operations of one divergence, and their rate against that of a plain matrix product."""
    field = ReverseMode(flow.field) if way == "recipe" else flow.field
    t = torch.tensor(0.6, dtype=torch.float64)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            field.velocity_and_divergence(t, x)
        started = time.process_time()
        field.velocity_and_divergence(t, x)
        seconds = time.process_time() - started
        square = torch.randn(1024, 1024)
        square @ square
        started = time.process_time()
        for _ in range(8):
            square @ square
        rate = 8 * 2 * 1024**3 / (time.process_time() - started)
    operations = counter.get_total_flops()
    return {
        "GFLOP_a_divergence": operations / len(x) / 1e9,
        "seconds_a_divergence": seconds / len(x),
        "share_of_matrix_rate": operations / seconds / rate,
        "matrix_GFLOP_per_second": rate / 1e9,
    }


def row_of(name: str, way: str, batch: int, repeats: int, egnn: Path | None) -> dict[str, object]:
    """The figures of one row, in this process."""
    torch.set_num_threads(1)
    flow = flow_of(name, way, egnn, torch.float32)
    generator = torch.Generator().manual_seed(0)
    x = flow.sample_with_log_prob(batch, generator, passes=none).positions_nm
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(repeats):
        started = time.process_time()
        log_q, evaluations = log_q_of(flow, way, x)
        seconds.append((time.process_time() - started) / batch)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    row = {
        "molecule": name,
        "atoms": x.shape[1],
        "way": way,
        "batch": batch,
        "repeats": repeats,
        "seconds_a_configuration": statistics.median(seconds),
        "seconds_a_configuration_range": [min(seconds), max(seconds)],
        "divergence_evaluations": evaluations,
        "memory_grown_MiB": grown / 1024,
        **arithmetic(flow, way, x[: min(batch, flow.chunk_size)]),
    }
    if name == SHIPPED and batch > 1:
        exact = flow_of(name, way, egnn, torch.float64)
        exact = ContinuousFlow(exact.field, exact.prior, exact.grid.refined())
        errors = log_q - exact.log_prob(x)
        row["log_q_error_rms_kT"] = float(errors.square().mean().sqrt())
    return row


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": head.stdout.strip(),
    }


def compare_with_recipe(rows: dict[tuple[str, str, int], dict]) -> None:
    """Note how many times as fast as the recipe each row is; that of batch 1 may stand for all."""
    for (name, _, batch), row in rows.items():
        recipe = rows.get((name, "recipe", batch)) or rows.get((name, "recipe", 1))
        if recipe is not None:
            times = recipe["seconds_a_configuration"] / row["seconds_a_configuration"]
            row["times_the_recipe"] = times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--egnn", type=Path, help="trained EGNN for alanine dipeptide")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--molecules", nargs="+", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--one", nargs=3, help="molecule, way and batch: print that row as JSON")
    parser.add_argument("--out", type=Path, help="needed without --one")
    options = parser.parse_args()
    if options.one:
        name, way, batch = options.one
        print(json.dumps(row_of(name, way, int(batch), options.repeats, options.egnn)))
        return
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {(row["molecule"], row["way"], row["batch"]): row for row in known}
    batches = map(int, options.batches.split(","))
    for name, batch, way in itertools.product(options.molecules, batches, options.ways):
        if (name, way, batch) in rows:
            continue
        if way == "recipe" and name != SHIPPED and batch > 1:
            continue  # as dear for each, and minutes long
        command = [sys.executable, __file__, "--one", name, way, str(batch)]
        command += ["--repeats", str(1 if way == "recipe" else options.repeats)]
        command += ["--egnn", str(options.egnn)] if options.egnn else []
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name, way, batch] = json.loads(found.stdout.splitlines()[-1])
        print(rows[name, way, batch], flush=True)
        compare_with_recipe(rows)
        record = {"machine": machine(), "egnn": bool(options.egnn), "rows": list(rows.values())}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
