"""Free energies of a molecule of springs in OpenMM, whose normalising constants are known."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import jaxtyping
import mdtraj
import numpy as np
import openmm
import pytest
import rustworkx as rx
import torch
from openmm import unit
from openmmtools.states import ThermodynamicState
from oracles import (
    CUT,
    DIMENSIONS,
    FRAME,
    KT,
    N_ATOMS,
    TEMPERATURE,
    WIDTH_NM,
    GaussianGenerator,
    half_space,
    harmonic_system,
    pass_all,
)
from scipy.stats import ncx2, norm
from structures import Alanine

from openmm_tbg import ReducedPotential
from openmm_tbg.arrays import Positions, Scalars
from openmm_tbg.encoding import encode_full
from openmm_tbg.filters import BOND_STRETCH, TopologyFilter
from openmm_tbg.free_energy import (
    Estimated,
    average,
    bennett,
    bennett_difference,
    free_energy_between,
    free_energy_difference,
    free_energy_difference_of_chain,
    free_energy_profile,
    independent_rows,
    log_normalising_constant,
    multistate,
    u_nk,
)
from openmm_tbg.metropolis import log_weights
from openmm_tbg.molecule import Molecule
from openmm_tbg.prior import MeanFreeGaussian
from openmm_tbg.proposals import Proposals

REPEATS, N_PROPOSED, N_TARGET = 100, 300, 200
HOT, TETHER = 350.0 * unit.kelvin, 0.3
SHIFT = np.array([[0.006, 0.0, 0.0], [0.0, -0.006, 0.0], [0.0, 0.0, 0.004], [0.0, 0.0, 0.0]])

# Along each axis the first atom moves by `SHARE` of a standard deviation of the springs.
SHARE = math.sqrt(1 - 1 / N_ATOMS)
PLACE = FRAME[0] / WIDTH_NM


def log_z(width_nm: float) -> float:
    """Of springs of this width, first coordinate above the cut."""
    inside = norm.logcdf(-CUT * WIDTH_NM / width_nm)
    return float(DIMENSIONS * math.log(math.sqrt(2 * math.pi) * width_nm) + inside)


def log_z_with_tether() -> float:
    """The first atom is held at the origin as well: one more quadratic form along each axis."""
    stiffness = 1 + TETHER * SHARE**2
    along = -math.log(stiffness) / 2 - TETHER * PLACE**2 / 2 / stiffness
    mean = -TETHER * SHARE * PLACE[0] / stiffness
    free = DIMENSIONS * math.log(math.sqrt(2 * math.pi) * WIDTH_NM)
    return float(free + along.sum() + norm.logcdf((mean - CUT) * math.sqrt(stiffness)))


def reduced_potential(system: openmm.System, temperature: unit.Quantity) -> ReducedPotential:
    state = ThermodynamicState(system, temperature)
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


@dataclass(frozen=True)
class Columns:
    """Rows of proposals and of the target, each in all three Hamiltonians."""

    log_q: Scalars
    passes: np.ndarray
    u: dict[str, Scalars]

    def log_weights(self, name: str, rows: slice) -> Scalars:
        return log_weights(self.u[name][rows], self.log_q[rows], self.passes[rows])

    def u_kn(self, rows: slice) -> np.ndarray:
        outside = np.where(self.passes[rows], 0.0, np.inf)
        return np.stack([-self.log_q[rows], *(u[rows] + outside for u in self.u.values())])


POTENTIALS = {
    "own": (harmonic_system(), TEMPERATURE),
    "hot": (harmonic_system(), HOT),
    "tether": (harmonic_system(TETHER), TEMPERATURE),
}
FLOW = GaussianGenerator(1.15 * WIDTH_NM, SHIFT, half_space)


def columns_of(positions: Positions) -> Columns:
    rows = FLOW.evaluate(positions)
    energies = {name: reduced_potential(*which)(positions) for name, which in POTENTIALS.items()}
    return Columns(rows.log_q, rows.passes, energies)


@pytest.fixture(scope="module")
def proposed() -> Columns:
    rng = np.random.default_rng(1)
    return columns_of(FLOW.propose(REPEATS * N_PROPOSED, rng).positions_nm)


@pytest.fixture(scope="module")
def of_target() -> Columns:
    rng, n = np.random.default_rng(2), REPEATS * N_TARGET
    exact = GaussianGenerator(filter=half_space).propose(2 * n, rng)
    return columns_of(exact[exact.passes].positions_nm[:n])


def by_averaging(proposed: Columns, rows: slice, of_target: Columns, others: slice) -> Estimated:
    return log_normalising_constant(proposed.log_weights("own", rows))


def by_bennett(proposed: Columns, rows: slice, of_target: Columns, others: slice) -> Estimated:
    return bennett(proposed.log_weights("own", rows), of_target.log_weights("own", others))


def to_another_temperature(
    proposed: Columns, rows: slice, of_target: Columns, others: slice
) -> Estimated:
    return free_energy_between(*(proposed.log_weights(each, rows) for each in ("hot", "own")))


def to_another_force_field(
    proposed: Columns, rows: slice, of_target: Columns, others: slice
) -> Estimated:
    return free_energy_between(*(proposed.log_weights(each, rows) for each in ("tether", "own")))


def among_all(proposed: Columns, rows: slice, of_target: Columns, others: slice) -> Estimated:
    """MBAR over the flow, the target, and both other Hamiltonians, of which nothing is drawn."""
    u_kn = np.concatenate([proposed.u_kn(rows), of_target.u_kn(others)], axis=1)
    found = multistate(u_kn, np.array([N_PROPOSED, N_TARGET, 0, 0]))
    value, error = found.differences_kT[0, 3], found.errors_kT[0, 3]
    return Estimated(float(value), float(error), "MBAR", found.n, 0.0, None, found.doubts)


QUESTIONS = {
    "ln Z": (by_averaging, log_z(WIDTH_NM)),
    "Bennett": (by_bennett, log_z(WIDTH_NM)),
    "temperature": (
        to_another_temperature,
        log_z(WIDTH_NM) - log_z(WIDTH_NM * math.sqrt(HOT / TEMPERATURE)),
    ),
    "force field": (to_another_force_field, log_z(WIDTH_NM) - log_z_with_tether()),
    "states": (among_all, -log_z_with_tether()),
}
Ask = Callable[[Columns, slice, Columns, slice], Estimated]


def require_standard(scores: Scalars) -> None:
    """Mean 0 and standard deviation 1, each within four of its errors."""
    assert abs(scores.mean()) < 4 / math.sqrt(len(scores))
    assert abs(scores.std(ddof=1) - 1) < 4 / math.sqrt(2 * (len(scores) - 1))


@pytest.mark.parametrize("name", QUESTIONS)
def test_errors_are_those_of_repeats(name: str, proposed: Columns, of_target: Columns) -> None:
    ask, truth = QUESTIONS[name]
    found = [
        ask(
            proposed,
            slice(k * N_PROPOSED, (k + 1) * N_PROPOSED),
            of_target,
            slice(k * N_TARGET, (k + 1) * N_TARGET),
        )
        for k in range(REPEATS)
    ]
    require_standard(np.array([(each.value - truth) / each.error for each in found]))
    values = np.array([each.value for each in found])
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(REPEATS) < 0.1
    assert all(each.is_trusted for each in found)


# The absolute free energy of three atoms in a row, by quadrature over bonds and angle.


@dataclass(frozen=True)
class Row:
    """Two harmonic bonds that the filters tell from none, and the ends apart from each other."""

    symbols: str
    labels: tuple[int, int, int]
    lengths_nm: tuple[float, float]
    longest_nm: tuple[float, float, float]  # of the bonds; of the ends the shortest
    log_arrangements: float

    @property
    def molecule(self) -> Molecule:
        numbers = tuple({"H": 1, "O": 8}[symbol] for symbol in self.symbols)
        names, residues = tuple(self.symbols), ("ROW",) * 3
        return Molecule(numbers, names, residues, (0, 0, 0), ((0, 1), (1, 2)), ())

    @property
    def system(self) -> openmm.System:
        system, bonds = openmm.System(), openmm.HarmonicBondForce()
        for _ in self.symbols:
            system.addParticle(1.0)
        for k, length in enumerate(self.lengths_nm):
            bonds.addBond(k, k + 1, length, KT / BOND_WIDTH_NM**2)
        system.addForce(bonds)
        return system

    @property
    def log_z(self) -> float:
        """Over centred positions: 3^(-3/2) times the integral over the two bond vectors."""
        r, s = (
            (np.arange(2000) + 0.5)[:, np.newaxis] * longest / 2000
            for longest in self.longest_nm[:2]
        )
        s = s.T
        boltzmann = [
            np.exp(-((each - length) ** 2) / 2 / BOND_WIDTH_NM**2)
            for each, length in zip((r, s), self.lengths_nm, strict=True)
        ]
        largest_cosine = np.clip((r**2 + s**2 - self.longest_nm[2] ** 2) / (2 * r * s), -1, 1)
        integrand = r**2 * s**2 * boltzmann[0] * boltzmann[1] * (largest_cosine + 1)
        cell = self.longest_nm[0] * self.longest_nm[1] / 2000**2
        return math.log(8 * math.pi**2 * 3**-1.5 * integrand.sum() * cell)


BOND_WIDTH_NM = 0.012
O_H, O_O, H_H = (BOND_STRETCH * radii for radii in (0.066 + 0.031, 0.132, 0.062))
ROWS = {
    "equal ends": Row("HOH", (1, 0, 1), (0.1, 0.1), (O_H, O_H, H_H), 0.0),
    "equal neighbours": Row("OOH", (0, 0, 1), (0.14, 0.1), (O_O, O_H, O_H), math.log(2)),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_absolute_free_energy_counts_the_arrangements_of_equal_atoms(name: str) -> None:
    """Z holds HOH both ways round; a flow that takes the two O of OOH for each other adds ln 2."""
    row, prior = ROWS[name], MeanFreeGaussian.isotropic(3, 0.055)
    x = prior.sample(40_000, torch.Generator().manual_seed(3))
    screened = TopologyFilter(row.molecule, row.labels).screen(x.numpy())
    drawn = Proposals(screened.positions_nm, prior.log_prob(x).numpy(), screened.cause)
    u = drawn.reduced_potentials(reduced_potential(row.system, TEMPERATURE))
    found = log_normalising_constant(log_weights(u, drawn.log_q, drawn.passes))
    assert abs(found.value - row.log_z - row.log_arrangements) < 4 * found.error < 0.2
    assert found.is_trusted


def test_the_arrangements_of_alanine_dipeptide(alanine: Alanine) -> None:
    """Three methyl groups, and no labels beyond: what the documentation says of its ln Z."""
    labels, graph = encode_full(alanine.molecule).labels, rx.PyGraph()
    graph.add_nodes_from(labels)
    graph.extend_from_edge_list(list(alanine.molecule.bonds))
    symmetries = sum(1 for _ in rx.graph_vf2_mapping(graph, graph, node_matcher=operator.eq))
    assert symmetries == math.prod(map(math.factorial, Counter(labels).values())) == 216


# What MDTraj computes, and what is known of it without a flow.


def trajectory(positions: Positions) -> mdtraj.Trajectory:
    topology = mdtraj.Topology()
    residue = topology.add_residue("TOY", topology.add_chain())
    for symbol in "CHON":
        topology.add_atom(symbol, mdtraj.element.get_by_symbol(symbol), residue)
    return mdtraj.Trajectory(positions, topology)


def distances(frames: mdtraj.Trajectory) -> np.ndarray:
    return mdtraj.compute_distances(frames, [[0, 1]], periodic=False)


def radii(frames: mdtraj.Trajectory) -> np.ndarray:
    return mdtraj.compute_rg(frames)[:, np.newaxis]


DISTANCES = np.linspace(0.06, 0.16, 6)  # nm
RADII = np.linspace(0.085, 0.125, 5)


def chances_of_distances() -> np.ndarray:
    """The bond vector is Gaussian of width sqrt(2): its squared length is noncentral chi-square."""
    width = math.sqrt(2) * WIDTH_NM
    length = float(np.linalg.norm(FRAME[1] - FRAME[0]))
    below = ncx2.cdf((DISTANCES / width) ** 2, 3, (length / width) ** 2)
    chances: np.ndarray = np.diff(below)
    return chances


def chances_of_radii() -> np.ndarray:
    """The root mean square distance from the centre, of many exact draws."""
    draws = GaussianGenerator().propose(1_000_000, np.random.default_rng(5)).positions_nm
    found = np.sqrt(np.square(draws).sum(axis=(1, 2)) / N_ATOMS)
    return np.histogram(found, RADII)[0] / len(draws)


COORDINATES = {
    "distance": (distances, DISTANCES, chances_of_distances),
    "radius of gyration": (radii, RADII, chances_of_radii),
}


@pytest.mark.parametrize("name", COORDINATES)
def test_profiles_over_what_mdtraj_computes(name: str) -> None:
    """By weights of proposals, and by MBAR over these and exact samples of the target."""
    compute, edges, chances = COORDINATES[name]
    flow = GaussianGenerator(1.15 * WIDTH_NM, SHIFT, pass_all)
    n_k = np.array([20_000, 4000])
    drawn = flow.propose(20_000, np.random.default_rng(3)).positions_nm
    exact = GaussianGenerator().propose(4000, np.random.default_rng(4)).positions_nm
    positions = np.concatenate([drawn, exact])
    u_kn = np.stack(
        [
            -flow.evaluate(positions).log_q,
            reduced_potential(harmonic_system(), TEMPERATURE)(positions),
        ]
    )
    weights, x = u_kn[0, : len(drawn)] - u_kn[1, : len(drawn)], compute(trajectory(positions))
    by_weights = free_energy_profile(weights, x[: len(drawn)], [edges])
    by_mbar = multistate(u_kn, n_k).profile(x, [edges], state=1)
    expected = -np.log(chances())
    for found in (by_weights, by_mbar):
        error = np.hypot(found.error_kT, found.error_kT[found.free_energy_kT == 0])
        assert (np.abs(found.free_energy_kT - expected + expected.min()) < 4 * error).all()
        assert found.error_kT.max() < 0.1
        assert found.verdict.doubts == ()
    assert (by_mbar.error_kT < by_weights.error_kT).all()
    of_flow = free_energy_profile(np.zeros(len(drawn)), x[: len(drawn)], [edges])
    assert np.abs(of_flow.free_energy_kT - by_weights.free_energy_kT).max() > 0.3


# Umbrella windows in one dimension, whose profile rests on the free energies of all of them.

CENTRES, STIFFNESS, N_WINDOW = np.linspace(-3.0, 3.0, 5), 5.0, 100
BINS = np.array([-3.0, -1.5, -0.5, 0.5, 1.5, 3.0])


def windows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Exact draws of x^2 / 2 under springs, and their reduced potentials; the last is without."""
    spread = 1 / math.sqrt(1 + STIFFNESS)
    means = np.repeat(CENTRES * STIFFNESS / (1 + STIFFNESS), N_WINDOW)
    x = means + spread * rng.normal(size=len(means))
    springs = STIFFNESS * (x - CENTRES[:, np.newaxis]) ** 2 / 2
    return x, np.concatenate([springs, np.zeros((1, len(x)))]) + x**2 / 2


