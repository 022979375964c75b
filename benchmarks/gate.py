"""No number without a green test: runs the tests of an op before it is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class RedGateError(RuntimeError):
    """The tests of the op fail, so its speed means nothing."""


def op_tests(op: str) -> Path:
    return ROOT / "tests" / "kernels" / f"test_{op}.py"


def require_green(tests: Path, device: str = "cpu") -> None:
    """Run the tests in a process of their own: on CUDA those that need it, on the CPU the others.

    Raises:
        RedGateError: a test failed, or there is none.
    """
    marker = "gpu" if device == "cuda" else "not gpu"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marker, str(tests)]
    # One thread: the gate asks for right answers, and should leave the machine cool.
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RedGateError(
            f"{tests.name}: must pass before anything is measured; pytest said:\n{result.stdout[-2000:]}"
        )
