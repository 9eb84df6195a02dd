"""Are the errors of free energies those that repeats show, for a flow with heavy weights?

    python benchmarks/z_scores_alanine.py --proposals EVALUATION --out z_scores_alanine.json

EVALUATION is a folder of `evaluate_alanine.py`. Its proposals are cut into disjoint sets, each of
which is asked for the free energy of 0 < phi < 2, against the reference and its error, and for
ln Z, against that of all proposals together, of which the set is a part. A z-score is the distance
over the error; their mean should be 0 and their standard deviation 1. Sets whose figure the library
doubts are counted apart.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from likelihood import machine
from z_scores import row_of

from openmm_tbg.evaluation import ScoredProposals
from openmm_tbg.evaluation.figures import in_basin
from openmm_tbg.free_energy import Estimated, free_energy_difference, log_normalising_constant
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI
from openmm_tbg.torsions import dihedral

REFERENCE = json.loads(Path(__file__).with_name("reference_free_energy.json").read_text())
SIZES = (28, 64, 128, 256)
FEWEST_SETS = 8  # of which moments are taken
Score = Callable[[np.ndarray], tuple[float, Estimated]]


def read(folder: Path) -> ScoredProposals:
    names = ("positions_nm", "log_q", "cause", "u_kT", "seconds")
    batches = [np.load(file) for file in sorted(folder.glob("seed_*/batch_*.npz"))]
    return ScoredProposals.concatenate(
        [ScoredProposals(*(batch[name] for name in names)) for batch in batches]
    )


def scores_of(proposals: ScoredProposals) -> dict[str, Score]:
    """For each question, the z-score of a set of rows and the figure that it belongs to."""
    weights = proposals.log_weights
    phi, psi = (dihedral(proposals.positions_nm, each) for each in (ALANINE_PHI, ALANINE_PSI))
    inside = in_basin(phi)
    helical = (phi < 0) & (psi > math.radians(-120)) & (psi < math.radians(60))
    whole = log_normalising_constant(weights).value

    def of_sets(first: np.ndarray, second: np.ndarray, known: dict[str, Any]) -> Score:
        error_kT = max(known["standard_error_by_block_length"].values())

        def score(rows: np.ndarray) -> tuple[float, Estimated]:
            found = free_energy_difference(weights[rows], first[rows], second[rows])
            away = found.value - known["free_energy_difference"]
            return away / math.hypot(found.error, error_kT), found

        return score

    def of_log_z(rows: np.ndarray) -> tuple[float, Estimated]:
        found = log_normalising_constant(weights[rows])
        # A part and the whole share proposals: their difference has less variance.
        left = math.sqrt(1 - len(rows) / len(weights))
        return (found.value - whole) / (found.error * left), found

    return {
        "0 < phi < 2": of_sets(inside, ~inside, REFERENCE),
        "helical - extended": of_sets(helical, (phi < 0) & ~helical, REFERENCE["helical"]),
        "ln Z": of_log_z,
    }


def rows_of(question: str, n: int, score: Score, total: int) -> list[dict[str, object]]:
    """The sets of n: all that give a figure, and those that are trusted and doubted."""
    found = []
    sets = np.arange(total // n * n).reshape(-1, n)
    for rows in sets:
        try:
            found.append(score(rows))
        except ValueError:  # no proposal in the basin
            continue
    scores = np.array([z for z, _ in found])
    trusted = np.array([each.is_trusted for _, each in found], dtype=bool)
    answers = []
    kinds = {"all": np.ones_like(trusted), "trusted": trusted, "doubted": ~trusted}
    for name, which in kinds.items():
        row = {"n": n, "which": name, "sets": int(which.sum())}
        if row["sets"] >= FEWEST_SETS:
            row |= row_of(question, scores[which])
            row["root_mean_square"] = round(float(np.sqrt(np.square(scores[which]).mean())), 4)
            chosen = [each for (_, each), used in zip(found, which, strict=True) if used]
            row["median_error_kT"] = round(float(np.median([each.error for each in chosen])), 4)
            numbers = [each.n_effective for each in chosen]
            row["median_effective"] = round(float(np.median(numbers)), 1)
        answers.append({"question": question} | row)
    answers[0]["sets_without_a_figure"] = len(sets) - len(found)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    proposals = read(options.proposals)
    rows = [
        row
        for question, score in scores_of(proposals).items()
        for n in SIZES
        for row in rows_of(question, n, score, len(proposals))
    ]
    print("\n".join(map(str, rows)))
    if options.out:
        record = {"machine": machine(), "N": len(proposals), "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
