"""A generator that a worker imports in half a second: a centred normal of three hydrogens."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_tbg.arrays import Positions
from openmm_tbg.molecule import Molecule
from openmm_tbg.proposals import Proposals

LINE = Molecule((1, 1, 1), ("A", "B", "C"), ("H",) * 3, (0, 0, 0), ((0, 1), (1, 2)), ())


@dataclass
class LightGenerator:
    """Its log q lacks the constant; `seconds` are spent on each draw."""

    seconds: float = 0.0
    sha256: str = "light"
    molecule: Molecule = LINE
    reference: str = "light"

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        time.sleep(self.seconds)
        positions = rng.normal(size=(n, 3, 3))
        return self.evaluate(positions - positions.mean(axis=1, keepdims=True))

    def evaluate(self, positions_nm: Positions) -> Proposals:
        log_q = -np.square(positions_nm).sum(axis=(1, 2)) / 2
        return Proposals(positions_nm, log_q, np.zeros(len(log_q), dtype=np.int8))


@dataclass
class DiesAtThird(LightGenerator):
    """Its process ends at the third draw, as one that the system kills for its memory."""

    n_drawn: int = 0

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        self.n_drawn += 1
        if self.n_drawn == 3:
            os._exit(137)
        return super().propose(n, rng)


def loaded_once(marks: Path) -> LightGenerator:
    """Leave a mark for the process, and fail where there is one."""
    (marks / str(os.getpid())).touch(exist_ok=False)
    return LightGenerator()
