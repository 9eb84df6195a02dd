"""Run by `test_predictions`, where no type checker sits between the compiler and the network.

Prints how many graphs have been traced after each of the dipeptides named, and how far the
compiled networks are from what they should say.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch._dynamo.testing import CompileCounter

from openmm_tbg.fields.denoiser import Denoiser
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled
from openmm_tbg.training import ResidualMatching
from openmm_tbg.training.predictions import compiled_predictions
from openmm_tbg.transferable import encode_full


def geometry_of(sequence: str) -> ReferenceGeometry:
    topology, frame = assembled(sequence)
    molecule = Molecule.from_topology(topology, frame)
    frames = frame + np.random.default_rng(0).normal(scale=0.03, size=(100, *frame.shape))
    return ReferenceGeometry.from_frames(molecule, encode_full(molecule), frames)


if __name__ == "__main__":
    counter, compiler = CompileCounter(), torch.compile
    torch.compile = lambda f, dynamic=None: compiler(f, dynamic=dynamic, backend=counter)
    geometries = [geometry_of(sequence) for sequence in sys.argv[1:]]
    first = Denoiser(geometries[0], hidden=4, layers=2, dtype=torch.float64)
    fields = [first, *(first.for_molecule(each) for each in geometries[1:])]
    objectives = [ResidualMatching(field) for field in fields]
    errors, graphs = [], []
    for objective, predict in zip(objectives, compiled_predictions(objectives), strict=True):
        x = 0.1 * torch.randn(4, len(objective.field.root), 3, dtype=torch.float64)
        times = torch.rand(4, dtype=torch.float64)
        difference = predict(times, x) - objective.predict(times, x)
        errors.append(difference.abs().max().item())
        graphs.append(counter.frame_count)
    print(json.dumps({"graphs": graphs, "largest_error": max(errors)}))
