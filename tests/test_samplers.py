"""The move in every container and every sampler of openmmtools: run, stored, restored, extended."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import oracles
import pytest
import yaml
from miniatures import CARD, CHIRAL, trained
from openmm import unit
from openmmtools import cache as cache_module
from openmmtools import utils
from openmmtools.cache import ContextCache
from openmmtools.mcmc import HMCMove, MCMCMove, MCMCSampler, SequenceMove, WeightedMove
from openmmtools.multistate import (
    MultiStateReporter,
    MultiStateSampler,
    MultiStateSamplerAnalyzer,
    ParallelTemperingSampler,
    ReplicaExchangeSampler,
    SAMSSampler,
)
from openmmtools.states import SamplerState, ThermodynamicState
from oracles import GaussianGenerator, harmonic_state, harmonic_system, sampler_state
from structures import structure_from_smiles
from test_workers import environment, mpiexec
from toys import topology_of

from openmm_tbg import BoltzmannGenerator
from openmm_tbg import move as move_module
from openmm_tbg.move import TBGMove, register_generator
from openmm_tbg.proposals import Proposals
from openmm_tbg.run import MCMCRun
from openmm_tbg.run_store import read_run

N_STATES, N_PROPOSALS = 2, 3
TEMPERATURES = [300.0 * unit.kelvin, 330.0 * unit.kelvin]

Contain = Callable[[TBGMove], MCMCMove]


def hmc() -> HMCMove:
    return HMCMove(timestep=3.0 * unit.femtosecond, n_steps=2)


CONTAINERS: dict[str, Contain] = {
    "bare": lambda move: move,
    "sequence": lambda move: SequenceMove([hmc(), move]),
    "weighted": lambda move: WeightedMove([(move, 0.75), (hmc(), 0.25)]),
    "nested": lambda move: SequenceMove([hmc(), WeightedMove([(SequenceMove([move]), 1.0)])]),
}
SAMPLERS = (MultiStateSampler, ReplicaExchangeSampler, ParallelTemperingSampler, SAMSSampler)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> ContextCache:
    cache = oracles.reference_cache()
    monkeypatch.setattr(cache_module, "global_context_cache", cache)  # also of restored samplers
    return cache


def generator() -> GaussianGenerator:
    return GaussianGenerator(width_nm=1.1 * oracles.WIDTH_NM)


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all that copies share; netCDF4 crashes where a file is opened before the last is."""
    gc.collect()
    oracles.forget_moves(monkeypatch)


def create(kind: type[MultiStateSampler], move: MCMCMove, file: Path) -> MultiStateSampler:
    sampler = kind(mcmc_moves=move, number_of_iterations=3, online_analysis_interval=None)
    states = [ThermodynamicState(harmonic_system(), T) for T in TEMPERATURES]
    storage = MultiStateReporter(str(file), checkpoint_interval=1)
    current = [sampler_state() for _ in range(N_STATES)]
    if kind is ParallelTemperingSampler:
        sampler.create(
            states[0], current, storage, temperatures=TEMPERATURES, n_temperatures=N_STATES
        )
    elif kind is SAMSSampler:
        sampler.create(states, current[:1], storage)
    else:
        sampler.create(states, current, storage)
    return sampler


def flow_moves(move: MCMCMove) -> Iterator[TBGMove]:
    if type(move) is TBGMove:  # openmmtools takes all moves for instances of each other
        yield move
    for inner in getattr(move, "move_list", []) or dict(getattr(move, "move_set", [])):
        yield from flow_moves(inner)


def counts(sampler: MultiStateSampler) -> np.ndarray:
    """Proposals of each state so far."""
    moves = [next(flow_moves(move)) for move in sampler.mcmc_moves]
    return np.array([move.statistics["n_proposed"] for move in moves])


