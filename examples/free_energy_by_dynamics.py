"""Methods without a generator.

Langevin dynamics; parallel tempering of openmmtools; umbrella sampling over phi with MBAR.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import free_energy_problem as problems
import numpy as np
import openmm
from free_energy_problem import Problem, Sampled, in_basin, langevin, of_chain, until
from openmm import unit
from openmmtools.multistate import MultiStateReporter, ParallelTemperingSampler

from openmm_tbg.free_energy import Estimated, independent_rows, multistate
from openmm_tbg.verdict import doubts_of_number

HOTTEST_K, RUNGS = 600.0, 4
WINDOWS, UMBRELLA_KT = 24, 20.0  # force constant in kT / rad^2
WINDOW_STEPS = 2000  # before a window's first recorded state


def by_dynamics(problem: Problem, seed: int, seconds: float) -> Sampled:
    end = problem.clock() + seconds
    context = problem.context(problem.system, seed)
    context.getIntegrator().step(problems.EQUILIBRATION_STEPS)
    torsions = []
    for _ in until(problem.clock, "dynamics", end):
        context.getIntegrator().step(problems.LANGEVIN_STEPS)
        torsions.append(problem.torsions(context.getState(positions=True).getPositions(True)))
    return of_chain(torsions)


def by_tempering(problem: Problem, seed: int, seconds: float) -> Sampled:
    """The lowest rung, whose states follow each other through all replicas."""
    end = problem.clock() + seconds
    with tempfile.TemporaryDirectory() as folder:
        reporter = MultiStateReporter(str(Path(folder) / "ladder.nc"), checkpoint_interval=10**6)
        sampler = ParallelTemperingSampler(
            mcmc_moves=langevin(problems.LANGEVIN_STEPS),
            number_of_iterations=10**9,
            online_analysis_interval=None,
        )
        rungs = {"min_temperature": problem.temperature, "n_temperatures": RUNGS}
        rungs["max_temperature"] = HOTTEST_K * unit.kelvin
        sampler.create(problem.state, [problem.start()], reporter, **rungs)
        torsions = []
        for _ in until(problem.clock, "tempering", end):
            sampler.run(1)
            replica = int(np.flatnonzero(sampler._replica_thermodynamic_states == 0)[0])
            torsions.append(problem.torsions(sampler.sampler_states[replica].positions))
        reporter.close()
    return of_chain(torsions)


def umbrella(problem: Problem) -> openmm.CustomTorsionForce:
    """A harmonic force on phi about the parameter `centre`."""
    kT = (unit.MOLAR_GAS_CONSTANT_R * problem.temperature).value_in_unit(unit.kilojoule_per_mole)
    formula = "0.5 * k * d^2; d = min(abs(theta - centre), 2 * pi - abs(theta - centre))"
    force = openmm.CustomTorsionForce(f"{formula}; pi = {math.pi}")
    force.addGlobalParameter("k", UMBRELLA_KT * kT)
    force.addGlobalParameter("centre", 0.0)
    force.addTorsion(*problem.phi, [])
    return force


def by_umbrellas(problem: Problem, seed: int, seconds: float) -> Sampled:
    """Windows over phi one after the other, each from where the last one ended."""
    started = problem.clock()
    system = openmm.XmlSerializer.clone(problem.system)
    system.addForce(umbrella(problem))
    context = problem.context(system, seed)
    centres = np.linspace(-math.pi, math.pi, WINDOWS, endpoint=False)
    windows: list[np.ndarray] = []
    for k, centre in enumerate(centres):
        context.setParameter("centre", float(centre))
        context.getIntegrator().step(WINDOW_STEPS)
        window = []
        end = started + seconds * (k + 1) / WINDOWS
        for _ in until(problem.clock, f"umbrella {np.degrees(centre):.0f}", end):
            context.getIntegrator().step(problems.LANGEVIN_STEPS // 5)
            window.append(problem.torsions(context.getState(positions=True).getPositions(True)))
        series = np.array(window)
        windows.append(series[independent_rows(np.sin(series[:, 0]))])
    return without_bias(np.concatenate(windows), centres, np.array([*map(len, windows)]))


def without_bias(torsions: np.ndarray, centres: np.ndarray, n: np.ndarray) -> Sampled:
    """MBAR over windows; no bias, the basin, and the rest are states that nobody sampled."""
    away = np.abs(torsions[:, 0] - centres[:, np.newaxis])
    bias = 0.5 * UMBRELLA_KT * np.minimum(away, 2 * math.pi - away) ** 2
    there = in_basin(torsions)
    if there.all() or not there.any():
        raise ValueError("the windows hold no state on one side of the basin's edge: run longer")
    halves = [np.where(side, 0.0, np.inf) for side in (there, ~there)]
    unbiased = np.zeros((1, len(torsions)))
    states = multistate(np.concatenate([bias, unbiased, halves]), np.array([*n, 0, 0, 0]))
    found = Estimated(
        float(states.differences_kT[-1, -2]),
        float(states.errors_kT[-1, -2]),
        "umbrella sampling, MBAR",
        states.n,
        float(states.n_effective[-2:].min()),
        states.weakest_link,
        states.doubts
        + doubts_of_number(int(n.min()), "independent states in the poorest window", "run longer"),
    )
    return Sampled(torsions, states.log_weights(len(n)), lambda: found)
