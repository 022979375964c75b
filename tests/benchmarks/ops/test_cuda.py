"""The CUDA run with everything but the device: events, graphs and memory are played by the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ops import cuda, gate, memory, run
from benchmarks.ops.cases import CASES, make_inputs
from benchmarks.ops.cuda import Cuda, EventClock, ask_nvidia_smi
from benchmarks.ops.ops import OPS
from benchmarks.ops.providers import library_provider, our_provider
from benchmarks.pages.results import read_rows
from benchmarks.pages.rows import MemoryRow, SpeedRow


class FakeEvent:
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.at = 0.0

    def record(self) -> None:
        self.log.append("record")
        self.at = time.perf_counter()

    def elapsed_time(self, end: Any) -> float:
        return 1e3 * (end.at - self.at)


class FakeDriver:
    """A GPU whose kernels run on the processor."""

    place = torch.device("cpu")

    def __init__(self) -> None:
        self.log: list[str] = []
        self.released = 0

    def event(self) -> FakeEvent:
        return FakeEvent(self.log)

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def capture(self, calls: Sequence[Callable[[], torch.Tensor]]) -> Callable[[], object]:
        return lambda: [call() for call in calls]

    def name(self) -> str:
        return "A GPU"

    def processors(self) -> int:
        return 132

    def capability(self) -> str:
        return "sm_90"

    def cache_bytes(self) -> int:
        return 2000

    def release(self) -> None:
        self.released += 1

    def start_memory(self) -> int:
        return 100

    def peak_memory(self) -> int:
        return 1_000_000


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    fake = Cuda(FakeDriver(), flush_bytes=64, copy_bytes=4096, product_side=16, graph_below_ms=1e9)
    monkeypatch.setattr(cuda, "open_cuda", lambda: fake)
    monkeypatch.setattr(memory, "open_cuda", lambda: fake)
    # The Triton kernels and the CUDA library need a device; the C++ for the processor plays them.
    monkeypatch.setattr(run, "our_backends", lambda kind: (["native"], []))
    precisions = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield fake
    torch.backends.cudnn.allow_tf32 = precisions[0]
    torch.set_float32_matmul_precision(precisions[1])


def test_the_cache_is_overwritten_before_every_call() -> None:
    driver = FakeDriver()
    flush = torch.ones(4, dtype=torch.int32)

    def call() -> None:
        driver.log.append(f"call {int(flush.sum())}")
        flush.fill_(1)

    EventClock(driver, flush).milliseconds(call, 2)
    assert driver.log == ["record", "call 0", "record", "record", "call 0", "record", "synchronize"]


def test_short_calls_are_repeated_within_a_sample() -> None:
    clock = EventClock(FakeDriver(), None)
    assert (clock.repeats(0.01), clock.repeats(50.0)) == (5, 1)


def test_a_graph_goes_round_enough_inputs_to_leave_the_cache(device: Cuda) -> None:
    assert device.input_sets(10_000) == 4
    assert device.input_sets(300) == 10
    assert device.input_sets(1) == 32


def test_a_provider_is_timed_alone_and_in_a_graph(device: Cuda) -> None:
    inputs = [make_inputs(CASES["tiny"], requires_grad=False, seed=seed) for seed in range(4)]
    timers, missing = device.timers(our_provider(OPS["min_distance"], "fwd", "native", "fp32"), inputs)
    assert {name: timed.parts for name, timed in timers.items()} == {"eager": 1, "graph": 4}
    assert missing == []
    timers["graph"].call()


def test_long_calls_are_timed_without_a_graph() -> None:
    device = Cuda(FakeDriver(), flush_bytes=64, copy_bytes=4096, product_side=16, graph_below_ms=0.0)
    inputs = [make_inputs(CASES["tiny"], requires_grad=False)]
    timers, missing = device.timers(our_provider(OPS["min_distance"], "fwd", "native", "fp32"), inputs)
    assert list(timers) == ["eager"]
    assert missing[0].reason == "a call takes more than 0 ms, beside which launches do not count"


def test_what_cannot_be_captured_is_named(device: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [make_inputs(CASES["tiny"], requires_grad=False)]

    def refuse(calls: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(device.driver, "capture", refuse)
    timers, missing = device.timers(our_provider(OPS["min_distance"], "fwd", "native", "fp32"), inputs)
    assert list(timers) == ["eager"]
    assert missing[0].what == "native fp32 in a graph"
    assert missing[0].reason == "operation not permitted when stream is capturing"
    pytest.importorskip("faiss")
    timers, missing = device.timers(library_provider(OPS["min_distance"], "faiss", "fp32"), inputs)
    assert missing[0].reason == "it cannot be captured"


def test_a_run_on_cuda_stores_rows_of_all_precisions(
    device: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gates: list[tuple[list[str], str]] = []
    monkeypatch.setattr(gate, "require_green", lambda tests, kind: gates.append(([path.name for path in tests], kind)))
    path = tmp_path / "speed.csv"
    arguments = ["--device", "cuda", "--case", "tiny", "--seconds", "0.1", "--out", str(path)]
    assert run.main([*arguments, "--peers", "original,matmul,mm,faiss"]) == 0
    assert gates == [(["test_ops.py"], "cuda")]
    rows = read_rows(path, SpeedRow)
    found = {(row.provider, row.precision, row.timer) for row in rows if row.mode == "fwd"}
    for name, precisions in {"original": ("tf32", "fp32"), "matmul": ("fp32", "tf32", "bf16")}.items():
        assert {(name, one, timer) for one in precisions for timer in ("eager", "graph")} <= found
    assert ("native", "fp32", "graph") in found
    row = next(row for row in rows if (row.provider, row.precision) == ("original", "tf32"))
    assert (row.device, row.cores, row.isa, row.on_cuda) == ("A GPU", 132, "sm_90", True)
    assert row.flags == "cudnn.allow_tf32=True matmul=high"
    assert row.peak_source == "torch.mm of side 16, tf32"
    assert row.faster_than_original == 1.0
    assert row.floor_share is not None
    assert "Triton" in row.versions
    printed = capsys.readouterr().out
    assert "Not measured" in printed
    assert printed.splitlines()[-1].endswith("more: not measured in this run")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_memory_on_cuda(device: Cuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memory.csv"
    arguments = ["--device", "cuda", "--case", "tiny", "--providers", "native,original", "--out", str(path)]
    assert memory.main(arguments) == 0
    first, ours = read_rows(path, MemoryRow)[:2]
    assert (first.provider, first.precision, first.isa) == ("original", "tf32", "sm_90")
    assert (ours.provider, ours.precision) == ("native", "fp32")
    kept = 4 * (2 * 5 + 2 * 8 * 9 + 5 * 8)
    assert ours.extra_mb == pytest.approx((1_000_000 - 100 - kept) / 1e6, abs=1e-3)
    assert "native tf32" in capsys.readouterr().out.partition("Not measured")[2]


def test_without_a_device_the_run_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(SystemExit, match=r"--device: must be cpu where torch sees no CUDA device; got 'cuda'\."):
        run.main(["--device", "cuda"])


def test_a_missing_program_leaves_the_clocks_empty(monkeypatch: pytest.MonkeyPatch, device: Cuda) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert ask_nvidia_smi("clocks.sm") == ""
    assert device.clocks() == ""
    assert "driver" not in device.versions()


def test_the_clocks_are_those_the_driver_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: Cuda) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 1980 MHz, 3201 MHz\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    assert device.clocks() == "SM and memory 1980 MHz and 3201 MHz"
