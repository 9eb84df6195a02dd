"""Free-energy differences of phi and psi from biased dynamics, with its error from blocks of time.

    python benchmarks/reference_free_energy.py --frames alanine_frames more_frames
    python benchmarks/reference_free_energy.py --sequences KS,AT --folder dipeptide_frames \
        --out benchmarks/dipeptide_references.json

Weights exp(bias) undo the bias of each frame. The error is the standard deviation over resampled
blocks of time; it should not depend on their length.

Of a dipeptide, metadynamics learns the bias, two walkers from both sides of phi = 0 move under it,
and a call that is made again goes on where it stopped. On a CPU nine tenths of a step are spent on
the solvent, of which OpenMM has a fast form with slightly other Born radii (OBC2 for OBC1): frames
are made with that one, and their weights hold the difference of the two energies, so that the
figure is that of the target. The file has value and error of each dipeptide, as
`openmm-tbg evaluate --references` takes them, where the two halves of the time and the two
walkers differ by less than two of their errors, and phi crossed 20 times: those rows are
`consistent`, and `converged` if the error is at most `--largest-error`. Of proline there is nothing
to sample: its ring holds phi near -65 degrees.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from likelihood import machine

from openmm_tbg.analysis import effective_sample_size
from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.cli.inputs import reduced_potential
from openmm_tbg.evaluation.figures import in_basin
from openmm_tbg.frames import load_frames
from openmm_tbg.peptides import dipeptide, phi_of_dipeptide
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, ReferenceSystem
from openmm_tbg.simulation import Dynamics, RamachandranBias, learn_bias, simulate
from openmm_tbg.torsions import dihedral

N_BOOTSTRAP = 1000
OBC_OFFSET_NM = 0.009
BLOCKS_PS = (50.0, 100.0, 200.0)
FEWEST_CROSSINGS = 20
INTERVAL_PS = 0.5
FLATTEN, FLATTEN_TO_KT = 1.0, 10.0  # what is left of a barrier costs crossings
QUANTITY = "-ln P(0 < phi < 2) / P(rest), kT"


def free_energy(log_weights: Scalars, first: np.ndarray, second: np.ndarray) -> float:
    """-ln P(first) / P(second) in kT."""
    weights = np.exp(log_weights - log_weights.max())
    with np.errstate(divide="ignore"):
        return float(-np.log(weights[first].sum() / weights[second].sum()))


def errors_by_block(
    log_weights: Scalars, first: np.ndarray, second: np.ndarray, lengths: Sequence[int]
) -> list[float]:
    """Standard error of the same for each length of the blocks, in frames."""
    weights, errors = np.exp(log_weights - log_weights.max()), []
    for length in lengths:
        n_blocks = len(weights) // length
        sums = [
            (weights * part)[: n_blocks * length].reshape(n_blocks, length).sum(axis=1)
            for part in (first, second)
        ]
        drawn = np.random.default_rng(0).integers(n_blocks, size=(N_BOOTSTRAP, n_blocks))
        with np.errstate(divide="ignore"):
            values = -np.log(sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1))
        errors.append(float(values.std()) if np.isfinite(values).all() else math.inf)
    return errors


def difference(
    log_weights: Scalars,
    first: np.ndarray,
    second: np.ndarray,
    blocks_ps: Sequence[float],
    interval_ps: float,
) -> dict[str, Any]:
    """-ln P(first) / P(second) with its error for each length of the blocks, in kT."""
    lengths = [round(block_ps / interval_ps) for block_ps in blocks_ps]
    errors = errors_by_block(log_weights, first, second, lengths)
    return {
        "free_energy_difference": round(free_energy(log_weights, first, second), 4),
        "standard_error_by_block_length": {
            f"{block_ps:g} ps": round(error, 4)
            for block_ps, error in zip(blocks_ps, errors, strict=True)
        },
    }


def with_fast_solvent(system: openmm.System) -> openmm.System:
    """The System with GBSAOBCForce (OBC2) instead of OBC1 as a CustomGBForce."""
    fast = copy.deepcopy(system)
    index, slow = next(
        (k, force)
        for k, force in enumerate(fast.getForces())
        if isinstance(force, openmm.CustomGBForce)
    )
    solvent = openmm.GBSAOBCForce()
    solvent.setSolventDielectric(78.5)
    for particle in range(slow.getNumParticles()):
        charge, radius, scaled = slow.getParticleParameters(particle)
        solvent.addParticle(charge, radius + OBC_OFFSET_NM, scaled / radius)
    fast.removeForce(index)
    fast.addForce(solvent)
    return fast


def bias_of(fast: ReferenceSystem, file: Path, nanoseconds: float, seed: int) -> RamachandranBias:
    """Learnt on phi and on the torsion of the carboxylate; kept in a file."""
    if not file.exists():
        last = max(atom.index for atom in fast.topology.atoms() if atom.name == "O")
        atoms = (*phi_of_dipeptide(fast.topology), last)
        n_steps = round(5e5 * nanoseconds)
        bias = learn_bias(
            fast, atoms, n_steps=n_steps, seed=seed, flatten=FLATTEN, cap_kT=FLATTEN_TO_KT
        )
        bias.save(file)
    return RamachandranBias.load(file)


def crossings(phi: np.ndarray) -> int:
    """Changes between the insides of the two basins."""
    inside = np.where((phi > -2.5) & (phi < -0.7), -1, np.where((phi > 0.5) & (phi < 1.7), 1, 0))
    return int(np.count_nonzero(np.diff(inside[inside != 0])))


def agree(one: dict[str, float], other: dict[str, float]) -> bool:
    error = math.hypot(one["error"], other["error"])
    return abs(one["value"] - other["value"]) < 2 * error < math.inf


def part(log_weights: Scalars, rare: np.ndarray) -> dict[str, float]:
    """The difference from some of the frames, and the largest of its errors."""
    lengths = [round(block / INTERVAL_PS) for block in BLOCKS_PS]
    return {
        "value": round(free_energy(log_weights, rare, ~rare), 3),
        "error": round(max(errors_by_block(log_weights, rare, ~rare, lengths)), 3),
    }


def simulated(
    sequence: str, folder: Path, options: argparse.Namespace
) -> tuple[Positions, Scalars, np.ndarray]:
    """Frames, their log-weights for the target, and the walker that each belongs to."""
    peptide = dipeptide(sequence)
    fast = replace(peptide, system=with_fast_solvent(peptide.system))
    folder.mkdir(parents=True, exist_ok=True)
    bias = bias_of(fast, folder / f"{sequence}_bias.npz", options.bias_ns, options.seed)
    n_walkers = len(fast.starts_nm)
    per_walker = round(1000 * options.ns / INTERVAL_PS / n_walkers)
    frames = simulate(
        fast,
        folder / sequence,
        dynamics=Dynamics(INTERVAL_PS, equilibration_ps=20.0),
        n_frames=n_walkers * per_walker,
        n_walkers=n_walkers,
        seed=options.seed,
        bias=bias,
    )
    assert frames.n_skipped == 0
    positions_nm = frames.positions_nm.astype(np.float64)
    potentials = (reduced_potential(each) for each in (fast, peptide))
    u_fast, u = (potential(positions_nm) for potential in potentials)
    return positions_nm, frames.log_weights + u_fast - u, np.arange(len(frames)) // per_walker


def row_of(sequence: str, options: argparse.Namespace) -> dict[str, Any]:
    started = time.process_time()
    positions_nm, log_weights, walker = simulated(sequence, options.folder, options)
    phi = dihedral(positions_nm, phi_of_dipeptide(dipeptide(sequence).topology))
    rare = in_basin(phi)
    per_walker = np.count_nonzero(walker == 0)
    early = np.arange(len(phi)) % per_walker < per_walker // 2
    both = [part(log_weights[each], rare[each]) for each in (early, ~early)]
    walkers = [
        part(log_weights[walker == k], rare[walker == k]) for k in range(int(walker.max()) + 1)
    ]
    whole = difference(log_weights, rare, ~rare, BLOCKS_PS, INTERVAL_PS)
    error = max(whole["standard_error_by_block_length"].values())
    crossed = sum(crossings(phi[walker == k]) for k in range(len(walkers)))
    consistent = agree(*both) and agree(*walkers) and crossed >= FEWEST_CROSSINGS
    return {
        **whole,
        "standard_error": error,
        "consistent": consistent,
        "converged": consistent and error <= options.largest_error,
        "halves": both,
        "walkers": walkers,
        "crossings": crossed,
        "atoms": positions_nm.shape[1],
        "N": len(phi),
        "nanoseconds": options.ns,
        "nanoseconds_of_metadynamics": options.bias_ns,
        "effective_sample_size_of_weights": round(effective_sample_size(log_weights), 3),
        "seed": options.seed,
        "minutes_of_this_call": round((time.process_time() - started) / 60, 1),
    }


def of_dipeptides(options: argparse.Namespace) -> None:
    """Rows that the file has already are left as they are."""
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for sequence in options.sequences.split(","):
        if sequence in rows:
            continue
        rows[sequence] = row_of(sequence, options)
        print(sequence, rows[sequence], flush=True)
        record = {
            "quantity": QUANTITY,
            "method": "dynamics under a bias from metadynamics, GBSAOBCForce, reweighted to OBC1",
            "machine": machine(),
            "references": {
                name: [row["free_energy_difference"], row["standard_error"]]
                for name, row in rows.items()
                if row["consistent"]
            },
            "rows": rows,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def of_alanine(options: argparse.Namespace) -> None:
    sets = [load_frames(folder) for folder in options.frames]
    positions_nm = np.concatenate([each.positions_nm for each in sets]).astype(np.float64)
    log_weights = np.concatenate([each.log_weights for each in sets])
    (interval_ps,) = {each.metadata["interval_ps"] for each in sets}
    phi, psi = (dihedral(positions_nm, angle) for angle in (ALANINE_PHI, ALANINE_PSI))
    rare = in_basin(phi)
    helical = (phi < 0) & (psi > np.radians(-120)) & (psi < np.radians(60))
    extended = (phi < 0) & ~helical
    blocks = options.block_ps, interval_ps
    result = {
        "quantity": QUANTITY,
        **difference(log_weights, rare, ~rare, *blocks),
        "helical": {
            "quantity": "-ln P(helical) / P(extended) at phi < 0, helical -120 < psi < 60, kT",
            **difference(log_weights, helical, extended, *blocks),
        },
        "frames": len(phi),
        "nanoseconds": len(phi) * interval_ps / 1000,
        "seeds": [each.metadata["seed"] for each in sets],
        "crossings": int(np.count_nonzero(np.diff(rare.astype(int)))),
        "effective_sample_size_of_weights": round(effective_sample_size(log_weights), 3),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--frames", type=Path, nargs="+", help="biased ones of alanine dipeptide")
    what.add_argument("--sequences", help="dipeptides, such as KS,AT")
    parser.add_argument("--block-ps", type=float, nargs="+", default=[250.0, 500.0, 1000.0, 2000.0])
    parser.add_argument("--folder", type=Path, default=Path("dipeptide_references"))
    parser.add_argument("--ns", type=float, default=3.0, help="of each dipeptide, both walkers")
    parser.add_argument("--bias-ns", type=float, default=1.0, help="of metadynamics")
    parser.add_argument("--largest-error", type=float, default=0.15, help="kT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.sequences and not options.out:
        parser.error("--sequences needs --out, the file of references")
    (of_alanine if options.frames else of_dipeptides)(options)


if __name__ == "__main__":
    main()
