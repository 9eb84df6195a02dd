"""Time of an OpenMM energy against that of an exact log q, by platform and size of the molecule.

    python benchmarks/energies.py --out benchmarks/energies.json

Energies go through `ReducedPotential`, one configuration at a time as everywhere in the library;
the CPU platform has one thread. log q is that of a denoiser of the shipped size and grid, its
weights fresh where the molecule is not alanine dipeptide. All on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch
from likelihood import GRID, machine
from openmm import unit
from openmmtools.states import ThermodynamicState

from openmm_tbg.checkpoint import TrainedModel
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.models import find_model
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import dipeptide
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.reference import ReferenceSystem, alanine_dipeptide

N_ENERGIES, N_LIKELIHOODS, REPEATS = 200, 8, 2
SYSTEMS: dict[str, Callable[[], ReferenceSystem]] = {
    "alanine-dipeptide": alanine_dipeptide,
    "KS": lambda: dipeptide("KS"),
    "WW": lambda: dipeptide("WW"),
}
PLATFORMS: dict[str, dict[str, str]] = {"Reference": {}, "CPU": {"Threads": "1"}}


def seconds_each(work: Callable[[], object], n: int) -> float:
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        found.append((time.perf_counter() - started) / n)
    return statistics.median(found)


def flow_of(name: str, reference: ReferenceSystem) -> ContinuousFlow:
    if name == "alanine-dipeptide":
        return TrainedModel.load(find_model(name)).flow()
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    noise = np.random.default_rng(0).normal(0, 0.05, (200, *reference.positions_nm.shape))
    geometry = ReferenceGeometry.from_frames(
        molecule, encode_full(molecule), reference.positions_nm + noise
    )
    field = DenoiserArchitecture().field(geometry).requires_grad_(False)
    return ContinuousFlow(field, DenoiserArchitecture().prior(geometry), GRID)


def row_of(name: str) -> dict[str, object]:
    reference = SYSTEMS[name]()
    state = ThermodynamicState(reference.system, reference.temperature_K * unit.kelvin)
    frames = reference.positions_nm + np.random.default_rng(1).normal(
        0, 0.003, (N_ENERGIES, *reference.positions_nm.shape)
    )
    row: dict[str, object] = {"molecule": name, "atoms": len(reference.positions_nm)}
    for platform, properties in PLATFORMS.items():
        context = openmm.Context(
            state.get_system(), openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName(platform), properties,
        )  # fmt: skip
        potential = ReducedPotential(state, context)
        row[f"{platform}_seconds"] = seconds_each(lambda: potential(frames), N_ENERGIES)  # noqa: B023
    flow, generator = flow_of(name, reference), torch.Generator().manual_seed(0)
    row["log_q_seconds"] = seconds_each(
        lambda: flow.sample_with_log_prob(N_LIKELIHOODS, generator), N_LIKELIHOODS
    )
    fastest = min(row[f"{platform}_seconds"] for platform in PLATFORMS)
    row["share_of_energies"] = fastest / (fastest + row["log_q_seconds"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in SYSTEMS:
        rows.append(row_of(name))
        print(rows[-1], flush=True)
    if options.out:
        record = {"machine": machine(), "n_energies": N_ENERGIES, "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
