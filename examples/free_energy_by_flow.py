"""Methods that take proposals of the Boltzmann generator.

Their weights alone; these with dynamics inside each basin, joined by Bennett acceptance ratios; a
chain of generator moves and Langevin dynamics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import free_energy_problem as problems
import numpy as np
import openmm
from free_energy_problem import Problem, Sampled, langevin, of_chain, until
from openmmtools.mcmc import MCMCSampler, SequenceMove

from openmm_tbg import ReducedPotential, TBGMove, ThinnedGenerator
from openmm_tbg.free_energy import (
    Estimated,
    bennett_difference,
    free_energy_difference,
    independent_rows,
)
from openmm_tbg.metropolis import log_weights
from openmm_tbg.proposals import Proposals
from openmm_tbg.simulation import torsion_wall
from openmm_tbg.thinning import LogImportance, RegionImportance
from openmm_tbg.torsions import TorsionRange
from openmm_tbg.verdict import doubts_of_number

BATCH, PILOT = 8, 32
BATCH_IN_SETS = 64  # of which few are foreseen in the rare basin, and integrated
KEEP, KEEP_IN_SETS = 0.3, 0.6  # of a chain; of those few
ELSEWHERE = -3.0  # a guess of how much rarer it is, which costs time where it is wrong


@dataclass(frozen=True)
class Weighing:
    """Proposals that get an exact density only where they may count, and their weights."""

    generator: ThinnedGenerator
    potential: ReducedPotential

    @classmethod
    def of(
        cls, problem: Problem, seed: int, keep: float, importance: LogImportance | None = None
    ) -> Weighing:
        context = problem.state.create_context(openmm.VerletIntegrator(0.001), problem.platform)
        potential = ReducedPotential(problem.state, context)
        rng = np.random.default_rng(seed)
        generator = problem.load_generator()
        return cls(
            ThinnedGenerator.from_pilot(generator, potential, keep, rng, PILOT, importance),
            potential,
        )

    def draw(self, problem: Problem, seed: int, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and log-weights of all proposals until a time of the clock."""
        rng = np.random.default_rng(seed)
        batches = [
            self.generator.propose(BATCH_IN_SETS, rng)
            for _ in until(problem.clock, "proposals", end)
        ]
        drawn = Proposals.concatenate(batches)
        return drawn.positions_nm, self.weigh(drawn)

    def weigh(self, rows: Proposals) -> np.ndarray:
        return log_weights(rows.reduced_potentials(self.potential), rows.log_q, rows.passes)


def by_weights(problem: Problem, seed: int, seconds: float) -> Sampled:
    end = problem.clock() + seconds
    weighing = Weighing.of(problem, seed, KEEP_IN_SETS, RegionImportance(problem.basin, ELSEWHERE))
    positions, weights = weighing.draw(problem, seed + 1, end)
    there, drawn = problem.basin.holds(positions), weights > -np.inf
    return Sampled(
        problem.torsions(positions[drawn]),
        weights[drawn],
        lambda: free_energy_difference(weights, there, ~there),
    )


def by_basins(problem: Problem, seed: int, seconds: float) -> Sampled:
    """Half of the time for proposals, an eighth each for dynamics inside a basin, and a quarter
    for the densities of its frames.

    Each frame of a basin has the same weight, so that all together have its share.
    """
    started = problem.clock()
    weighing = Weighing.of(problem, seed, KEEP_IN_SETS, RegionImportance(problem.basin, ELSEWHERE))
    positions, weights = weighing.draw(problem, seed + 1, started + seconds / 2)
    there = problem.basin.holds(positions)
    frames = []
    for number, (basin, side) in enumerate(
        ((problem.basin, there), (problem.basin.others, ~there))
    ):
        inside = np.where(side, weights, -np.inf)
        if inside.max() == -np.inf:
            raise ValueError("no proposal with a weight above zero lies on one side: run longer")
        end = started + seconds * (5 + number) / 8
        frames.append(within(problem, basin, positions[inside.argmax()], seed, end))
    chosen = [independent(problem, each, seed + 2) for each in frames]
    at_frames = densities(problem, weighing, chosen, started + seconds)
    found = bennett_difference(weights, there, ~there, *at_frames)
    for name, each in zip(("`first`", "`second`"), at_frames, strict=True):
        doubts = doubts_of_number(len(each), f"independent frames in {name}", "run longer")
        found = replace(found, doubts=found.doubts + doubts)
    n = [*map(len, frames)]
    of_frames = np.repeat([-found.value - math.log(n[0]), -math.log(n[1])], n)
    return Sampled(problem.torsions(np.concatenate(frames)), of_frames, lambda: found)


def within(
    problem: Problem, basin: TorsionRange, start_nm: np.ndarray, seed: int, end: float
) -> np.ndarray:
    """Frames of dynamics that a wall keeps in a basin, those inside, centred."""
    system = openmm.XmlSerializer.clone(problem.system)
    system.addForce(torsion_wall(basin))
    context = problem.context(system, seed, start_nm)
    context.getIntegrator().step(problems.EQUILIBRATION_STEPS)
    frames = []
    for _ in until(problem.clock, f"inside {basin.low:.1f} to {basin.high:.1f}", end):
        context.getIntegrator().step(problems.LANGEVIN_STEPS)
        frame = context.getState(positions=True).getPositions(True)._value
        frames.append(frame - frame.mean(axis=0))
    every = np.array(frames)
    return every[basin.holds(every)]


def independent(problem: Problem, frames: np.ndarray, seed: int) -> np.ndarray:
    """As many frames as the slowest of phi and psi counts, evenly spread, in random order."""
    angles = problem.torsions(frames)
    series = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).T
    n = min(len(independent_rows(each)) for each in series)
    rows = np.linspace(0, len(frames) - 1, n).astype(int)
    return frames[np.random.default_rng(seed).permutation(rows)]


def densities(
    problem: Problem, weighing: Weighing, frames: list[np.ndarray], end: float
) -> list[np.ndarray]:
    """Log-weights of frames of each basin, in turn, as many as there is time for."""
    found: list[list[np.ndarray]] = [[] for _ in frames]
    for number in until(problem.clock, "densities", end):
        parts = [each[number * BATCH : (number + 1) * BATCH] for each in frames]
        if not any(map(len, parts)):
            break
        for part, of_basin in zip(parts, found, strict=True):
            of_basin.append(weighing.weigh(weighing.generator.evaluate(part)))
    every = [np.concatenate(each) for each in found]
    return [each[np.isfinite(each)] for each in every]  # within the filters


def by_moves(problem: Problem, seed: int, seconds: float) -> Sampled:
    """A chain that is held against what its move says of itself, too."""
    end = problem.clock() + seconds
    generator = Weighing.of(problem, seed, KEEP).generator
    move, start = TBGMove(generator, n_proposals=BATCH, seed=seed), problem.start()
    langevin(problems.EQUILIBRATION_STEPS, reassign_velocities=True).apply(problem.state, start)
    sampler = MCMCSampler(
        problem.state, start, move=SequenceMove([langevin(problems.LANGEVIN_STEPS), move])
    )
    torsions = []
    for _ in until(problem.clock, "moves", end):
        sampler.run(1)
        torsions.append(problem.torsions(sampler.sampler_state.positions))
    sampled, verdict = of_chain(torsions), move.summary().verdict

    def estimate() -> Estimated:
        try:
            found = sampled.estimate()
        except ValueError as error:
            raise ValueError(f"{error}; the move: {verdict}") from error
        return replace(found, doubts=found.doubts + verdict.doubts)

    return replace(sampled, estimate=estimate)
