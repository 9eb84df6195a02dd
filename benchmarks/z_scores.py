"""Are the errors of free energies those that repeats show?

    python benchmarks/z_scores.py --out benchmarks/z_scores.json

Each question is asked again and again of fresh samples, and its z-score taken, the distance from
the known answer over the error that came with it. Their mean should be 0 and their standard
deviation 1.

The molecule is four atoms held by springs in OpenMM, so that centred positions are Gaussian, and
ln Z is known; its filter asks that the first coordinate, in units of its spread, lies above -0.5.
The flow is a Gaussian, 1.15 times as wide and shifted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from likelihood import machine
from openmm import unit
from openmmtools.states import ThermodynamicState
from tqdm import tqdm

from openmm_tbg import ReducedPotential
from openmm_tbg.free_energy import (
    Estimated,
    average,
    bennett,
    bennett_difference,
    free_energy_between,
    free_energy_difference,
    free_energy_difference_of_chain,
    log_normalising_constant,
    multistate,
)
from openmm_tbg.metropolis import independence_metropolis, log_weights

N_ATOMS, WIDTH_NM, WIDER, CUT, SPLIT, N = 4, 0.02, 1.15, -0.5, 1.0, 500
TEMPERATURE, HOT_K = 300.0 * unit.kelvin, 350.0
DIMENSIONS = 3 * (N_ATOMS - 1)
CENTRE_NM = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.12, 0.0], [0.0, 0.0, 0.15]])
CENTRE_NM -= CENTRE_NM.mean(axis=0)
SHIFT_NM = 0.004 * np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
SPREAD_NM = WIDTH_NM * math.sqrt(1 - 1 / N_ATOMS)  # of one coordinate of one atom
HOTTER = math.sqrt(HOT_K / 300.0)


def above(x: float) -> float:
    """Probability of a normal variable above x."""
    return 0.5 * math.erfc(x / math.sqrt(2))


LOG_Z = DIMENSIONS * math.log(math.sqrt(2 * math.pi) * WIDTH_NM) + math.log(above(CUT))
HEATED = DIMENSIONS * math.log(HOTTER) + math.log(above(CUT / HOTTER) / above(CUT))
DIFFERENCE = -math.log(above(SPLIT) / (above(CUT) - above(SPLIT)))
ANSWERS = {
    "log_normalising_constant": LOG_Z,
    "average": math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / above(CUT),
    "free_energy_difference": DIFFERENCE,
    "free_energy_between": -HEATED,
    "bennett": LOG_Z,
    "bennett_difference": DIFFERENCE,
    "multistate": -LOG_Z - HEATED,
    "multistate, a bin of a profile": math.log((above(0.0) - above(SPLIT)) / above(CUT)),
    "free_energy_difference_of_chain": DIFFERENCE,
}


def springs() -> ReducedPotential:
    """u = sum of |y_i - r_i|^2 / (2 width^2) over centred positions y, as springs between pairs."""
    system = openmm.System()
    for _ in range(N_ATOMS):
        system.addParticle(12.0)
    kT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE).value_in_unit(unit.kilojoule_per_mole)
    force = openmm.CustomCompoundBondForce(
        2, f"{kT / N_ATOMS / WIDTH_NM**2!r} / 2 * ((x1-x2-dx)^2 + (y1-y2-dy)^2 + (z1-z2-dz)^2)"
    )
    for name in ("dx", "dy", "dz"):
        force.addPerBondParameter(name)
    for pair in itertools.combinations(range(N_ATOMS), 2):
        force.addBond(pair, CENTRE_NM[pair[0]] - CENTRE_NM[pair[1]])
    system.addForce(force)
    state = ThermodynamicState(system, TEMPERATURE)
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


@dataclass(frozen=True)
class Rows:
    """Centred configurations, their reduced potentials and log-densities, and their coordinate."""

    u: np.ndarray
    log_q: np.ndarray
    x: np.ndarray

    @property
    def passes(self) -> np.ndarray:
        return self.x > CUT

    @property
    def log_weights(self) -> np.ndarray:
        return log_weights(self.u, self.log_q, self.passes)

    def __getitem__(self, rows: np.ndarray | slice) -> Rows:
        return Rows(self.u[rows], self.log_q[rows], self.x[rows])


def drawn(potential: ReducedPotential, rng: np.random.Generator, n: int, of_flow: bool) -> Rows:
    noise = rng.normal(size=(n, N_ATOMS, 3))
    noise -= noise.mean(axis=1, keepdims=True)
    middle = CENTRE_NM + SHIFT_NM
    y = middle + WIDER * WIDTH_NM * noise if of_flow else CENTRE_NM + WIDTH_NM * noise
    away = np.square((y - middle) / (WIDER * WIDTH_NM)).sum(axis=(1, 2))
    log_q = -away / 2 - DIMENSIONS * math.log(math.sqrt(2 * math.pi) * WIDER * WIDTH_NM)
    return Rows(potential(y), log_q, (y[:, 0, 0] - CENTRE_NM[0, 0]) / SPREAD_NM)


def chain(rows: Rows, start: Rows, rng: np.random.Generator) -> np.ndarray:
    """The coordinate along an independence Metropolis chain over proposals, from equilibrium."""
    selected = independence_metropolis(start.log_weights[0], rows.log_weights, rng).selected
    states: np.ndarray = np.concatenate([start.x[:1], rows.x])[selected + 1]
    return states


def asked(potential: ReducedPotential, rng: np.random.Generator) -> dict[str, Estimated]:
    """Every question once, of fresh samples."""
    flow = drawn(potential, rng, N, of_flow=True)
    target = drawn(potential, rng, 2 * N, of_flow=False)
    target = target[target.passes]
    weights, rare = flow.log_weights, flow.x > SPLIT
    hot = np.where(flow.passes, weights + flow.u * (1 - 300.0 / HOT_K), -np.inf)
    inside, outside = (target[side].log_weights for side in (target.x > SPLIT, target.x <= SPLIT))
    own = target[slice(N)]
    u = np.concatenate([np.where(flow.passes, flow.u, np.inf), own.u])
    u_kn = np.stack([-np.concatenate([flow.log_q, own.log_q]), u, u * 300.0 / HOT_K])
    states = multistate(u_kn, np.array([N, len(own.u), 0]))
    x = np.concatenate([flow.x, own.x])[:, np.newaxis]
    profile = states.profile(x, [np.array([CUT, 0.0, SPLIT])], state=1)
    share = np.exp(states.log_weights(1))[(x[:, 0] >= 0) & (x[:, 0] <= SPLIT)].sum()
    of_chain = chain(drawn(potential, rng, 4 * N, of_flow=True), target, rng)
    return {
        "log_normalising_constant": log_normalising_constant(weights),
        "average": average(weights, flow.x),
        "free_energy_difference": free_energy_difference(weights, rare, ~rare),
        "free_energy_between": free_energy_between(hot, weights),
        "bennett": bennett(weights, own.log_weights),
        "bennett_difference": bennett_difference(weights, rare, ~rare, inside, outside[:100]),
        "multistate": Estimated(
            states.differences_kT[0, 2], states.errors_kT[0, 2], "MBAR", states.n, 0.0
        ),
        "multistate, a bin of a profile": Estimated(
            math.log(share), float(profile.error_kT[1]), "MBAR", states.n, 0.0
        ),
        "free_energy_difference_of_chain": free_energy_difference_of_chain(of_chain > SPLIT),
    }


def row_of(name: str, scores: np.ndarray) -> dict[str, object]:
    """Moments of the scores; the error of the standard deviation uses their fourth moment."""
    spread = scores.std(ddof=1)
    fourth = np.mean((scores - scores.mean()) ** 4) / spread**4
    figures = {
        "mean": scores.mean(),
        "mean_error": spread / math.sqrt(len(scores)),
        "standard_deviation": spread,
        "standard_deviation_error": spread * math.sqrt((fourth - 1) / (4 * len(scores))),
        "beyond_two": np.mean(np.abs(scores) > 2),
    }
    return {"question": name} | {key: round(float(each), 4) for key, each in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX
    rng, potential = np.random.default_rng(options.seed), springs()
    started = time.process_time()
    scores: dict[str, list[float]] = {name: [] for name in ANSWERS}
    for _ in tqdm(range(options.repeats), unit="repeat", mininterval=10.0):
        for name, found in asked(potential, rng).items():
            scores[name].append((found.value - ANSWERS[name]) / found.error)
    rows = [row_of(name, np.array(values)) for name, values in scores.items()]
    record = {
        "machine": machine(),
        "repeats": options.repeats,
        "seed": options.seed,
        "minutes_of_the_processor": round((time.process_time() - started) / 60, 2),
        "rows": rows,
    }
    print("\n".join(map(str, rows)))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
