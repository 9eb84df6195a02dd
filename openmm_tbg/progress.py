"""How far something is and when it will end, for a terminal and for a log file."""

from __future__ import annotations

import sys

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 30.0
LINE = "{desc}{unit} {n_fmt}/{total_fmt}, {elapsed} elapsed, {remaining} left"


class _Lines(tqdm):  # type: ignore[misc]
    """What a log file gets: whole lines, of which nothing is written over."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless tqdm wants to clear the last one."""
        if line := str(self) if msg is None else msg:
            print(line, file=self.fp, flush=True)

    def close(self) -> None:
        """Say where it ends."""
        if not self.disable and self.n != self.last_print_n:
            self.display()
        super().close()


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
    work = {"total": total, "unit": unit, "initial": done, "leave": False}
    if sys.stderr.isatty():
        return tqdm(desc=name, position=row, mininterval=0.1, **work)
    prefix = f"{name}: " if name else None
    return _Lines(desc=prefix, mininterval=SECONDS_BETWEEN_LOG_LINES, bar_format=LINE, **work)
