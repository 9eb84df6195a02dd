"""How good a model of many dipeptides is, for each of them and in the mean.

    python benchmarks/evaluate_dipeptides.py --model dipeptides --sequences KS,AT --n 10000 \
        --references references.json --out /tmp/dipeptides

The same call goes on where an earlier one was ended; under torchrun, srun or mpiexec each process
takes a share of the dipeptides. The target is that of `openmm_tbg.peptides.dipeptide`. The file of
references holds -ln P(0 < phi < 2) / P(rest) in kT and its error for some sequences, as in
`{"KS": [2.31, 0.04]}`.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from openmm_tbg.cli.inputs import reduced_potential
from openmm_tbg.evaluation import Estimate, Study, Target
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.peptides import dipeptide, phi_of_dipeptide
from openmm_tbg.ranks import Rank


def generator_of(sequence: str, model: str, device: str) -> BoltzmannGenerator:
    if Path(model).suffix:
        return BoltzmannGenerator.from_checkpoint(Path(model), device=device, sequence=sequence)
    return BoltzmannGenerator.from_pretrained(model, device=device, sequence=sequence)


def target_of(sequence: str) -> Target:
    system = dipeptide(sequence)
    return Target(reduced_potential(system), phi_of_dipeptide(system.topology))


def reference_of(sequence: str, file: Path) -> Estimate | None:
    known = json.loads(file.read_text())
    return Estimate(*known[sequence]) if sequence in known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dipeptides", help="registered name, or a file")
    parser.add_argument("--sequences", required=True, help="such as KS,AT")
    parser.add_argument("--n", type=int, default=10_000, help="proposals of each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--references", type=Path, help="JSON file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", help="that of this process if not given")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device or Rank.here().device
    study = Study(
        generator=partial(generator_of, model=options.model, device=device),
        target=target_of,
        n=options.n,
        seed=options.seed,
        batch=min(options.batch, options.n),
        reference=options.references and partial(reference_of, file=options.references),
    )
    print(study.run(options.sequences.split(","), options.out))


if __name__ == "__main__":
    main()
