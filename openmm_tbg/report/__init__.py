"""A report of proposals and their weights: one HTML file that opens offline, and its JSON."""

from __future__ import annotations

from .contents import Report, report_on_store
from .page import write_report

__all__ = ["Report", "report_on_store", "write_report"]
