from __future__ import annotations

import io
import re
import sys

import pytest

from protokern.cli.show import describe, show_progress, show_training
from protokern.runs.log import EpochRecord, Notice, StageRecord
from protokern.train.events import BatchDone, StepBegins

EPOCH = EpochRecord(
    stage="joint",
    epoch=3,
    seconds=12.34,
    images=100,
    loss=1.5,
    terms={"cross_entropy": 1.25, "cluster": 0.5, "separation": 2.0, "l1": 450.0},
    accuracy=0.75,
    val_accuracy=0.625,
    val_loss=1.1,
    learning_rates={"backbone": 1e-4},
)
PUSH = StageRecord(
    stage="push",
    epoch=3,
    num_prototypes=20,
    val_accuracy=0.5,
    val_loss=1.0,
    test_accuracy=0.25,
    details={"mean_distance": 0.125},
)
RECORDS = [
    Notice(text="a [note]"),
    StepBegins(stage="joint", epoch=3, position=0, steps=2),
    BatchDone(stage="joint", epoch=3, batch=1, batches=2, loss=1.6),
    BatchDone(stage="joint", epoch=3, batch=2, batches=2, loss=1.4),
    EPOCH,
    StepBegins(stage="push", epoch=3, position=1, steps=2),
    PUSH,
]
LINES = [
    "a [note]",
    "joint epoch 3: loss 1.5000 (cross entropy 1.2500, cluster 0.5000, separation 2.0000), "
    "train 75.0%, val 62.5%, 12.3 s",
    "after push, epoch 3: val 50.0%, test 25.0%, 20 prototypes, mean distance 0.125",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """In the test itself and not in a fixture: pytest puts its own stdout in place after the set-up."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return stream


def test_records_as_lines() -> None:
    assert [describe(record) for record in (RECORDS[0], EPOCH, PUSH)] == LINES


def test_without_a_terminal_there_are_only_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_training(RECORDS)
    assert capsys.readouterr().out.splitlines() == LINES


def test_on_a_terminal_there_is_a_bar_and_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    show_training(RECORDS)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n")
    for line in LINES:
        assert line in shown
    assert "2/2 push" in shown


def test_batches_pass_through_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    assert list(show_progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert "letters" in terminal.getvalue()


def test_batches_pass_silently_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
