"""Stage f: the tests that need a device, with what of them passed before left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.commit import ROOT
from benchmarks.gpu.battery_plugin import OUTCOMES, PASSED, read_outcomes
from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.worker import Result

# The most telling first; the folders whose tests may be marked gpu.
TESTS = ("tests/gpu/test_ops.py", "tests/gpu/test_native_cuda.py", "tests/gpu/test_torch_integration.py", "tests/nn")
# On the processor, to see that it works.
REHEARSED = ("tests/kernels/test_definition.py",)
MOST_FAILURES = 20


def test_units(settings: Settings, records: Records) -> list[Unit]:
    """All of them in every call; a unit whose tests have all passed ends at once."""
    return [{"name": path} for path in (REHEARSED if settings.rehearse else TESTS)]


def test(unit: Unit, settings: Settings) -> Result:
    """Run pytest over a file or a folder; the plugin writes down every outcome as it comes."""
    home = Path(settings.home)
    outcomes, passed = home / outcomes_name(unit["name"]), home / "passed.json"
    passed.write_text(json.dumps([name for name, one in read_outcomes(outcomes).items() if one == "passed"]))
    workers = 1 if settings.rehearse else max(1, min(14, (os.cpu_count() or 2) - 2))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu.battery_plugin", "-p", "no:cacheprovider"]
    command += ["-m", "not gpu" if settings.rehearse else "gpu", "-W", "default", "--tb=line"]
    command += ["-n", str(workers), "--max-worker-restart=50"] if workers > 1 else []
    environment = {**os.environ, OUTCOMES: str(outcomes), PASSED: str(passed), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [*command, unit["name"]], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    print(answer.stdout)
    found = read_outcomes(outcomes)
    failed = [name for name, outcome in found.items() if outcome == "failed"]
    counts = Counter(found.values())
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    text = "\n    ".join([said or f"no tests; pytest ended with {answer.returncode}", *failed[:MOST_FAILURES]])
    # 5: all were left out, since all passed before.
    if answer.returncode in (0, 5) and not failed:
        return Result(status="right", text=text)
    return Result(status="wrong" if failed else "crashed", text=text)


def outcomes_name(path: str) -> str:
    """The file of the outcomes of one unit; store.py knows the pattern."""
    return f"tests-{path.strip('/').replace('/', '-')}.jsonl"
