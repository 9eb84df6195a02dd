"""What an exact likelihood costs against the number of atoms: time, memory and exponent.

    python benchmarks/atoms.py --out benchmarks/atoms.json

Peptides of 10 to 58 atoms, each in a process of its own; seconds are those of the processor. A row
that the file holds already is left as it is. The field is a denoiser of the size of the
shipped model with fresh weights (time does not depend on their values), on its grid. The published
recipe is an EGNN of 5 x 64 whose trace is taken by reverse mode; only one evaluation of its
divergence is timed, dopri5 takes some hundred of them a sample.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from likelihood import ReverseMode, machine, molecule_of

from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.egnn import EGNN
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.grid import TimeGrid
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled
from openmm_tbg.prior import MeanFreeGaussian

SEQUENCES = ("G", "GG", "AA", "SV", "VT", "KL", "WW", "WWG")
GRID = TimeGrid(nodes=40, steps=1, epsilon=0.1)


def measured(work, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return seconds


def row_of(sequence: str, batch: int, repeats: int) -> dict[str, object]:
    """The figures of one peptide, in this process."""
    torch.set_num_threads(1)
    if len(sequence) == 2:
        molecule = Molecule.from_topology(*assembled(sequence))
    else:
        molecule, _ = molecule_of(sequence)
    frames = np.random.default_rng(0).normal(0.0, 0.15, (200, molecule.n_atoms, 3))
    encoding = encode_full(molecule)
    geometry = ReferenceGeometry.from_frames(molecule, encoding, frames)
    torch.manual_seed(0)
    field = DenoiserArchitecture().field(geometry).requires_grad_(False)
    prior = MeanFreeGaussian(torch.from_numpy(geometry.covariance))
    flow = ContinuousFlow(field, prior, GRID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    ours = measured(lambda: flow.sample_with_log_prob(batch, generator), repeats)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    time_, x = torch.tensor(0.6, dtype=torch.float64), prior.sample(flow.chunk_size, generator)
    with torch.no_grad():
        divergence = measured(lambda: field.velocity_and_divergence(time_, x), 3)
    egnn = EGNN(torch.from_numpy(encoding.one_hot()), hidden=64, layers=5).requires_grad_(False)
    reverse = measured(
        lambda: ReverseMode(egnn).velocity_and_divergence(time_, x[:1]), 2 if len(x[0]) < 40 else 1
    )
    return {
        "sequence": sequence,
        "atoms": molecule.n_atoms,
        "chunk": flow.chunk_size,
        "batch": batch,
        "seconds_a_sample": statistics.median(ours) / batch,
        "seconds_a_sample_range": [min(ours) / batch, max(ours) / batch],
        "memory_limit_MiB": flow.memory_limit_bytes / 2**20,
        "memory_grown_MiB": (after - before) / 1024,
        "seconds_a_divergence": min(divergence) / len(x),
        "seconds_a_divergence_reverse_mode_egnn": min(reverse),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=SEQUENCES, help="print the row of one peptide as JSON")
    parser.add_argument("--out", type=Path, help="needed without --one")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(row_of(options.one, options.batch, options.repeats)))
        return
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    known = {row["sequence"]: row for row in known}
    for sequence in SEQUENCES:
        if sequence in known:
            continue
        command = [sys.executable, __file__, "--one", sequence]
        command += ["--batch", str(options.batch), "--repeats", str(options.repeats)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        known[sequence] = json.loads(found.stdout.splitlines()[-1])
        print(known[sequence], flush=True)
    rows = [known[sequence] for sequence in SEQUENCES]
    larger = [row for row in rows if row["atoms"] >= 17]
    atoms = np.log([row["atoms"] for row in larger])
    exponents = {
        key: float(np.polyfit(atoms, np.log([row[key] for row in larger]), 1)[0])
        for key in ("seconds_a_sample", "seconds_a_divergence_reverse_mode_egnn")
    }
    record = {"machine": machine(), "exponents_from_17_atoms": exponents, "rows": rows}
    print(exponents)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
