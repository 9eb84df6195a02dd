"""How far something is and when it will end, for a terminal and for a log file."""

from __future__ import annotations

import sys

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 30.0


def progress_bar(
    total: int, unit: str, name: str | None = None, done: int = 0, row: int | None = None
) -> tqdm:
    """A bar on a terminal, a line now and then in a log file.

    Args:
        total: Units of work.
        unit: What one is called.
        name: What the work is called.
        done: Units that were done earlier.
        row: Row of the terminal, where several processes share it.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=name,
        initial=done,
        position=row if on_terminal else None,
        leave=not on_terminal,
        mininterval=0.1 if on_terminal else SECONDS_BETWEEN_LOG_LINES,
    )
