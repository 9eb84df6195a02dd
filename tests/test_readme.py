"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) == 3


def test_the_code_of_the_readme_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:  # each goes on where the one before it ended
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "proposals               4" in printed
    assert "(exponential averaging, N = 8," in printed
    move, sampler = names["move"], names["sampler"]
    move.apply(sampler.thermodynamic_state, sampler.sampler_state)
    assert move.statistics["n_proposed"] == 4
    assert move.generator is names["thinned"]
