"""The shipped model in an openmmtools sampler: the chain and the weights of its proposals agree."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import unit
from openmmtools import cache
from openmmtools.mcmc import HMCMove, MCMCSampler, SequenceMove
from openmmtools.states import SamplerState, ThermodynamicState
from pymbar.timeseries import statistical_inefficiency

from openmm_tbg import BoltzmannGenerator, Proposals, TBGMove
from openmm_tbg.grid import TimeGrid
from openmm_tbg.metropolis import log_weights
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.reference import ALANINE_PHI, ALANINE_PSI, alanine_dipeptide
from openmm_tbg.torsions import dihedral

N_ITERATIONS, N_PROPOSALS = 12, 8
HMC_MOVES_PER_ITERATION = 20


class Recording(BoltzmannGenerator):
    """Keeps what it proposes."""

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        proposals = super().propose(n, rng)
        self.seen = [*getattr(self, "seen", []), proposals]
        return proposals


@pytest.fixture(scope="module")
def chain_and_proposals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observables of the chain's states, of all proposals, and log-weights of the proposals."""
    reference = alanine_dipeptide()
    generator = Recording.from_pretrained("alanine-dipeptide", reference.topology)
    # Both sides use the density of this grid, at half the cost of the model's own.
    generator.flow.grid = TimeGrid(nodes=20, steps=1, epsilon=0.1)
    state = ThermodynamicState(reference.system, reference.temperature_K * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")
    contexts = cache.ContextCache(platform=platform)
    local = HMCMove(timestep=1.0 * unit.femtosecond, n_steps=50)
    tbg = TBGMove(generator, n_proposals=N_PROPOSALS, seed=20)
    np.random.seed(20)  # noqa: NPY002 -- HMCMove draws from NumPy's global stream
    start = SamplerState(reference.positions_nm * unit.nanometer)
    moves = SequenceMove([*[local] * HMC_MOVES_PER_ITERATION, tbg])
    sampler = MCMCSampler(state, start, move=SequenceMove([local] * 200))
    sampler.run(1, context_cache=contexts)
    sampler.move = moves
    frames = []
    for _ in range(N_ITERATIONS):
        sampler.run(1, context_cache=contexts)
        frames.append(sampler.sampler_state.positions.value_in_unit(unit.nanometer))
    context, _ = contexts.get_context(state)
    potential = ReducedPotential(state, context)
    proposals = Proposals.concatenate(generator.seen)
    u = potential(proposals.positions_nm)
    weights = log_weights(u, proposals.log_q, proposals.passes)
    return observables(np.array(frames)), observables(proposals.positions_nm), weights


def observables(positions_nm: np.ndarray) -> np.ndarray:
    """Whether extended (psi outside -120 to 60 degrees), and whether phi is below -100 degrees."""
    phi, psi = (np.degrees(dihedral(positions_nm, a)) for a in (ALANINE_PHI, ALANINE_PSI))
    return np.stack([(psi < -120) | (psi > 60), phi < -100], axis=1).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("column", [0, 1], ids=["extended", "phi below -100 degrees"])
def test_the_chain_agrees_with_the_weights_of_its_proposals(
    chain_and_proposals: tuple[np.ndarray, np.ndarray, np.ndarray], column: int
) -> None:
    chain, proposed, log_weight = chain_and_proposals
    weights = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    expected = weights @ proposed[:, column]
    variance = np.square(weights) @ np.square(proposed[:, column] - expected)
    states = chain[:, column]
    variance += states.var() * statistical_inefficiency(states) / len(states)
    assert 1 / np.square(weights).sum() > 3, "one proposal carries the weights"
    assert abs(states.mean() - expected) < 4 * np.sqrt(variance)
