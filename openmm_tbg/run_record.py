"""What a Markov chain visited, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pandas as pd
from jaxtyping import Int64
from openmm import app

from .arrays import Cause, Positions, Scalars
from .exports import export_trajectory
from .shown import Shown
from .tally import Tally

COUNTS = tuple(field.name for field in fields(Tally) if field.name.startswith("n_"))
ATOM_COLUMNS = ["serial", "name", "element", "resSeq", "resName", "chainID", "segmentID"]

Counts = Int64[np.ndarray, "iterations counts"]


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord(Shown):
    """What a Markov chain visited, and what became of the proposals, iteration by iteration.

    Args:
        positions_nm: The state after each iteration, where the chain has it: not centred.
        u: Its reduced potential in kT.
        log_q: Its log-density in nats where a `TBGMove` knows it, the first that does; else NaN.
        counts: What each iteration added to the counts of all its `TBGMove`s; columns `COUNTS`.
        metadata: Of what the chain is: topology, System, temperature, moves, seed and versions.
    """

    positions_nm: Positions
    u: Scalars
    log_q: Scalars
    counts: Counts
    metadata: Mapping[str, Any]

    @property
    def n_proposed(self) -> Int64[np.ndarray, " iterations"]:
        """Proposals used in each iteration."""
        return self._count("n_proposed")

    @property
    def n_accepted(self) -> Int64[np.ndarray, " iterations"]:
        """Steps with proposals that changed the state, in each iteration."""
        return self._count("n_accepted")

    def n_rejected(self, cause: Cause) -> Int64[np.ndarray, " iterations"]:
        """Proposals that were rejected for a cause, in each iteration."""
        return self._count(f"n_rejected_{cause.name.lower()}")

    def trajectory(self) -> mdtraj.Trajectory:
        """The states for MDTraj, in float32, with the number of the iteration as time."""
        topology = self.metadata["topology"]
        bonds = np.array(topology["bonds"], dtype=np.float64).reshape(-1, 4)
        atoms = pd.DataFrame(topology["atoms"])
        return mdtraj.Trajectory(
            self.positions_nm, mdtraj.Topology.from_dataframe(atoms, bonds), np.arange(len(self))
        )

    def export(self, path: Path) -> None:
        """Write the states as XTC (to 0.001 nm), DCD, PDB or another format of MDTraj.

        Args:
            path: Its ending names the format.

        Raises:
            OSError: They cannot be written; a file that was there is as it was.
        """
        export_trajectory(self.trajectory(), path)

    def _facts(self) -> dict[str, object]:
        return {
            "iterations": len(self),
            "atoms": self.positions_nm.shape[1],
            "proposals": int(self.n_proposed.sum()),
            "accepted": int(self.n_accepted.sum()),
        }

    def __len__(self) -> int:
        return len(self.u)

    def _count(self, name: str) -> Int64[np.ndarray, " iterations"]:
        column: Int64[np.ndarray, " iterations"] = self.counts[:, COUNTS.index(name)]
        return column


def topology_manifest(topology: app.Topology) -> dict[str, Any]:
    """Atoms and bonds as MDTraj lists them, in plain values for JSON."""
    atoms, bonds = mdtraj.Topology.from_openmm(topology).to_dataframe()
    return {"atoms": atoms[ATOM_COLUMNS].to_dict("list"), "bonds": bonds.tolist()}
