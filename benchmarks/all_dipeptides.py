"""Every one of the 400 dipeptides is built, encoded, proposed and filtered by one model.

    python benchmarks/all_dipeptides.py --out benchmarks/all_dipeptides.json

A proposal of each without a likelihood, on a coarse grid: enough to show that none ends in an
error, and in the sum what share is valid on peptides that the model has and has not seen. With 8
nodes for 24, positions of AC differ by 0.0005 nm rms (8 proposals), a sixth of the width of a bond.
A dipeptide that the file holds already is left as it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from likelihood import machine
from torch import Tensor

from openmm_tbg.arrays import Cause
from openmm_tbg.checkpoint import file_sha256
from openmm_tbg.filters import TopologyFilter
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.models import find_model
from openmm_tbg.peptides import AMINO_ACIDS

SEQUENCES = ["".join(letters) for letters in itertools.product(AMINO_ACIDS, repeat=2)]
SPLIT = Path(__file__).with_name("dipeptide_split.json")


def causes_of(generator: BoltzmannGenerator, n: int, nodes: int, seed: int) -> list[str]:
    """What the filters say of n proposals, none of which gets a likelihood."""
    model, flow, causes = generator.model, generator.flow, []
    coarse = ContinuousFlow(flow.field, flow.prior, replace(flow.grid, nodes=nodes))
    sees_hand = model.architecture.sees_hand(model.geometry)
    topology_filter = TopologyFilter(model.molecule, model.encoding.labels, sees_hand)

    def screen(positions_nm: Tensor) -> Tensor:
        assert torch.isfinite(positions_nm).all()
        found = topology_filter.screen(positions_nm.numpy()).cause
        causes.extend(Cause(cause).name for cause in found)
        return torch.zeros(len(positions_nm), dtype=torch.bool)

    coarse.sample_with_log_prob(n, torch.Generator().manual_seed(seed), passes=screen)
    return causes


def row_of(sequence: str, path: Path, n: int, nodes: int) -> dict[str, object]:
    started = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            generator = BoltzmannGenerator.from_checkpoint(path, sequence=sequence)
        built = time.process_time()
        causes = causes_of(generator, n, nodes, SEQUENCES.index(sequence))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "atoms": generator.molecule.n_atoms,
        "causes": causes,
        "warned": any("N-terminal proline" in str(each.message) for each in caught),
        "seconds_to_build": round(built - started, 2),
        "seconds_a_proposal": round((time.process_time() - built) / n, 3),
    }


def share(rows: list[dict]) -> dict[str, float]:
    """Valid proposals of some dipeptides; the error is that of their mean over dipeptides."""
    valid = [np.mean([cause == "NONE" for cause in row["causes"]]) for row in rows]
    error = np.std(valid, ddof=1) / np.sqrt(len(valid))
    return {
        "dipeptides": len(rows),
        "valid": round(float(np.mean(valid)), 4),
        "error": round(float(error), 4),
    }


def summary(rows: dict[str, dict]) -> dict[str, object]:
    sound = {sequence: row for sequence, row in rows.items() if "error" not in row}
    split = json.loads(SPLIT.read_text())
    listed = {name: set(split[name]) for name in ("train", "val", "test_public")}
    listed["unlisted"] = set(SEQUENCES) - set.union(*listed.values())
    groups = {
        name: [row for sequence, row in sound.items() if sequence in members]
        for name, members in listed.items()
    }
    return {
        "dipeptides": len(rows),
        "errors": {sequence: row["error"] for sequence, row in rows.items() if "error" in row},
        "proposals": sum(len(row["causes"]) for row in sound.values()),
        "causes": dict(Counter(cause for row in sound.values() for cause in row["causes"])),
        "all": share(list(sound.values())),
        **{name: share(members) for name, members in groups.items() if len(members) > 1},
        "warned": sorted(sequence for sequence, row in sound.items() if row["warned"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dipeptides", help="registered name, or a file")
    parser.add_argument("--n", type=int, default=1, help="proposals of each")
    parser.add_argument("--nodes", type=int, default=8, help="of the grid")
    parser.add_argument(
        "--sequences", nargs="+", choices=SEQUENCES, metavar="XY", default=SEQUENCES
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(options.model) if Path(options.model).suffix else find_model(options.model)
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for sequence in options.sequences:
        if sequence not in rows:
            rows[sequence] = row_of(sequence, path, options.n, options.nodes)
            options.out.write_text(json.dumps({"rows": rows}))
    record = {
        "machine": machine(),
        "model": options.model,
        "sha256": file_sha256(path),
        "nodes": options.nodes,
        "summary": summary(rows),
    }
    print(json.dumps(record, indent=1))
    options.out.write_text(json.dumps(record | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
