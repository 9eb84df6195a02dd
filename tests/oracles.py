"""A molecule of springs whose equilibrium is a known Gaussian, and generators of known density."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import openmm
import pytest
from jaxtyping import Float64
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_tbg import move
from openmm_tbg.arrays import Cause, Causes, Frame, Positions
from openmm_tbg.molecule import Molecule
from openmm_tbg.proposals import Proposals

N_ATOMS = 4
DIMENSIONS = 3 * (N_ATOMS - 1)
WIDTH_NM = 0.02
TEMPERATURE = 300.0 * unit.kelvin
KT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE).value_in_unit(unit.kilojoule_per_mole)
MASSES = (12.0, 1.0, 16.0, 14.0)

FRAME: Frame = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.12, 0.0], [0.0, 0.0, 0.15]])
FRAME -= FRAME.mean(axis=0)

MOLECULE = Molecule(
    atomic_numbers=(6, 1, 8, 7),
    names=("C", "H", "O", "N"),
    residue_names=("TOY",) * N_ATOMS,
    residue_indices=(0,) * N_ATOMS,
    bonds=((0, 1), (0, 2), (0, 3)),
    stereocentres=(),
)


def harmonic_system(tether: float = 0.0) -> openmm.System:
    r"""Springs between all pairs, so that centred positions y are Gaussian around FRAME.

    $$ u = \sum_{i<j} |x_{ij} - r_{ij}|^2 / (2 N \sigma^2) = \sum_i |y_i - r_i|^2 / (2 \sigma^2) $$

    with sigma = WIDTH_NM. `tether` adds tether |x_0|^2 / (2 sigma^2), which feels the centre.
    """
    system = openmm.System()
    for mass in MASSES:
        system.addParticle(mass)
    springs = openmm.CustomCompoundBondForce(
        2, "k*((x1-x2-dx)^2 + (y1-y2-dy)^2 + (z1-z2-dz)^2)/2; k=%r" % (KT / N_ATOMS / WIDTH_NM**2)
    )
    for parameter in ("dx", "dy", "dz"):
        springs.addPerBondParameter(parameter)
    for i in range(N_ATOMS):
        for j in range(i):
            springs.addBond([i, j], FRAME[i] - FRAME[j])
    system.addForce(springs)
    well = openmm.CustomExternalForce("k*(x^2+y^2+z^2)/2; k=%r" % (tether * KT / WIDTH_NM**2))
    well.addParticle(0)
    system.addForce(well)
    return system


# What the library has to refuse, and what its message has to say.

Spoil = Callable[[openmm.System], None]


def constrain(system: openmm.System) -> None:
    system.addConstraint(0, 1, 0.1)


def add_virtual_site(system: openmm.System) -> None:
    system.setParticleMass(3, 0.0)
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))


def freeze(system: openmm.System) -> None:
    system.setParticleMass(2, 0.0)


def make_periodic(system: openmm.System) -> None:
    force = openmm.NonbondedForce()
    for _ in range(N_ATOMS):
        force.addParticle(0.0, 0.1, 0.0)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    system.addForce(force)


def add_barostat(system: openmm.System) -> None:
    make_periodic(system)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))


def add_particle(system: openmm.System) -> None:
    system.addParticle(1.0)


REFUSALS: list[tuple[Spoil, str]] = [
    (constrain, "1 constraints.*constraints=None"),
    (add_virtual_site, "virtual sites: use a force field without"),
    (freeze, "mass zero: give each a mass"),
    (make_periodic, "periodic: create it with nonbondedMethod=NoCutoff"),
    (add_barostat, "barostat: leave the pressure"),
    (add_particle, "5 particles, the generator 4 atoms"),
]


def harmonic_state(system: openmm.System | None = None) -> ThermodynamicState:
    return ThermodynamicState(system or harmonic_system(), TEMPERATURE)


def reference_cache() -> ContextCache:
    return ContextCache(platform=openmm.Platform.getPlatformByName("Reference"))


def sampler_state(positions_nm: Frame = FRAME, velocities: bool = True) -> SamplerState:
    state = SamplerState(positions_nm * unit.nanometer)
    if velocities:
        state.velocities = np.zeros((N_ATOMS, 3)) * unit.nanometer / unit.picosecond
    return state


def positions_nm(state: SamplerState) -> Frame:
    return np.array(state.positions.value_in_unit(unit.nanometer))


def forget_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all that copies of moves share, as in a process that has just started."""
    monkeypatch.setattr(move, "_POOLS", {})
    monkeypatch.setattr(move, "_GENERATORS", {})
    monkeypatch.setattr(move, "_N_DRAWN", defaultdict(int))


