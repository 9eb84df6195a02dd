"""What to cite for results of this library, as BibTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Citation:
    """A work and what it is cited for.

    Args:
        key: of the BibTeX entry.
        reason: what it is cited for.
        entry: its kind, such as "article".
        fields: of the entry.
        of_files: force-field files whose use asks for it; empty for what is always cited.
    """

    key: str
    reason: str
    entry: str
    fields: dict[str, str]
    of_files: tuple[str, ...] = ()

    def bibtex(self) -> str:
        """The entry, with a comment that says what it is cited for."""
        lines = [f"  {name} = {{{value}}}," for name, value in self.fields.items()]
        return "\n".join([f"% {self.reason}", f"@{self.entry}{{{self.key},", *lines, "}"])

    def text(self) -> str:
        """One sentence to read, without the marks of LaTeX.

        Example:
            >>> print(CITATIONS[0].text())
            Klein, Leon and Noé, Frank: Transferable Boltzmann Generators. Advances in Neural
            Information Processing Systems 37, 2024, arXiv:2406.14426
        """
        of = self.fields
        where = " ".join(
            of[name] for name in ("journal", "booktitle", "howpublished", "volume") if name in of
        )
        parts = [where, of.get("pages"), of.get("year"), of.get("note")]
        parts += [f"{of['archiveprefix']}:{of['eprint']}" if "eprint" in of else None]
        parts += [f"doi:{of['doi']}" if "doi" in of else None]
        sentence = f"{of['author']}: {of['title']}. {', '.join(part for part in parts if part)}"
        for mark, plain in (("{\\'e}", "é"), ("{", ""), ("}", ""), ("--", "-"), ("\\_", "_")):
            sentence = sentence.replace(mark, plain)
        return sentence


CITATIONS = (
    Citation(
        "Klein2024",
        "the method: Transferable Boltzmann Generators",
        "inproceedings",
        {
            "author": "Klein, Leon and No{\\'e}, Frank",
            "title": "Transferable {B}oltzmann Generators",
            "booktitle": "Advances in Neural Information Processing Systems",
            "volume": "37",
            "year": "2024",
            "eprint": "2406.14426",
            "archiveprefix": "arXiv",
        },
    ),
    Citation(
        "openmm_tbg",
        "this library",
        "misc",
        {
            "author": "{the openmm\\_tbg developers}",
            "title": "openmm\\_tbg",
            "note": f"Version {version('openmm-tbg')}",
        },
    ),
    Citation(
        "Eastman2024",
        "energies and dynamics: OpenMM",
        "article",
        {
            "author": "Eastman, Peter and others",
            "title": "{OpenMM} 8: Molecular Dynamics Simulation with Machine Learning Potentials",
            "journal": "The Journal of Physical Chemistry B",
            "volume": "128",
            "pages": "109--116",
            "year": "2024",
            "doi": "10.1021/acs.jpcb.3c06662",
        },
    ),
    Citation(
        "openmmtools",
        "samplers: openmmtools",
        "misc",
        {
            "author": "Chodera, John and others",
            "title": "choderalab/openmmtools",
            "howpublished": "Zenodo",
            "doi": "10.5281/zenodo.596622",
        },
    ),
    Citation(
        "Shirts2008",
        "free energies between states: pymbar",
        "article",
        {
            "author": "Shirts, Michael R. and Chodera, John D.",
            "title": "Statistically optimal analysis of samples from multiple equilibrium states",
            "journal": "The Journal of Chemical Physics",
            "volume": "129",
            "pages": "124105",
            "year": "2008",
            "doi": "10.1063/1.2978177",
        },
    ),
    Citation(
        "Vehtari2024",
        "the Pareto k of weights: ArviZ",
        "article",
        {
            "author": "Vehtari, Aki and Simpson, Daniel and Gelman, Andrew and Yao, Yuling and "
            "Gabry, Jonah",
            "title": "Pareto Smoothed Importance Sampling",
            "journal": "Journal of Machine Learning Research",
            "volume": "25",
            "number": "72",
            "pages": "1--58",
            "year": "2024",
        },
    ),
    Citation(
        "LindorffLarsen2010",
        "the force field AMBER99SB-ILDN",
        "article",
        {
            "author": "Lindorff-Larsen, Kresten and Piana, Stefano and Palmo, Kim and Maragakis, "
            "Paul and Klepeis, John L. and Dror, Ron O. and Shaw, David E.",
            "title": "Improved side-chain torsion potentials for the {Amber} {ff99SB} protein "
            "force field",
            "journal": "Proteins: Structure, Function, and Bioinformatics",
            "volume": "78",
            "pages": "1950--1958",
            "year": "2010",
            "doi": "10.1002/prot.22711",
        },
        of_files=("amber99sbildn.xml",),
    ),
    Citation(
        "Maier2015",
        "the force field AMBER ff14SB",
        "article",
        {
            "author": "Maier, James A. and Martinez, Carmenza and Kasavajhala, Koushik and "
            "Wickstrom, Lauren and Hauser, Kevin E. and Simmerling, Carlos",
            "title": "{ff14SB}: Improving the Accuracy of Protein Side Chain and Backbone "
            "Parameters from {ff99SB}",
            "journal": "Journal of Chemical Theory and Computation",
            "volume": "11",
            "pages": "3696--3713",
            "year": "2015",
            "doi": "10.1021/acs.jctc.5b00255",
        },
        of_files=("amber14-all.xml",),
    ),
    Citation(
        "Onufriev2004",
        "the implicit solvent OBC",
        "article",
        {
            "author": "Onufriev, Alexey and Bashford, Donald and Case, David A.",
            "title": "Exploring protein native states and large-scale conformational changes with "
            "a modified generalized {Born} model",
            "journal": "Proteins: Structure, Function, and Bioinformatics",
            "volume": "55",
            "pages": "383--394",
            "year": "2004",
            "doi": "10.1002/prot.20033",
        },
        of_files=("amber99_obc.xml", "implicit/obc1.xml", "implicit/obc2.xml"),
    ),
)


def citations_of(force_field: Sequence[str] = ()) -> list[Citation]:
    """What is always cited, and the works behind the files of a force field.

    Example:
        >>> [each.key for each in citations_of(["amber14-all.xml"])][-2:]
        ['Vehtari2024', 'Maier2015']
    """
    return [
        citation
        for citation in CITATIONS
        if not citation.of_files or set(citation.of_files) & set(force_field)
    ]
