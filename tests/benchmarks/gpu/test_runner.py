"""The runner of `make gpu`: units that hang, crash and overrun, full disks, signals, and the second call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner, worker
from benchmarks.gpu.plan import DEVICE, STAGES, Phase, Settings, Stage
from benchmarks.gpu.runner import INCOMPLETE, NO_DEVICE, Run
from benchmarks.gpu.store import Store, read_state, read_table
from benchmarks.gpu.worker import Result

UNITS = "tests.benchmarks.gpu.units"
FIRST = Phase(name="first", units=f"{UNITS}:written_units", work=f"{UNITS}:do", seconds=30, unit_seconds=10)
SUMMARY = Phase(name="summary", units=f"{UNITS}:no_units", work=f"{UNITS}:do", seconds=5, unit_seconds=5, always=True)


@pytest.fixture(autouse=True)
def little_time_for_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LAST_SECONDS", 1.0)
    monkeypatch.setattr(runner, "MARGIN_SECONDS", 0.5)


def write_units(home: Path, *units: dict[str, Any]) -> None:
    home.mkdir(exist_ok=True)
    (home / "units.json").write_text(json.dumps([{"name": unit["does"], **unit} for unit in units]))


def make_run(home: Path, *phases: Phase, seconds: float = 40, out: Path | None = None, sources: str = "one") -> Run:
    store = Store(home, out, {}, sources)
    said = store.open()
    run = Run(
        [Stage("a", "made up", 60, phases or (FIRST,))],
        SUMMARY,
        Settings(commit="0123456789", home=str(home)),
        store,
        end=time.monotonic() + seconds,
    )
    run.say(said)
    return run


def statuses(home: Path, phase: str = "first") -> dict[str, str]:
    return {name: record.status for name, record in read_state(home / "state.jsonl")[1].get(phase, {}).items()}


def begun(home: Path) -> list[str]:
    return [line.split()[0] for line in (home / "begun.txt").read_text().splitlines()]


def ends(pid: int) -> bool:
    """Whether a process that was killed ends within ten seconds; one that nobody waits for has ended too."""
    status, end = Path(f"/proc/{pid}/stat"), time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path) -> str:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} was never written")


@pytest.mark.parametrize(
    ("does", "status", "said"),
    [
        ("abort", "crashed", "killed by SIGABRT"),
        ("segv", "crashed", "killed by SIGSEGV"),
        ("exit", "crashed", "exit code 7"),
        ("raise", "crashed", "ValueError: a refusal"),
        ("poison", "crashed", "illegal access"),
        ("wrong", "wrong", "off by 3"),
        ("missing", "missing", "not built"),
    ],
)
def test_what_goes_wrong_costs_its_unit_alone(
    does: str, status: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    write_units(home, {"does": "right", "name": "before"}, {"does": does}, {"does": "right", "name": "after"})
    make_run(home).go()
    assert statuses(home) == {"before": "right", does: status, "after": "right"}
    assert f"{does}: {status}. {said}" in capsys.readouterr().out
    assert [row["name"] for row in read_table(home / "smoke.csv")] == ["before", "after"]


def test_a_broken_context_is_left_to_a_new_process(tmp_path: Path) -> None:
    write_units(tmp_path, {"does": "poison"}, {"does": "right"})
    make_run(tmp_path).go()
    pids = {line.split()[1] for line in (tmp_path / "begun.txt").read_text().splitlines()}
    assert len(pids) == 2


def test_a_unit_that_hangs_is_ended_with_everything_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    write_units(tmp_path, {"does": "hang", "child": str(child)}, {"does": "right"})
    start = time.monotonic()
    make_run(tmp_path, replace(FIRST, unit_seconds=3.0)).go()  # also the limit of a start, on a busy machine
    assert statuses(tmp_path) == {"hang": "overran", "right": "right"}
    assert time.monotonic() - start < 15
    assert ends(int(child.read_text()))


def test_a_phase_that_overruns_is_cut_and_the_next_begins(tmp_path: Path) -> None:
    child = tmp_path / "child"
    write_units(tmp_path, {"does": "hang", "child": str(child)}, {"does": "right", "name": "never begun"})
    second = replace(FIRST, name="second", units=f"{UNITS}:no_units")
    run = make_run(tmp_path, replace(FIRST, seconds=1.5), second)
    assert run.go() == INCOMPLETE
    assert statuses(tmp_path) == {"hang": "cut"}
    assert run.left == {"first": 2, "second": 0, "summary": 0}
    assert ends(int(child.read_text()))


def test_the_whole_time_holds(tmp_path: Path) -> None:
    write_units(tmp_path, {"does": "hang", "child": str(tmp_path / "child")})
    start = time.monotonic()
    assert make_run(tmp_path, seconds=3.0).go() == INCOMPLETE
    assert time.monotonic() - start < 4.0
    assert "first: 1 cut, 1 left" in (tmp_path / "summary.md").read_text()


def test_a_runner_that_is_stuck_is_ended_by_the_clock(tmp_path: Path) -> None:
    run = make_run(tmp_path, replace(FIRST, units=f"{UNITS}:sleepy_units"), seconds=2.0)
    start = time.monotonic()
    assert run.go() == INCOMPLETE
    assert time.monotonic() - start < 3.0
    assert "the time was up; call again for the rest" in (tmp_path / "summary.md").read_text()


def test_output_of_a_crash_is_told_by_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_units(tmp_path, {"does": "chatter"})
    make_run(tmp_path).go()
    printed = capsys.readouterr().out
    assert "the last line" in printed
    assert "killed by SIGABRT" in printed


def test_workers_that_cannot_start_end_the_phase_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_units(tmp_path, {"does": "right"})
    absent = replace(FIRST, name="absent", work="benchmarks.gpu.no_such_module:do")
    assert make_run(tmp_path, absent, FIRST).go() == INCOMPLETE
    assert statuses(tmp_path) == {"right": "right"}
    assert "3 processes ended before they began: exit code 1" in capsys.readouterr().out


def test_units_that_cannot_be_listed_end_the_phase_and_no_other(tmp_path: Path) -> None:
    write_units(tmp_path, {"does": "right"})
    make_run(tmp_path, replace(FIRST, name="broken", units=f"{UNITS}:broken_units"), FIRST).go()
    assert statuses(tmp_path) == {"right": "right"}
    assert (
        "broken: its units could not be listed (ImportError: no such library)" in (tmp_path / "summary.md").read_text()
    )


@pytest.mark.parametrize(("does", "code"), [("right", 0), ("missing", 0), ("wrong", INCOMPLETE), ("raise", INCOMPLETE)])
def test_the_exit_code_says_whether_all_is_well(does: str, code: int, tmp_path: Path) -> None:
    write_units(tmp_path, {"does": does})
    assert make_run(tmp_path).go() == code
    assert make_run(tmp_path).go() == code


def test_a_later_phase_knows_what_came_of_an_earlier_one(tmp_path: Path) -> None:
    write_units(tmp_path, {"does": "right"}, {"does": "wrong"})
    make_run(tmp_path, FIRST, replace(FIRST, name="second", units=f"{UNITS}:units_after")).go()
    assert statuses(tmp_path, "second") == {"right": "right"}


def test_a_device_that_a_kernel_broke_makes_the_result_worthless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are not waited for, so a unit may look right that broke it."""
    right = Result(status="right", tables={"smoke": [{"name": "one"}]})
    assert worker.attempt(lambda unit, settings: right, {"name": "one"}, Settings()) == right
    monkeypatch.setattr(worker, "device_trouble", lambda: "an illegal memory access was encountered")
    found = worker.attempt(lambda unit, settings: right, {"name": "one"}, Settings())
    assert (found.status, found.tables, found.data) == ("crashed", {}, {"poisoned": True})
    assert found.text == "the device: an illegal memory access was encountered"


