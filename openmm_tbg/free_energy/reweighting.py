"""Free energies and averages of the target from independent, weighted proposals alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ..analysis import log_mean_weight
from ..arrays import Mask, Scalars, require_numbers
from ..verdict import doubts_of_weights
from .estimated import Estimated, effective_number, normalised, require_length, require_sets
from .tail import log_mean_error


def log_normalising_constant(log_weights: Scalars) -> Estimated:
    r"""The log of the target's normalising constant, from independent proposals alone.

    $$ \ln \hat Z = \ln \frac{1}{N} \sum_n w_n, \qquad Z = \int e^{-u(x)} dx $$

    with the error of `tail.log_mean_error`, which minds that few weights may carry the sum.
    The integral is over centred configurations in nm, of the hand and with the bonds that the
    filters ask for. The free energy of the molecule is $-\ln Z$; kinetic and overall translational
    parts are not in it. Symmetry: Z counts all arrangements of equal atoms, the $|A|$ permutations
    that keep bonds and labels, 3! for each methyl group; counted once, a molecule has the free
    energy $-\ln Z + \ln |A|$. Where labels are equal that bonds tell apart, Z is too large by
    the constant of `filters.BondGraph`, $\prod_l n_l!\,/\,|A|$; it is 1 for the model
    `alanine-dipeptide`.

    Args:
        log_weights: -u - log q of all N proposals, -inf where the weight is zero.

    Raises:
        ValueError: There are fewer than two proposals, a log-weight is NaN or +inf, or every weight
            is zero.

    Reference:
        Zwanzig, J. Chem. Phys. 22 (1954) 1420.

    Example:
        >>> print(log_normalising_constant(np.log([1.0, 2.0, 3.0] * 40)))
        0.693 +- 0.037 (exponential averaging, N = 120, 103 effective)
    """
    weights = normalised(log_weights)
    return Estimated(
        log_mean_weight(log_weights),
        log_mean_error(log_weights),
        "exponential averaging",
        (len(weights),),
        effective_number(weights),
        doubts=doubts_of_weights(log_weights, {"the target": weights > 0}),
    )


def average(log_weights: Scalars, observable: Float[np.ndarray, " batch"]) -> Estimated:
    r"""The target's average of an observable, from independent proposals.

    $$ \bar f = \frac{\sum_n w_n f_n}{\sum_n w_n}, \qquad
       \sigma^2 = \frac{\sum_n w_n^2 (f_n - \bar f)^2}{(\sum_n w_n)^2} $$

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero.
        observable: Its value for each proposal; ignored where the weight is zero.

    Raises:
        ValueError: Lengths differ, there are fewer than two proposals, a log-weight is NaN or +inf,
            every weight is zero, or the observable is not finite where the weight is not zero, or
            no array of numbers.

    Example:
        >>> print(average(np.zeros(100), np.tile([0.0, 1.0], 50)))
        0.500 +- 0.050 (reweighting, N = 100, 100 effective)
    """
    weights = normalised(log_weights)
    require_numbers(observable=observable)
    require_length(log_weights, observable=observable)
    used = weights > 0
    if not np.isfinite(observable[used]).all():
        raise ValueError("observable is not finite for a proposal whose weight is not zero")
    mean = float(weights[used] @ observable[used])
    error = float(np.sqrt(np.square(weights[used] * (observable[used] - mean)).sum()))
    return Estimated(
        mean,
        error,
        "reweighting",
        (len(weights),),
        effective_number(weights),
        doubts=doubts_of_weights(log_weights, {"the target": used}),
    )


def free_energy_difference(
    log_weights: Scalars,
    first: Mask,
    second: Mask,
    names: tuple[str, str] = ("`first`", "`second`"),
) -> Estimated:
    r"""Free energy of one set of configurations less that of another, from independent proposals.

    $$ \Delta F = -\ln \frac{\sum_{n \in A} w_n}{\sum_{n \in B} w_n}, \qquad
       \sigma^2 = \frac{\sum_A w^2}{(\sum_A w)^2} + \frac{\sum_B w^2}{(\sum_B w)^2} $$

    the sum of the inverse effective numbers of the two. It knows only the weights drawn, other than
    that of ln Z: up to 1.6 times too small for a set that few carry (`benchmarks/tail_errors.py`).

    Args:
        log_weights: -u - log q of all proposals, -inf where the weight is zero.
        first: Which proposals lie in A.
        second: Which lie in B.
        names: Of A and B, for what speaks against the figure.

    Raises:
        ValueError: Lengths differ, A or B is no mask, they share a proposal, no proposal with a
            weight above zero lies in one of them, or the weights are as in `average`.

    Example:
        >>> phi = np.array([1.0] * 25 + [-1.0] * 75)
        >>> print(free_energy_difference(np.zeros(100), phi > 0, phi < 0))
        1.099 +- 0.231 (reweighting, N = 100, 25 effective)
          trust with care: 25 effective proposals in `first`, fewer than 50: draw more
    """
    weights = normalised(log_weights)
    require_length(log_weights, first=first, second=second)
    require_sets(weights, first, second, names)
    inside, outside = weights[first], weights[second]
    numbers = effective_number(inside), effective_number(outside)
    return Estimated(
        -math.log(inside.sum() / outside.sum()),
        math.sqrt(1 / numbers[0] + 1 / numbers[1]),
        "reweighting",
        (len(weights),),
        min(numbers),
        doubts=doubts_of_weights(log_weights, dict(zip(names, (first, second), strict=True))),
    )


def free_energy_between(log_weights_first: Scalars, log_weights_second: Scalars) -> Estimated:
    r"""Free energy of one target less that of another, from the same independent proposals.

    $$ \Delta F = -\ln \frac{\sum_n w_n}{\sum_n w'_n}, \qquad \sigma^2 = \frac{N}{N - 1} \sum_n
       \Bigl( \frac{w_n}{\sum_m w_m} - \frac{w'_n}{\sum_m w'_m} \Bigr)^2 $$

    The two sums share their proposals, so that their errors largely cancel where the targets are
    alike; those of two `log_normalising_constant` do not add. $F = -\ln Z$ in units of kT, each
    target's own. Zeros of energy that differ between force fields are part of the figure.

    Args:
        log_weights_first: -u - log q of all N proposals in the first target, such as another force
            field or temperature; -inf where the weight is zero.
        log_weights_second: Of the same proposals, in the same order, in the second target.

    Raises:
        ValueError: Lengths differ, or the weights of one target are as in `average`.

    Example:
        >>> u = np.random.default_rng(0).random(400)
        >>> print(free_energy_between(-1.1 * u, -u))
        0.044 +- 0.002 (reweighting, N = 400, 361 effective)
    """
    require_length(log_weights_first, log_weights_second=log_weights_second)
    first, second = normalised(log_weights_first), normalised(log_weights_second)
    n = len(first)
    doubts = [
        replace(doubt, reason=f"`{name}`: {doubt.reason}")
        for name, log_weights in {"first": log_weights_first, "second": log_weights_second}.items()
        for doubt in doubts_of_weights(log_weights, {"the target": log_weights > -np.inf})
    ]
    return Estimated(
        log_mean_weight(log_weights_second) - log_mean_weight(log_weights_first),
        math.sqrt(n / (n - 1) * np.square(first - second).sum()),
        "reweighting",
        (n,),
        min(effective_number(first), effective_number(second)),
        doubts=tuple(doubts),
    )