@pytest.mark.parametrize("contain", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda kind: kind.__name__)
def test_a_run_is_stored_restored_and_extended(
    kind: type[MultiStateSampler],
    contain: Contain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.random.seed(1)  # noqa: NPY002 (WeightedMove and SAMS draw from the global stream)
    file = tmp_path / "run.nc"
    sampler = create(kind, contain(TBGMove(generator(), N_PROPOSALS, seed=1)), file)
    sampler.minimize(max_iterations=2)
    sampler.equilibrate(1)
    sampler.run()
    before = counts(sampler)
    always = contain is not CONTAINERS["weighted"]
    n_replicas = 1 if kind is SAMSSampler else N_STATES
    assert before.sum() <= N_PROPOSALS * n_replicas * 4  # equilibration counts as well
    assert before.sum() > 0
    if always:
        assert before.sum() == N_PROPOSALS * n_replicas * 4
    flows = [next(flow_moves(move)) for move in sampler.mcmc_moves]
    assert all(len(yaml.dump(utils.serialize(move))) < 1000 for move in flows)

    last = [np.array(state.positions._value) for state in sampler.sampler_states]
    del sampler, flows
    new_process(monkeypatch)
    sampler = kind.from_storage(MultiStateReporter(str(file)))
    np.testing.assert_array_equal(counts(sampler), before)
    assert not move_module._GENERATORS  # loaded when it is needed
    for state, stored in zip(sampler.sampler_states, last, strict=True):
        np.testing.assert_allclose(state.positions._value, stored, atol=1e-7)
    register_generator(generator())
    sampler.extend(2)
    assert sampler.iteration == 5
    if always:
        assert counts(sampler).sum() == before.sum() + 2 * N_PROPOSALS * n_replicas
    u_kln = np.array([sampler._reporter.read_energies(k)[0] for k in range(6)])
    assert np.isfinite(u_kln).all()
    del sampler
    gc.collect()


@pytest.mark.parametrize("contain", CONTAINERS.values(), ids=CONTAINERS)
def test_mcmc_sampler_goes_on_from_its_move(
    contain: Contain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MCMCSampler has no storage: its move and state are what is kept."""
    np.random.seed(2)  # noqa: NPY002
    sampler = MCMCSampler(
        harmonic_state(), sampler_state(), move=contain(TBGMove(generator(), N_PROPOSALS, seed=2))
    )
    sampler.minimize(max_iterations=2)
    sampler.run(8)
    (flow,) = flow_moves(sampler.move)
    stored = yaml.dump(utils.serialize(sampler.move))
    new_process(monkeypatch)
    register_generator(generator())
    move = utils.deserialize(yaml.load(stored, Loader=yaml.Loader))
    (restored,) = flow_moves(move)
    assert restored.statistics == flow.statistics
    assert restored.statistics["n_proposed"] > 0
    resumed = MCMCSampler(harmonic_state(), sampler.sampler_state, move=move)
    resumed.run(8)
    (gone_on,) = flow_moves(resumed.move)
    assert gone_on.statistics["n_proposed"] > flow.statistics["n_proposed"]


@pytest.mark.parametrize("contain", CONTAINERS.values(), ids=CONTAINERS)
def test_a_chain_in_a_folder_goes_on(
    contain: Contain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three processes, one after the other, no proposal serves twice."""
    drawn: list[Proposals] = []

    class Recording(GaussianGenerator):
        def propose(self, n: int, rng: np.random.Generator) -> Proposals:
            drawn.append(super().propose(n, rng))
            return drawn[-1]

    for n_iterations in (4, 8, 12):
        oracles.forget_moves(monkeypatch)
        move = contain(TBGMove(Recording(width_nm=generator().width_nm), N_PROPOSALS, seed=4))
        start = harmonic_state(), sampler_state()
        run = MCMCRun(tmp_path / "run", *start, move, topology_of("CHON"), seed=1, block_size=4)
        run.run(n_iterations)
    (flow,) = flow_moves(run.move)
    record = read_run(run.path)
    assert len(record) == 12
    assert all(record.n_proposed[rows].sum() > 0 for rows in (slice(0, 4), slice(4, 8)))
    rows = Proposals.concatenate(drawn)
    assert flow.statistics["n_proposed"] == record.n_proposed.sum() == len(rows)
    assert len(np.unique(rows.log_q)) == len(rows)


def test_analysis_needs_no_model_and_going_on_says_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure, model = structure_from_smiles(CHIRAL), tmp_path / "model.safetensors"
    trained().model.save(model)
    system, wells = openmm.System(), openmm.CustomExternalForce("1e4*((x-a)^2+(y-b)^2+(z-c)^2)")
    for name in "abc":
        wells.addPerParticleParameter(name)
    for k, position in enumerate(structure.positions_nm):
        system.addParticle(12.0)
        wells.addParticle(k, position)
    system.addForce(wells)
    move = TBGMove(BoltzmannGenerator.from_checkpoint(model, structure.topology), 2, seed=1)
    sampler = ReplicaExchangeSampler(
        mcmc_moves=SequenceMove([hmc(), move]),
        number_of_iterations=3,
        online_analysis_interval=None,
    )
    states = [ThermodynamicState(system, T) for T in TEMPERATURES]
    start = SamplerState(structure.positions_nm * unit.nanometer)
    storage = MultiStateReporter(str(tmp_path / "run.nc"), checkpoint_interval=1)
    sampler.create(states, [start] * N_STATES, storage)
    sampler.run()
    del sampler, move, storage
    new_process(monkeypatch)
    model.unlink()
    reporter = MultiStateReporter(str(tmp_path / "run.nc"), open_mode="r")
    analyzer = MultiStateSamplerAnalyzer(reporter, n_equilibration_iterations=0)
    f_ij, _ = analyzer.get_free_energy()
    assert np.isfinite(f_ij).all()
    del analyzer, reporter
    gc.collect()
    sampler = ReplicaExchangeSampler.from_storage(MultiStateReporter(str(tmp_path / "run.nc")))
    assert counts(sampler).tolist() == [2 * 3] * N_STATES
    assert not move_module._GENERATORS
    with pytest.raises(
        RuntimeError, match=r"is missing at .*model\.safetensors: put it back there"
    ):
        sampler.extend(1)
    replace(trained().model, card=replace(CARD, commit="other")).save(model)
    with pytest.raises(RuntimeError, match=r"is not the one of the stored run .*put that one back"):
        sampler.extend(1)
    del sampler
    gc.collect()


EXTEND = """
import sys
from openmmtools.multistate import MultiStateReporter, ReplicaExchangeSampler
from openmm_tbg.move import register_generator
from oracles import GaussianGenerator, WIDTH_NM

sampler = ReplicaExchangeSampler.from_storage(MultiStateReporter(sys.argv[1]))
try:
    sampler.extend(2)
except RuntimeError as error:
    print(error)
register_generator(GaussianGenerator(width_nm=1.1 * WIDTH_NM))
sampler.extend(2)
print([move.statistics[1]["n_proposed"] for move in sampler.mcmc_moves])
"""


def test_a_new_process_goes_on(tmp_path: Path) -> None:
    move = CONTAINERS["sequence"](TBGMove(generator(), N_PROPOSALS, seed=3))
    sampler = create(ReplicaExchangeSampler, move, tmp_path / "run.nc")
    sampler.run()
    del sampler
    gc.collect()
    answer = subprocess.run(
        [sys.executable, "-c", EXTEND, tmp_path / "run.nc"],
        env=environment(OPENMM_DEFAULT_PLATFORM="Reference"), capture_output=True, text=True,
    )  # fmt: skip
    assert "the stored run used the generator 'toy', which no file holds" in answer.stdout
    assert "[15, 15]" in answer.stdout.splitlines(), answer.stderr


ACROSS_RANKS = """
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI
from openmmtools import cache
from openmmtools.multistate import MultiStateReporter, ReplicaExchangeSampler
import oracles
from test_samplers import CONTAINERS, N_PROPOSALS, create, flow_moves, generator
from openmm_tbg.move import TBGMove, register_generator

cache.global_context_cache = oracles.reference_cache()
np.random.seed(7)  # all ranks alike
folder, drawn = Path(sys.argv[1]), []


class Recording(oracles.GaussianGenerator):
    def propose(self, n, rng):
        drawn.append(super().propose(n, rng))
        return drawn[-1]


recording = Recording(width_nm=generator().width_nm)
if sys.argv[2] == "new":
    move = CONTAINERS["sequence"](TBGMove(recording, N_PROPOSALS, seed=1))
    sampler = create(ReplicaExchangeSampler, move, folder / "run.nc")
    sampler.run()
else:
    register_generator(recording)
    sampler = ReplicaExchangeSampler.from_storage(MultiStateReporter(str(folder / "run.nc")))
    sampler.extend(2)
counts = [next(flow_moves(move)).statistics["n_proposed"] for move in sampler.mcmc_moves]
rows = np.concatenate([batch.positions_nm for batch in drawn])
np.savez(folder / f"{sys.argv[2]}{MPI.COMM_WORLD.rank}.npz", rows=rows, counts=counts)
"""


def test_two_ranks_of_mpi_exchange_replicas_and_go_on(tmp_path: Path) -> None:
    """Each rank propagates a replica with proposals of its own, before and after a restart."""
    for name in ("new", "extended"):
        mpiexec(2, "-c", ACROSS_RANKS, tmp_path, name)
    ranks = [np.load(path) for path in sorted(tmp_path.glob("*.npz"))]
    assert len(ranks) == 4
    rows = np.concatenate([rank["rows"] for rank in ranks])
    assert len(rows) == N_PROPOSALS * N_STATES * 5  # three iterations, and two
    assert all(len(rank["rows"]) == len(ranks[2]["rows"]) for rank in ranks[2:])
    assert len(np.unique(rows[:, 0, 0])) == len(rows)
    for rank, n_iterations in zip(ranks, (5, 5, 3, 3), strict=True):
        assert rank["counts"].tolist() == [N_PROPOSALS * n_iterations] * N_STATES
    reporter = MultiStateReporter(str(tmp_path / "run.nc"), open_mode="r")
    u_kln = np.array([reporter.read_energies(k)[0] for k in range(6)])
    reporter.close()
    assert np.isfinite(u_kln).all()
    assert (np.diff(u_kln[:, range(N_STATES), range(N_STATES)], axis=0) != 0).all()
