"""Progress is a bar on a terminal, and whole lines in a log file."""

from __future__ import annotations

import re
import time

import pytest
from tqdm import tqdm

from openmm_tbg import progress


def test_a_log_gets_whole_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", 0.2)
    with progress.progress_bar(20, "iteration", "chain", done=5) as bar:
        for _ in range(15):
            time.sleep(0.05)
            bar.update()
    log = capsys.readouterr().err
    assert "\r" not in log
    first, *later, last = log.splitlines()
    assert first == "chain: iteration 5/20, 00:00 elapsed, ? left"
    assert 1 <= len(later) <= 4
    pattern = r"chain: iteration \d+/20, \d\d:\d\d elapsed, \d\d:\d\d left"
    assert all(re.fullmatch(pattern, line) for line in (*later, last))
    assert last.startswith("chain: iteration 20/20, ")


def test_a_log_says_where_a_failure_was(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress.progress_bar(9, "batch")
    with pytest.raises(OSError, match="full"), bar:
        fail_after(2, bar)
    assert re.fullmatch(r"batch 0/9, .*\nbatch 2/9, .* left\n", capsys.readouterr().err)


def fail_after(n: int, bar: tqdm) -> None:
    bar.update(n)
    raise OSError("full")


def test_an_end_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar(3, "batch", done=3):
        pass
    assert capsys.readouterr().err == "batch 3/3, 00:00 elapsed, ? left\n"


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress_bar(3, "batch", "store") as bar:
        bar.update(3)
    assert capsys.readouterr().err.startswith("\rstore:   0%|")
