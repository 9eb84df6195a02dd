"""Filters on molecular dynamics of all 400 dipeptides: what passes, the margins, the speed.

    python benchmarks/dipeptide_filters.py --out benchmarks/dipeptide_filters.json

Each dipeptide runs at 310 K in its own force field from each start: 0.2 ps, then 25 fs a frame. Its
frames are screened as they are and with the atoms of equal label in random order, for each
encoding. `longest_bond` and `shortest_gap` are the extremes of distances of bonded and of other
pairs, in units of the sum of their covalent radii: BOND_STRETCH has to lie between. Planted in the
first start are a broken and an extra bond, two hydrogens swapped between atoms, and the mirror
image of either residue: `unexpected` names those whose cause is not the one that belongs to them.
A cis peptide bond is the same molecule by bonds and hand; `cis` is the cause it gets. A dipeptide
that the file holds already is left as it is, so that a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from likelihood import machine
from openmm import unit
from rdkit import Chem

from openmm_tbg.arrays import Cause
from openmm_tbg.encoding import encode_backbone, encode_elements, encode_full
from openmm_tbg.filters import BOND_STRETCH, TopologyFilter
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import AMINO_ACIDS, dipeptide
from openmm_tbg.torsions import with_dihedral

ENCODINGS = {"full": encode_full, "backbone": encode_backbone, "none": encode_elements}
TIMED = ("GG", "AA", "KS", "RV", "WK", "WW")  # 17 to 51 atoms
SEQUENCES = ["".join(letters) for letters in itertools.product(AMINO_ACIDS, repeat=2)]


def dynamics(reference, frames_each: int, rng: np.random.Generator) -> np.ndarray:
    """Frames 25 fs apart after 0.2 ps, from each start."""
    integrator = openmm.LangevinMiddleIntegrator(reference.temperature_K, 1.0, 0.001)
    integrator.setRandomNumberSeed(int(rng.integers(1, 2**31)))
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(reference.system, integrator, platform, {"Threads": "1"})
    frames = []
    for start in reference.starts_nm:
        context.setPositions(start)
        context.setVelocitiesToTemperature(reference.temperature_K, int(rng.integers(1, 2**31)))
        integrator.step(200)
        for _ in range(frames_each):
            integrator.step(25)
            positions = context.getState(positions=True).getPositions(asNumpy=True)
            frames.append(positions.value_in_unit(unit.nanometer))
    return np.array(frames)


def margins(molecule: Molecule, frames: np.ndarray) -> tuple[float, float]:
    table = Chem.GetPeriodicTable()
    radii = 0.1 * np.array([table.GetRcovalent(number) for number in molecule.atomic_numbers])
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    ratio = np.linalg.norm(frames[:, first] - frames[:, second], axis=-1)
    ratio /= radii[first] + radii[second]
    bonds = set(molecule.bonds)
    bonded = np.array([pair in bonds for pair in zip(first.tolist(), second.tolist(), strict=True)])
    return float(ratio[:, bonded].max()), float(ratio[:, ~bonded].min())


def shuffled(frames: np.ndarray, labels, rng: np.random.Generator) -> np.ndarray:
    orders = np.tile(np.arange(frames.shape[1]), (len(frames), 1))
    for label in set(labels):
        atoms = np.flatnonzero(np.array(labels) == label)
        orders[:, atoms] = rng.permuted(orders[:, atoms], axis=1)
    return np.take_along_axis(frames, orders[:, :, None], axis=1)


def faults(molecule: Molecule, frame: np.ndarray) -> dict[str, tuple[np.ndarray, Cause]]:
    """Faulty frames and what a filter with a label for each element says of them."""
    place = {
        key: atom
        for atom, key in enumerate(zip(molecule.residue_indices, molecule.names, strict=True))
    }
    nitrogen, hydrogen, carbon = place[0, "N"], place[0, "H2"], place[0, "C"]
    alpha = place.get((1, "HA"), place.get((1, "HA2")))
    planted = {name: frame.copy() for name in ("torn", "touching", "swapped", "0", "1")}
    planted["torn"][hydrogen] += frame[hydrogen] - frame[nitrogen]
    planted["touching"][hydrogen] = frame[place[1, "OXT"]] + [0.0, 0.0, 0.1]
    planted["swapped"][[hydrogen, alpha]] = frame[[alpha, hydrogen]]
    causes = {"torn": Cause.BOND_GRAPH, "touching": Cause.BOND_GRAPH, "swapped": Cause.NONE}
    for residue in (0, 1):
        moving = np.array(molecule.residue_indices) == residue
        arms = frame[[place[1, "N"], place[residue, "CA"]]] - frame[carbon]
        normal = np.cross(*arms) / np.linalg.norm(np.cross(*arms))
        heights = (frame - frame[carbon]) @ normal
        planted[str(residue)] -= 2 * np.outer(heights * moving, normal)
        inverted = [bool(moving[c.centre]) for c in molecule.stereocentres]
        mixed = any(inverted) and not all(inverted)
        causes[str(residue)] = Cause.CHIRALITY if mixed else Cause.NONE
    return {name: (planted[name], causes[name]) for name in planted}


def cis(molecule: Molecule, frame: np.ndarray) -> np.ndarray:
    keys = list(zip(molecule.residue_indices, molecule.names, strict=True))
    first, second, third, fourth = (
        keys.index(key) for key in ((0, "CA"), (0, "C"), (1, "N"), (1, "CA"))
    )
    moving = np.flatnonzero(np.array(molecule.residue_indices) == 1)
    return with_dihedral(frame, (first, second, third, fourth), moving, 0.0)


def row_of(sequence: str, frames_each: int) -> dict[str, object]:
    rng = np.random.default_rng(SEQUENCES.index(sequence))
    reference = dipeptide(sequence)
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    frames = dynamics(reference, frames_each, rng)
    row: dict[str, Any] = {
        "atoms": molecule.n_atoms,
        "stereocentres": len(molecule.stereocentres),
        "frames": len(frames),
    }
    row["longest_bond"], row["shortest_gap"] = margins(molecule, frames)
    for name, encode in ENCODINGS.items():
        labels = encode(molecule).labels
        topology_filter = TopologyFilter(molecule, labels)
        row[f"pass_{name}"] = int(topology_filter.screen(frames).passes.sum())
        row[f"pass_{name}_mirrored"] = int(topology_filter.screen(-frames).passes.sum())
        mixed = shuffled(frames, labels, rng)
        started = time.perf_counter()
        row[f"pass_{name}_shuffled"] = int(topology_filter.screen(mixed).passes.sum())
        row[f"ms_a_frame_{name}_shuffled"] = 1e3 * (time.perf_counter() - started) / len(frames)
    by_element = TopologyFilter(molecule, encode_elements(molecule).labels)
    full = TopologyFilter(molecule, encode_full(molecule).labels)
    planted = faults(molecule, reference.positions_nm)
    row["unexpected"] = [
        name
        for name, (frame, cause) in planted.items()
        if by_element.screen(frame[None]).cause[0] != cause
    ]
    if full.screen(planted["swapped"][0][None]).cause[0] != Cause.BOND_GRAPH:
        row["unexpected"].append("swapped, full")
    turned = cis(molecule, reference.positions_nm)
    row["cis"] = Cause(by_element.screen(turned[None]).cause[0]).name
    return row


def frames_a_second(sequence: str) -> float:
    """Of processor time, for frames in order: 3 pm of noise on the first start."""
    reference = dipeptide(sequence)
    molecule = Molecule.from_topology(reference.topology, reference.positions_nm)
    noise = np.random.default_rng(0).normal(scale=0.003, size=(2048, molecule.n_atoms, 3))
    frames = reference.positions_nm + noise
    topology_filter = TopologyFilter(molecule, encode_full(molecule).labels)
    assert topology_filter.screen(frames).passes.all()
    seconds = []
    for _ in range(5):
        started = time.process_time()
        topology_filter.screen(frames)
        seconds.append(time.process_time() - started)
    return len(frames) / float(np.median(seconds))


def summary(rows: dict[str, dict]) -> dict[str, object]:
    columns = {
        key: np.array([row[key] for row in rows.values()]) for key in next(iter(rows.values()))
    }
    passes = [key for key in columns if key.startswith("pass_")]
    return {
        "dipeptides": len(rows),
        "atoms": [int(columns["atoms"].min()), int(columns["atoms"].max())],
        "frames": int(columns["frames"].sum()),
        "frames_that_pass": {key[5:]: int(columns[key].sum()) for key in passes},
        "unexpected": {k: row["unexpected"] for k, row in rows.items() if row["unexpected"]},
        "cis": dict(Counter(row["cis"] for row in rows.values())),
        "bond_stretch": BOND_STRETCH,
        "longest_bond": float(columns["longest_bond"].max()),
        "shortest_gap": float(columns["shortest_gap"].min()),
        "ms_a_frame_to_reorder": {
            name: float(np.median(columns[f"ms_a_frame_{name}_shuffled"])) for name in ENCODINGS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=20, help="from each start")
    parser.add_argument(
        "--sequences", nargs="+", choices=SEQUENCES, metavar="XY", default=SEQUENCES
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*N-terminal proline")
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    started = time.perf_counter()
    for sequence in options.sequences:
        if sequence in rows or time.perf_counter() - started > 60 * options.minutes:
            continue
        rows[sequence] = row_of(sequence, options.frames)
        options.out.write_text(json.dumps({"rows": rows}))
    speeds = {sequence: frames_a_second(sequence) for sequence in TIMED}
    record = {"machine": machine(), "summary": summary(rows), "frames_a_second": speeds}
    print(json.dumps(record, indent=1))
    options.out.write_text(json.dumps(record | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
