"""One free-energy difference of alanine dipeptide by six methods, each for the same time.

    python examples/alanine_free_energy.py --minutes 1.5

The quantity is -ln P(0 < phi < 2) / P(rest) at 300 K, in kT; `free_energy_table.py` says where the
methods are. Prints a table with the difference from a converged reference, and writes it as JSON
with a picture of the figures and of the free energy over phi and psi.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from free_energy_problem import Problem
from free_energy_table import Reference, compare, parser
from openmm import Platform

from openmm_tbg import BoltzmannGenerator
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, alanine_dipeptide

REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference_free_energy.json"


def main() -> None:
    options = parser(__doc__, "alanine_free_energy.json").parse_args()
    molecule = alanine_dipeptide()
    problem = Problem(
        "alanine dipeptide",
        molecule,
        ALANINE_PHI,
        ALANINE_PSI,
        partial(
            BoltzmannGenerator.from_pretrained,
            "alanine-dipeptide",
            molecule.topology,
            options.device,
        ),
        Platform.getPlatformByName("Reference"),  # the fastest for 22 atoms in GBSA
    )
    known = json.loads(REFERENCE.read_text())
    error_kT = max(known["standard_error_by_block_length"].values())
    source = f"biased dynamics, {known['nanoseconds']:.0f} ns"
    compare(problem, Reference(known["free_energy_difference"], error_kT, source), options)


if __name__ == "__main__":
    main()
