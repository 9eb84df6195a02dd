"""The examples run, at a size that a test can bear."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_alanine_mcmc(tmp_path: Path) -> None:
    picture = tmp_path / "ramachandran.png"
    size = ["--iterations", "2", "--proposals", "2", "--batch", "4"]
    run = subprocess.run(
        [sys.executable, EXAMPLES / "alanine_mcmc.py", *size, "--picture", picture],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^proposals +4$", run.stdout, flags=re.MULTILINE)
    assert "bond graph 0.0%" in run.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
