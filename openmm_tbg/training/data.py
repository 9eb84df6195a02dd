"""Frames of one molecule on the training device, and the draws that a step takes from them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..files import digest_of

Fingerprint = dict[str, str | float | None]
FrameBatch = Float[Tensor, "batch atoms 3"]
Times = Float[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class MoleculeFrames:
    """Configurations of one molecule, drawn with given probabilities.

    Args:
        positions_nm: centred, (frames, atoms, 3).
        forces_per_nm: the force in kT/nm on every atom, of the same shape, if known.
        log_weights: log of the probability of each frame up to a constant; None: all are equal.

    Raises:
        ValueError: if there is no frame, the columns differ in length, or one is not finite.
    """

    positions_nm: Float[Tensor, "frames atoms 3"]
    forces_per_nm: Float[Tensor, "force_frames atoms 3"] | None = None
    log_weights: Float64[Tensor, " weights"] | None = None

    def __post_init__(self) -> None:
        if not len(self.positions_nm):
            raise ValueError("positions_nm holds no frames: give at least one")
        for name, column in self._columns.items():
            if column is None:
                continue
            if len(column) != len(self.positions_nm):
                raise ValueError(
                    f"{name} has {len(column)} rows for {len(self.positions_nm)} frames: "
                    "take all columns from the same frames"
                )
            if not torch.isfinite(column).all():
                raise ValueError(f"{name} holds numbers that are not finite: skip such frames")

    @property
    def n_atoms(self) -> int:
        """Atoms of the molecule."""
        return self.positions_nm.shape[1]

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells these frames from others, by column; None for one that is not there.

        Of the positions the sha256. Forces and weights may be computed anew for the same positions
        and then differ in the last digits: of them the standard deviation, in which a constant
        added to all log-weights is lost as well.
        """
        positions = self.positions_nm.cpu().numpy()
        found: Fingerprint = {"positions_nm": digest_of(list(positions.shape), [positions]).hex()}
        for name in ("forces_per_nm", "log_weights"):
            column = self._columns[name]
            found[name] = None if column is None else float(column.double().std(correction=0))
        return found

    @property
    def _columns(self) -> dict[str, Tensor | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return len(self.positions_nm)

    def to(self, like: Tensor) -> MoleculeFrames:
        """The frames in the precision and on the device of a tensor."""
        weights = self.log_weights
        return MoleculeFrames(
            self.positions_nm.to(like),
            None if self.forces_per_nm is None else self.forces_per_nm.to(like),
            None if weights is None else weights.to(like.device),
        )

    def tempered(self, power: float) -> MoleculeFrames:
        """The same frames, drawn by a power of their probabilities."""
        weights = self.log_weights
        return self if weights is None else replace(self, log_weights=power * weights)

    def __getitem__(self, rows: slice | Int[Tensor, " rows"]) -> MoleculeFrames:
        """The same columns of some frames."""
        forces, weights = self.forces_per_nm, self.log_weights
        return MoleculeFrames(
            self.positions_nm[rows],
            None if forces is None else forces[rows],
            None if weights is None else weights[rows],
        )

    def draw(self, n: int, generator: torch.Generator) -> Int[Tensor, " rows"]:
        """Indices of `n` frames, independent, each with its probability."""
        device = generator.device
        if self.log_weights is None:
            return torch.randint(len(self), (n,), generator=generator, device=device)
        uniform = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        return torch.searchsorted(self._cumulative, uniform).clamp_max(len(self) - 1)

    @cached_property
    def _cumulative(self) -> Tensor:
        assert self.log_weights is not None
        return self.log_weights.softmax(0).cumsum(0)


def draw_times(n: int, shortest_noise: float, generator: torch.Generator) -> Times:
    """Times of a batch: a quarter uniform, the rest log-uniform in 1 - t, where bonds form."""
    uniform = torch.rand(n, generator=generator, device=generator.device)
    quarter = n // 4
    return torch.cat([uniform[:quarter], 1 - shortest_noise ** uniform[quarter:]])


def centred_noise(n: int, n_atoms: int, generator: torch.Generator) -> FrameBatch:
    """Standard normal numbers on the mean-free subspace."""
    noise = torch.randn(n, n_atoms, 3, generator=generator, device=generator.device)
    return noise - noise.mean(dim=1, keepdim=True)
