"""What may keep the library from working here, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from .generator import BoltzmannGenerator

DISTRIBUTION = "openmm-tbg"
TELLING = ("openmm", "openmmtools", "torch", "numpy", "pymbar", "mdtraj", "zarr")
FEWEST_PLATFORMS = ("Reference", "CPU")
N_PROPOSALS = 10
LARGEST_ERROR_KT = 0.1
SMOKE_TEST = """
import openmm, torch
system = openmm.System(); system.addParticle(1.0)
context = openmm.Context(
    system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CUDA"))
context.setPositions([[0.0, 0.0, 0.0]])
for _ in range(3):
    assert float((torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum()) > 0
    context.getIntegrator().step(1)
    assert context.getState(energy=True).getPotentialEnergy()._value == 0
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what it is.
        found: what was found.
        remedy: what to do about it; empty where all is well.
    """

    name: str
    found: str
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing has to be done."""
        return not self.remedy

    def __str__(self) -> str:
        line = f"{'ok    ' if self.is_well else 'FAILED'}  {self.name:12s}  {self.found}"
        return line if self.is_well else f"{line}\n        do: {self.remedy}"


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other; what cannot be looked at is a finding."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("machine", machine),
        ("versions", versions),
        ("environment", environment),
        ("platforms", platforms),
        ("gpu", gpu),
        ("threads", threads),
        ("models", models),
        ("proposals", proposals),
    )
    for name, check in checks:
        try:
            yield check()
        except Exception as error:  # a doctor does not die of what it finds
            message = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding(name, message, "report this with the whole output")


def machine() -> Finding:
    """Operating system, Python and where it is."""
    return Finding(
        "machine", f"{platform.platform()}, Python {platform.python_version()}, {sys.prefix}"
    )


def versions() -> Finding:
    """Versions of the libraries that results depend on."""
    return Finding(
        "versions", ", ".join(f"{name} {version(name)}" for name in (DISTRIBUTION, *TELLING))
    )


def environment() -> Finding:
    """Whether every package that this one requires is there, in a version that it takes."""
    unmet = []
    for line in requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            unmet.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            unmet.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if unmet:
        return Finding("environment", "; ".join(unmet), f"pip install --upgrade {DISTRIBUTION}")
    return Finding("environment", "every requirement is met")


def platforms() -> Finding:
    """The platforms of OpenMM, and the plugins that did not load."""
    import openmm

    names = [
        openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())
    ]
    missing = [name for name in FEWEST_PLATFORMS if name not in names]
    # OpenCL comes with every OpenMM and fails wherever there is no driver: that is no fault.
    failures = [line for line in openmm.Platform.getPluginLoadFailures() if "CUDA" in line]
    found = ", ".join(names)
    if missing:
        found += f"; without {', '.join(missing)}"
        return Finding("platforms", found, "reinstall OpenMM: pip install --force-reinstall openmm")
    if failures:
        found += f"; a plugin did not load: {failures[0]}"
        return Finding(
            "platforms", found, "install the plugin of this OpenMM and driver, or remove it"
        )
    return Finding("platforms", found)


def gpu() -> Finding:
    """Driver and compute mode of the GPU, and whether torch and OpenMM work on it together."""
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "none (no nvidia-smi); the CPU is used")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_mode", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    if answer.returncode:
        return Finding(
            "gpu", f"nvidia-smi fails: {_last_line(answer.stdout)}", "mend the NVIDIA driver"
        )
    found = "; ".join(answer.stdout.splitlines())
    if "Exclusive_Process" in found:
        return Finding(
            "gpu",
            found,
            "torch and OpenMM need a context each: ask for nvidia-smi -c DEFAULT, or --device cpu",
        )
    smoke = subprocess.run([sys.executable, "-c", SMOKE_TEST], capture_output=True, text=True)
    if smoke.returncode:
        return Finding(
            "gpu",
            f"{found}; torch and OpenMM together fail: {_last_line(smoke.stderr)}",
            "install the CUDA builds of torch and of OpenMM (openmm-cuda-12 or -13) that this "
            "driver takes",
        )
    return Finding("gpu", f"{found}; torch and OpenMM work on it together")


def threads() -> Finding:
    """Cores of this process, and the threads that torch takes."""
    import torch

    n_cores, n_threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    found = f"{n_threads} of torch on {n_cores} of {os.cpu_count()} cores"
    if n_threads > n_cores:
        return Finding("threads", found, f"set OMP_NUM_THREADS={n_cores}: they wait for each other")
    return Finding("threads", found)


def models() -> Finding:
    """The files of the models that come with the package, against their sha256."""
    from .models import find_model, registered_models

    for name in registered_models():
        try:
            find_model(name)
        except ValueError as error:
            return Finding(
                "models", str(error), f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
            )
    return Finding("models", f"{', '.join(registered_models())}: sha256 as registered")


def proposals() -> Finding:
    """Ten proposals of the model of alanine dipeptide."""
    from .generator import BoltzmannGenerator
    from .reference import alanine_dipeptide

    topology = alanine_dipeptide().topology
    return proposals_of(BoltzmannGenerator.from_pretrained("alanine-dipeptide", topology))


def proposals_of(generator: BoltzmannGenerator) -> Finding:
    """Ten proposals in one batch: how many pass, their time, and the error of each log q."""
    import numpy as np

    from .generator import BoltzmannGenerator

    started = time.perf_counter()
    drawn = generator.propose(N_PROPOSALS, np.random.default_rng(0))
    seconds = (time.perf_counter() - started) / N_PROPOSALS
    rows = drawn[drawn.passes]
    found = f"{len(rows)} of {N_PROPOSALS} pass, {seconds:.2f} s each"
    remedy = "report this: the arithmetic of torch differs here"
    if not len(rows):
        return Finding("proposals", found, remedy)
    model = replace(generator.model, grid=generator.model.grid.refined())
    finer = BoltzmannGenerator(model, generator.reference, generator.sha256, generator.device)
    errors = rows.log_q - finer.evaluate(rows.positions_nm).log_q
    rms = float(np.sqrt(np.square(errors).mean()))
    found += f", error of log q {rms:.3f} kT rms ({' '.join(f'{each:.3f}' for each in errors)})"
    return Finding("proposals", found, "" if rms < LARGEST_ERROR_KT else remedy)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a message"])[-1]
