"""The command line: what it prints with right input and wrong, and that it is quick and quiet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_architecture import HEAVY

ROOT = Path(__file__).parents[1]


def test_help_is_quick_and_quiet() -> None:
    code = (
        "import json, sys, time; start = time.perf_counter()\n"
        "from openmm_tbg.cli.application import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print(json.dumps([time.perf_counter() - start, list(sys.modules)]), file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, modules = json.loads(answer.stderr)  # nothing else is there
    assert seconds < 0.5
    assert not HEAVY.intersection(modules)
    assert "models" in answer.stdout
