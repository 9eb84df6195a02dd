"""The shape of the package: which way imports point, how large its parts are, what one costs."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openmm_tbg"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# A module may import from the layers above its own; a new module has to take its place here.
LAYERS = (
    ("arrays", "citations", "files", "shown"),
    ("stereochemistry",),
    (
        "exports",
        "folders",
        "frames",
        "grid",
        "molecule",
        "progress",
        "ranks",
        "semi_empirical",
        "torsions",
    ),
    ("encoding",),
    ("transferable",),
    ("prior",),
    ("divergence",),
    ("fields",),
    ("flow",),
    ("filters", "potential", "metropolis", "analysis", "reference", "visits"),
    ("panels", "peptides", "verdict"),
    ("matching", "checkpoint"),
    ("models", "transferable_model"),
    ("proposals",),
    ("draw", "store"),
    ("generator", "stored", "thinning", "workers"),
    ("tally", "simulation", "free_energy"),
    ("evaluation",),
    ("move", "run_record"),
    ("run_store",),
    ("run",),
    ("training",),
    ("adaptation_record",),
    ("adaptation",),
    ("doctor", "report"),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50
NAMES_THAT_SAY_NOTHING = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
HEAVY = {"matplotlib", "mdtraj", "numpy", "openmm", "openmmtools", "pymbar", "rdkit", "torch"}

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def top_level_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_from_the_package(path: Path) -> Iterator[str]:
    """Top-level modules of the package that a file imports anywhere; '' is the package root."""
    parents = ("openmm_tbg", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                anchor = parents[: len(parents) - level + 1] if level else ()
                stem = ".".join((*anchor, *([module] if module else ())))
                targets = [f"{stem}.{alias.name}" for alias in names]
            case _:
                continue
        for target in targets:
            package, _, rest = f"{target}.".partition(".")
            if package == "openmm_tbg":
                name = rest.split(".")[0]
                yield name if name in RANK else ""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


@each_module
def test_every_module_has_its_place(path: Path) -> None:
    assert top_level_name(path) in RANK, "list the new module in LAYERS"


@each_module
def test_imports_point_one_way(path: Path) -> None:
    own = top_level_name(path)
    others = set(imports_from_the_package(path)) - {own}
    assert "" not in others, "the package root gathers the public names; import from the module"
    assert all(RANK[other] < RANK[own] for other in others)


@each_module
def test_modules_are_small_and_named_after_the_science(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES
    assert path.stem not in NAMES_THAT_SAY_NOTHING


@each_module
def test_functions_are_short(path: Path) -> None:
    too_long = {f.name for f in functions(path) if lines_without_docstring(f) > MAX_FUNCTION_LINES}
    assert not too_long


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from ..flow import ContinuousFlow", {"flow"}),
        ("from .. import flow", {"flow"}),
        ("from .egnn import EGNN", {"fields"}),
        ("from . import egnn", {"fields"}),
        ("import openmm_tbg.flow", {"flow"}),
        ("from openmm_tbg.flow import ContinuousFlow", {"flow"}),
        ("from openmm_tbg import TBGMove", {""}),
        ("from .. import TBGMove", {""}),
        ("import openmm, torch.nn", set()),
    ],
)
def test_the_guard_sees_every_form_of_import(
    line: str, found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "fields").mkdir()
    module = tmp_path / "fields" / "new.py"
    module.write_text(line)
    assert set(imports_from_the_package(module)) == found


def test_importing_the_package_is_light() -> None:
    code = (
        "import json, sys, time; start = time.perf_counter(); import openmm_tbg; "
        "print(json.dumps([time.perf_counter() - start, list(sys.modules)]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, modules = json.loads(answer.stdout)
    assert seconds < 0.5
    assert not HEAVY.intersection(modules)
    assert answer.stderr == ""


def test_every_public_name_resolves() -> None:
    package = importlib.import_module("openmm_tbg")
    for name in package.__all__:
        assert getattr(package, name) is not None
