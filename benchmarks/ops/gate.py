"""No number without a green test: runs the tests of an op before it is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commit import ROOT

SECONDS = 240.0


class RedGateError(RuntimeError):
    """The tests of the op fail, so its speed means nothing."""


def op_tests(op: str, device: str = "cpu", root: Path = ROOT) -> Path:
    """The tests of one op on the processor; on CUDA one file has those of all."""
    return root / "tests" / ("gpu/test_ops.py" if device == "cuda" else f"kernels/test_{op}.py")


def require_green(tests: Sequence[Path], device: str = "cpu", seconds: float = SECONDS, root: Path = ROOT) -> None:
    """Run tests of the tree `root` in a separate process: on CUDA those that need it, on the CPU the others.

    Raises:
        RedGateError: a test failed, there is none, or they took longer than `seconds`.
    """
    names = ", ".join(path.name for path in tests) + ("" if root == ROOT else f" of {root.name}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short"]
    # As in `make test-gpu`: versions are those of the machine, so warnings are not errors. Triton compiles in every
    # test, on one core each.
    command += ["-m", "gpu", "-W", "default", "-n", "8"] if device == "cuda" else ["-m", "not gpu"]
    # One thread: the gate asks for right answers, and should leave the machine cool.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "0"  # interpreted kernels take minutes and are not measured
    try:
        result = subprocess.run(
            [*command, *map(str, tests)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise RedGateError(
            f"{names}: must pass within {seconds:g} s before anything is measured; got no end."
        ) from error
    if result.returncode != 0:
        raise RedGateError(f"{names}: must pass before anything is measured; pytest said:\n{result.stdout[-2000:]}")
