"""The measuring itself, on tiny things: rounds, the gate, memory, and the commands as a person would call them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import protokern
from benchmarks import gate, memory, push, run
from benchmarks.cases import CASES
from benchmarks.machine import describe, settle, watch_others
from benchmarks.results import read_rows
from benchmarks.rows import MemoryRow, PushRow
from benchmarks.timing import measure, summarise


def test_the_percentiles_of_known_samples() -> None:
    timing = summarise([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert (timing.p20, timing.p50, timing.p80, timing.rounds) == (2.0, 3.5, 5.0, 6)
    assert summarise([7.0]).p80 == 7.0


def test_every_call_is_timed_in_every_round() -> None:
    counts = {"slow": 0, "fast": 0}

    def slow() -> None:
        counts["slow"] += 1
        time.sleep(0.002)

    def fast() -> None:
        counts["fast"] += 1

    timings = measure({"slow": slow, "fast": fast}, seconds=0.01, least=4, most=5)
    assert timings["slow"].rounds == timings["fast"].rounds >= 4
    assert counts["slow"] == 3 + timings["slow"].rounds
    assert counts["fast"] > 50 * timings["fast"].rounds  # repeated until a sample lasts a millisecond
    assert timings["slow"].p50 >= 2.0 > timings["fast"].p50


def test_the_gate_opens_for_green_tests_only(tmp_path: Path) -> None:
    green, red = tmp_path / "test_green.py", tmp_path / "test_red.py"
    green.write_text("def test_right():\n    assert 1 + 1 == 2\n")
    red.write_text("def test_wrong():\n    assert 1 + 1 == 3\n")
    gate.require_green(green)
    with pytest.raises(gate.RedGateError, match=r"test_red\.py: must pass before anything is measured"):
        gate.require_green(red)
    with pytest.raises(gate.RedGateError, match=r"test_none\.py"):
        gate.require_green(tmp_path / "test_none.py")


@pytest.mark.parametrize("op", ["min_distance", "prototype_pool"])
def test_every_op_has_tests_for_its_gate(op: str) -> None:
    assert gate.op_tests(op).exists()


def test_the_machine_is_described() -> None:
    machine = describe()
    assert machine.device
    assert machine.cores >= 1
    assert machine.isa
    assert machine.git_sha
    assert machine.load >= 0


def test_a_loaded_machine_is_waited_for_and_then_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = iter([2.0, 2.0, 2.0, 0.4, 0.4])
    monkeypatch.setattr("os.getloadavg", lambda: (next(loads), 0.0, 0.0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    settle(60)
    assert capsys.readouterr().out == "load average 2.00: waiting up to 60 s for it to fall to 0.5\n"
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 0.0, 0.0))
    settle(0)
    expected = "warning: load average 2.00 before the start; these rows are marked as not quiet\n"
    assert capsys.readouterr().out == expected


def test_own_work_is_not_taken_for_other_work() -> None:
    with watch_others() as others:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.3:
            pass
    assert 0 <= others.cores < describe().cores


def test_the_smoke_run_measures_everything_and_stores_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = run.SPEED.read_bytes() if run.SPEED.exists() else None
    assert run.main(["--smoke"]) == 0
    printed = capsys.readouterr().out
    for title in ("min_distance fwd", "min_distance full", "prototype_pool fwd", "prototype_pool full"):
        assert f"{title} tiny" in printed
    for backend, status in protokern.available_backends().items():
        assert (f"\n{backend} " in printed) == status.available
    for peer in run.ALL_PEERS:
        assert f"\n{peer} " in printed
    assert (run.SPEED.read_bytes() if run.SPEED.exists() else None) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "cub201"], r"--case: must be of tiny, .*; got 'cub201'\."),
        (["--op", "max_distance"], r"--op: must be of min_distance, prototype_pool; got 'max_distance'\."),
        (["--mode", "bwd"], r"--mode: must be of fwd, full; got 'bwd'\."),
        (["--backend", "triton"], r"--backend: must be of reference.*; got 'triton'\."),
        (["--device", "cuda"], r"--device: must be cpu; got 'cuda'\."),
    ],
)
def test_a_wrong_name_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run.main(arguments)


@pytest.mark.slow
def test_the_memory_of_the_original_formula_is_several_maps(tmp_path: Path) -> None:
    """Read off its operations, it keeps two maps for the backward pass and has three or four alive at its peak."""
    path = tmp_path / "memory.csv"
    assert memory.main(["--case", "cub200", "--providers", "original", "--settle", "0", "--out", str(path)]) == 0
    (row,) = read_rows(path, MemoryRow)
    assert 2 <= row.share <= 8
    assert row.map_mb == pytest.approx(CASES["cub200"].map_bytes / 1e6, abs=1e-3)


def test_a_push_is_compared_with_the_bare_backbone(tmp_path: Path) -> None:
    path = tmp_path / "push.csv"
    arguments = ["--backbone", "tiny", "--weights", "none", "--image-size", "32", "--limit", "12", "--rounds", "2"]
    arguments += ["--settle", "0"]
    assert push.main([*arguments, "--prototypes-per-class", "2", "--batch-size", "5", "--out", str(path)]) == 0
    (row,) = read_rows(path, PushRow)
    assert row.images == 12
    assert row.rounds == 2
    assert row.ratio > 0
