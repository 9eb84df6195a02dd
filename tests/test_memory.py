"""Memory: what a chunk takes is what the field says, and no batch takes more than its limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from openmm_tbg.encoding import encode_full
from openmm_tbg.fields.architecture import Architecture, DenoiserArchitecture, EGNNArchitecture
from openmm_tbg.fields.geometry import ReferenceGeometry
from openmm_tbg.flow import ContinuousFlow
from openmm_tbg.grid import TimeGrid
from openmm_tbg.molecule import Molecule
from openmm_tbg.peptides import assembled

GRID = TimeGrid(nodes=2, steps=1)
MIB = 2**20


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch's allocator held at once, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


@cache
def flow_of(sequence: str, architecture: Architecture) -> ContinuousFlow:
    topology, frame = assembled(sequence)
    molecule = Molecule.from_topology(topology, frame)
    frames = frame + np.random.default_rng(0).normal(scale=0.02, size=(200, *frame.shape))
    frames -= frames.mean(axis=1, keepdims=True)
    geometry = ReferenceGeometry.from_frames(molecule, encode_full(molecule), frames)
    torch.manual_seed(0)
    field = architecture.field(geometry, torch.float32).requires_grad_(False)
    return ContinuousFlow(field, architecture.prior(geometry), GRID)


@pytest.mark.parametrize(
    ("sequence", "architecture", "n"),
    [
        ("GG", DenoiserArchitecture(), 33),
        ("KS", DenoiserArchitecture(), 6),
        ("WW", DenoiserArchitecture(), 3),
        ("WW", EGNNArchitecture(hidden=64, layers=1), 1),
    ],
    ids=["17 atoms", "36 atoms", "51 atoms", "51 atoms, EGNN"],
)
def test_a_divergence_takes_the_memory_that_it_says(
    sequence: str, architecture: Architecture, n: int
) -> None:
    flow = flow_of(sequence, architecture)
    x = flow.prior.sample(n, torch.Generator().manual_seed(0))
    time = torch.tensor(0.6, dtype=torch.float64)
    said = len(x) * flow.field.bytes_per_divergence
    assert flow.chunk_size * flow.field.bytes_per_divergence <= flow.memory_limit_bytes == 64 * MIB
    taken = peak_bytes(lambda: flow.field.velocity_and_divergence(time, x))
    assert 0.8 * said < taken < 1.1 * said
    four = x.repeat(4, 1, 1)
    assert peak_bytes(lambda: flow.field.velocity(time, four)) < flow.memory_limit_bytes


def test_no_batch_of_the_largest_dipeptide_takes_more_than_the_limit() -> None:
    flow = flow_of("WW", DenoiserArchitecture())
    assert flow.chunk_size == 3
    noise = torch.Generator().manual_seed(0)
    small, large = (peak_bytes(lambda n=n: flow.sample_with_log_prob(n, noise)) for n in (3, 6))
    assert small < 1.1 * flow.memory_limit_bytes
    row = 51 * 3 * 8
    assert large - small < 3 * row * (GRID.nodes + 8)  # the configurations themselves
