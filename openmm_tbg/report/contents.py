"""What a report says: figures, verdict, free energies and structures, before they are a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis import effective_sample_size, independence_acceptance, pareto_k
from ..arrays import Cause, Positions, Scalars
from ..citations import Citation, citations_of
from ..evaluation import MolecularDynamics
from ..free_energy import (
    Estimated,
    FreeEnergyProfile,
    MultistateFreeEnergies,
    free_energy_profile,
    log_normalising_constant,
)
from ..metropolis import log_weights
from ..molecule import Molecule
from ..reference import ReferenceSystem
from ..store import ProposalStore
from ..torsions import Dihedral, dihedral
from ..verdict import Verdict, doubts_of_weights
from .structures import drawn_by_weight

N_STRUCTURES = 20
N_BINS = 36


@dataclass(frozen=True, eq=False)
class Report:
    """What is known of N proposals and of their weights in a target.

    Attributes:
        molecule: The molecule.
        positions_nm: Of all proposals, in nm.
        u_kT: Their reduced potentials; NaN where a filter fails.
        log_weights: -u - log q; -inf where the weight is zero.
        fates: Share of the proposals that passes with a finite energy, and that fails for each
            cause.
        effective_sample_size: Kish's, as a share of N, nothing clipped.
        acceptance: Of a stationary independence-Metropolis chain.
        pareto_k: Tail index of the weights; NaN where too few are above zero.
        verdict: How far averages over the proposals can be trusted.
        free_energies: Figures by name.
        states: Free energies between states, with their overlap.
        surface: Free energy over phi and psi.
        dynamics: Molecular dynamics of the target.
        provenance: Model, digest, versions and seed.
        citations: What to cite.
    """

    molecule: Molecule
    positions_nm: Positions
    u_kT: Scalars
    log_weights: Scalars
    fates: Mapping[str, float]
    effective_sample_size: float
    acceptance: float
    pareto_k: float
    verdict: Verdict
    free_energies: Mapping[str, Estimated]
    states: MultistateFreeEnergies | None
    surface: FreeEnergyProfile | None
    dynamics: MolecularDynamics | None
    provenance: Mapping[str, Any]
    citations: Sequence[Citation]

    def structures(self) -> tuple[Positions, Scalars]:
        """Some 20 proposals drawn by weight, superposed in nm, and the share of each in them."""
        return drawn_by_weight(self.positions_nm, self.log_weights, N_STRUCTURES)


def report_on_store(
    store: ProposalStore,
    potential: Callable[[Positions], Scalars],
    ramachandran: tuple[Dihedral, Dihedral] | None = None,
    dynamics: MolecularDynamics | None = None,
    free_energies: Mapping[str, Estimated] | None = None,
    states: MultistateFreeEnergies | None = None,
    target: ReferenceSystem | None = None,
) -> Report:
    """Weigh the finished batches of a store against a target.

    Args:
        store: The proposals.
        potential: Reduced potential of the target in kT, as `ReducedPotential` gives it.
        ramachandran: Atoms of phi and of psi; without them there is no surface.
        dynamics: Frames of the target, to compare energies with.
        free_energies: Figures for the table, by name, beside ln Z.
        states: Free energies between states, for their overlap.
        target: Where the potential comes from, for provenance and citations.

    Raises:
        RuntimeError: No batch is finished, or one is damaged.
        ValueError: Fewer than two proposals are there, or none has a weight.
    """
    proposals, molecule = store.read(), Molecule.from_dict(store.manifest)
    u = proposals.reduced_potentials(potential)
    weights = log_weights(u, proposals.log_q, proposals.passes)
    cause = np.where(proposals.passes & ~np.isfinite(u), Cause.ENERGY_NOT_FINITE, proposals.cause)
    fates = {"passes": float((cause == Cause.NONE).mean())} | {
        each.label: float((cause == each).mean())
        for each in (Cause.BOND_GRAPH, Cause.CHIRALITY, Cause.ENERGY_NOT_FINITE, Cause.THINNED)
    }
    everything = {"the target": weights > -math.inf}
    force_field = () if target is None else target.force_field
    log_z = log_normalising_constant(weights)
    return Report(
        molecule=molecule,
        positions_nm=proposals.positions_nm,
        u_kT=u,
        log_weights=weights,
        fates=fates,
        effective_sample_size=effective_sample_size(weights),
        acceptance=independence_acceptance(weights),
        pareto_k=pareto_k(weights),
        verdict=Verdict(doubts_of_weights(weights, everything)),
        free_energies={"ln Z": log_z} | dict(free_energies or {}),
        states=states,
        surface=ramachandran and _surface(proposals.positions_nm, weights, ramachandran),
        dynamics=dynamics,
        provenance={
            "model": store.manifest["reference"],
            "sha256": store.manifest["sha256"],
            "seed": store.manifest["seed"],
            "batches": f"{int(store.finished.sum())} of {store.n_batches}, "
            f"{store.batch_size} proposals each",
            "versions": store.manifest["versions"],
        }
        | (_provenance(target) if target else {}),
        citations=citations_of(force_field),
    )


def _provenance(target: ReferenceSystem) -> dict[str, str]:
    return {
        "force field": " + ".join(target.force_field),
        "temperature": f"{target.temperature_K:g} K",
    }


def _surface(
    positions_nm: Positions, weights: Scalars, ramachandran: tuple[Dihedral, Dihedral]
) -> FreeEnergyProfile:
    angles = np.zeros((len(weights), 2))
    used = weights > -math.inf
    for column, atoms in enumerate(ramachandran):
        angles[used, column] = dihedral(positions_nm[used], atoms)
    edges = np.linspace(-math.pi, math.pi, N_BINS + 1)
    return free_energy_profile(weights, angles, (edges, edges))
