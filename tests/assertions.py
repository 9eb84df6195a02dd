"""Statistical checks whose error bars know how many independent samples there are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from pymbar.timeseries import statistical_inefficiency


def assert_mean(
    samples: Float64[np.ndarray, " samples"],
    expected: float,
    *,
    sigmas: float = 4.0,
    min_ess: float = 200.0,
) -> None:
    """Fail unless the mean of a time series is within `sigmas` standard errors of `expected`.

    The error comes from the effective sample size, which has to exceed `min_ess`: a chain that does
    not mix has no error bar, and so proves nothing.
    """
    error = _standard_error(samples, min_ess)
    deviation = abs(samples.mean() - expected) / error
    assert deviation < sigmas, f"{samples.mean():.4g} is {deviation:.1f} sigma from {expected:.4g}"


def assert_same_mean(
    first: Float64[np.ndarray, " first"],
    second: Float64[np.ndarray, " second"],
    *,
    sigmas: float = 4.0,
    min_ess: float = 200.0,
) -> None:
    """Fail unless the means of two time series agree within `sigmas` standard errors of both."""
    error = np.hypot(_standard_error(first, min_ess), _standard_error(second, min_ess))
    deviation = abs(first.mean() - second.mean()) / error
    assert deviation < sigmas, (
        f"{first.mean():.4g} is {deviation:.1f} sigma from {second.mean():.4g}"
    )


def _standard_error(samples: Float64[np.ndarray, " samples"], min_ess: float) -> float:
    assert np.ptp(samples) > 0, f"the samples are all {samples[0]:.4g}: there is no error bar"
    ess = len(samples) / statistical_inefficiency(samples)
    assert ess > min_ess, f"the chain does not mix: effective sample size {ess:.0f}"
    return samples.std(ddof=1) / np.sqrt(ess)
