"""How a chain of states went between a set of configurations and all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Mask


@dataclass(frozen=True)
class Visits:
    """Visits of a chain to a set of configurations.

    Attributes:
        where: The set, to be read, such as "0 < phi < 2 rad".
        share: Of the states of the chain, in the set.
        n_crossings: How often the chain went in or out.

    Example:
        >>> Visits.of(np.array([True, False, False, True]), "x > 0")
        Visits(where='x > 0', share=0.5, n_crossings=2)
    """

    where: str
    share: float
    n_crossings: int

    @classmethod
    def of(cls, inside: Mask, where: str) -> Visits:
        """The visits of successive states, by which of them lie in the set."""
        return cls(where, float(inside.mean()), int(np.count_nonzero(inside[1:] != inside[:-1])))

    @property
    def n_round_trips(self) -> int:
        """How often the chain went to the other side and back."""
        return self.n_crossings // 2

    @property
    def n_effective(self) -> float:
        r"""Independent states that would tell the share p of the set as well as this chain.

        $$ n = \frac{p (1 - p)}{\sigma_p^2} = \frac{c}{4 p (1 - p)} $$ after c crossings, where
        stays on either side last exponentially. NaN without a crossing: nothing is known then.

        Reference:
            Cox, Renewal Theory (Methuen, 1962), chapter 7.

        Example:
            >>> Visits("x > 0", share=0.02, n_crossings=4).n_effective
            51.02...
        """
        if not self.n_crossings:
            return float("nan")
        return self.n_crossings / (4 * self.share * (1 - self.share))
