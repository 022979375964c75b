"""The measuring itself, on tiny things: rounds, the gate, memory, and the commands as a person would call them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import protokern
from benchmarks.commit import git_sha
from benchmarks.ops import gate, memory, run
from benchmarks.ops.cases import CASES, CPU_POINTS, CUDA_POINTS, ISA_POINTS, Point
from benchmarks.ops.devices import Cpu
from benchmarks.ops.machine import describe, settle, watch_others
from benchmarks.ops.ops import OPS
from benchmarks.ops.peak import PeakProbe
from benchmarks.ops.providers import ALL_PEERS
from benchmarks.ops.timing import Timed, joins, measure, plan_rounds, summarise
from benchmarks.pages.results import SPEED, read_rows
from benchmarks.pages.rows import MemoryRow, SpeedRow
from benchmarks.pages.scenario_rows import PushRow
from benchmarks.scenarios import push


def test_the_percentiles_of_known_samples() -> None:
    timing = summarise([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert (timing.p20, timing.p50, timing.p80, timing.rounds) == (2.0, 3.5, 5.0, 6)
    assert summarise([7.0]).p80 == 7.0


def test_every_call_is_timed_against_the_others() -> None:
    counts = {"slow": 0, "fast": 0, "set up": 0}

    def slow() -> None:
        counts["slow"] += 1
        time.sleep(0.002)

    def fast() -> None:
        counts["fast"] += 1

    def set_up() -> None:
        counts["set up"] += 1

    calls = {"slow": Timed(call=slow, before=set_up), "fast": Timed(call=fast), "parts": Timed(call=slow, parts=2)}
    timings = measure(calls, seconds=0.01, least=4, most=5)
    assert {timing.rounds for timing in timings.values()} <= {4, 5}
    assert counts["set up"] == timings["slow"].rounds + 1
    assert counts["fast"] > 50 * timings["fast"].rounds  # repeated until a sample lasts a millisecond
    assert timings["slow"].p50 >= 2.0 > timings["parts"].p50 >= 1.0 > timings["fast"].p50


def test_slow_calls_take_part_in_fewer_rounds() -> None:
    planned = plan_rounds({"quick": 1.0, "slow": 100.0, "slower": 5000.0}, seconds=3.0, least=5, most=101)
    assert planned == {"quick": 101, "slow": 10, "slower": 5}
    for samples in planned.values():
        assert sum(joins(index, 101, samples) for index in range(101)) == samples


def test_there_is_a_pause_between_thread_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("benchmarks.ops.timing.time.sleep", pauses.append)
    calls = {name: Timed(call=lambda: None, pool=name) for name in ("torch", "faiss")}
    measure(calls, seconds=0.001, least=4, most=4)
    assert 3 <= len(pauses) <= 7
    assert set(pauses) == {0.025}


def test_the_gate_opens_for_green_tests_only(tmp_path: Path) -> None:
    green, red = tmp_path / "test_green.py", tmp_path / "test_red.py"
    green.write_text("def test_right():\n    assert 1 + 1 == 2\n")
    red.write_text("def test_wrong():\n    assert 1 + 1 == 3\n")
    gate.require_green([green])
    with pytest.raises(gate.RedGateError, match=r"test_green\.py, test_red\.py: must pass before anything is measured"):
        gate.require_green([green, red])


def test_the_gate_needs_tests_for_the_device(tmp_path: Path) -> None:
    path = tmp_path / "test_nothing_for_it.py"
    path.write_text("def test_right():\n    assert 1 + 1 == 2\n")
    with pytest.raises(gate.RedGateError, match=r"test_nothing_for_it\.py: must pass before anything"):
        gate.require_green([path], "cuda")


def test_the_gate_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "test_endless.py"
    path.write_text("import time\n\ndef test_endless():\n    time.sleep(60)\n")
    with pytest.raises(gate.RedGateError, match=r"test_endless\.py: must pass within 0\.5 s before"):
        gate.require_green([path], seconds=0.5)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_tests_for_its_gate(op: str) -> None:
    assert gate.op_tests(op).exists()
    assert gate.op_tests(op, "cuda").exists()


def test_the_machine_is_described() -> None:
    machine = describe()
    assert machine.device
    assert machine.cores >= 1
    assert machine.isa
    assert machine.git_sha
    assert machine.load >= 0


def test_the_commit_can_be_said_where_git_cannot_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOKERN_COMMIT", "0123456789")
    assert git_sha() == describe().git_sha == "0123456789"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROTOKERN_COMMIT", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert git_sha() == "unknown"


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
    before = SPEED.read_bytes() if SPEED.exists() else None
    # What compiles for seconds is left to the slow test of the peers.
    peers = [name for name in ALL_PEERS if name not in ("compile", "pykeops")]
    assert run.main(["--smoke", "--peers", ",".join(peers)]) == 0
    printed = capsys.readouterr().out
    for op in OPS:
        assert f"{op} fwd tiny" in printed
        assert f"{op} full tiny" in printed
    for backend, status in protokern.available_backends().items():
        assert (f"\n{backend} fp32 " in printed) == (status.available and backend != "triton")
    for peer in peers:
        assert f"\n{peer} fp32 " in printed or peer in printed.partition("Not measured")[2]
    assert (SPEED.read_bytes() if SPEED.exists() else None) == before


def test_a_run_stores_its_rows_and_tells_the_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests, kind: None)
    path = tmp_path / "speed.csv"
    arguments = ["--case", "tiny", "--mode", "fwd", "--threads", "1,2", "--seconds", "0.05", "--settle", "0"]
    assert run.main([*arguments, "--backend", "reference", "--peers", "mm,matmul", "--out", str(path)]) == 0
    rows = read_rows(path, SpeedRow)
    assert {(row.threads, row.provider, row.precision) for row in rows} == {
        (threads, *key)
        for threads in (1, 2)
        for key in (("reference", "fp32"), ("mm", "fp32"), ("mm", "bf16"), ("matmul", "fp32"), ("matmul", "bf16"))
    }
    assert all(row.floor_share is not None and row.gbytes_per_s is not None for row in rows)
    assert "\nTargets\n" in capsys.readouterr().out


def test_one_thread_is_held_to_the_peak_of_one() -> None:
    for threads in (1, 2):
        probe = Cpu().limits(threads)["peak"].timed.call
        assert isinstance(probe, PeakProbe)
        assert probe.threads == threads


def test_a_wrong_answer_of_ours_is_not_timed_and_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(OPS["min_distance"], ours=lambda *given: torch.zeros(2, 5))
    monkeypatch.setitem(OPS, "min_distance", wrong)
    assert run.main(["--smoke", "--backend", "reference", "--peers", "mm", "--precision", "fp32"]) == 1
    printed = capsys.readouterr().out
    assert "\nreference fp32 " not in printed.partition("prototype_pool")[0]
    assert "WRONG OR BROKEN, not timed\n  reference fp32: wrong answer: reference fp32: must be within" in printed


def test_a_run_begins_nothing_new_when_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--smoke", "--minutes", "0"]) == 0
    assert "topk_pool full tiny: the 0 minutes are up" in capsys.readouterr().out


def test_without_names_the_standard_set_is_measured() -> None:
    def points(*arguments: str) -> list[Point]:
        return run.make_points(run.parse_arguments(arguments))

    assert points() == list(CPU_POINTS)
    assert points("--set", "isa") == list(ISA_POINTS)
    assert points("--device", "cuda") == list(CUDA_POINTS)
    assert points("--case", "tiny", "--mode", "fwd") == [Point("min_distance", "tiny", "fwd")]
    assert {point.case for point in points("--op", "prototype_pool")} == {point.case for point in CPU_POINTS}
    for point in (*CPU_POINTS, *ISA_POINTS, *CUDA_POINTS):
        assert point.case in CASES
        assert point.op in OPS


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
