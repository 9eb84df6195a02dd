"""Samples to be turned and looked at in a notebook."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from ..arrays import Frame, Positions
from ..molecule import Molecule
from ..stereochemistry import skeleton
from .structures import drawn_by_weight

if TYPE_CHECKING:
    import py3Dmol

Weights = Float64[np.ndarray, " weights"]
VIEWER = Path(__file__).parent / "3Dmol-min.js"
ANGSTROMS_PER_NM = 10.0
STICK_RADIUS = 0.06
WIDTH = "min(640px, 100%)"  # no wider than a cell of the notebook


def view(
    molecule: Molecule,
    positions_nm: Positions,
    log_weights: Weights | None = None,
    n: int = 20,
) -> py3Dmol.view:
    """Some samples of a molecule, superposed, as a `py3Dmol.view`, which a notebook shows.

    They are drawn by their weights as in a report, or evenly spread where there are none. 3Dmol.js
    comes with this package and into the page, so that no network is needed.

    Args:
        molecule: Elements and bonds.
        positions_nm: Samples, such as proposals or the states of a chain, in nm.
        log_weights: Of each, up to a constant, -inf where it counts for nothing, as a proposal that
            fails a filter; None: all weights are equal.
        n: Number of draws; heavy samples come more than once and are shown once.

    Raises:
        ImportError: py3Dmol is not installed.
        ValueError: `n` is below 1, the samples are of another molecule, no weight is above zero, or
            a sample with a weight is not finite.

    Reference:
        Rego & Koes, Bioinformatics 31 (2015) 1322.
    """
    try:
        import py3Dmol
    except ImportError as error:
        raise ImportError("view needs py3Dmol: pip install 'openmm-tbg[notebook]'") from error
    if log_weights is None:
        log_weights = np.zeros(len(positions_nm))
    _require_visible(molecule, positions_nm, log_weights, n)
    frames, _ = drawn_by_weight(positions_nm, log_weights, n)
    script = base64.b64encode(VIEWER.read_bytes()).decode()
    shown = py3Dmol.view(width=WIDTH, js=f"data:text/javascript;base64,{script}")
    for frame in frames:
        shown.addModel(_mol_block(molecule, frame), "mol")
    shown.setStyle({"stick": {"radius": STICK_RADIUS}})
    shown.zoomTo()
    return shown


def _require_visible(
    molecule: Molecule,
    positions_nm: Positions,
    log_weights: Weights,
    n: int,
) -> None:
    if n < 1:
        raise ValueError(f"n is {n}: draw at least one sample")
    if positions_nm.shape[1] != molecule.n_atoms or len(log_weights) != len(positions_nm):
        raise ValueError(
            f"positions_nm has the shape {positions_nm.shape}, the molecule {molecule.n_atoms} "
            f"atoms, log_weights {len(log_weights)} rows: give samples of this molecule, and a "
            "log-weight of each"
        )
    counting = log_weights > -np.inf
    if not counting.any():
        raise ValueError("log_weights: no sample has a weight, there is nothing to show")
    if not np.isfinite(positions_nm[counting]).all():
        raise ValueError(
            "positions_nm: a sample is not finite; leave out those that fail a filter, or give "
            "log_weights, -inf for them"
        )


def _mol_block(molecule: Molecule, frame_nm: Frame) -> str:
    mol = skeleton(molecule.atomic_numbers, molecule.bonds)
    conformer = Chem.Conformer(molecule.n_atoms)
    conformer.SetPositions(ANGSTROMS_PER_NM * frame_nm)
    mol.AddConformer(conformer)
    block: str = Chem.MolToMolBlock(mol, includeStereo=False, kekulize=False)
    return block
