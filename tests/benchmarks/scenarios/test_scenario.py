"""What the scenarios share."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
import torch

from benchmarks.commit import ROOT
from benchmarks.ops import gate
from benchmarks.ops.machine import OtherWork, describe
from benchmarks.ops.timing import Timing
from benchmarks.pages.rows import Measurement
from benchmarks.scenarios.scenario import begin, columns, evenly, flags, in_turns, time_columns

SCENARIOS = ROOT / "benchmarks" / "scenarios"


def test_who_comes_first_alternates() -> None:
    came: list[str] = []
    taken = in_turns({name: lambda name=name: came.append(name) for name in "abc"}, rounds=3)  # type: ignore[misc]
    assert "".join(came) == "abccbaabc"
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3, "c": 3}
    assert min(min(times) for times in taken.values()) >= 0


@pytest.mark.parametrize(("limit", "chosen"), [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (2, [0, 2]), (1, [0])])
def test_some_of_many_are_evenly_spaced(limit: int | None, chosen: list[int]) -> None:
    assert evenly(5, limit) == chosen


def test_a_run_begins_with_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Path] = []
    monkeypatch.setattr(gate, "require_green", passed.extend)
    arguments = argparse.Namespace(settle=0.0)
    assert begin(arguments).device == describe().device
    assert passed == []
    begin(arguments, "search", "nn/test_rows.py")
    assert passed == [ROOT / "tests" / "search", ROOT / "tests" / "nn" / "test_rows.py"]
    assert all(path.exists() for path in passed)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.py")), ids=lambda path: path.stem)
def test_the_tests_of_a_gate_exist(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = [node.args[1:] for node in calls if isinstance(node.func, ast.Name) and node.func.id == "begin"]
    for test in (one for arguments in named for one in arguments):
        assert isinstance(test, ast.Constant)
        assert (ROOT / "tests" / str(test.value)).exists()


def test_every_row_says_its_circumstances() -> None:
    others = OtherWork()
    others.cores = 0.123
    found = columns(describe(), others)
    assert found.pop("threads") == torch.get_num_threads()
    assert Measurement(**found).others == 0.12
    times = {"rounds": 7, "p20_ms": 1.0, "p50_ms": 1.235, "p80_ms": 3.0}
    assert time_columns(Timing(1.00001, 1.23456, 3.0, 7), digits=3) == times


def test_rows_go_where_they_are_told(tmp_path: Path) -> None:
    parser = flags("push", "text", tmp_path / "push.csv")
    assert parser.prog == "python -m benchmarks push"
    assert parser.parse_args([]).out == tmp_path / "push.csv"
    assert parser.parse_args(["--out", "other.csv"]).out == Path("other.csv")
