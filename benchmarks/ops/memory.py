"""Memory that one forward and backward needs beyond inputs, outputs and gradients: `python -m benchmarks memory`.

On the CPU each provider runs in a separate process. The kernel's high-water mark of resident memory is reset just
before the step (/proc/self/clear_refs) and read just after it. The difference, minus the memory of the results, is the
extra. glibc is set to return every block above 64 KiB at once, so freed memory is not counted as still in use. On CUDA
it is the peak of what torch's allocator has handed out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import protokern
from benchmarks.commit import ROOT
from benchmarks.ops.cases import CASES, Case, Inputs, make_inputs
from benchmarks.ops.cuda import Driver, open_cuda
from benchmarks.ops.devices import Cpu, Device
from benchmarks.ops.machine import Machine, settle, watch_others
from benchmarks.ops.ops import OPS
from benchmarks.ops.peers import TORCH_PEERS, Compute
from benchmarks.ops.providers import PRECISIONS, Missing, first_line, require_precision, set_torch_flags
from benchmarks.pages.results import MEMORY, append_rows
from benchmarks.pages.rows import MemoryRow
from benchmarks.pages.show import show_missing
from benchmarks.pages.targets import CUDA_MEMORY_CASE, memory_verdict

OURS = ("native", "triton", "reference")
PROVIDERS = (*OURS, *TORCH_PEERS)
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def status_bytes(field: str) -> int:
    """A size from /proc/self/status, such as VmRSS (now) or VmHWM (the highest since the last reset)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status: must have {field}; got none. This measurement needs Linux.")


def compute_of(name: str, precision: str) -> Compute:
    """`min_distance` as a provider computes it."""
    op = OPS["min_distance"]
    if name in OURS:
        return lambda features, prototypes: op.ours(features, prototypes, name, precision, "log")
    return lambda features, prototypes: TORCH_PEERS[name](features, prototypes, op, "log")


def results_of(name: str, precision: str, inputs: Inputs) -> list[Tensor]:
    """Value and both gradients of one forward and backward, all alive."""
    set_torch_flags(precision)
    if name in OURS:
        require_precision(name, precision, inputs.features)
    value = compute_of(name, precision)(inputs.features, inputs.prototypes)
    return [value, *torch.autograd.grad(value, (inputs.features, inputs.prototypes), inputs.grad)]


def extra_bytes(step: Callable[[], list[Tensor]]) -> int:
    """Bytes that a step in this process needed beyond its results.

    The process must be new except for one small step, which loads threads, code pages and the autograd engine.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status_bytes("VmRSS")
    kept = step()
    return status_bytes("VmHWM") - before - sum(map(size, kept))


def measure_here(name: str, precision: str, case: Case) -> int:
    """Extra bytes of one forward and backward in this process, which must be fresh."""
    found = 0
    for one in (CASES["tiny"], case):
        inputs = make_inputs(one, requires_grad=True)
        found = extra_bytes(partial(results_of, name, precision, inputs))
    return found


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def in_new_process(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """What `python -m benchmarks ARGUMENTS` prints last, as JSON.

    Raises:
        RuntimeError: it failed.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: the measuring process failed:\n{answer.stderr[-2000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def measure_apart(name: str, precision: str, case: Case) -> int:
    """Extra bytes, measured in a new process."""
    child = ("memory", "--child", name, "--precision", precision, "--case", case.name)
    return int(in_new_process(*child, environment=GIVE_BACK))


def measure_on_cuda(driver: Driver, name: str, precision: str, case: Case) -> int:
    """Extra bytes of one forward and backward, after one that compiles and sets up whatever stays."""
    warm = make_inputs(CASES["tiny"], requires_grad=True, device=driver.place)
    results_of(name, precision, warm)
    inputs = make_inputs(case, requires_grad=True, device=driver.place)
    before = driver.start_memory()
    kept = results_of(name, precision, inputs)
    driver.synchronize()
    return driver.peak_memory() - before - sum(map(size, kept))


def make_row(machine: Machine, key: tuple[str, str], case: Case, extra: int, others: float) -> MemoryRow:
    return MemoryRow(
        **asdict(machine),
        others=round(others, 2),
        provider=key[0],
        case=case.name,
        extra_mb=round(extra / 1e6, 3),
        map_mb=round(case.map_bytes / 1e6, 3),
        share=round(extra / case.map_bytes, 4),
        precision=key[1],
    )


def show(row: MemoryRow, original: MemoryRow | None) -> None:
    verdict = memory_verdict(row, original) if row.provider in OURS else ""
    share = f"{row.share:8.1%} of one B x P x H x W tensor"
    print(f"{f'{row.provider} {row.precision}':18}{row.extra_mb:10.2f} MB {share}  {verdict}".rstrip())


def run_cpu(case: Case, providers: Sequence[str], out: Path) -> None:
    machine = Cpu().describe()
    for name in providers:
        with watch_others() as others:
            extra = measure_apart(name, "fp32", case)
        row = make_row(machine, (name, "fp32"), case, extra, others.cores)
        show(row, None)
        append_rows(out, [row])


def run_cuda(device: Device, driver: Driver, case: Case, providers: Sequence[str], out: Path) -> None:
    """The original comes first, since ours are compared with it."""
    machine = device.describe()
    missing: list[Missing] = []
    original: MemoryRow | None = None
    for name in sorted(providers, key=lambda name: name != "original"):
        for precision in PRECISIONS if name in OURS else ("tf32",):
            driver.release()
            try:
                extra = measure_on_cuda(driver, name, precision, case)
            # Not built, not in this precision, or no room for the maps of an unfused method.
            except (RuntimeError, ValueError) as error:
                missing.append(Missing(f"{name} {precision}", first_line(error)))
                continue
            row = make_row(machine, (name, precision), case, extra, 0.0)
            original = row if name == "original" else original
            show(row, original)
            append_rows(out, [row])
    show_missing(missing, [])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", choices=list(CASES), help=f"grid14 on the CPU, {CUDA_MEMORY_CASE} on CUDA by default")
    parser.add_argument("--providers", help=f"comma-separated, of {', '.join(PROVIDERS)}")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=MEMORY, help="CSV file that the rows are added to")
    parser.add_argument("--child", choices=PROVIDERS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    on_cuda = arguments.device == "cuda"
    case = CASES[arguments.case or (CUDA_MEMORY_CASE if on_cuda else "grid14")]
    if arguments.child is not None:
        print(json.dumps(measure_here(arguments.child, arguments.precision, case)))
        return 0
    if arguments.providers is None:
        status = protokern.available_backends()
        ours = [name for name in OURS[:2] if status[name].available and arguments.device in status[name].devices]
        providers = [*ours, *TORCH_PEERS]
    else:
        providers = arguments.providers.split(",")
    print(f"forward + backward, {case.shape}, beyond inputs, outputs and gradients")
    if on_cuda:
        device = open_cuda()
        run_cuda(device, device.driver, case, providers, arguments.out)
        return 0
    settle(arguments.settle)
    run_cpu(case, providers, arguments.out)
    return 0
