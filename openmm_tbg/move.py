"""A Markov chain Monte Carlo move of openmmtools that proposes whole configurations."""

from __future__ import annotations

import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from openmm import unit
from openmmtools.cache import ContextCache
from openmmtools.mcmc import MCMCMove
from openmmtools.states import SamplerState, ThermodynamicState

from .arrays import Cause, Frame
from .metropolis import KERNELS, log_weights
from .potential import ReducedPotential, require_supported
from .proposals import ProposalGenerator, ProposalPool, Proposals
from .tally import MoveSummary, Tally

STATE_VERSION = 3

# openmmtools copies a move for each thermodynamic state and again at each iteration, through
# __getstate__ and __setstate__ only. What copies share lives here for the whole process.
_GENERATORS: dict[tuple[str, str], ProposalGenerator] = {}
_POOLS: dict[str, ProposalPool] = {}
_N_DRAWN: defaultdict[str, int] = defaultdict(int)  # also by processes before this one


class TBGMove(MCMCMove):  # type: ignore[misc]
    r"""Replace the configuration by a proposal of a generator, exactly preserving the target.

    With proposals x' from the density q and u the reduced potential of the thermodynamic state,

    $$ w(x) = e^{-u(x)} / q(x) \text{ inside the filters, else } 0; \qquad
       a(x \to x') = \min(1, w(x') / w(x)) . $$

    The geometric centre stays where it is: u is taken at x' placed there, so the move is exact in
    external fields too. After an acceptance velocities are drawn anew. It is combined with local
    moves, which alone change the centre and can return from outside the filters. A current state
    whose stereocentres are all inverted has the weight of its mirror image and gives way to the
    hand of the generator's molecule: the target is then meant up to reflection.

    An application draws `n_proposals` configurations with their exact density, evaluates the
    density of the current state (unless it is known from the last application) and the energies of
    all proposals that pass the filters. Kernels differ in what they make of these:

    - "metropolis": one independence-Metropolis step for each proposal.
    - "multiple": one step that selects among the current state and all proposals by weight. From
      the same proposals it leaves the current state at most as often as "metropolis" does, since
      the chances to stay obey prod(1 - min(1, r)) <= 1 / (1 + sum(r)) for any ratios r of weights.

    Args:
        generator: Draws proposals and evaluates their density, as `BoltzmannGenerator` does.
        n_proposals: Proposals for each application.
        kernel: "metropolis" or "multiple".
        batch_size: Proposals that the generator draws at a time; `n_proposals` if None.
        batches_ahead: Batches to draw in a thread while the chain goes on, as `ProposalPool` says:
            1 where the generator has a GPU or a core of its own.
        seed: Seed of all randomness; None takes entropy from the operating system. Copies of the
            move share its randomness but never see the same numbers.

    Raises:
        ValueError: An argument is out of range.

    Reference:
        Klein & Noé, Transferable Boltzmann Generators, arXiv:2406.14426. Kernels: `metropolis.py`.

    Example:
        >>> from openmmtools.mcmc import LangevinDynamicsMove, SequenceMove
        >>> def mixed(generator: ProposalGenerator) -> SequenceMove:
        ...     return SequenceMove([TBGMove(generator, n_proposals=64), LangevinDynamicsMove()])
    """

    def __init__(
        self,
        generator: ProposalGenerator,
        n_proposals: int = 64,
        kernel: str = "metropolis",
        batch_size: int | None = None,
        seed: int | None = None,
        batches_ahead: int = 0,
    ) -> None:
        super().__init__()
        if n_proposals < 1:
            raise ValueError(f"n_proposals is {n_proposals}: propose at least one configuration")
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r} is unknown: choose one of {', '.join(KERNELS)}")
        self.n_proposals = int(n_proposals)
        self.kernel = kernel
        self.batch_size = self.n_proposals if batch_size is None else int(batch_size)
        self.seed = None if seed is None else int(seed)
        self.batches_ahead = int(batches_ahead)
        self._reference = generator.reference
        self._sha256 = generator.sha256
        self._pool_id = uuid.uuid4().hex
        self._tally = Tally()
        self._known: tuple[Frame, Proposals] | None = None
        _POOLS[self._pool_id] = self._new_pool(generator)
        register_generator(generator)

    @property
    def generator(self) -> ProposalGenerator:
        """The generator; a move restored in a new process loads it when it is first asked for."""
        return self._pool.generator

    @property
    def statistics(self) -> dict[str, int | float]:
        """Counts over all applications, by the names of the attributes of `Tally`.

        `n_drawn` is the number of proposals that all copies of the move have drawn.
        """
        return self._tally.to_dict() | {"n_drawn": _N_DRAWN[self._pool_id]}

    @statistics.setter
    def statistics(self, counts: Mapping[str, int | float]) -> None:
        self._tally = Tally.from_dict(counts)
        # What other ranks and processes drew is only known from what they counted.
        _N_DRAWN[self._pool_id] = max(_N_DRAWN[self._pool_id], int(counts["n_drawn"]))

    def summary(self) -> MoveSummary:
        """Acceptance, causes of rejection, effective sample size, cost and advice; print it."""
        return self._tally.summary()

    def known_log_q(self, sampler_state: SamplerState) -> float:
        """Log-density of a state if it is the one that the last application left, else NaN."""
        if self._known is None or not np.array_equal(self._known[0], _positions_nm(sampler_state)):
            return np.nan
        return float(self._known[1].log_q[0])

    def apply(
        self,
        thermodynamic_state: ThermodynamicState,
        sampler_state: SamplerState,
        context_cache: ContextCache | None = None,
    ) -> None:
        """Apply the move to a state.

        Args:
            thermodynamic_state: The target; not changed.
            sampler_state: The current state, changed in place. Where nothing is accepted only its
                energy is refreshed, and velocities are drawn if it has none.
            context_cache: Where to find a Context; the global cache of openmmtools if None.

        Raises:
            ValueError: The System is not supported; the message says what to do.
            RuntimeError: The energy of the current state is not finite, or the generator of a
                restored move cannot be found.
        """
        started = time.perf_counter()
        pool = self._pool
        context, _ = self._get_context_cache(context_cache).get_context(thermodynamic_state)
        require_supported(context.getSystem(), pool.generator.molecule.n_atoms)
        sampler_state.apply_to_context(context, ignore_velocities=True)
        potential = ReducedPotential(thermodynamic_state, context)

        current = _positions_nm(sampler_state)
        centre = current.mean(axis=0)
        log_weight_current = self._log_weight_current(potential, current)
        proposals = pool.take(self.n_proposals)
        _N_DRAWN[self._pool_id] += self.n_proposals
        u = proposals.reduced_potentials(lambda centred_nm: potential(centred_nm + centre))
        log_weights_proposed = log_weights(u, proposals.log_q, proposals.passes)

        rng = pool.spawn_rng()
        chain = KERNELS[self.kernel](log_weight_current, log_weights_proposed, rng)
        moved = chain.last >= 0
        context.setPositions(proposals.positions_nm[chain.last] + centre if moved else current)
        if redraw := moved or sampler_state.velocities is None:
            velocity_seed = int(rng.integers(1, 2**31 - 1))
            context.setVelocitiesToTemperature(thermodynamic_state.temperature, velocity_seed)
        sampler_state.update_from_context(context, ignore_velocities=not redraw)
        if moved:
            self._known = _positions_nm(sampler_state), proposals[np.array([chain.last])]
        seconds = time.perf_counter() - started
        self._tally = self._tally.record(chain, proposals.cause, log_weights_proposed, seconds)

    def _log_weight_current(self, potential: ReducedPotential, current: Frame) -> float:
        u = potential(current[np.newaxis])
        if not np.isfinite(u).all():
            raise RuntimeError(
                f"the reduced potential of the current state is {u[0]}: "
                "minimize it, or start from a configuration whose energy is finite"
            )
        # Swaps between replicas, other moves and restarts change the state without notice.
        if self._known is None or not np.array_equal(self._known[0], current):
            centred = current - current.mean(axis=0)
            self._known = current, self.generator.evaluate(centred[np.newaxis])
        _, row = self._known
        if not row.passes.all():
            warnings.warn(
                f"the current state fails a filter ({Cause(row.cause[0]).name}), so that no "
                "proposal can be accepted before a local move takes it back inside: "
                "start from a configuration with the bonds and the hand of its molecule",
                RuntimeWarning,
                stacklevel=3,
            )
        return float(log_weights(u, row.log_q, row.passes)[0])

    @property
    def _pool(self) -> ProposalPool:
        if self._pool_id not in _POOLS:
            generator = _find_generator(self._reference, self._sha256)
            _POOLS[self._pool_id] = self._new_pool(generator)
        return _POOLS[self._pool_id]

    def _new_pool(self, generator: ProposalGenerator) -> ProposalPool:
        n_drawn = _N_DRAWN[self._pool_id]
        return ProposalPool(generator, self.batch_size, self.seed, n_drawn, self.batches_ahead)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "reference": self._reference,
            "sha256": self._sha256,
            "pool_id": self._pool_id,
            "n_proposals": self.n_proposals,
            "kernel": self.kernel,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "batches_ahead": self.batches_ahead,
            "statistics": self.statistics,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # openmmtools swallows a KeyError here and would go on with half a move.
        if state.get("version") != STATE_VERSION:
            raise RuntimeError(
                f"the stored TBGMove has version {state.get('version')}, this openmm_tbg reads "
                f"{STATE_VERSION}: install the openmm_tbg that wrote it"
            )
        self._reference = state["reference"]
        self._sha256 = state["sha256"]
        self._pool_id = state["pool_id"]
        self.n_proposals = state["n_proposals"]
        self.kernel = state["kernel"]
        self.batch_size = state["batch_size"]
        self.seed = state["seed"]
        self.batches_ahead = state["batches_ahead"]
        self.statistics = state["statistics"]
        self._known = None


def register_generator(generator: ProposalGenerator) -> None:
    """Make a generator known to the moves that are restored in this process.

    Needed only for generators that cannot be loaded from their `reference`.
    """
    _GENERATORS[generator.reference, generator.sha256] = generator


def _find_generator(reference: str, sha256: str) -> ProposalGenerator:
    if (reference, sha256) not in _GENERATORS:
        from .generator import load_generator  # loads torch, which a restored move may never need

        register_generator(load_generator(reference, sha256))
    return _GENERATORS[reference, sha256]


def _positions_nm(sampler_state: SamplerState) -> Frame:
    return np.array(sampler_state.positions.value_in_unit(unit.nanometer), dtype=np.float64)
