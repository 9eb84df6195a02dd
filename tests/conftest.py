"""Fixtures that more than one test module needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit
from structures import Alanine

from openmm_tbg.arrays import Positions

TEMPERATURE_K = 300.0


@pytest.fixture(scope="session")
def alanine() -> Alanine:
    return Alanine.build()


@pytest.fixture(scope="session")
def md_frames() -> Positions:
    """50 centred frames of alanine dipeptide at 300 K, 0.2 ps apart: 2 fs with heavy hydrogens."""
    heavy = Alanine.build(hydrogen_mass_amu=4.0)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE_K, 1.0, 0.002)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(heavy.system, integrator, platform)
    context.setPositions(heavy.positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(TEMPERATURE_K, 2)
    frames: Positions = np.empty((50, 22, 3))
    for frame in frames:
        integrator.step(100)
        positions = context.getState(positions=True).getPositions(asNumpy=True)
        frame[:] = positions.value_in_unit(unit.nanometer)
    frames -= frames.mean(axis=1, keepdims=True)
    return frames


class PowerLosses:
    """What a loss of power leaves of a folder, at each moment of the writing in it.

    A name lasts once its folder is synced, and its content where the file was synced before it was
    renamed. Names that are not synced yet may last as well: each moment has both outcomes.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._fsync, self._replace = folder, os.fsync, Path.replace
        self._lasting = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self._synced: dict[int, bytes] = {}  # by inode
        self._renamed: dict[Path, bytes] = {}
        self.moments: list[dict[Path, bytes]] = []
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(Path, "replace", lambda partial, name: self.replace(partial, name))

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            for name in [name for name in self._renamed if name.parent == path]:
                self._lasting[name] = self._renamed.pop(name)
        else:
            self._synced[path.stat().st_ino] = path.read_bytes()
        self._note()

    def replace(self, partial: Path, name: Path) -> Path:
        self._renamed[name] = self._synced.pop(partial.stat().st_ino, b"")
        path = self._replace(partial, name)
        self._note()
        return path

    def _note(self) -> None:
        self.moments += [dict(self._lasting), self._lasting | self._renamed]

    def outcomes(self, copy: Path) -> Iterator[Path]:
        """The folder as it is found after each loss of power, one after the other."""
        for moment in self.moments:
            shutil.rmtree(copy, ignore_errors=True)
            for folder in (self._folder, *self._folder.rglob("*/")):
                (copy / folder.relative_to(self._folder)).mkdir()
            for name, content in moment.items():
                (copy / name.relative_to(self._folder)).write_bytes(content)
            yield copy


@pytest.fixture
def power_losses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], PowerLosses]:
    """Watch the writing in a folder from now on."""
    return lambda folder: PowerLosses(folder, monkeypatch)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
