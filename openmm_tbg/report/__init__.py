"""Reports of proposals and of chains: one HTML file that opens offline, and its JSON."""

from __future__ import annotations

from .chain import ChainReport, report_on_run
from .contents import Report, report_on_store
from .page import write_chain_report, write_report

__all__ = [
    "ChainReport",
    "Report",
    "report_on_run",
    "report_on_store",
    "write_chain_report",
    "write_report",
]