def mean_free_normal(n: int, rng: np.random.Generator) -> Positions:
    noise = rng.normal(size=(n, N_ATOMS, 3))
    return noise - noise.mean(axis=1, keepdims=True)


Filter = Callable[[Positions], Causes]


def pass_all(positions: Positions) -> Causes:
    return np.full(len(positions), Cause.NONE, dtype=np.int8)


@dataclass
class GaussianGenerator:
    """A mean-free Gaussian around FRAME + shift; q = p of `harmonic_system` as it stands.

    `filter` judges centred positions. The calls of `evaluate` are counted.
    """

    width_nm: float = WIDTH_NM
    shift_nm: Float64[np.ndarray, "atoms 3"] = field(default_factory=lambda: np.zeros((N_ATOMS, 3)))
    filter: Filter = pass_all
    molecule: Molecule = MOLECULE
    reference: str = "toy"
    n_evaluations: int = 0

    @property
    def centre_nm(self) -> Frame:
        return FRAME + self.shift_nm - self.shift_nm.mean(axis=0)

    @property
    def sha256(self) -> str:
        law = f"{self.width_nm!r} {self.centre_nm.tolist()!r} {self.filter.__qualname__}"
        return hashlib.sha256(law.encode()).hexdigest()

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        return self._rows(self.centre_nm + self.width_nm * mean_free_normal(n, rng))

    def evaluate(self, positions_nm: Positions) -> Proposals:
        self.n_evaluations += len(positions_nm)
        return self._rows(positions_nm)

    def _rows(self, positions: Positions) -> Proposals:
        deviations = (positions - self.centre_nm) / self.width_nm
        constant = DIMENSIONS * np.log(np.sqrt(2 * np.pi) * self.width_nm)
        log_q = -np.square(deviations).sum(axis=(1, 2)) / 2 - constant
        return Proposals(positions, log_q, self.filter(positions))


# The half-space filter cuts the first coordinate, in units of its standard deviation.
CUT = -0.5
FIRST_WIDTH_NM = WIDTH_NM * np.sqrt(1 - 1 / N_ATOMS)


def first_coordinate(positions: Positions) -> Float64[np.ndarray, " batch"]:
    return (positions[:, 0, 0] - FRAME[0, 0]) / FIRST_WIDTH_NM


def half_space(positions: Positions) -> Causes:
    return np.where(first_coordinate(positions) > CUT, Cause.NONE, Cause.CHIRALITY).astype(np.int8)


def reject_all(positions: Positions) -> Causes:
    return np.full(len(positions), Cause.BOND_GRAPH, dtype=np.int8)


class RedrawsUntilPass(GaussianGenerator):
    """Wrong: hides failing proposals and the failure of the current state."""

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        passing = super().propose(8 * n, rng)
        return passing[passing.passes][:n]

    def evaluate(self, positions_nm: Positions) -> Proposals:
        return judged_leniently(super().evaluate(positions_nm))


class TestsOnlyTheProposal(GaussianGenerator):
    """Wrong: a current state outside the filters counts as inside."""

    __test__ = False

    def evaluate(self, positions_nm: Positions) -> Proposals:
        return judged_leniently(super().evaluate(positions_nm))


class ForgetsDensity(GaussianGenerator):
    """Wrong: treats the proposals as symmetric."""

    def _rows(self, positions: Positions) -> Proposals:
        rows = super()._rows(positions)
        return Proposals(rows.positions_nm, np.zeros(len(rows)), rows.cause)


def judged_leniently(rows: Proposals) -> Proposals:
    return Proposals(rows.positions_nm, rows.log_q, pass_all(rows.positions_nm))
