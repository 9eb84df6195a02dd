"""Figures of merit of a generator, each with an error bar where it has one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from ..analysis import (
    bootstrap_error,
    clipped_effective_sample_size,
    effective_sample_size,
    independence_acceptance,
    log_mean_weight,
    pareto_k,
)
from ..arrays import Cause, Mask, Positions, Scalars
from ..torsions import Dihedral, dihedral
from ..visits import Visits
from .drawing import ScoredProposals
from .dynamics import MolecularDynamics, normalised
from .record import Estimate, Evaluation

BASIN = (0.0, 2.0)  # of phi, in radians: as in the published figures
BASIN_NAME = f"{BASIN[0]:g} < phi < {BASIN[1]:g} rad"


def evaluate(
    scored: ScoredProposals,
    dynamics: MolecularDynamics,
    seeds: Sequence[int],
    log_q_held_out: Scalars | None = None,
    length_scale: float = 1.0,
    made_with: str = "",
) -> Evaluation:
    r"""Measure proposals against molecular dynamics of their target.

    Errors are standard deviations over 200 bootstrap resamples of the proposals. The negative
    log-likelihood depends on the unit of length: in lengths $y = s x$ the density is
    $\log q_s(y) = \log q(x) - 3 (N_{atoms} - 1) \ln s$. Where the filters fold mirror images, log q
    counts both: published figures of a density that does not are ln 2 higher.

    Args:
        scored: The proposals, those that fail a filter included.
        dynamics: Frames of the target.
        seeds: The seeds with which the proposals were drawn, for the record.
        log_q_held_out: log q in nats of independent frames of the target that the model was not
            trained on, lengths in nm; NaN where a frame fails the generator's filters.
        length_scale: What lengths in nm are multiplied by for `nll_scaled`.
        made_with: Model, hardware and versions, for the record.

    Raises:
        ValueError: Fewer than two proposals pass the filters with a finite energy, or
            `length_scale` is not above zero.

    Example:
        >>> from openmm_tbg.molecule import Molecule
        >>> peroxide = Molecule(
        ...     (8, 8, 1, 1), ("O1", "O2", "H1", "H2"), ("HOO",) * 4, (0,) * 4,
        ...     ((0, 1), (0, 2), (1, 3)), (),
        ... )
        >>> frames = np.random.default_rng(0).normal(size=(100, 4, 3))
        >>> u = np.square(frames).sum(axis=(1, 2)) / 2
        >>> turn = (2, 0, 1, 3)
        >>> dynamics = MolecularDynamics(peroxide, turn, turn, 300.0, frames, u)
        >>> none = np.full(100, Cause.NONE, dtype=np.int8)
        >>> scored = ScoredProposals(frames, -u, none, u, seconds=np.ones(100))
        >>> print(f"{evaluate(scored, dynamics, seeds=(0,)).effective_sample_size:.0%}")
        100% +- 0%
    """
    refuse_thinned(scored)
    _require_usable(scored)
    if not length_scale > 0:
        raise ValueError(f"length_scale is {length_scale}: give a factor above zero")
    log_weights = scored.log_weights
    intact = ~np.isin(scored.cause, (Cause.ENERGY_NOT_FINITE, Cause.BOND_GRAPH))
    energies = scored.u_kT[np.isfinite(scored.u_kT)]
    ratios = bond_width_ratios(scored, dynamics)
    held_out = np.empty(0) if log_q_held_out is None else log_q_held_out
    dimensions = 3 * (dynamics.molecule.n_atoms - 1)
    return Evaluation(
        n=len(scored),
        seeds=tuple(seeds),
        temperature_K=dynamics.temperature_K,
        effective_sample_size=bootstrapped(effective_sample_size, log_weights),
        effective_sample_size_clipped_0_2_percent=clipped_effective_sample_size(log_weights, 0.002),
        effective_sample_size_clipped_1_percent=clipped_effective_sample_size(log_weights, 0.01),
        pareto_k=pareto_k(log_weights),
        acceptance=bootstrapped(independence_acceptance, log_weights),
        valid_bonds=float(intact.mean()),
        valid_chirality=float((scored.cause[intact] != Cause.CHIRALITY).mean()),
        valid=float(scored.passes.mean()),
        energy_quartiles_kT=quartiles(energies, np.ones(len(energies))),
        energy_quartiles_md_kT=quartiles(dynamics.u_kT, dynamics.weights),
        bond_width_ratio=float(ratios.mean()),
        bond_width_ratio_worst=float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        free_energy_difference_kT=bootstrapped(
            free_energy_difference, log_weights, phi_of(scored, dynamics.phi)
        ),
        free_energy_difference_md_kT=_free_energy_difference(
            dynamics.weights, dihedral(dynamics.positions_nm, dynamics.phi)
        ),
        log_mean_weight=bootstrapped(log_mean_weight, log_weights),
        samples_per_second=len(scored) / float(scored.seconds.sum()),
        n_held_out=len(held_out),
        n_held_out_failed=int(np.isnan(held_out).sum()),
        nll_nm=negative_log_likelihood(held_out, dimensions, 1.0),
        nll_scaled=negative_log_likelihood(held_out, dimensions, length_scale),
        length_scale=length_scale,
        made_with=made_with,
    )


def free_energy_difference(log_weights: Scalars, phi: Scalars) -> float:
    r"""Free energy of one basin against all others, in kT.

    $$ \Delta F = -\ln \frac{P(0 < \phi < 2)}{P(\text{rest})} $$

    Args:
        log_weights: Log-weight of each row.
        phi: Dihedral phi of each row in radians.

    Returns:
        The difference; inf where the basin, -inf where the rest has no weight.

    Reference:
        Klein & Noé 2024 (arXiv:2406.14426), who take the basin's border at 2 rad.

    Example:
        >>> round(free_energy_difference(np.log([1.0, 3.0]), np.array([1.0, -1.0])), 4)
        1.0986
    """
    return _free_energy_difference(normalised(log_weights), phi)


def in_basin(phi: Scalars) -> Mask:
    """Which values of phi, in radians, lie in the basin of `free_energy_difference`."""
    inside: Mask = (phi > BASIN[0]) & (phi < BASIN[1])
    return inside


def basin_visits(phi: Scalars) -> Visits:
    """Visits of a chain to that basin, by phi of its states in radians."""
    return Visits.of(in_basin(phi), BASIN_NAME)


def bond_width_ratios(
    scored: ScoredProposals, dynamics: MolecularDynamics
) -> Float64[np.ndarray, " bonds"]:
    """Standard deviation of each bond's length in proposals over that in molecular dynamics.

    The proposals are those that pass the filters, unweighted; the frames carry their weights.
    """
    equal = np.full(int(scored.passes.sum()), 1 / scored.passes.sum())
    bonds = dynamics.molecule.bonds
    generated = _bond_widths(scored.positions_nm[scored.passes], bonds, equal)
    ratios: Float64[np.ndarray, " bonds"] = generated / _bond_widths(
        dynamics.positions_nm, bonds, dynamics.weights
    )
    return ratios


def negative_log_likelihood(
    log_q: Scalars, dimensions: int, length_scale: float
) -> Estimate | None:
    r"""Mean of -log q for lengths multiplied by a factor s, and its standard error.

    $$ \mathrm{NLL}_s = -\langle \log q \rangle + d \ln s $$

    Args:
        log_q: log q of independent frames in nats, lengths in nm; rows that are NaN are left out.
        dimensions: d, three for each atom but one.
        length_scale: s.

    Returns:
        The mean; None where no row is left, and with an error of inf where one is.

    Example:
        >>> f"{negative_log_likelihood(np.array([-1.0, -3.0]), 6, 1.0):.1f}"
        '2.0 +- 1.0'
    """
    known = log_q[~np.isnan(log_q)]
    if len(known) == 0:
        return None
    error = float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.inf
    return Estimate(float(-known.mean()) + dimensions * math.log(length_scale), error)


def refuse_thinned(scored: ScoredProposals) -> None:
    """Refuse proposals some of which were dropped at random.

    Raises:
        ValueError: Energies of those kept are no fair sample.
    """
    if (scored.cause == Cause.THINNED).any():
        raise ValueError(
            "scored holds thinned proposals, whose energies are no fair sample of the flow's: "
            "score those of the generator that was thinned"
        )


def _require_usable(scored: ScoredProposals) -> None:
    usable = int((scored.log_weights > -np.inf).sum())
    if usable < 2:
        causes = Counter(Cause(cause).name.lower() for cause in scored.cause)
        raise ValueError(
            f"{usable} of {len(scored)} proposals pass the filters with a finite energy, at least "
            f"two are needed: draw more, or train for longer (causes: {dict(causes)})"
        )


def bootstrapped(
    statistic: Callable[..., float], log_weights: Scalars, *columns: Scalars
) -> Estimate:
    """A statistic of the proposals with its standard deviation over 200 bootstrap resamples."""
    error = bootstrap_error(statistic, log_weights, *columns, seed=0)
    return Estimate(statistic(log_weights, *columns), error)


def phi_of(scored: ScoredProposals, phi: Dihedral) -> Scalars:
    """Dihedral phi of the proposals; 0 where a filter fails, whose positions may not be finite."""
    angles = np.zeros(len(scored))
    angles[scored.passes] = dihedral(scored.positions_nm[scored.passes], phi)
    return angles


def _free_energy_difference(weights: Scalars, phi: Scalars) -> float:
    inside = in_basin(phi)
    basin, rest = float(weights[inside].sum()), float(weights[~inside].sum())
    if basin == 0 or rest == 0:
        return math.inf if basin == 0 else -math.inf
    return math.log(rest / basin)


def _bond_widths(
    positions_nm: Positions, bonds: Sequence[tuple[int, int]], weights: Scalars
) -> Float64[np.ndarray, " bonds"]:
    first, second = np.array(bonds).T
    lengths = np.linalg.norm(positions_nm[:, first] - positions_nm[:, second], axis=-1)
    widths: Float64[np.ndarray, " bonds"] = np.sqrt(
        weights @ np.square(lengths - weights @ lengths)
    )
    return widths


def quartiles(values: Scalars, weights: Scalars) -> tuple[float, float, float]:
    """The quartiles of weighted values."""
    shares = (0.25, 0.5, 0.75)
    low, middle, high = np.quantile(values, shares, weights=weights, method="inverted_cdf")
    return float(low), float(middle), float(high)
