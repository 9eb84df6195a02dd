"""Train the model of alanine dipeptide: simulate, fit, and write the file that a generator loads.

    python examples/train_alanine.py --out alanine-dipeptide.safetensors

Run it again to go on where it stopped. The defaults take about an hour on one CPU core with
`--compile`, after the simulation. `--frames` takes a file of frames instead of simulating.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on missing JAX

from openmm_tbg.checkpoint import ModelCard, TrainedModel
from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.flow import TimeGrid
from openmm_tbg.molecule import Molecule
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.simulation import Dynamics, Frames, load_frames, simulate
from openmm_tbg.training import Trainer, TrainingSettings

N_VALIDATION = 512


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, default=Path("alanine_frames.npz"))
    parser.add_argument("--n-frames", type=int, default=10_000, help="for each of 8 walkers")
    parser.add_argument("--checkpoint", type=Path, default=Path("alanine_training.pt"))
    parser.add_argument("--steps", type=int, default=TrainingSettings.n_steps)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile", action="store_true", help="1.6 times as fast, needs a C++ compiler"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def training_frames(options: argparse.Namespace, reference) -> Frames:
    if not options.frames.exists():
        simulate(
            reference,
            options.frames,
            dynamics=Dynamics(interval_ps=1.5),
            n_frames=options.n_frames,
            n_walkers=8,
            seed=options.seed,
            n_processes=os.cpu_count() or 1,
        )
    return load_frames(options.frames)


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    reference = alanine_dipeptide()
    frames = training_frames(options, reference)
    order = np.random.default_rng(options.seed).permutation(len(frames.positions_nm))
    shuffled = torch.from_numpy(frames.positions_nm[order])
    train, validation = shuffled[:-N_VALIDATION], shuffled[-N_VALIDATION:]

    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    encoding = encode_full(molecule)
    geometry = ReferenceGeometry.from_frames(molecule, encoding, train.double().numpy())
    settings = TrainingSettings(n_steps=options.steps, seed=options.seed)
    trainer = Trainer(
        geometry, settings, train, validation, options.checkpoint, options.device, options.compile
    )
    trainer.run(print)

    card = ModelCard(
        name=options.out.stem,
        description="ACE-ALA-NME at 300 K",
        force_field=reference.force_field,
        temperature_K=reference.temperature_K,
        training_data=f"{len(train)} frames of {options.frames.name}: {frames.metadata}",
        training=asdict(settings) | {"minutes": trainer.minutes, "torch": torch.__version__},
        measured={},
        commit=commit(),
    )
    weights = {k: v.detach().cpu() for k, v in trainer.averaged_field.state_dict().items()}
    model = TrainedModel(
        card, molecule, encoding, geometry, settings.hidden, settings.layers, TimeGrid(), weights
    )
    print(f"{options.out}: sha256 {model.save(options.out)}")


if __name__ == "__main__":
    main()