def test_errors_of_a_profile_count_those_of_the_states() -> None:
    """As weights of independent proposals, those of MBAR would have errors that are too small."""
    n_k = np.array([N_WINDOW] * len(CENTRES) + [0])
    truth = np.log(np.diff(norm.cdf(BINS)))
    scores, as_weights = np.empty((2, REPEATS, len(truth)))
    for k in range(REPEATS):
        x, u_kn = windows(np.random.default_rng(100 + k))
        states = multistate(u_kn, n_k)
        profile = states.profile(x[:, np.newaxis], [BINS], state=len(CENTRES))
        log_p = np.log(np.histogram(x, BINS, weights=np.exp(states.log_weights(len(CENTRES))))[0])
        density = -(log_p - np.log(np.diff(BINS)))
        assert profile.free_energy_kT == pytest.approx(density - density.min(), abs=1e-9)
        naive = free_energy_profile(states.log_weights(len(CENTRES)), x[:, np.newaxis], [BINS])
        scores[k] = (log_p - truth) / profile.error_kT
        as_weights[k] = (log_p - truth) / naive.error_kT
    for of_bin in scores.T:
        require_standard(of_bin)
    assert (as_weights[:, [0, -1]].std(axis=0, ddof=1) > 1.5).all()


def test_a_profile_of_proposals_alone_has_the_same_errors_by_mbar() -> None:
    rng = np.random.default_rng(7)
    x = 1.3 * rng.normal(size=3000)
    u_kn = np.stack([x**2 / 2 / 1.3**2, x**2 / 2])
    by_mbar = multistate(u_kn, np.array([3000, 0])).profile(x[:, np.newaxis], [BINS], state=1)
    by_weights = free_energy_profile(u_kn[0] - u_kn[1], x[:, np.newaxis], [BINS])
    assert by_mbar.free_energy_kT == pytest.approx(by_weights.free_energy_kT, abs=1e-9)
    assert by_mbar.error_kT == pytest.approx(by_weights.error_kT, rel=1e-6)
    assert by_mbar.n_effective == pytest.approx(by_weights.n_effective, rel=1e-9)


