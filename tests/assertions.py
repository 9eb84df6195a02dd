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
    assert np.ptp(samples) > 0, f"the samples are all {samples[0]:.4g}: there is no error bar"
    ess = len(samples) / statistical_inefficiency(samples)
    assert ess > min_ess, f"the chain does not mix: effective sample size {ess:.0f}"
    error = samples.std(ddof=1) / np.sqrt(ess)
    deviation = abs(samples.mean() - expected) / error
    assert deviation < sigmas, f"{samples.mean():.4g} is {deviation:.1f} sigma from {expected:.4g}"
