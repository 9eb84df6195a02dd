"""Train a model of alanine dipeptide: simulate, fit, and write the file that a generator loads.

    python examples/train_alanine.py --out alanine-dipeptide.safetensors --minutes 60 --compile

Run it again to go on where it stopped. On a GPU add `--device cuda --batch-size 512`, and
`--start alanine-dipeptide` to go on from the model that ships instead of from nothing; with that
and whole `--frames` neither OpenMM nor RDKit is needed. Several processes:
`accelerate launch --num_processes 2 examples/train_alanine.py ...`.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import torch

logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on missing JAX

from openmm_tbg.checkpoint import ModelCard, TrainedModel
from openmm_tbg.encoding import encode_backbone, encode_full
from openmm_tbg.fields.architecture import DenoiserArchitecture, EGNNArchitecture
from openmm_tbg.frames import Frames, FrameStore, load_frames
from openmm_tbg.models import find_model
from openmm_tbg.molecule import Molecule
from openmm_tbg.training import (
    MoleculeFrames,
    Progress,
    Trainer,
    TrainingSettings,
    held_out_likelihood,
    task_of,
    trained_model,
    training_columns,
    untrained,
)

ENCODINGS = {"full": encode_full, "backbone": encode_backbone}
DEFAULT = TrainingSettings()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, default=Path("alanine_frames"))
    parser.add_argument("--n-frames", type=int, default=100_000, help="one each 0.5 ps")
    parser.add_argument("--checkpoint", type=Path, default=Path("alanine_training.pt"))
    parser.add_argument("--start", help="registered model or file whose weights to start from")
    parser.add_argument("--architecture", choices=["denoiser", "egnn"], default="denoiser")
    parser.add_argument("--encoding", choices=ENCODINGS, default="full")
    parser.add_argument("--hidden", type=int, help="channels of an atom")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=DEFAULT.n_steps)
    parser.add_argument("--minutes", type=float, help="fit the number of steps to this time")
    parser.add_argument("--batch-size", type=int, default=DEFAULT.batch_size)
    parser.add_argument("--learning-rate", type=float, default=DEFAULT.learning_rate)
    parser.add_argument("--ema-decay", type=float, default=DEFAULT.ema_decay)
    parser.add_argument(
        "--shortest-noise",
        type=float,
        default=DEFAULT.shortest_noise,
        help="0.3 to spend the steps where a trained model errs most, between t = 0.3 and 0.6",
    )
    parser.add_argument("--without-forces", action="store_true")
    parser.add_argument(
        "--weight-power",
        type=float,
        default=DEFAULT.weight_power,
        help="draw frames by this power of their weights: below 1, rare states are learnt better",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler on a CPU")
    parser.add_argument("--every", type=int, default=2000, help="steps between checkpoints")
    parser.add_argument(
        "--held-out", type=int, default=0, help="frames whose exact log q is told at each of them"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def is_complete(folder: Path) -> bool:
    return folder.is_dir() and FrameStore(folder).complete


def training_frames(options: argparse.Namespace) -> Frames:
    """Frames that reach every basin by a bias on phi and psi, with the weights that undo it."""
    if options.frames.suffix == ".npz" or is_complete(options.frames):
        return load_frames(options.frames)
    from openmm_tbg.reference import alanine_dipeptide
    from openmm_tbg.simulation import Dynamics, simulate

    return simulate(
        alanine_dipeptide(),
        options.frames,
        dynamics=Dynamics(interval_ps=0.5),
        n_frames=options.n_frames,
        n_walkers=4,
        seed=options.seed,
        n_processes=os.cpu_count() or 1,
        bias=ramachandran_bias(options),
    )


def ramachandran_bias(options: argparse.Namespace):
    """The bias beside the frames, or a new one: 10 ns of metadynamics, some ten minutes."""
    from openmm_tbg.reference import ALANINE_RAMACHANDRAN, alanine_dipeptide
    from openmm_tbg.simulation import RamachandranBias, learn_bias

    path = options.frames.with_name(f"{options.frames.name}_bias.npz")
    if not path.exists():
        bias = learn_bias(
            alanine_dipeptide(), ALANINE_RAMACHANDRAN, n_steps=5_000_000, seed=options.seed
        )
        bias.save(path)
    return RamachandranBias.load(path)


def architecture(options: argparse.Namespace) -> DenoiserArchitecture | EGNNArchitecture:
    kind = {"denoiser": DenoiserArchitecture, "egnn": EGNNArchitecture}[options.architecture]
    sizes = {name: getattr(options, name) for name in ("hidden", "layers")}
    return kind(**{name: size for name, size in sizes.items() if size is not None})


def initial_model(options: argparse.Namespace, columns: MoleculeFrames) -> TrainedModel:
    """The molecule and its geometry with weights to start from."""
    made = {
        "name": options.out.stem,
        "training_data": f"{len(columns)} frames of {options.frames.name}",
        "training": {},
        "measured": {},
        "commit": commit(),
    }
    if options.start:
        path = Path(options.start)
        start = TrainedModel.load(path if path.exists() else find_model(options.start))
        return replace(start, card=replace(start.card, **made))
    from openmm_tbg.reference import alanine_dipeptide

    reference = alanine_dipeptide()
    card = ModelCard(
        description="ACE-ALA-NME (alanine dipeptide) in implicit solvent at 300 K",
        force_field=reference.force_field,
        temperature_K=reference.temperature_K,
        **made,
    )
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    encoding = ENCODINGS[options.encoding](molecule)
    return untrained(card, molecule, encoding, architecture(options), columns, options.seed)


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU; float32 on a CPU
    accelerator = None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=options.device == "cpu")
    frames = training_frames(options)
    columns, stiff = training_columns(frames, options.seed, not options.without_forces)
    model = initial_model(options, columns.tempered(options.weight_power))
    settings = TrainingSettings(
        n_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        shortest_noise=options.shortest_noise,
        weight_power=options.weight_power,
        seed=options.seed,
    )
    task = task_of(model, columns, stiff, options.device)
    trainer = Trainer([task], settings, options.checkpoint, options.compile, accelerator)

    def report(progress: Progress) -> None:
        print(progress, flush=True)
        if options.held_out and (accelerator is None or accelerator.is_main_process):
            print(held_out_likelihood(model, trainer, options.held_out), flush=True)

    trainer.run(report, options.every, options.minutes)
    if accelerator is not None and not accelerator.is_main_process:
        return
    also: dict[str, object] = {"start": options.start}
    if options.held_out:
        also["held_out"] = asdict(held_out_likelihood(model, trainer, options.held_out))
    trained = trained_model(model, trainer, also)
    print(f"{options.out}: sha256 {trained.save(options.out)}")


if __name__ == "__main__":
    main()
