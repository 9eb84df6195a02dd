"""How the documentation is built: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import os
import re
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

project = "openmm_tbg"
author = metadata("openmm-tbg")["Author"]
release = version = metadata("openmm-tbg")["Version"]
project_copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "README.md"]

# The code of the pages runs in every build, and an error in it is an error of the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # progress bars
suppress_warnings = ["mystnb.unknown_mime_type"]  # of 3Dmol.js, beside its HTML
os.environ["OPENMM_TBG_DOCS"] = str(Path(__file__).parent)  # where the pages find their data
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Reference", "notes_style")]
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
default_role = "py:obj"

# One file of MathJax, fonts included, so that formulae need no network. It is MathJax 3.2.2 as npm
# has it; a renderer that needs LaTeX would ask for an installation of gigabytes.
MATHJAX = Path(str(files("sphinx-mathjax-offline"))) / "static" / "mathjax" / "tex-svg.js"
mathjax_path = MATHJAX.name

html_theme = "pydata_sphinx_theme"
html_title = f"openmm_tbg {release}"
html_static_path = ["_static", str(MATHJAX)]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
html_sidebars = {"symptoms": [], "index": []}

DISPLAYED = re.compile(r"^( *)(.*?)\$\$(.+?)\$\$(.*?)$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!\$)\$([^$\n]+(?:\n[^$\n]+)?)\$(?!\$)")
LOADS = re.compile(rb"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["'](?:https?:)?//[^>]*>""")


def formulae(lines: list[str]) -> list[str]:
    """A docstring whose $...$ and $$...$$ are reStructuredText."""

    def displayed(found: re.Match[str]) -> str:
        indent, before, formula, after = found.groups()
        rows = [f"{indent}{before.rstrip()}"] if before.strip() else []
        rows += ["", f"{indent}.. math:: {' '.join(formula.split())}", ""]
        rows += [f"{indent}{after.strip()}"] if after.strip() else []
        return "\n".join(rows)

    def inline(found: re.Match[str]) -> str:
        return f":math:`{' '.join(found[1].split())}`"

    text = INLINE.sub(inline, "\n".join(lines))
    return DISPLAYED.sub(displayed, text).split("\n")


def replace_formulae(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    lines[:] = formulae(lines)


def escape_types(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """A shape such as "*bins" is no emphasis."""
    lines[:] = [
        line.replace("*", r"\\*") if line.startswith(":vartype") else line for line in lines
    ]


def require_offline(app: Sphinx, error: Exception | None) -> None:
    """Refuse pages that would load anything from a network."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        for tag in LOADS.findall(page.read_bytes()):
            if b'rel="canonical"' not in tag:
                raise ExtensionError(f"{page.name} loads from the network: {tag.decode():.200}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", replace_formulae, priority=100)
    app.connect("autodoc-process-docstring", escape_types, priority=900)
    app.connect("build-finished", require_offline)