class TestSecondCall:
    def test_does_what_is_left_and_what_failed_once_last(self, tmp_path: Path) -> None:
        write_units(tmp_path, {"does": "abort"}, {"does": "right"}, {"does": "wrong"}, {"does": "missing"})
        make_run(tmp_path).go()
        (tmp_path / "begun.txt").unlink()
        units = [{"does": "abort"}, {"does": "right"}, {"does": "wrong"}, {"does": "missing"}]
        write_units(tmp_path, *units, {"does": "right", "name": "new"})
        make_run(tmp_path).go()
        assert begun(tmp_path) == ["missing", "new", "abort"]
        (tmp_path / "begun.txt").unlink()
        make_run(tmp_path).go()
        assert begun(tmp_path) == ["missing"]  # what crashed twice is reported, not tried for ever
        assert "crashed: abort: killed by SIGABRT" in (tmp_path / "summary.md").read_text()

    def test_starts_over_where_the_sources_changed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_units(tmp_path, {"does": "right"})
        make_run(tmp_path).go()
        make_run(tmp_path, sources="two").go()
        assert begun(tmp_path) == ["right", "right"]
        assert "the sources are not those of the last call: starts over" in capsys.readouterr().out
        assert len(read_table(tmp_path / "smoke.csv")) == 1
        assert len(read_table(tmp_path / "before-one" / "smoke.csv")) == 1

    def test_takes_up_the_state_of_out_on_another_machine(self, tmp_path: Path) -> None:
        first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
        write_units(first, {"does": "right"})
        make_run(first, out=out).go()
        write_units(second, {"does": "right"}, {"does": "right", "name": "new"})
        make_run(second, out=out).go()
        assert begun(second) == ["new"]
        for folder in (second, out):
            assert [row["name"] for row in read_table(folder / "smoke.csv")] == ["right", "new"]

    def test_a_state_that_was_cut_off_in_a_line_is_read_up_to_there(self, tmp_path: Path) -> None:
        write_units(tmp_path, {"does": "right"}, {"does": "wrong"})
        make_run(tmp_path).go()
        whole = (tmp_path / "state.jsonl").read_text()
        (tmp_path / "state.jsonl").write_text(whole[:-10])
        assert statuses(tmp_path) == {"right": "right"}


