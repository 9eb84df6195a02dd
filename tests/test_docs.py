"""What rots in the documentation, found without building it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import bibtexparser
import numpy as np
import pytest
import yaml
from bibtexparser.middlewares import LatexDecodingMiddleware

import openmm_tbg
from openmm_tbg.citations import CITATIONS
from openmm_tbg.metropolis import log_weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*") if path.suffix in {".md", ".rst"})
MARKDOWN = [path for path in PAGES if path.suffix == ".md"]
BLOCK = re.compile(r"^```(?:\{code-cell\}.*|python)\n((?::.*\n)*)(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|\{(?:download|doc)\}`[^`<]*<([^>]+)>`|:link: (\S+)")
DOCUMENTED = re.compile(r"^\.\. auto(?:class|function|data):: (\S+)", re.M)
BANNERS = {"Warning on use of the timeseries module", "JAX NOT FOUND"}  # of pymbar

each_page = pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(DOCS)))
pytestmark = pytest.mark.disable_socket


def blocks(page: Path) -> list[str]:
    return [code for _, code in BLOCK.findall(page.read_text())]


def imports(code: str) -> Iterator[tuple[str, str | None]]:
    """Modules that a block imports, each with a name in it or None."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)


def public_names(module: ModuleType) -> set[str]:
    """`__all__`, or what a package gathers from its own modules."""
    if hasattr(module, "__all__"):
        return {name for name in module.__all__ if not name.startswith("__")}
    return {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(thing)
        and getattr(thing, "__module__", "").startswith(f"{module.__name__}.")
    }


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documented() -> list[str]:
    return [name for page in DOCS.rglob("*.rst") for name in DOCUMENTED.findall(page.read_text())]


def gathering_packages() -> list[str]:
    paths, prefix = openmm_tbg.__path__, "openmm_tbg."
    packages = [found.name for found in pkgutil.iter_modules(paths, prefix) if found.ispkg]
    return [openmm_tbg.__name__, *packages]


@pytest.mark.parametrize("name", gathering_packages())
def test_every_public_name_is_on_a_page(name: str) -> None:
    wanted = {f"{name}.{each}" for each in public_names(importlib.import_module(name))}
    assert wanted <= set(documented())


def test_every_name_on_a_page_exists_once() -> None:
    names = documented()
    assert len(names) == len(set(names)) > 60
    for name in names:
        module, _, member = name.rpartition(".")
        assert getattr(importlib.import_module(module), member).__doc__


@each_page
def test_links_resolve(page: Path) -> None:
    for target in filter(
        None, (part for found in LINK.findall(page.read_text()) for part in found)
    ):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        path = path if path.exists() else path.with_suffix(".md")
        assert path.is_file(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(path), f"{target}: no such heading"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in PAGES:
        text = page.read_text()
        for toctree in re.findall(r"\{toctree\}\n(.*?)```|\.\. toctree::\n(.*)", text, re.S):
            for entry in "\n".join(toctree).split("\n"):
                if (entry := entry.strip()) and not entry.startswith(":"):
                    found = [
                        (page.parent / entry).with_suffix(ending) for ending in (".md", ".rst")
                    ]
                    assert any(path.exists() for path in found), f"{entry} is no page"
                    listed.update(found)
    assert set(PAGES) - {DOCS / "README.md"} <= listed


@each_page
def test_code_imports_what_exists(page: Path) -> None:
    for code in blocks(page):
        for module, name in imports(code):
            found = importlib.import_module(module)
            assert (
                name is None or hasattr(found, name) or importlib.import_module(f"{module}.{name}")
            )


def test_the_pages_have_code() -> None:
    assert len([page for page in MARKDOWN if blocks(page)]) >= 10
    assert sum("kernelspec" in page.read_text() for page in MARKDOWN) >= 9


def test_messages_are_quoted_as_they_are() -> None:
    """Each quoted message occurs in the package, piece by piece between what differs."""
    texts = []
    for path in (ROOT / "openmm_tbg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    source = "\n".join(texts)
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "symptoms.md").read_text(), re.M)
    quoted = {quote for row in rows for quote in re.findall(r"`([^`]+ [^`]+)`", row)}
    assert len(quoted - BANNERS) >= 15
    for quote in quoted - BANNERS:
        for piece in filter(None, (part.strip() for part in quote.split("..."))):
            assert piece in source, f"{quote!r} is printed nowhere"


def test_what_to_cite() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == openmm_tbg.__version__
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": "the openmm_tbg developers"}]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Klein", "Noé"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    entries = parsed_citations()
    own = entries["openmm_tbg"]
    assert own["title"] == citation["title"]
    assert own["author"] == citation["authors"][0]["name"]
    assert own["note"] == f"Version {citation['version']}"
    method = entries["Klein2024"]
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert method["author"] == names
    assert (method["title"], method["year"]) == (paper["title"], str(paper["year"]))
    assert (method["booktitle"], method["volume"]) == (
        paper["collection-title"],
        paper["volume-title"],
    )
    assert f"arXiv:{method['eprint']}" == paper["identifiers"][0]["value"]


def parsed_citations() -> dict[str, dict[str, str]]:
    """What a parser of BibTeX makes of all that the library cites, LaTeX turned into letters."""
    text = "\n\n".join(each.bibtex() for each in CITATIONS)
    library = bibtexparser.parse_string(text, append_middleware=[LatexDecodingMiddleware()])
    assert library.failed_blocks == []
    entries = {
        entry.key: {"": entry.entry_type} | {field.key: field.value for field in entry.fields}
        for entry in library.entries
    }
    assert len(entries) == len(CITATIONS)
    return {
        key: {name: value.replace("{", "").replace("}", "") for name, value in fields.items()}
        for key, fields in entries.items()
    }


# DOI, year, volume and first page, as the publishers have them.
PUBLISHED = {
    "Eastman2024": ("10.1021/acs.jpcb.3c06662", "2024", "128", "109"),
    "openmmtools": ("10.5281/zenodo.596622", None, None, None),
    "Shirts2008": ("10.1063/1.2978177", "2008", "129", "124105"),
    "Vehtari2024": (None, "2024", "25", "1"),
    "LindorffLarsen2010": ("10.1002/prot.22711", "2010", "78", "1950"),
    "Maier2015": ("10.1021/acs.jctc.5b00255", "2015", "11", "3696"),
    "Onufriev2004": ("10.1002/prot.20033", "2004", "55", "383"),
}
NEEDED = {  # by the styles of BibTeX
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"title"},
}


def test_citations_are_bibtex_and_name_what_was_published() -> None:
    entries = parsed_citations()
    assert entries.keys() == {"Klein2024", "openmm_tbg", *PUBLISHED}
    for entry in entries.values():
        assert NEEDED[entry[""]] <= entry.keys()
    for key, (doi, year, volume, page) in PUBLISHED.items():
        entry = entries[key]
        assert (entry.get("doi"), entry.get("year"), entry.get("volume")) == (doi, year, volume)
        assert page is None or re.match(r"\d+", entry["pages"])[0] == page


def test_the_proposals_of_the_tutorial_are_those_of_the_evaluation() -> None:
    columns = np.load(DOCS / "data" / "alanine_proposals.npz")
    evaluation = json.loads((ROOT / "benchmarks" / "alanine_evaluation.json").read_text())
    weights = log_weights(columns["u"], columns["log_q"], columns["cause"] == 0)
    share = openmm_tbg.effective_sample_size(weights)
    assert len(weights) == evaluation["n"]
    assert share == pytest.approx(evaluation["effective_sample_size"]["value"], rel=1e-9)
