"""Train a model of uncapped dipeptides: simulate many of them, fit one field to all.

    python examples/train_dipeptides.py --out dipeptides.safetensors --minutes 60

Run it again to go on where it stopped. The peptides of `--split` under "train" are simulated and
learned; no other one is simulated. What the field has to know of a molecule beforehand, means and
widths of its distances, comes from the force field without charges and solvent, for all 400 alike.
On a GPU add `--platform CUDA --device cuda --compile --batch-size 256 --n-frames 100000`, and
`--start dipeptides` to go on from the model that ships.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on missing JAX

import openmm

from openmm_tbg.checkpoint import ModelCard
from openmm_tbg.fields.architecture import DenoiserArchitecture
from openmm_tbg.fields.denoiser import Denoiser
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.files import write_atomically
from openmm_tbg.frames import Frames, FrameStore, load_frames
from openmm_tbg.grid import TimeGrid
from openmm_tbg.models import find_model
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import (
    AMINO_ACIDS,
    FORCE_FIELD,
    TEMPERATURE_K,
    assembled,
    dipeptide,
    system_of,
)
from openmm_tbg.reference import ReferenceSystem
from openmm_tbg.simulation import Dynamics, simulate_packed, uncharged_frames
from openmm_tbg.training import (
    MoleculeFrames,
    ResidualMatching,
    StiffTerms,
    Task,
    Trainer,
    TrainingSettings,
)
from openmm_tbg.training.single import averaged_weights
from openmm_tbg.transferable import encode_full
from openmm_tbg.transferable_model import TransferableModel, geometry_from_moments, moments_of

ALL = ["".join(pair) for pair in itertools.product(AMINO_ACIDS, repeat=2)]
SPLIT = Path(__file__).parents[1] / "benchmarks" / "dipeptide_split.json"
N_UNCHARGED = 4000
N_VALIDATION = 4  # frames of each training peptide that are held back
DEFAULT = TrainingSettings()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("dipeptide_frames"))
    parser.add_argument("--split", type=Path, default=SPLIT)
    parser.add_argument("--n-frames", type=int, default=120, help="of each peptide")
    parser.add_argument("--n-walkers", type=int, default=4, help="of each peptide")
    parser.add_argument("--equilibration-ps", type=float, default=2.0)
    parser.add_argument("--interval-ps", type=float, default=0.1)
    parser.add_argument("--pack", type=int, default=10, help="peptides in one Context")
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--of", nargs="+", default=ALL, help="dipeptides that the model will know")
    parser.add_argument("--checkpoint", type=Path, default=Path("dipeptides_training.pt"))
    parser.add_argument("--start", help="registered model or file whose weights to start from")
    parser.add_argument("--hidden", type=int, default=48, help="channels of an atom")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=DEFAULT.n_steps)
    parser.add_argument("--minutes", type=float, help="fit the number of steps to this time")
    parser.add_argument("--batch-size", type=int, default=DEFAULT.batch_size)
    parser.add_argument("--learning-rate", type=float, default=DEFAULT.learning_rate)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler on a CPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=2000, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def uncharged(sequence: str, folder: Path) -> np.ndarray:
    """Frames of the molecule without charges, kept in a file."""
    path = folder / f"{sequence}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        topology, frame = assembled(sequence)
        frames = uncharged_frames(
            topology, system_of(topology), frame, TEMPERATURE_K,
            n_frames=N_UNCHARGED, seed=ALL.index(sequence) + 1,
        )  # fmt: skip
        content = io.BytesIO()
        np.save(content, frames.astype(np.float32))
        write_atomically(path, content.getvalue())
    return np.load(path).astype(np.float64)


def reference(sequence: str, options: argparse.Namespace) -> ReferenceSystem:
    """The peptide with a start for each walker: minima near what it visits without charges.

    The last one has phi near +60 degrees, which is rare (of proline: a minimum as the others).
    """
    peptide = dipeptide(sequence)
    frames = uncharged(sequence, options.data / "uncharged")
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName(options.platform)
    context = openmm.Context(peptide.system, integrator, platform)
    starts = []
    for frame in frames[:: len(frames) // options.n_walkers][: options.n_walkers - 1]:
        context.setPositions(frame)
        openmm.LocalEnergyMinimizer.minimize(context)
        starts.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    centred = [start - start.mean(axis=0) for start in starts]
    return replace(peptide, starts_nm=np.stack([*centred, peptide.starts_nm[-1]]))


def simulated(sequences: list[str], group: Path, options: argparse.Namespace) -> None:
    """Frames of some peptides in one Context, each with several walkers in different states."""
    done = [(group / each).is_dir() and FrameStore(group / each).complete for each in sequences]
    if all(done):
        return
    dynamics = Dynamics(
        interval_ps=options.interval_ps,
        friction_per_ps=5.0,
        equilibration_ps=options.equilibration_ps,
    )
    simulate_packed(
        {sequence: reference(sequence, options) for sequence in sequences},
        group,
        dynamics=dynamics,
        n_frames=options.n_frames,
        n_walkers=options.n_walkers,
        seed=options.seed,
        platform=options.platform,
    )


def all_frames(sequences: list[str], name: str, options: argparse.Namespace) -> dict[str, Frames]:
    """The frames of every peptide, simulated where they are not there yet."""
    n_groups = -(-len(sequences) // options.pack)
    frames = {}
    for k in range(n_groups):
        group = options.data / "frames" / f"{name}_{k:02d}"
        simulated(sequences[k::n_groups], group, options)
        frames |= {each: load_frames(group / each) for each in sequences[k::n_groups]}
        print(f"{name}: {len(frames)} of {len(sequences)} peptides have frames", flush=True)
    return frames


def all_moments(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """What the field knows of each dipeptide beforehand, kept in a file."""
    path = options.data / "moments.npz"
    if not path.exists():
        moments = {sequence: moments_of(geometry(sequence, options)) for sequence in options.of}
        content = io.BytesIO()
        np.savez_compressed(content, **moments)
        write_atomically(path, content.getvalue())
    with np.load(path) as stored:
        return dict(stored)


def geometry(sequence: str, options: argparse.Namespace) -> ReferenceGeometry:
    frames = uncharged(sequence, options.data / "uncharged")
    molecule = Molecule.from_topology(*assembled(sequence))
    return ReferenceGeometry.from_frames(molecule, encode_full(molecule), frames)


def tasks_of(
    model: TransferableModel, train: dict[str, Frames], options: argparse.Namespace
) -> list[Task]:
    """One task a peptide; all fields share the weights of the first."""
    rng = np.random.default_rng(options.seed)
    tasks: list[Task] = []
    first: Denoiser | None = None
    for sequence, frames in train.items():
        geometry = model.for_sequence(sequence).geometry
        if first is None:
            field = model.architecture.field(geometry)
            field.load_state_dict(model.weights)
            first = field = field.to(options.device)
        else:
            field = first.for_molecule(geometry)
        order = torch.from_numpy(rng.permutation(len(frames)))
        columns = MoleculeFrames(
            torch.from_numpy(frames.positions_nm), torch.from_numpy(frames.forces_per_nm)
        )[order]
        objective = ResidualMatching(field, StiffTerms.from_metadata(frames.metadata))
        tasks.append(Task(objective, columns[N_VALIDATION:], columns[:N_VALIDATION]))
    return tasks


def untrained(moments: dict[str, np.ndarray], options: argparse.Namespace) -> TransferableModel:
    card = ModelCard(
        name=options.out.stem,
        description="uncapped dipeptides (NH3+, COO-) in implicit solvent at 310 K",
        force_field=FORCE_FIELD,
        temperature_K=TEMPERATURE_K,
        training_data=f"{options.n_frames} frames of each training peptide, {options.n_walkers} "
        f"walkers, one each {options.interval_ps} ps",
        training={},
        measured={},
        commit=commit(),
    )
    architecture = DenoiserArchitecture(options.hidden, options.layers)
    torch.manual_seed(options.seed)
    first = next(iter(moments))
    molecule = Molecule.from_topology(*assembled(first))
    encoding = encode_full(molecule)
    geometry = geometry_from_moments(molecule, encoding, moments[first])
    weights = architecture.field(geometry).state_dict()
    return TransferableModel(card, "full", architecture, TimeGrid(), weights, moments)


def started(start: str) -> TransferableModel:
    path = Path(start)
    return TransferableModel.load(path if path.exists() else find_model(start))


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU; float32 on a CPU
    split = json.loads(options.split.read_text())
    train = all_frames(split["train"], "train", options)
    model = started(options.start) if options.start else untrained(all_moments(options), options)
    settings = TrainingSettings(
        n_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    tasks = tasks_of(model, train, options)
    trainer = Trainer(tasks, settings, options.checkpoint, options.compile)
    trainer.run(lambda progress: print(progress, flush=True), options.every, options.minutes)
    training = asdict(trainer.settings) | {"minutes": trainer.minutes, "start": options.start}
    training |= {"torch": torch.__version__}
    card = replace(model.card, training=training)
    trained = replace(model, card=card, weights=averaged_weights(trainer))
    print(f"{options.out}: sha256 {trained.save(options.out)}")


if __name__ == "__main__":
    main()
