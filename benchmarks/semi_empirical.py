"""What proposals of a classical force field say of GFN2-xTB: effective samples and seconds.

    python benchmarks/semi_empirical.py --proposals EVALUATION --out semi_empirical.json

EVALUATION is a folder of `evaluate_alanine.py`. Each of its proposals that passes the filters gets
the energy of GFN2-xTB, in vacuum and in ALPB water, at 300 K.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openmm
from likelihood import machine
from openmm import unit
from openmmtools.states import ThermodynamicState
from z_scores_alanine import read

from openmm_tbg import ReducedPotential
from openmm_tbg.analysis import effective_sample_size, pareto_k
from openmm_tbg.evaluation import ScoredProposals
from openmm_tbg.free_energy import free_energy_between
from openmm_tbg.metropolis import log_weights
from openmm_tbg.reference import ReferenceSystem, alanine_dipeptide
from openmm_tbg.semi_empirical import gfn2_xtb_system


def row_of(
    solvent: str | None, proposals: ScoredProposals, reference: ReferenceSystem
) -> dict[str, object]:
    system = gfn2_xtb_system(reference.topology, charge=0, solvent=solvent)
    state = ThermodynamicState(system, reference.temperature_K * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = state.create_context(openmm.VerletIntegrator(0.001), platform)
    u = np.full(len(proposals), np.nan)
    started = time.perf_counter()
    u[proposals.passes] = ReducedPotential(state, context)(proposals.positions_nm[proposals.passes])
    seconds = time.perf_counter() - started
    weights = log_weights(u, proposals.log_q, proposals.passes)
    share = effective_sample_size(weights)
    return {
        "target": f"GFN2-xTB, {solvent or 'vacuum'}",
        "effective_sample_size": share,
        "effective_samples": share * len(weights),
        "pareto_k": pareto_k(weights),
        "without_an_energy": int(np.isnan(u[proposals.passes]).sum()),
        "seconds_an_energy": seconds / int(proposals.passes.sum()),
        "from_own": asdict(free_energy_between(weights, proposals.log_weights)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    proposals, reference = read(options.proposals), alanine_dipeptide()
    own = effective_sample_size(proposals.log_weights)
    record = {
        "machine": machine(),
        "N": len(proposals),
        "effective_sample_size_in_its_own_force_field": own,
        "rows": [row_of(solvent, proposals, reference) for solvent in (None, "water")],
    }
    print(json.dumps(record, indent=1))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
