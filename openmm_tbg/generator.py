"""The Boltzmann generator: a trained flow whose samples are filtered and carry log-densities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .arrays import Positions
from .checkpoint import ModelCard, TrainedModel, file_sha256
from .draw import Draw, log_begin
from .filters import TopologyFilter
from .flow import ContinuousFlow, LogProbError
from .models import find_model, registered_models
from .molecule import Molecule
from .proposals import Proposals, Thinning
from .ranks import own_device
from .shown import Shown
from .transferable_model import TransferableModel, is_transferable, sequence_of

if TYPE_CHECKING:
    from openmm.app import Topology

SEQUENCE_MARK = "#"  # between the file of a model of many molecules and the sequence of one


class BoltzmannGenerator(Shown):
    r"""Draws configurations of one molecule with their exact density, and evaluates that density.

    The flow of an EGNN is invariant under reflections. For a molecule with stereocentres both hands
    are folded into the right one, $q(x) = 2 q_{flow}(x)$ there, so proposals of the wrong hand are
    mirrored rather than lost, and $\ln 2$ is added for proposals and for given configurations
    alike. A denoiser that knows the stereocentres tells the hands apart: nothing is folded.

    Use `from_pretrained` or `from_checkpoint`.

    Args:
        model: weights and what they know.
        reference: registered name or absolute path, from which to load the generator again; of a
            model of many molecules with the sequence behind it, as in "dipeptides#KS".
        sha256: digest of the model's file.
        device: "cpu", "cuda", which is that of this process where a launcher started several, or
            "cuda:1" and the like.

    Raises:
        ValueError: if `device` is not there.
    """

    def __init__(
        self, model: TrainedModel, reference: str, sha256: str, device: str = "cpu"
    ) -> None:
        self.model = model
        self.reference = reference
        self.sha256 = sha256
        self.device = own_device(device)
        self.flow: ContinuousFlow = model.flow(self.device)
        self._filter = TopologyFilter(
            model.molecule,
            model.encoding.labels,
            density_sees_hand=model.architecture.sees_hand(model.geometry),
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        topology: Topology | None = None,
        device: str = "cpu",
        *,
        sequence: str | None = None,
    ) -> BoltzmannGenerator:
        """A model that comes with the package, for the molecule of an OpenMM topology.

        Of a model of many molecules a `sequence` is enough, as for `dipeptide`, whose atoms and
        order the generator then has; `match_dipeptide` brings others into it.

        Args:
            name: of a registered model.
            topology: the molecule.
            device: "cpu", or "cuda" and the like, as above.
            sequence: one-letter codes of a dipeptide, if the model is one of many molecules.

        Raises:
            ValueError: if there is no such model, its file has changed, `topology` is another
                molecule or in another order of atoms, the model does not know the `sequence`, or
                `device` is not there.
            TypeError: if neither `topology` nor `sequence` is given.

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
        return cls._load(find_model(name), name, topology, device, sequence)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        topology: Topology | None = None,
        device: str = "cpu",
        *,
        sequence: str | None = None,
    ) -> BoltzmannGenerator:
        """A model from a file of one's own; arguments and errors as in `from_pretrained`."""
        return cls._load(path, str(path.resolve()), topology, device, sequence)

    @classmethod
    def _load(
        cls,
        path: Path,
        reference: str,
        topology: Topology | None,
        device: str,
        sequence: str | None,
    ) -> BoltzmannGenerator:
        if topology is None and sequence is None:
            raise TypeError("give the topology of the molecule, or the sequence of a dipeptide")
        if topology is not None and sequence is None and is_transferable(path):
            sequence = sequence_of(topology)
        model = _load_model(path, sequence)
        if topology is not None:
            model.molecule.require_same(topology)
        if sequence is not None:
            reference = f"{reference}{SEQUENCE_MARK}{sequence}"
        return cls(model, reference, file_sha256(path), device)

    def _facts(self) -> dict[str, object]:
        return {
            "model": self.reference,
            "sha256": self.sha256[:12],
            "atoms": self.molecule.n_atoms,
            "force field": " + ".join(self.card.force_field),
            "temperature": f"{self.card.temperature_K:g} K",
            "device": self.device,
        }

    @property
    def molecule(self) -> Molecule:
        """The molecule whose atoms the positions list."""
        return self.model.molecule

    @property
    def card(self) -> ModelCard:
        """What made the model."""
        return self.model.card

    def propose(
        self, n: int, rng: np.random.Generator, thinning: Thinning | None = None
    ) -> Proposals:
        """Draw `n` configurations; those that fail a filter keep their rows, with the cause.

        Their weight is zero whatever their density, so that none is computed: log q is NaN.

        Args:
            n: Number of configurations.
            rng: Source of all randomness.
            thinning: With which probability rows are kept, so that log q counts it. None: all.

        Raises:
            ValueError: if `n` is below 1.
            RuntimeError: if the weights of the network have changed.
        """
        self._require_frozen()
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return Draw(self.flow, self._filter, thinning, rng).proposals(n, noise)

    def evaluate(self, positions_nm: Positions, thinning: Thinning | None = None) -> Proposals:
        """The same columns for given configurations (batch, atoms, 3) in nm, by the inverse flow.

        A configuration that fails a filter has no use for a density: its log q is NaN. None is
        dropped by `thinning`, but log q counts it.

        Raises:
            ValueError: if the positions are not of this molecule.
            RuntimeError: if the weights of the network have changed.
        """
        self._require_frozen()
        with np.errstate(invalid="ignore"):  # the filter finds rows that are not finite
            centred = positions_nm - positions_nm.mean(axis=1, keepdims=True)
        screened = self._filter.screen(centred)
        rows, log_q = screened.passes, np.full(len(positions_nm), np.nan)
        if rows.any():
            inside = screened.positions_nm[rows]
            samples = self.flow.log_prob_and_estimate(torch.from_numpy(inside).to(self.device))
            log_q[rows] = samples.log_q.cpu().numpy() + self._filter.log_fold
            if thinning is not None:
                estimate = samples.log_q_estimate.cpu().numpy() + self._filter.log_fold
                log_q[rows] += thinning.log_keep(inside, estimate)
                if thinning.log_begin is not None:
                    begins = thinning.log_begin, samples.noise_nm
                    log_q[rows] += log_begin(self.flow, self._filter, *begins)
        return Proposals(screened.positions_nm, log_q, screened.cause)

    def _require_frozen(self) -> None:
        """Refuse a network other than the file's: two densities in one chain would bias it."""
        assert isinstance(self.flow.field, torch.nn.Module)
        for name, now in self.flow.field.state_dict().items():
            weights = self.model.weights[name]
            if not torch.equal(now.to(weights), weights):
                raise RuntimeError(
                    f"the network of {self.reference} has changed since it was loaded ({name}), so "
                    "that its density is another than that of earlier proposals: train a copy, "
                    "save it, and make a new generator of its file"
                )

    def log_prob_error(self, n: int, rng: np.random.Generator) -> LogProbError:
        """Measure the numerical error of log q on `n` fresh samples, in kT."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return self.flow.log_prob_error(n, noise)


def split_reference(reference: str) -> tuple[str, str]:
    """Name or path of the model's file, and the sequence if there is one behind it.

    Example:
        >>> split_reference("dipeptides#KS"), split_reference("/a#b/my.safetensors")
        (('dipeptides', 'KS'), ('/a#b/my.safetensors', ''))
        >>> split_reference("/a#b/my.safetensors#KS")
        ('/a#b/my.safetensors', 'KS')
    """
    name, mark, sequence = reference.rpartition(SEQUENCE_MARK)
    return (name, sequence) if mark and sequence.isalpha() else (reference, "")


def load_generator(reference: str, sha256: str) -> BoltzmannGenerator:
    """The generator that a stored run refers to, on the GPU where there is one.

    Raises:
        ValueError: if the file of the registered model is missing or altered.
        RuntimeError: if no file is known or there, or it is not the one of the stored run.
    """
    name, sequence = split_reference(reference)
    if not Path(name).is_absolute() and name not in registered_models():
        raise RuntimeError(
            f"the stored run used the generator {reference!r}, which no file holds: build it again "
            "as for that run, and give it to openmm_tbg.move.register_generator first"
        )
    path = Path(name) if Path(name).is_absolute() else find_model(name)
    if not path.exists():
        raise RuntimeError(f"the model of the stored run is missing at {path}: put it back there")
    if file_sha256(path) != sha256:
        raise RuntimeError(
            f"the model at {path} is not the one of the stored run (sha256 {sha256[:12]}...): "
            "put that one back, or start a new run"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return BoltzmannGenerator(_load_model(path, sequence or None), reference, sha256, device)


def _load_model(path: Path, sequence: str | None) -> TrainedModel:
    if sequence is None:
        return TrainedModel.load(path)
    return TransferableModel.load(path).for_sequence(sequence)
