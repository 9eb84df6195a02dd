"""One compiled function serves molecules of every size, and says what the network says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("compile_dipeptides.py")
# Two and three stereocentres; one; none.
DIPEPTIDES = {"AS": 1, "KS": 1, "AT": 1, "AG": 2, "GG": 3, "GS": 3, "AV": 3}


def test_few_graphs_serve_all_sizes_and_say_what_the_network_says() -> None:
    command = [sys.executable, str(SCRIPT), *DIPEPTIDES]
    answer = json.loads(subprocess.check_output(command, text=True))
    assert answer["graphs"] == list(DIPEPTIDES.values())
    assert answer["largest_error"] < 1e-12
