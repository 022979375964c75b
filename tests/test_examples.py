"""The examples run and do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_layer_learns_in_a_net_of_its_own() -> None:
    """The three classes differ by the colour of one patch, which is all that the layer looks at."""
    command = [sys.executable, "examples/own_layer.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    accuracy = re.search(r"^accuracy ([\d.]+)$", printed, flags=re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 0.9
