"""A long `MCMCRun` with a tiny flow: does memory stay flat, and is the folder as large as computed?

    python benchmarks/soak.py --steps 100000 --minutes 3 --out benchmarks/soak.json

A step is one of independence Metropolis. The target is a spring between two atoms, the flow an
untrained denoiser that draws the vector between them twice as wide, so that some three in ten steps
are accepted. It ends at the minutes if it has to, and says so. Memory is what Linux holds resident
for the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openmm
import torch
from likelihood import machine
from openmm import app, unit
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_tbg import BoltzmannGenerator, TBGMove
from openmm_tbg.checkpoint import ModelCard, TrainedModel
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.grid import TimeGrid
from openmm_tbg.molecule import Molecule
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.run import MCMCRun
from openmm_tbg.run_record import COUNTS

N_PROPOSALS, BATCH_SIZE, BLOCK_SIZE, BLOCKS_A_ROW = 20, 1000, 50, 2
TEMPERATURE_K = 300.0
TARGET_WIDTH_NM, FLOW_WIDTH_NM = 0.02, 0.04
ARCHITECTURE = DenoiserArchitecture(hidden=4, layers=1)


@dataclass(frozen=True)
class Row:
    steps: int
    seconds: float
    resident_MB: float


def spring() -> ReferenceSystem:
    """A C-H bond of length zero: the vector between the atoms is normal."""
    topology, system, bonds = app.Topology(), openmm.System(), openmm.HarmonicBondForce()
    residue = topology.addResidue("CH", topology.addChain())
    for name in ("C", "H"):
        element = app.Element.getBySymbol(name)
        topology.addAtom(name, element, residue)
        system.addParticle(element.mass)
    topology.addBond(*topology.atoms())
    kT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE_K * unit.kelvin)._value / 1000
    bonds.addBond(0, 1, 0.0, kT / TARGET_WIDTH_NM**2)
    system.addForce(bonds)
    start_nm = np.array([[[0.0, 0.0, 0.0], [TARGET_WIDTH_NM, 0.0, 0.0]]])
    return ReferenceSystem(topology, system, start_nm, TEMPERATURE_K, ("spring",))


def tiny_generator(reference: ReferenceSystem) -> BoltzmannGenerator:
    """An untrained denoiser, which draws nearly what its geometry has: a normal vector."""
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    halves = np.random.default_rng(0).normal(0.0, FLOW_WIDTH_NM / 2, (4000, 3))
    encoding = encode_full(molecule)
    frames = np.stack([halves, -halves], axis=1)
    geometry = ReferenceGeometry.from_frames(molecule, encoding, frames)
    torch.manual_seed(0)
    weights = ARCHITECTURE.field(geometry, torch.float32).state_dict()
    force_field, T = reference.force_field, reference.temperature_K
    card = ModelCard("tiny", "Not trained.", force_field, T, "noise", {}, {}, "none")
    grid = TimeGrid(nodes=4, steps=1)
    model = TrainedModel(card, molecule, encoding, geometry, ARCHITECTURE, grid, weights)
    return BoltzmannGenerator(model, "tiny", "tiny")


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def soak(run: MCMCRun, n_steps: int, minutes: float) -> list[Row]:
    rows, started = [], time.perf_counter()
    while not rows or (rows[-1].steps < n_steps and rows[-1].seconds < 60 * minutes):
        run.run(run.n_iterations + BLOCKS_A_ROW * BLOCK_SIZE)
        seconds = time.perf_counter() - started
        rows.append(Row(run.n_iterations * N_PROPOSALS, seconds, resident_megabytes()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference = spring()
    state = ThermodynamicState(reference.system, reference.temperature_K * unit.kelvin)
    start = SamplerState(reference.positions_nm * unit.nanometer)
    move = TBGMove(tiny_generator(reference), N_PROPOSALS, batch_size=BATCH_SIZE, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        run = MCMCRun(Path(folder) / "run", state, start, move, reference.topology, 1, BLOCK_SIZE)
        rows = soak(run, options.steps, options.minutes)
        files = [path for path in run.path.rglob("*") if path.is_file()]
        chunks = [path for path in files if path.name.startswith("c.")]
        sizes = {path: path.stat().st_size for path in files}
        statistics = run.move.statistics
        n_iterations = run.n_iterations
    bytes_a_row = 8 * (3 * reference.topology.getNumAtoms() + 2 + len(COUNTS))
    warm = rows[len(rows) // 10]
    found = {
        "machine": machine(),
        "steps": rows[-1].steps,
        "steps_asked_for": options.steps,
        "applications_of_the_move": n_iterations,
        "accepted": statistics["n_accepted"],
        "acceptance": statistics["n_accepted"] / statistics["n_proposed"],
        "memory_grown_MB_after_a_tenth": rows[-1].resident_MB - warm.resident_MB,
        "memory_most_MB_above_a_tenth": max(row.resident_MB for row in rows) - warm.resident_MB,
        "array_bytes": sum(sizes[path] for path in chunks),
        "array_bytes_computed": n_iterations * bytes_a_row,
        "array_files": len(chunks),
        "array_files_computed": 4 * n_iterations // BLOCK_SIZE,
        "largest_block_file_bytes": max(sizes[path] for path in files if "blocks" in path.parts),
        "other_files": len(files) - len(chunks) - n_iterations // BLOCK_SIZE,
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
