from __future__ import annotations

import io
import re
import sys

import pytest

from protokern.cli import show
from protokern.cli.show import describe, describe_forecast, in_words, progress_in_turn, show_progress, show_training
from protokern.inputs.stores import FeatureRecord
from protokern.runs.log import EpochRecord, Notice, StageRecord
from protokern.train.events import BatchDone, StepBegins
from protokern.train.forecast import Forecast, Part

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


def test_on_a_terminal_one_bar_counts_all_epochs_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    events = [
        event
        for epoch in (0, 1, 2)
        for event in (
            StepBegins(stage="joint", epoch=epoch, position=epoch, steps=3, done=epoch, together=3),
            BatchDone(stage="joint", epoch=epoch, batch=1, batches=1, loss=1.0),
        )
    ]
    show_training(events)
    assert "3/3 joint epoch 2" in terminal.getvalue()
    assert "3/3" in terminal.getvalue().rpartition("joint epoch 2")[2]


def test_slow_work_without_a_terminal_says_now_and_then_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    show_training([FeatureRecord(split="train", done=10 * done, images=100) for done in range(1, 8)])
    assert capsys.readouterr().out.splitlines() == [
        # Ten images in four seconds; at least five seconds between the lines.
        "features of the train images: 20 of 100, about 30 s left",
        "features of the train images: 40 of 100, about 25 s left",
        "features of the train images: 60 of 100, about 15 s left",
    ]
    begins = StepBegins(stage="live", epoch=1, position=2, steps=9, done=1, together=3)
    show_training([begins, *(BatchDone(stage="live", epoch=1, batch=b, batches=4, loss=1.0) for b in (1, 2, 3, 4))])
    assert capsys.readouterr().out.splitlines() == [
        "live: 6 of 12, about 25 s left",
        "live: 8 of 12, about 15 s left",
    ]
    assert list(show_progress(iter("abcdef"), "letters", 6)) == list("abcdef")
    assert capsys.readouterr().out.splitlines() == [
        "letters: 1 of 6, about 20 s left",
        "letters: 3 of 6, about 10 s left",
        "letters: 5 of 6, about 4 s left",
    ]


def test_short_pieces_of_work_are_told_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))  # four seconds for each piece
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    titles = ("letters", "pictures", "measures", "answers")
    assert ["".join(show_progress("ab", title, 2)) for title in titles] == ["ab"] * 4
    assert capsys.readouterr().out == ""
    progress = progress_in_turn()
    assert ["".join(progress("ab", title, 2)) for title in titles] == ["ab"] * 4
    assert capsys.readouterr().out.splitlines() == [
        "pictures: 1 of 2, about 2 s left",
        "answers: 1 of 2, about 2 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than 1 s"),
        (7.4, "about 7 s"),
        (42, "about 40 s"),
        (99, "about 100 s"),
        (100, "about 2 min"),
        (3_599, "about 60 min"),
        (5_400, "about 1.5 h"),
        (86_400, "about 24.0 h"),
    ],
)
def test_durations_are_no_more_precise_than_they_are_known(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_plan_is_a_line() -> None:
    known = Forecast(
        (
            Part("backbone over 3,781 images", 118.0),
            Part("15 epochs of the head", 61.0),
            Part("pictures and report", 110.0),
        ),
        0.03,
    )
    assert describe_forecast(known) == (
        "plan: backbone over 3,781 images about 2 min, 15 epochs of the head about 60 s, "
        "pictures and report about 2 min"
    )


def test_batches_pass_silently_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
