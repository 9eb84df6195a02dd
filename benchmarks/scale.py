"""What a million proposals for each of 400 dipeptides need: time, bytes, files, and the bottleneck.

    python benchmarks/scale.py --out benchmarks/scale.json

Computed, not run. Measured on one core: how the time of an exact proposal grows with the atoms
(`atoms.json`) and that of an energy (`energies.json`). The rate of a GPU is not measured by this
project's code: 45 exact proposals a second of alanine dipeptide on one H100, from the first
prototype (an EGNN of 6 layers of 128, 24 nodes), scaled with the atoms as on the core. The
denoiser, whose divergence costs fewer operations (`likelihood.json`), should need less. Batches are
independent, so that GPUs divide the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

N_EACH = 1_000_000
BATCH_SIZES = (512, 8192)
GPUS = (1, 8, 64)
CORES_A_GPU = 16
PROTOTYPE_PER_SECOND, PROTOTYPE_ATOMS = 45.0, 22
FILES_A_BATCH, FILES_A_STORE = 4, 5  # a chunk of each array; their descriptions and the group's
DAY = 86_400

# Atoms of a residue within a chain, as protonated at pH 7; the ends of a chain add three.
ATOMS = dict(zip("ACDEFGHIKLMNPQRSTVWY", (
    10, 11, 12, 15, 20, 7, 17, 19, 22, 19, 17, 14, 14, 17, 24, 11, 14, 16, 24, 21
), strict=True))  # fmt: skip


@dataclass(frozen=True)
class Need:
    gpus: int
    days_of_log_q: float
    days_of_energies: float
    MB_per_second_written: float
    bottleneck: str


def atoms_of_all() -> np.ndarray:
    """Atoms of each of the 400 uncapped dipeptides."""
    pairs = itertools.product(ATOMS.values(), repeat=2)
    return np.array([first + second + 3 for first, second in pairs])


def seconds_of_an_energy(folder: Path, n_atoms: np.ndarray) -> np.ndarray:
    """On a core, by the CPU platform, linear between the measured sizes."""
    rows = json.loads((folder / "energies.json").read_text())["rows"]
    return np.interp(n_atoms, [row["atoms"] for row in rows], [row["CPU_seconds"] for row in rows])


def need(gpus: int, log_q_s: float, energies_s: float, n_bytes: int) -> Need:
    days_of_log_q = log_q_s / gpus / DAY
    days_of_energies = energies_s / (gpus * CORES_A_GPU) / DAY
    which = "log q" if days_of_log_q > days_of_energies else "energies"
    slowest = max(days_of_log_q, days_of_energies)
    return Need(gpus, days_of_log_q, days_of_energies, n_bytes / 1e6 / (slowest * DAY), which)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    here = Path(__file__).parent
    n_atoms = atoms_of_all()
    measured = json.loads((here / "atoms.json").read_text())
    exponent = measured["exponents_from_17_atoms"]["seconds_a_sample"]
    each_s = (n_atoms / PROTOTYPE_ATOMS) ** exponent / PROTOTYPE_PER_SECOND
    log_q_s = float(N_EACH * each_s.sum())
    energies_s = float(N_EACH * seconds_of_an_energy(here, n_atoms).sum())
    row_bytes = 8 * (3 * n_atoms + 1) + 1  # positions and log q in float64, the cause in a byte
    n_bytes = int(N_EACH * row_bytes.sum())
    found = {
        "proposals": N_EACH * len(n_atoms),
        "atoms": {"fewest": int(n_atoms.min()), "mean": n_atoms.mean(), "most": int(n_atoms.max())},
        "exponent_of_the_atoms": exponent,
        "gpu_rate": "45/s at 22 atoms on one H100: the first prototype, not this project's code",
        "cores_a_gpu_for_energies": CORES_A_GPU,
        "bytes": n_bytes,
        "files_by_batch_size": {
            size: len(n_atoms) * (FILES_A_BATCH * -(-N_EACH // size) + FILES_A_STORE)
            for size in BATCH_SIZES
        },
        "needs": [asdict(need(gpus, log_q_s, energies_s, n_bytes)) for gpus in GPUS],
        "for_a_million_in_all": "a 400th of the time and the bytes",
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
