"""What a user gets: the files of wheel and sdist, the extras, models without a network."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import pytest_socket

import openmm_tbg
from openmm_tbg import BoltzmannGenerator, registered_models
from openmm_tbg.models import find_model
from openmm_tbg.reference import alanine_dipeptide

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENDINGS = {".py", ".typed", ".json", ".safetensors", ".html", ".js", ".txt"}
MAX_WHEEL_BYTES = 30 * 10**6


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist by the build backend of the project; nothing is downloaded."""
    code = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(out)]
    ran = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return out / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, with files beside it that do not belong into a wheel."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("openmm_tbg", "tests", "examples", "benchmarks", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, model and marker of the source, and no test, picture or document."""
    package = ROOT / "openmm_tbg"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names_in(wheel) == expected
    assert "openmm_tbg/py.typed" in expected
    assert {f"openmm_tbg/models/{name}.safetensors" for name in registered_models()} <= expected
    assert {PurePosixPath(name).suffix for name in expected} <= ENDINGS
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as file:
        licence = next(n for n in file.namelist() if n.endswith("licenses/LICENSE"))
        assert file.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_a_wheel_from_the_sdist_is_the_same(wheel: Path, source: Path, tmp_path: Path) -> None:
    sdist = build("sdist", source, tmp_path)
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert (unpacked / "LICENSE").exists()
    assert names_in(build("wheel", unpacked, tmp_path)) == names_in(wheel)


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_extras_bring_the_cuda_platform(extra: str) -> None:
    assert PYPROJECT["project"]["optional-dependencies"][extra] == [f"openmm[{extra}]>=8.2"]


def test_versions_agree() -> None:
    assert PYPROJECT["project"]["version"] == openmm_tbg.__version__


@pytest.mark.disable_socket
def test_models_need_no_network() -> None:
    """The shipped model is found, checked, loaded, sampled and evaluated without a socket."""
    with pytest.raises(pytest_socket.SocketBlockedError):
        socket.create_connection(("127.0.0.1", 9))
    for name in registered_models():
        assert find_model(name).is_file()
    molecule = alanine_dipeptide()
    generator = BoltzmannGenerator.from_pretrained("alanine-dipeptide", molecule.topology)
    assert np.isfinite(generator.evaluate(molecule.starts_nm[:1]).log_q).all()
