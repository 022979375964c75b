"""Memory that one forward and backward needs beyond inputs, outputs and gradients: `python -m benchmarks.memory`.

Each provider runs in a process of its own. The kernel's high-water mark of resident memory is reset just before the
step (/proc/self/clear_refs) and read just after it. What lies between, less what the results themselves occupy, is the
extra. glibc is told to give every block above 64 KiB back at once, so freed memory is not counted as still in use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from benchmarks.cases import CASES, Case
from benchmarks.inputs import make_inputs
from benchmarks.machine import ROOT, Machine, describe, settle, watch_others
from benchmarks.peers import PEERS
from benchmarks.providers import backend_call
from benchmarks.results import RESULTS, append_rows
from benchmarks.rows import MemoryRow
from benchmarks.targets import MEMORY_SHARE

MEMORY = RESULTS / "memory.csv"
PROVIDERS = ("native", "reference", *PEERS)
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def status_bytes(field: str) -> int:
    """A size from /proc/self/status, such as VmRSS (now) or VmHWM (the highest since the last reset)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status: must have {field}; got none. This measurement needs Linux.")


def measure_here(provider: str, case: Case) -> int:
    """Extra bytes of one forward and backward in this process, which must be fresh."""
    distance = PEERS[provider] if provider in PEERS else backend_call("min_distance", provider)

    def step(inputs_case: Case) -> int:
        inputs = make_inputs(inputs_case, requires_grad=True)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = status_bytes("VmRSS")
        value = distance(inputs.features, inputs.prototypes)
        value.backward(inputs.grad)
        peak = status_bytes("VmHWM")
        kept = [value, inputs.features.grad, inputs.prototypes.grad]
        return peak - before - sum(size(tensor) for tensor in kept)

    # Threads, code pages and the autograd engine come into being on the first step; a tiny one brings them in.
    step(CASES["tiny"])
    return step(case)


def size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def measure_apart(provider: str, case: Case) -> int:
    """Extra bytes, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", provider, "--case", case.name]
    environment = {**os.environ, **GIVE_BACK}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"{provider} on {case.name}: the measuring process failed:\n{answer.stderr[-2000:]}")
    return int(json.loads(answer.stdout.splitlines()[-1])["extra_bytes"])


def measure_row(machine: Machine, provider: str, case: Case) -> MemoryRow:
    with watch_others() as others:
        extra = measure_apart(provider, case)
    return MemoryRow(
        **asdict(machine),
        others=round(others.cores, 2),
        provider=provider,
        case=case.name,
        extra_mb=round(extra / 1e6, 3),
        map_mb=round(case.map_bytes / 1e6, 3),
        share=round(extra / case.map_bytes, 4),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--case", default="grid14", choices=list(CASES))
    parser.add_argument("--providers", default=",".join(["native", *PEERS]), help=f"of {', '.join(PROVIDERS)}")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=MEMORY, help="CSV file that the rows are added to")
    parser.add_argument("--child", choices=PROVIDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    case = CASES[arguments.case]
    if arguments.child is not None:
        print(json.dumps({"extra_bytes": measure_here(arguments.child, case)}))
        return 0
    settle(arguments.settle)
    machine = describe()
    print(f"forward + backward, {case.shape}, beyond inputs, outputs and gradients")
    for provider in arguments.providers.split(","):
        row = measure_row(machine, provider, case)
        verdict = ""
        if provider == "native" and case.name == "grid14":
            verdict = f"  target < {MEMORY_SHARE:.0%}: {'reached' if row.share < MEMORY_SHARE else 'MISSED'}"
        print(f"{provider:12}{row.extra_mb:10.2f} MB {row.share:8.1%} of one B x P x H x W tensor{verdict}")
        append_rows(arguments.out, [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
