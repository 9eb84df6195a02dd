"""The table of `examples/compare_force_fields.py` from the proposals that evaluated the model.

    python benchmarks/compare_force_fields.py --proposals EVALUATION \\
        --out benchmarks/compare_force_fields.json

EVALUATION is a folder of `evaluate_alanine.py`; its 2,816 proposals are not drawn again.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from likelihood import machine
from z_scores_alanine import read

from openmm_tbg import Proposals
from openmm_tbg.checkpoint import file_sha256
from openmm_tbg.models import find_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))  # before this folder, whose script has the same name
    example = importlib.import_module("compare_force_fields")
    scored = read(options.proposals)
    about = {"machine": machine(), "model": file_sha256(find_model(example.MODEL))}
    proposals = Proposals(scored.positions_nm, scored.log_q, scored.cause)
    example.report(proposals, about, options.out)


if __name__ == "__main__":
    main()
