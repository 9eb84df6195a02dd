"""The Boltzmann generator: a trained flow whose samples are filtered and carry log-densities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from openmm.app import Topology

from .arrays import Positions
from .checkpoint import ModelCard, TrainedModel, file_sha256
from .filters import Screened, TopologyFilter
from .flow import ContinuousFlow, LogProbError, Positions64, Rows
from .models import find_model
from .molecule import Molecule
from .proposals import Proposals


class BoltzmannGenerator:
    r"""Draws configurations of one molecule with their exact density, and evaluates that density.

    The flow of an EGNN is invariant under reflections. For a molecule with stereocentres both hands
    are folded into the right one, $q(x) = 2 q_{flow}(x)$ there, so proposals of the wrong hand are
    mirrored rather than lost, and $\ln 2$ is added for proposals and for given configurations
    alike. A denoiser that knows the stereocentres tells the hands apart: nothing is folded.

    Use `from_pretrained` or `from_checkpoint`.

    Args:
        model: weights and what they know.
        reference: registered name or absolute path, from which to load the generator again.
        sha256: digest of the model's file.
        device: "cpu", or "cuda" and the like.

    Raises:
        ValueError: if `device` is not there.
    """

    def __init__(
        self, model: TrainedModel, reference: str, sha256: str, device: str = "cpu"
    ) -> None:
        _require_device(device)
        self.model = model
        self.reference = reference
        self.sha256 = sha256
        self.device = device
        self.flow: ContinuousFlow = model.flow(device)
        self._filter = TopologyFilter(
            model.molecule,
            model.encoding.labels,
            density_sees_hand=model.architecture.sees_hand(model.geometry),
        )

    @classmethod
    def from_pretrained(
        cls, name: str, topology: Topology, device: str = "cpu"
    ) -> BoltzmannGenerator:
        """A model that comes with the package, for the molecule of an OpenMM topology.

        Raises:
            ValueError: if there is no such model, its file has changed, `topology` is another
                molecule or in another order of atoms, or `device` is not there.

        Example:
            >>> from openmm_tbg.reference import alanine_dipeptide
            >>> generator = BoltzmannGenerator.from_pretrained(
            ...     "alanine-dipeptide", alanine_dipeptide().topology
            ... )
            >>> proposals = generator.propose(4, np.random.default_rng(0))
            >>> proposals = proposals[proposals.passes]
            >>> again = generator.evaluate(proposals.positions_nm)
            >>> bool(np.abs(again.log_q - proposals.log_q).max() < 0.1)
            True
        """
        return cls._load(find_model(name), name, topology, device)

    @classmethod
    def from_checkpoint(
        cls, path: Path, topology: Topology, device: str = "cpu"
    ) -> BoltzmannGenerator:
        """A model from a file of one's own; arguments and errors as in `from_pretrained`."""
        return cls._load(path, str(path.resolve()), topology, device)

    @classmethod
    def _load(
        cls, path: Path, reference: str, topology: Topology, device: str
    ) -> BoltzmannGenerator:
        model = TrainedModel.load(path)
        model.molecule.require_same(topology)
        return cls(model, reference, file_sha256(path), device)

    @property
    def molecule(self) -> Molecule:
        """The molecule whose atoms the positions list."""
        return self.model.molecule

    @property
    def card(self) -> ModelCard:
        """What made the model."""
        return self.model.card

    def propose(self, n: int, rng: np.random.Generator) -> Proposals:
        """Draw `n` configurations; those that fail a filter keep their rows, with the cause.

        Their weight is zero whatever their density, so that none is computed: log q is NaN.

        Raises:
            ValueError: if `n` is below 1.
        """
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        screened: list[Screened] = []

        def passes(positions_nm: Positions64) -> Rows:
            screened.append(self._filter.screen(positions_nm.cpu().numpy()))
            return torch.from_numpy(screened[-1].passes).to(positions_nm.device)

        samples = self.flow.sample_with_log_prob(n, noise, passes)
        return Proposals(
            np.concatenate([each.positions_nm for each in screened]),
            samples.log_q.cpu().numpy() + self._filter.log_fold,
            np.concatenate([each.cause for each in screened]),
        )

    def evaluate(self, positions_nm: Positions) -> Proposals:
        """The same columns for given configurations (batch, atoms, 3) in nm, by the inverse flow.

        A configuration that fails a filter has no use for a density: its log q is NaN.

        Raises:
            ValueError: if the positions are not of this molecule.
        """
        with np.errstate(invalid="ignore"):  # the filter finds rows that are not finite
            centred = positions_nm - positions_nm.mean(axis=1, keepdims=True)
        screened = self._filter.screen(centred)
        log_q = np.full(len(positions_nm), np.nan)
        if screened.passes.any():
            inside = torch.from_numpy(screened.positions_nm[screened.passes]).to(self.device)
            log_q[screened.passes] = (
                self.flow.log_prob(inside).cpu().numpy() + self._filter.log_fold
            )
        return Proposals(screened.positions_nm, log_q, screened.cause)

    def log_prob_error(self, n: int, rng: np.random.Generator) -> LogProbError:
        """Measure the numerical error of log q on `n` fresh samples, in kT."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return self.flow.log_prob_error(n, noise)


def load_generator(reference: str, sha256: str) -> BoltzmannGenerator:
    """The generator that a stored run refers to, on the GPU where there is one.

    Raises:
        ValueError: if the registered model is not there.
        RuntimeError: if the file is not there, or is not the one of the stored run.
    """
    path = Path(reference) if Path(reference).is_absolute() else find_model(reference)
    if not path.exists():
        raise RuntimeError(f"the model of the stored run is missing at {path}: put it back there")
    if file_sha256(path) != sha256:
        raise RuntimeError(
            f"the model at {path} is not the one of the stored run (sha256 {sha256[:12]}...): "
            "put that one back, or start a new run"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return BoltzmannGenerator(TrainedModel.load(path), reference, sha256, device)


def _require_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device is {device!r}, but torch finds no CUDA device: use device='cpu', or install "
            "a CUDA build of torch and check the driver with nvidia-smi"
        )
