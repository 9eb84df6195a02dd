"""What the three pools have in common: the store, and how a worker loads its generator."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

logging.getLogger("pymbar").setLevel(logging.ERROR)  # its banner on a missing JAX

from openmm_tbg import BoltzmannGenerator, ProposalStore
from openmm_tbg.reference import alanine_dipeptide
from openmm_tbg.workers import Load

MODEL = "alanine-dipeptide"
SEED = 1


def arguments(what: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=what.splitlines()[0])
    parser.add_argument("store", type=Path, help="a folder that all machines reach")
    parser.add_argument("--proposals", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> tuple[ProposalStore, Load]:
    """The store, made or opened, and what each worker calls once."""
    topology = alanine_dipeptide().topology
    here = BoltzmannGenerator.from_pretrained(MODEL, topology)
    n_batches = -(-options.proposals // options.batch_size)
    store = ProposalStore.create(options.store, here, n_batches, options.batch_size, SEED)
    load = partial(BoltzmannGenerator.from_pretrained, MODEL, topology, options.device)
    return store, load
