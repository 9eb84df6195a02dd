"""How good a model of alanine dipeptide is: figures and a picture, for each seed and together.

    python benchmarks/evaluate_alanine.py --model alanine-dipeptide --n 2048 --seeds 101,102,103 \
        --frames alanine_frames --held-out 256 --out /tmp/evaluation

`openmm-tbg evaluate alanine-dipeptide --frames FRAMES` does the same for one seed; this has
several, and the likelihood of held-out frames. Each batch of proposals is written to the folder as
soon as it is scored: the same call goes on where an earlier one was ended. Energies come from
OpenMM's Reference platform in double precision.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import unit
from openmmtools.states import ThermodynamicState

from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.evaluation import (
    Evaluation,
    MolecularDynamics,
    ScoredProposals,
    draw_scored,
    evaluate,
    picture,
)
from openmm_tbg.frames import load_frames
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.proposals import ProposalGenerator
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, ReferenceSystem, alanine_dipeptide

CHUNK = 64  # held-out frames whose log q is evaluated at a time


@dataclass(frozen=True, eq=False)
class FrameRows:
    """Frames in double precision, with their log-weights where the simulation was biased."""

    positions_nm: Positions
    log_weights: Scalars | None

    @classmethod
    def load(cls, path: Path) -> FrameRows:
        frames = load_frames(path)
        return cls(frames.positions_nm.astype(np.float64), frames.log_weights)

    def spread(self, n: int) -> FrameRows:
        """At most n frames, evenly spread."""
        rows = np.unique(np.linspace(0, len(self.positions_nm) - 1, n).astype(int))
        weights = None if self.log_weights is None else self.log_weights[rows]
        return FrameRows(self.positions_nm[rows], weights)

    def of_target(self, n: int, rng: np.random.Generator) -> Positions:
        """n frames that follow the target: evenly spread, or resampled by weight."""
        if self.log_weights is None:
            return self.spread(n).positions_nm
        weights = np.exp(self.log_weights - self.log_weights.max())
        rows = rng.choice(len(weights), size=n, p=weights / weights.sum())
        return self.positions_nm[rows]


def load_model(model: str, reference: ReferenceSystem, device: str) -> BoltzmannGenerator:
    path = Path(model)
    if path.suffix:
        return BoltzmannGenerator.from_checkpoint(path, reference.topology, device)
    return BoltzmannGenerator.from_pretrained(model, reference.topology, device)


def reduced_potential(reference: ReferenceSystem) -> ReducedPotential:
    state = ThermodynamicState(reference.system, reference.temperature_K * unit.kelvin)
    integrator = openmm.VerletIntegrator(0.001)
    context = state.create_context(integrator, openmm.Platform.getPlatformByName("Reference"))
    return ReducedPotential(state, context)


def held_out_log_q(generator: ProposalGenerator, positions_nm: Positions, file: Path) -> Scalars:
    """log q of the frames; chunks that are done are kept beside `file` and read again."""
    parts = []
    for number, first in enumerate(range(0, len(positions_nm), CHUNK)):
        part = file.with_name(f"{file.stem}_{number:04d}.npz")
        frames = positions_nm[first : first + CHUNK]
        stored = dict(np.load(part)) if part.exists() else {}
        if not (
            str(stored.get("sha256")) == generator.sha256
            and np.array_equal(stored["positions_nm"], frames)
        ):
            log_q = generator.evaluate(frames).log_q
            stored = {"positions_nm": frames, "log_q": log_q, "sha256": generator.sha256}
            partial = part.with_suffix(".partial.npz")
            np.savez(partial, **stored)
            partial.replace(part)
        parts.append(stored["log_q"])
    return np.concatenate(parts)


def made_with(generator: BoltzmannGenerator, threads: int) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    hardware = (
        torch.cuda.get_device_name()
        if generator.device.startswith("cuda")
        else f"{names[0] if names else platform.processor()}, {threads} threads"
    )
    return (
        f"{generator.reference} ({generator.sha256[:12]}); {hardware}; torch {torch.__version__}, "
        f"OpenMM {openmm.__version__}, commit {head.stdout.strip() or 'unknown'}"
    )


def report(
    name: str, out: Path, scored: ScoredProposals, found: Evaluation, dynamics: MolecularDynamics
) -> None:
    found.to_json(out / f"{name}.json")
    picture(found, scored, dynamics).savefig(out / f"{name}.png", dpi=130)
    print(f"\n{name}\n{found}", flush=True)


def run(options: argparse.Namespace, seeds: Sequence[int]) -> None:
    torch.set_num_threads(options.threads)
    reference = alanine_dipeptide()
    generator = load_model(options.model, reference, options.device)
    potential = reduced_potential(reference)
    options.out.mkdir(parents=True, exist_ok=True)

    frames, angles = load_frames(options.frames), (ALANINE_PHI, ALANINE_PSI)
    dynamics = MolecularDynamics.of_frames(
        frames, potential, generator.molecule, *angles, options.md_frames
    )
    batch = min(options.batch, options.n)
    drawn = [
        draw_scored(generator, potential, options.n, seed, options.out / f"seed_{seed}", batch)
        for seed in seeds
    ]
    log_q = None
    if options.held_out:
        unseen = FrameRows.load(options.held_out_frames or options.frames)
        positions_nm = unseen.of_target(options.held_out, np.random.default_rng(0))
        log_q = held_out_log_q(generator, positions_nm, options.out / "held_out.npz")
    made = made_with(generator, options.threads)
    for seed, scored in zip(seeds, drawn, strict=True):
        found = evaluate(scored, dynamics, (seed,), log_q, options.length_scale, made)
        report(f"seed_{seed}", options.out, scored, found, dynamics)
    if len(seeds) > 1:
        together = ScoredProposals.concatenate(drawn)
        found = evaluate(together, dynamics, seeds, log_q, options.length_scale, made)
        report("together", options.out, together, found, dynamics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="alanine-dipeptide", help="registered name, or a file")
    parser.add_argument("--n", type=int, default=2048, help="proposals for each seed")
    parser.add_argument("--seeds", default="101,102,103")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=Path, required=True, help="of molecular dynamics")
    parser.add_argument("--md-frames", type=int, default=20_000, help="of these, how many to use")
    parser.add_argument("--held-out", type=int, default=0, help="frames whose log q is evaluated")
    parser.add_argument("--held-out-frames", type=Path, help="where they are; else --frames")
    parser.add_argument("--length-scale", type=float, default=30.0, help="for the scaled NLL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for batches and results")
    options = parser.parse_args()
    run(options, tuple(int(seed) for seed in options.seeds.split(",")))


if __name__ == "__main__":
    main()
