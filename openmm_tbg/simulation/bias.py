"""A bias potential on the two backbone torsions of one residue."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from jaxtyping import Float, Float64
from openmm import unit

from ..torsions import dihedral

Grid = Float64[np.ndarray, "phi psi"]
Backbone = tuple[int, int, int, int, int]

EXPRESSION = "bias(dihedral(p1, p2, p3, p4), dihedral(p2, p3, p4, p5))"


@dataclass(frozen=True, eq=False)
class RamachandranBias:
    r"""A smooth periodic energy $b(\phi, \psi)$ that is added while frames are simulated.

    Frames from exp(-u - b) get the weight exp(+b). Between the points of the grid the energy is the
    periodic cubic spline through them.

    Args:
        atoms: C, N, CA, C, N along the backbone: phi is the dihedral of the first four, psi that of
            the last four.
        energies_kT: b at phi_i and psi_j in row i and column j; both angles go over
            `linspace(-pi, pi, n, endpoint=False)`.

    Raises:
        ValueError: if the atoms repeat, or the grid is not square, not finite or below 4 x 4.

    Example:
        >>> bias = RamachandranBias((4, 6, 8, 14, 16), np.full((24, 24), -2.0))
        >>> bias.energy_kT(np.random.default_rng(1).normal(size=(2, 22, 3))).round(9)
        array([-2., -2.])
    """

    atoms: Backbone
    energies_kT: Grid

    def __post_init__(self) -> None:
        if len(set(self.atoms)) != 5:
            raise ValueError(f"atoms is {self.atoms}: give C, N, CA, C, N, five different atoms")
        shape = self.energies_kT.shape
        if shape[0] != shape[1] or len(self.energies_kT) < 4:
            raise ValueError(f"energies_kT has the shape {shape}: give a square grid from 4 x 4 on")
        if not np.isfinite(self.energies_kT).all():
            raise ValueError("energies_kT holds numbers that are not finite: cap them")

    def energy_kT(  # noqa: N802 (units keep their letters)
        self, positions_nm: Float[np.ndarray, "*frames atoms 3"]
    ) -> Float64[np.ndarray, "*frames"]:
        """The bias energy of every frame in kT: the spline that OpenMM evaluates, to rounding."""
        positions_nm = positions_nm[..., list(self.atoms), :].astype(np.float64)
        phi = dihedral(positions_nm, (0, 1, 2, 3))
        psi = dihedral(positions_nm, (1, 2, 3, 4))
        coefficients = _spline_coefficients(self.energies_kT)
        energy = np.zeros_like(phi)
        for row, row_weight in _spline_weights(phi, len(coefficients)):
            for column, column_weight in _spline_weights(psi, len(coefficients)):
                energy += row_weight * column_weight * coefficients[row, column]
        return energy

    def force(self, temperature_K: float) -> openmm.CustomCompoundBondForce:
        """An OpenMM force with this energy, for a System at a temperature."""
        kT = unit.MOLAR_GAS_CONSTANT_R * temperature_K * unit.kelvin
        closed = np.pad(self.energies_kT, (0, 1), mode="wrap")  # OpenMM wants both ends
        values = closed.T.ravel() * kT.value_in_unit(unit.kilojoule_per_mole)
        force = openmm.CustomCompoundBondForce(5, EXPRESSION)
        ends = (-np.pi, np.pi, -np.pi, np.pi)
        force.addTabulatedFunction(
            "bias", openmm.Continuous2DFunction(*closed.shape, values, *ends, True)
        )
        force.addBond(self.atoms, [])
        return force

    @property
    def description(self) -> dict[str, object]:
        """What a manifest says of the bias: its atoms, and what tells its grid from others."""
        digest = hashlib.sha256(np.ascontiguousarray(self.energies_kT).tobytes()).hexdigest()
        return {"atoms": list(self.atoms), "grid": len(self.energies_kT), "sha256": digest}

    def save(self, path: Path) -> None:
        """Write the bias as an `.npz` file.

        Raises:
            FileExistsError: if the file is there already.
        """
        with Path(path).open("xb") as file:
            np.savez_compressed(file, atoms=self.atoms, energies_kT=self.energies_kT)

    @classmethod
    def load(cls, path: Path) -> RamachandranBias:
        """Read a bias that `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        with np.load(path, allow_pickle=False) as stored:
            if set(stored) != {"atoms", "energies_kT"}:
                raise ValueError(f"{path} holds {sorted(stored)}: give a file of a bias")
            c, n, ca, c_next, n_next = stored["atoms"].tolist()
            return cls((c, n, ca, c_next, n_next), stored["energies_kT"])


def _spline_coefficients(values: Grid) -> Grid:
    """Coefficients of the periodic cubic B-spline through the values, by Fourier division."""
    frequency = 2 * np.pi * np.fft.fftfreq(len(values))
    symbol = (2 + np.cos(frequency)) / 3  # of the B-spline's values 1/6, 4/6, 1/6 at the knots
    return np.asarray(np.fft.ifft2(np.fft.fft2(values) / np.outer(symbol, symbol)).real)


def _spline_weights(
    angles: Float64[np.ndarray, "*frames"], n: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four B-splines that reach over an angle: their indices on the circle, their values."""
    place = (angles + np.pi) / (2 * np.pi) * n
    knot = np.floor(place).astype(int)
    t = place - knot
    values = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    return [((knot + k - 1) % n, value / 6) for k, value in enumerate(values)]
