"""What a report says: figures, verdict, free energies and structures, before they are a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..analysis import effective_sample_size, independence_acceptance, pareto_k
from ..arrays import Cause, Positions, Scalars
from ..citations import Citation, citations_of
from ..evaluation import MolecularDynamics
from ..evaluation.figures import BASIN_NAME, in_basin
from ..free_energy import (
    Convergence,
    Estimated,
    FreeEnergyProfile,
    MultistateFreeEnergies,
    forward_and_reverse,
    free_energy_difference,
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

Angles = Float64[np.ndarray, "proposals 2"]
N_STRUCTURES = 20
N_BINS = 36
N_PARTS = 10


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
        convergence: Of ln Z over the proposals in their order; None for fewer than ten.
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
    convergence: Convergence | None
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
        free_energies: Figures for the table, by name, beside ln Z and that of 0 < phi < 2 rad.
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
    angles = ramachandran and _angles(proposals.positions_nm, weights, ramachandran)
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
        free_energies={"ln Z": log_z}
        | ({} if angles is None else _of_basin(angles[:, 0], weights))
        | dict(free_energies or {}),
        convergence=_convergence(weights),
        states=states,
        surface=None if angles is None else _surface(angles, weights),
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


def _convergence(weights: Scalars) -> Convergence | None:
    if len(weights) < N_PARTS:
        return None
    return forward_and_reverse(
        lambda rows: log_normalising_constant(weights[rows]), len(weights), N_PARTS
    )


def _angles(
    positions_nm: Positions, weights: Scalars, ramachandran: tuple[Dihedral, Dihedral]
) -> Angles:
    """Phi and psi in radians; 0 where the weight is zero, and positions may be anything."""
    angles = np.zeros((len(weights), 2))
    used = weights > -math.inf
    for column, atoms in enumerate(ramachandran):
        angles[used, column] = dihedral(positions_nm[used], atoms)
    return angles


def _of_basin(phi: Scalars, weights: Scalars) -> dict[str, Estimated]:
    """The free energy of the basin, where it and the rest have proposals with a weight."""
    used = weights > -math.inf
    there, rest = in_basin(phi) & used, ~in_basin(phi) & used
    if not (there.any() and rest.any()):
        return {}
    names = BASIN_NAME, "the rest"
    return {f"F({BASIN_NAME}) - F(rest)": free_energy_difference(weights, there, rest, names)}


def _surface(angles: Angles, weights: Scalars) -> FreeEnergyProfile:
    edges = np.linspace(-math.pi, math.pi, N_BINS + 1)
    return free_energy_profile(weights, angles, (edges, edges))
