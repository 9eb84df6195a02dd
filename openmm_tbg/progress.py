"""How far something is and when it will end, for a terminal and for a log file."""

from __future__ import annotations

import io
import sys

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 30.0


class _Lines(io.TextIOBase):
    """Standard error for tqdm in a log file: each state of a bar is a line of its own."""

    def write(self, text: str) -> int:
        """Write a state, which tqdm begins with a carriage return."""
        if state := text.strip():
            sys.stderr.write(f"{state}\n")
            sys.stderr.flush()
        return len(text)


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
        file=sys.stderr if on_terminal else _Lines(),
        unit=unit,
        desc=name,
        initial=done,
        position=row if on_terminal else None,
        leave=not on_terminal,
        mininterval=0.1 if on_terminal else SECONDS_BETWEEN_LOG_LINES,
    )
