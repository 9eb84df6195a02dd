"""One free-energy difference of any uncapped dipeptide by six methods, each for the same time.

    python examples/dipeptide_free_energy.py KS

The quantity is -ln P(0 < phi < 2) / P(rest) at 310 K, in kT, with phi of the second residue;
`free_energy_table.py` says where the methods are. The generator is the zero-shot model
`dipeptides`, which needs no simulation of the molecule; says whether it was trained on it. The
present one accepts hardly any of its proposals, and the verdict says so: what is not to be trusted
is marked.

The reference is umbrella sampling for longer, with other random numbers, unless `--reference-kT`
gives a better one: it relies on the same coordinate. Prints a table with the difference from it,
and writes it as JSON with a picture of the figures and of the free energy over this phi and the
psi of the first residue, the two dihedrals next to the peptide bond.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from free_energy_by_dynamics import by_umbrellas
from free_energy_problem import Problem
from free_energy_table import Reference, compare, parser
from openmm import Platform
from openmm.app import Topology

from openmm_tbg import BoltzmannGenerator
from openmm_tbg.peptides import dipeptide, phi_of_dipeptide
from openmm_tbg.torsions import Dihedral

SPLIT = Path(__file__).parents[1] / "benchmarks" / "dipeptide_split.json"
SEED_OF_REFERENCE = 1_000_000  # added to that of the methods


def psi_of_dipeptide(topology: Topology) -> Dihedral:
    """N-CA-C of the first residue, N of the second."""
    first, second = (
        {atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()
    )
    return first["N"], first["CA"], first["C"], second["N"]


def longer(problem: Problem, seed: int, minutes: float) -> Reference:
    found = by_umbrellas(problem, seed + SEED_OF_REFERENCE, 60 * minutes).estimate()
    source = f"umbrella sampling, {minutes:g} minutes; {found.verdict}"
    return Reference(found.value, found.error, source)


def main() -> None:
    options = parser(__doc__, "dipeptide_free_energy.json")
    options.add_argument("sequence", help="one-letter codes of two amino acids, such as KS")
    options.add_argument(
        "--reference-kT", nargs=2, type=float, metavar=("VALUE", "ERROR"), help="made if not given"
    )
    options.add_argument("--reference-minutes", type=float, default=6.0, help="to make it")
    options = options.parse_args()
    molecule = dipeptide(options.sequence)
    platform = Platform.getPlatformByName("CPU")
    platform.setPropertyDefaultValue("Threads", "1")  # the fastest for 17 to 51 atoms
    problem = Problem(
        options.sequence,
        molecule,
        phi_of_dipeptide(molecule.topology),
        psi_of_dipeptide(molecule.topology),
        partial(
            BoltzmannGenerator.from_pretrained,
            "dipeptides",
            device=options.device,
            sequence=options.sequence,
        ),
        platform,
    )
    seen = options.sequence in json.loads(SPLIT.read_text())["train"]
    print(f"{options.sequence}: the model was {'' if seen else 'not '}trained on it", flush=True)
    if options.reference_kT is None:
        reference = longer(problem, options.seed, options.reference_minutes)
    else:
        reference = Reference(*options.reference_kT, "given")
    compare(problem, reference, options)


if __name__ == "__main__":
    main()