class TestFullDisk:
    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_costs_nothing_but_the_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        out.mkdir()
        for name in ("smoke.csv", "state.jsonl", "log.txt", "summary.md"):
            (out / name).symlink_to("/dev/full")
        home = tmp_path / "home"
        write_units(home, {"does": "right"}, {"does": "right", "name": "next"})
        assert make_run(home, out=out).go() == INCOMPLETE
        assert statuses(home) == {"right": "right", "next": "right"}
        assert f"!! {out}/smoke.csv: could not be written" in capsys.readouterr().out

    def test_an_out_that_cannot_be_made_is_told_and_the_run_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("not a folder")
        home = tmp_path / "home"
        write_units(home, {"does": "right"})
        assert make_run(home, out=tmp_path / "file" / "out").go() == INCOMPLETE
        assert statuses(home) == {"right": "right"}
        assert "could not be written" in capsys.readouterr().out


CALL = """
import sys
from pathlib import Path
from tests.benchmarks.gpu.test_runner import make_run
sys.exit(make_run(Path(sys.argv[1])).go())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_a_signal_loses_no_result_and_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    child = tmp_path / "child"
    write_units(tmp_path, {"does": "right"}, {"does": "hang", "child": str(child)})
    process = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pid = int(wait_for(child))
    process.send_signal(number)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert statuses(tmp_path) == {"right": "right"}
    if number != signal.SIGKILL:
        assert f"stopped by {number.name}" in printed
        assert "call again for the rest" in (tmp_path / "summary.md").read_text()
    assert ends(pid)
    write_units(tmp_path, {"does": "right"}, {"does": "right", "name": "next"})
    make_run(tmp_path).go()
    assert begun(tmp_path)[-1] == "next"


@pytest.mark.parametrize(("does", "code"), [("none", NO_DEVICE), ("done", 0)])
def test_without_a_device_nothing_else_is_tried(
    does: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_units(tmp_path, {"does": does})
    device = replace(FIRST, name=DEVICE, always=True)
    assert make_run(tmp_path, device, replace(FIRST, units=f"{UNITS}:no_units")).go() == code
    printed = capsys.readouterr().out
    assert ("There is no CUDA device here, so nothing was done of:\n    a. made up" in printed) == (code == NO_DEVICE)
    assert ("There is no CUDA device" in (tmp_path / "summary.md").read_text()) == (code == NO_DEVICE)


def test_a_look_for_the_device_that_fails_ends_nothing(tmp_path: Path) -> None:
    """On a cold disk torch takes its time; a device may be there all the same."""
    write_units(tmp_path, {"does": "abort"})
    device = replace(FIRST, name=DEVICE, always=True)
    assert make_run(tmp_path, device, replace(FIRST, units=f"{UNITS}:a_device")).go() == INCOMPLETE
    assert statuses(tmp_path, "first") == {"device": "done"}


def test_what_torch_tells_of_the_rows_stands_in_the_summary(tmp_path: Path) -> None:
    write_units(tmp_path, {"does": "summary"})
    run = make_run(tmp_path, replace(FIRST, units=f"{UNITS}:no_units"))
    run.summary = replace(SUMMARY, units=f"{UNITS}:written_units", seconds=20, unit_seconds=20)
    run.go()
    assert (tmp_path / "summary.md").read_text().rstrip().endswith("of the rows")


@pytest.mark.slow
def test_every_stage_of_the_plan_survives_hangs_crashes_and_overruns(tmp_path: Path) -> None:
    """The real plan with all its phases and none of its work: each meets two hangs and two crashes."""
    child = str(tmp_path / "child")
    bad = [{"does": "hang", "child": child}, {"does": "abort"}, {"does": "segv"}, {"does": "right"}]
    write_units(tmp_path, *bad, {"does": "hang", "name": "overruns", "child": child})
    made_up = {"units": f"{UNITS}:written_units", "work": f"{UNITS}:do", "parallel": False, "report": ""}
    stages = [
        replace(stage, phases=tuple(replace(one, unit_seconds=0.3, **made_up) for one in stage.phases))
        for stage in STAGES
    ]
    found = replace(stages[0].phases[0], units=f"{UNITS}:a_device", unit_seconds=10)
    stages[0] = replace(stages[0], phases=(found, *stages[0].phases[1:]))
    run = make_run(tmp_path)
    run.stages = stages
    assert run.go() == INCOMPLETE
    rest = [phase.name for stage in stages for phase in stage.phases][1:]
    wanted = {"hang": "overran", "abort": "crashed", "segv": "crashed", "right": "right", "overruns": "overran"}
    assert {name: statuses(tmp_path, name) for name in rest} == dict.fromkeys(rest, wanted)


def test_the_plan_fits_into_nine_minutes() -> None:
    limits = {stage.letter: stage.seconds for stage in STAGES}
    assert limits == {"a": 60, "b": 90, "c": 150, "d": 150, "e": 60, "f": 540}
    assert all(phase.seconds <= stage.seconds for stage in STAGES for phase in stage.phases)
    names = [phase.name for stage in STAGES for phase in stage.phases]
    assert len(names) == len(set(names))