def test_what_a_profile_cannot_tell_it_says() -> None:
    x = np.array([0.1, 0.2, 0.6, 1.5, 7.0])
    found = free_energy_profile(np.log([1.0, 3.0, 1.0, 1.0, 1.0]), x[:, None], [np.arange(4.0)])
    assert found.n_effective == pytest.approx([25 / 11, 1.0, 0.0])
    assert str(found.verdict).startswith("do not trust: 3.7 effective proposals in the target")


def test_the_upper_edge_belongs_to_the_last_bin_and_bins_are_in_c_order() -> None:
    x = np.array([[0.0, 2.0], [1.0, 0.0], [2.0, 1.0], [2.0, 1.5], [-0.1, 0.0], [0.5, 2.1]])
    edges = [np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])]
    found = free_energy_profile(np.zeros(6), x, edges)
    counts, _ = np.histogramdd(x, edges)
    assert counts.tolist() == [[0, 1], [1, 2]]
    assert np.exp(-found.free_energy_kT) * 2 == pytest.approx(counts)
    assert found.n_effective == pytest.approx(counts)


TEN, WORDS = np.zeros(10), "give a one-dimensional NumPy array of"
IN = np.arange(10) < 4


@pytest.mark.parametrize(
    ("ask", "arguments", "message"),
    [
        (log_normalising_constant, (np.zeros((5, 2)),), r"log_weights is an array of float64 of"),
        (log_normalising_constant, ([0.0] * 10,), f"of the type list: {WORDS} floats"),
        (log_normalising_constant, (TEN * unit.kilojoule_per_mole,), "of the type Quantity"),
        (log_normalising_constant, (np.zeros(10, dtype=int),), "array of int64"),
        (average, (TEN, TEN * unit.nanometer), "observable is of the type Quantity"),
        (
            free_energy_difference,
            (TEN, IN.astype(int), ~IN),
            f"first is an array of int64 .*{WORDS} bool",
        ),
        (free_energy_difference, (TEN, IN, (~IN).astype(float)), "second is an array of float64"),
        (bennett_difference, (TEN, IN.astype(int), ~IN, TEN, TEN), "first is an array of int64"),
        (free_energy_difference_of_chain, (IN.astype(int),), "first is an array of int64"),
        (independent_rows, (TEN * unit.radian,), "series is of the type Quantity"),
        (free_energy_profile, (TEN, TEN, [BINS]), "a column for each coordinate"),
        (free_energy_profile, (TEN, TEN[:, None] * unit.degree, [BINS]), "coordinates: give a"),
        (free_energy_profile, (TEN, TEN[:, None], [np.array([0.0, np.nan])]), "rising edges"),
        (free_energy_profile, (TEN, TEN[:, None], [np.zeros(1)]), "rising edges"),
        (multistate, ([TEN], np.array([10])), "u_kn: give a NumPy array of floats in kT"),
        (multistate, (TEN[None] * unit.kilojoule_per_mole, np.array([10])), "u_kn: give a NumPy"),
        (multistate, (TEN[None], np.array([10.0])), r"n_k is \[10.\]: give an array of whole"),
        (multistate, (np.zeros((2, 10)), np.array([11, -1])), "n_k is .*: give an array of whole"),
        (u_nk, (TEN[None], np.array([10]), 300 * unit.kelvin), "temperature_K is 300 K: give one"),
        (log_weights, (TEN * unit.kilojoule_per_mole, TEN, IN), "u is of the type Quantity"),
        (log_weights, (TEN, TEN, IN.astype(int)), "passes is an array of int64"),
    ],
)
def test_what_has_a_unit_or_is_no_array_is_refused(
    ask: Callable[..., object],
    arguments: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zeros and ones would be taken for indices, and a table of weights for its rows."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        ask(*arguments)
