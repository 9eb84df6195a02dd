"""What a report says of a Markov chain, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..arrays import Cause, Mask, Scalars
from ..citations import Citation, citations_of
from ..evaluation.figures import basin_visits, in_basin
from ..free_energy import Convergence, forward_and_reverse, free_energy_difference_of_chain
from ..run_record import COUNTS, RunRecord
from ..torsions import Dihedral, can_turn, dihedral
from ..verdict import Verdict, doubts_of_chain
from ..visits import Visits
from .contents import N_PARTS


@dataclass(frozen=True, eq=False)
class ChainReport:
    """What is known of a chain that changes place by accepted proposals.

    Attributes:
        u_kT: Reduced potential of each state.
        accepted: Iterations in which a proposal was accepted.
        fates: Share of the proposals that was accepted, and that was rejected for each cause.
        n_steps: Steps with proposals.
        n_accepted: Those that changed the state.
        longest_run: Most steps in a row without acceptance, in whole iterations.
        visits: To the basin 0 < phi < 2 (radians); None without a phi that can turn.
        convergence: Of F(0 < phi < 2) - F(rest) in kT along the chain; None where it never crossed.
        verdict: How far averages over the chain can be trusted.
        angles: Phi and psi of each state in radians.
        provenance: Model, digests, versions and seed.
        citations: What to cite.
    """

    u_kT: Scalars
    accepted: Mask
    fates: Mapping[str, float]
    n_steps: int
    n_accepted: int
    longest_run: int
    visits: Visits | None
    convergence: Convergence | None
    verdict: Verdict
    angles: Float64[np.ndarray, "iterations 2"] | None
    provenance: Mapping[str, Any]
    citations: Sequence[Citation]

    @property
    def acceptance(self) -> float:
        """Share of the steps that changed the state."""
        return self.n_accepted / self.n_steps


def report_on_run(
    record: RunRecord, ramachandran: tuple[Dihedral, Dihedral] | None = None
) -> ChainReport:
    """Judge what a chain visited by its acceptances, and by its visits where phi is known.

    Args:
        record: As `read_run` gives it.
        ramachandran: Atoms of phi and of psi.

    Raises:
        ValueError: No iteration has a step with proposals.
    """
    steps = record.counts[:, COUNTS.index("n_steps")]
    n_steps, n_accepted = int(steps.sum()), int(record.n_accepted.sum())
    if n_steps == 0:
        raise ValueError("the record has no step with proposals: report on a chain with a TBGMove")
    causes = [cause for cause in Cause if f"n_rejected_{cause.name.lower()}" in COUNTS]
    n_proposed = int(record.n_proposed.sum())
    longest = _longest_run(steps, record.n_accepted > 0)
    angles = ramachandran and np.stack(
        [dihedral(record.positions_nm, atoms) for atoms in ramachandran], axis=1
    )
    visits = None if ramachandran is None else visits_of_phi(record, ramachandran[0])
    return ChainReport(
        u_kT=record.u,
        accepted=record.n_accepted > 0,
        fates={"accepted": n_accepted / n_proposed}
        | {cause.label: int(record.n_rejected(cause).sum()) / n_proposed for cause in causes},
        n_steps=n_steps,
        n_accepted=n_accepted,
        longest_run=longest,
        visits=visits,
        convergence=None if angles is None else _convergence(angles[:, 0], visits),
        verdict=Verdict(doubts_of_chain(n_steps, n_accepted, longest, visits)),
        angles=angles,
        provenance={
            name: value
            for name, value in record.metadata.items()
            if name not in ("topology", "move")
        }
        | {"moves": record.metadata["move"]},
        citations=citations_of(),
    )


def visits_of_phi(record: RunRecord, phi: Dihedral) -> Visits | None:
    """Visits of a chain to the basin 0 < phi < 2 (radians); None where phi is held by a ring.

    Args:
        record: As `read_run` gives it.
        phi: Its atoms.
    """
    bonds = [(int(one), int(other)) for one, other, *_ in record.metadata["topology"]["bonds"]]
    if not can_turn(phi, bonds):
        return None
    return basin_visits(dihedral(record.positions_nm, phi))


def _convergence(phi: Scalars, visits: Visits | None) -> Convergence | None:
    if visits is None or not visits.n_crossings or len(phi) < N_PARTS:
        return None
    there = in_basin(phi)
    return forward_and_reverse(
        lambda rows: free_energy_difference_of_chain(there[rows]), len(there), N_PARTS
    )


def _longest_run(steps: np.ndarray, accepted: Mask) -> int:
    """Most steps in iterations in a row that accept nothing.

    Example:
        >>> _longest_run(np.array([2, 2, 2, 2]), np.array([True, False, False, True]))
        4
    """
    before = np.concatenate([[0], np.cumsum(np.where(accepted, 0, steps))])
    last = np.maximum.accumulate(np.concatenate([[0], np.where(accepted, before[1:], 0)]))
    return int((before - last).max())
