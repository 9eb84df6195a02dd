"""Fixtures that more than one test module needs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
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
        subprocess.run(["umount", disk], check=True)
