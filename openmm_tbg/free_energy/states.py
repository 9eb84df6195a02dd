"""Free energies between states from samples of several of them, through pymbar."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import rustworkx as rx
from jaxtyping import Float, Float64, Int

from ..analysis import pareto_k
from ..arrays import Scalars, is_array, require_numbers
from ..verdict import Doubt, Verdict, doubts_of_number, doubts_of_overlap, doubts_of_tail
from .estimated import Estimated, require_length
from .profile import (
    OUTSIDE,
    Coordinates,
    Edges,
    FreeEnergyProfile,
    occupied_bins,
    profile_of_bins,
    require_coordinates,
)

if TYPE_CHECKING:
    from pymbar import MBAR

NO_OVERLAP = 1e-6

ReducedPotentials = Float64[np.ndarray, "states samples"]
Counts = Int[np.ndarray, " states"]


@dataclass(frozen=True, eq=False)
class MultistateFreeEnergies:
    r"""Free energies of several states from samples of all of them.

    Attributes:
        differences_kT: $f_j - f_i$ in row i and column j, $f = -\ln Z$.
        errors_kT: Their standard errors.
        overlap: Probability that a sample of state i is found in state j by its weights.
        n: Samples of each state.
        n_effective: Effective number of all samples in each state.
        weakest_link: The smallest overlap that has to be crossed to go from any sampled state to
            any other, by the best way.
        doubts: What speaks against the figures.
    """

    differences_kT: Float64[np.ndarray, "states states"]
    errors_kT: Float64[np.ndarray, "states states"]
    overlap: Float64[np.ndarray, "states states"]
    n: tuple[int, ...]
    n_effective: Float64[np.ndarray, " states"]
    weakest_link: float
    doubts: tuple[Doubt, ...]
    _mbar: MBAR = field(repr=False)

    def __str__(self) -> str:
        rows = zip(self.differences_kT[0], self.errors_kT[0], self.n, self.n_effective, strict=True)
        lines = [
            f"state {k}: {value:.3f} +- {error:.3f} kT (N = {n}, {n_effective:.0f} effective)"
            for k, (value, error, n, n_effective) in enumerate(rows)
        ]
        return "\n".join([*lines, *(f"  {doubt.trust}: {doubt}" for doubt in self.doubts)])

    @property
    def verdict(self) -> Verdict:
        """How far the figures can be trusted, and the next step."""
        return Verdict(self.doubts)

    def log_weights(self, state: int) -> Scalars:
        r"""Log-weights of all samples in one state.

        $$ w_n = e^{f_i - u_i(x_n)} \Bigm/ \sum_k N_k e^{f_k - u_k(x_n)}, \qquad \sum_n w_n = 1 $$

        They hold the free energies of the states, whose errors nothing knows that takes them as
        weights of independent proposals: for errors ask `average` and `profile`.
        """
        return _log_weights(self._mbar, state)

    def average(self, observable: Float[np.ndarray, " samples"], state: int) -> Estimated:
        """The average in one state of an observable known at every sample.

        Raises:
            ValueError: It is no array of numbers, its length is not the number of samples, or it is
                not finite.
        """
        require_numbers(observable=observable)
        if observable.shape != (sum(self.n),) or not np.isfinite(observable).all():
            raise ValueError(f"observable: give a finite value for each of {sum(self.n)} samples")
        shift = float(observable.min()) - 1.0  # pymbar takes the logarithm
        found = self._mbar.compute_expectations(observable - shift, state_dependent=False)
        return Estimated(
            float(found["mu"][state]) + shift,
            float(found["sigma"][state]),
            "MBAR",
            self.n,
            float(self.n_effective[state]),
            self.weakest_link,
            self.doubts,
        )

    def profile(self, coordinates: Coordinates, edges: Edges, state: int) -> FreeEnergyProfile:
        r"""Free energy over coordinates in one state.

        Each bin is a state of its own, of which nothing was sampled, with $u = u_i$ inside it and
        $\infty$ outside; errors are those of MBAR, with the covariance of all states.

        Args:
            coordinates: Of every sample, as for `free_energy_profile`.
            edges: Of the bins, as there.
            state: i.

        Raises:
            ValueError: As for `free_energy_profile`.
        """
        require_coordinates(coordinates, edges)
        log_weights = self.log_weights(state)
        require_length(log_weights, coordinates=coordinates)
        weights = np.exp(log_weights)
        bins = occupied_bins(coordinates, edges, weights)
        occupied = np.setdiff1d(bins, OUTSIDE)
        u = self._mbar.u_kn[state]
        of_bins = np.where(bins == occupied[:, np.newaxis], u, np.inf)
        found = self._mbar.compute_perturbed_free_energies(np.concatenate([u[np.newaxis], of_bins]))
        errors = np.full([len(each) - 1 for each in edges], np.inf)
        errors.flat[occupied] = found["dDelta_f"][0, 1:]
        return profile_of_bins(bins, weights, edges, errors, self.doubts)


def multistate(u_kn: ReducedPotentials, n_k: Counts) -> MultistateFreeEnergies:
    r"""Free energies of any set of states: the flow, targets at other temperatures, chains.

    $$ f_i = -\ln \sum_n \frac{e^{-u_i(x_n)}}{\sum_k N_k e^{f_k - u_k(x_n)}} $$

    A flow is a state with $u = -\log q$. A configuration outside a state has $u = \infty$ there.
    A state of which nothing was drawn is judged by the tail of its weights, as in `verdict`.

    Args:
        u_kn: Reduced potential of every sample in every state; samples in the order of the states
            that they were drawn from, independent within each (see `independent_rows`).
        n_k: Samples drawn from each state; 0 for a state that is only reweighted to.

    Raises:
        ValueError: Shapes do not fit, a reduced potential is NaN or -inf, a sample has u = inf in
            its own state, or some states do not overlap with the others.

    Reference:
        Shirts & Chodera, J. Chem. Phys. 129 (2008) 124105, through pymbar.

    Example:
        >>> x = np.random.default_rng(0).normal(size=500)
        >>> print(multistate(np.stack([x**2 / 2, x**2 / 2 + 1.0]), np.array([500, 0])))
        state 0: 0.000 +- 0.000 kT (N = 500, 500 effective)
        state 1: 1.000 +- 0.000 kT (N = 0, 500 effective)
    """
    require_states(u_kn, n_k)
    from pymbar import MBAR

    # One constant for each state keeps the numbers small; it is put back at the end.
    shifts = np.array([row[np.isfinite(row)].min() for row in u_kn])
    mbar = MBAR(u_kn - shifts[:, np.newaxis], n_k, solver_protocol="robust")
    overlap = mbar.compute_overlap()["matrix"]
    weakest = _weakest_link(overlap, np.flatnonzero(n_k))
    found = mbar.compute_free_energy_differences()
    differences = found["Delta_f"] + shifts[np.newaxis] - shifts[:, np.newaxis]
    errors = found["dDelta_f"]
    if not (weakest > NO_OVERLAP and np.isfinite(differences).all() and np.isfinite(errors).all()):
        raise ValueError(
            f"the states do not overlap ({weakest:.1e}): put states between them, or draw more"
        )
    n_effective = mbar.compute_effective_sample_number()
    poorest = f"effective samples in state {int(n_effective.argmin())}"
    doubts = doubts_of_overlap(weakest)
    doubts += doubts_of_number(float(n_effective.min()), poorest, "draw more")
    for state in np.flatnonzero(n_k == 0).tolist():
        log_weights = _log_weights(mbar, state)
        tail = doubts_of_tail(pareto_k(log_weights), int((log_weights > -np.inf).sum()))
        doubts += tuple(replace(each, reason=f"state {state}: {each.reason}") for each in tail)
    return MultistateFreeEnergies(
        differences,
        errors,
        overlap,
        tuple(map(int, n_k)),
        n_effective,
        weakest,
        doubts,
        mbar,
    )


def _log_weights(mbar: MBAR, state: int) -> Scalars:
    with np.errstate(divide="ignore"):
        logarithms: Scalars = np.log(mbar.weights()[:, state])
    return logarithms


def _weakest_link(
    overlap: Float64[np.ndarray, "states states"], sampled: Int[np.ndarray, " sampled"]
) -> float:
    """The smallest edge of the maximum spanning tree; 1 where there is one sampled state."""
    graph: rx.PyGraph[int, float] = rx.PyGraph()
    graph.add_nodes_from(sampled.tolist())
    between = np.minimum(overlap, overlap.T)[np.ix_(sampled, sampled)]
    rows, columns = np.triu_indices(len(sampled), k=1)
    weights = between[rows, columns]
    graph.add_edges_from(list(zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True)))
    tree = rx.minimum_spanning_edges(graph, weight_fn=lambda weight: -weight)
    return min((weight for *_, weight in tree), default=1.0)


def require_states(u_kn: ReducedPotentials, n_k: Counts) -> None:
    """Refuse samples that are not those of the states."""
    if not is_array(u_kn, "f", 2):
        raise ValueError("u_kn: give a NumPy array of floats in kT, states by samples")
    if not is_array(n_k, "iu", 1) or (n_k < 0).any():
        raise ValueError(f"n_k is {n_k}: give an array of whole numbers, samples of each state")
    if len(u_kn) != len(n_k) or u_kn.shape[1] != n_k.sum():
        raise ValueError(
            f"u_kn has shape {u_kn.shape} where n_k = {n_k.tolist()} asks for "
            f"({len(n_k)}, {n_k.sum()}): give each sample's reduced potential in each state"
        )
    if np.isnan(u_kn).any() or (u_kn == -np.inf).any():
        raise ValueError("u_kn: NaN or -inf; give inf where a sample lies outside a state")
    own = np.repeat(np.arange(len(n_k)), n_k)
    if not np.isfinite(u_kn[own, np.arange(len(own))]).all():
        raise ValueError("u_kn: a sample has u = inf in the state that it was drawn from")
    if not np.isfinite(u_kn).any(axis=1).all():
        raise ValueError("u_kn: a state has no sample with a finite reduced potential")
