"""Molecular dynamics of the target: what proposals are measured against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Positions, Scalars
from ..frames import Frames
from ..molecule import Molecule
from ..potential import ReducedPotential
from ..torsions import Dihedral

N_FRAMES = 20_000


@dataclass(frozen=True, eq=False)
class MolecularDynamics:
    """Frames of the target, against which proposals are measured.

    Args:
        molecule: The molecule; its bonds are measured.
        phi: Atoms of the dihedral phi.
        psi: Atoms of the dihedral psi.
        temperature_K: Temperature of the target in K.
        positions_nm: (frames, atoms, 3) in nm.
        u_kT: Reduced potential of each frame in kT.
        log_weights: Of each frame toward the target where the simulation was biased (a bias of b kT
            gives +b), up to a constant; None where all weights are equal.

    Raises:
        ValueError: There are no frames, the columns differ in length, or a number is not finite.
    """

    molecule: Molecule
    phi: Dihedral
    psi: Dihedral
    temperature_K: float
    positions_nm: Positions
    u_kT: Scalars
    log_weights: Scalars | None = None

    def __post_init__(self) -> None:
        columns = [self.positions_nm, self.u_kT]
        columns += [] if self.log_weights is None else [self.log_weights]
        lengths = [len(column) for column in columns]
        if lengths[0] == 0 or len(set(lengths)) > 1:
            raise ValueError(f"the columns have {lengths} frames: give one or more, equally many")
        if not all(np.isfinite(column).all() for column in columns):
            raise ValueError("a frame, an energy or a log-weight is not finite: leave that row out")

    @classmethod
    def of_frames(
        cls,
        frames: Frames,
        potential: ReducedPotential,
        molecule: Molecule,
        phi: Dihedral,
        psi: Dihedral,
        n: int = N_FRAMES,
    ) -> MolecularDynamics:
        """Stored frames, `n` at most, evenly spread, with their energies and weights in the target.

        Args:
            frames: As `load_frames` gives them.
            potential: Reduced potential of the target.
            molecule: The molecule.
            phi: Atoms of the dihedral phi.
            psi: Atoms of the dihedral psi.
            n: The most frames to take.

        Raises:
            ValueError: There are no frames, or an energy is not finite.
        """
        rows = np.unique(np.linspace(0, len(frames) - 1, min(n, len(frames))).astype(int))
        positions_nm = frames.positions_nm[rows].astype(np.float64)
        log_weights = None if frames.log_weights is None else frames.log_weights[rows]
        u_kT, kelvin = potential(positions_nm), potential.temperature_K
        return cls(molecule, phi, psi, kelvin, positions_nm, u_kT, log_weights)

    @property
    def weights(self) -> Scalars:
        """Weights of the frames, their sum 1."""
        if self.log_weights is None:
            return np.full(len(self.u_kT), 1 / len(self.u_kT))
        return normalised(self.log_weights)


def normalised(log_weights: Scalars) -> Scalars:
    """Weights of sum 1.

    Example:
        >>> normalised(np.array([1000.0, 1000.0, -np.inf]))
        array([0.5, 0.5, 0. ])
    """
    weights: Scalars = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return weights
