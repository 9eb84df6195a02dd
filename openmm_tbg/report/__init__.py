"""Reports of proposals and of chains, HTML that opens offline, and samples in a notebook."""

from __future__ import annotations

from .chain import ChainReport, report_on_run
from .contents import Report, report_on_store
from .page import write_chain_report, write_report
from .viewer import view

__all__ = [
    "ChainReport",
    "Report",
    "report_on_run",
    "report_on_store",
    "view",
    "write_chain_report",
    "write_report",
]
