from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import BuiltinImporter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from protokern.cli.main import main
from protokern.errors import CheckpointError
from protokern.interop.loggers import Scalar, follow_log, scalars_of, to_tensorboard, to_wandb
from protokern.runs.log import EpochRecord, Notice, StageRecord, append_record, to_table
from protokern.storage.lock import is_locked, lock_run

EPOCH = EpochRecord(
    stage="joint",
    epoch=3,
    seconds=2.5,
    images=10,
    loss=0.5,
    terms={"cross_entropy": 0.4},
    accuracy=0.8,
    val_accuracy=0.7,
    val_loss=0.9,
    learning_rates={"add_on": 0.001},
)
STAGE = StageRecord(
    stage="push", epoch=3, num_prototypes=30, val_accuracy=0.6, val_loss=1.0, test_accuracy=0.5, details={}
)
NUMBERS = {
    "train/loss": 0.5,
    "train/accuracy": 0.8,
    "val/loss": 0.9,
    "val/accuracy": 0.7,
    "epoch/seconds": 2.5,
    "terms/cross_entropy": 0.4,
    "learning_rate/add_on": 0.001,
    "after_push/val_accuracy": 0.6,
    "after_push/test_accuracy": 0.5,
    "after_push/prototypes": 30.0,
}


def make_run(folder: Path) -> Path:
    (folder / "run.toml").write_text("[train]\nseed = 7\n")
    for record in (Notice(text="a word"), EPOCH, STAGE):
        append_record(folder / "log.jsonl", record)
    return folder


class Writer:
    """Stands for `torch.utils.tensorboard.SummaryWriter`."""

    made: list[Writer]

    def __init__(self, folder: str) -> None:
        self.folder, self.is_closed = folder, False
        self.numbers: list[tuple[str, float, int]] = []
        self.texts: list[tuple[str, str, int]] = []
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.numbers.append((tag, value, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append((tag, text, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    made: list[Writer] = []
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = type("SummaryWriter", (Writer,), {"made": made})
    tensorboard = ModuleType("tensorboard")
    tensorboard.__spec__ = importlib.util.spec_from_loader("tensorboard", BuiltinImporter)
    monkeypatch.setitem(sys.modules, "tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def test_every_number_of_a_record_has_a_tag_and_its_epoch() -> None:
    scalars = [*scalars_of(to_table(EPOCH)), *scalars_of(to_table(STAGE))]
    assert scalars == [Scalar(tag, value, 3) for tag, value in NUMBERS.items()]
    assert scalars_of(to_table(Notice(text="x"))) == []


def test_the_command_writes_what_the_log_has(
    tmp_path: Path, writers: list[Writer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", str(make_run(tmp_path)), "--tensorboard", "curves"]) == 0
    (writer,) = writers
    assert writer.folder == "curves"
    assert writer.numbers == [(tag, value, 3) for tag, value in NUMBERS.items()]
    assert writer.texts == [("notices", "a word", 0)]
    assert writer.is_closed
    assert capsys.readouterr().out == f"wrote 10 numbers of {tmp_path / 'log.jsonl'} to curves\n"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_the_numbers(tmp_path: Path) -> None:
    to_tensorboard([to_table(EPOCH), to_table(STAGE)], tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, value in NUMBERS.items():
        (event,) = events.Scalars(tag)
        assert event.step == 3
        assert event.value == pytest.approx(value)


def test_wandb_gets_the_settings_and_a_line_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {"lines": []}

    class Run:
        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: object) -> None:
            seen["is_finished"] = True

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            seen[name] = step_metric

        def log(self, values: dict[str, float]) -> None:
            seen["lines"].append(values)

    fake = SimpleNamespace(init=lambda **given: seen.update(given) or Run(), __spec__=None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert main(["log", str(make_run(tmp_path)), "--wandb", "birds"]) == 0
    assert (seen["project"], seen["name"], seen["config"]) == ("birds", tmp_path.name, {"train": {"seed": 7}})
    assert seen["*"] == "epoch"
    assert seen["is_finished"]
    assert seen["lines"][0].items() >= {"epoch": 3, "train/loss": 0.5, "terms/cross_entropy": 0.4}.items()
    assert seen["lines"][1].items() >= {"epoch": 3, "after_push/test_accuracy": 0.5}.items()
    assert capsys.readouterr().out.endswith("to birds\n")
    assert to_wandb([], "birds", "x", {}) == 0


def test_a_training_is_followed_to_its_end_and_past_a_resume(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_record(log, Notice(text="one"))

    def more(_: float) -> None:
        step = len(waits)
        waits.append(_)
        if step == 0:
            append_record(log, Notice(text="two"))
        else:  # the training went back to its checkpoint and does better
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(lines[:2]) + json.dumps({"kind": "notice", "text": "three"}) + "\n")

    waits: list[float] = []
    records = follow_log(tmp_path, every=9, is_over=lambda: len(waits) == 2, wait=more)
    assert [record["text"] for record in records] == ["one", "two", "three"]
    assert waits == [9, 9]


def test_a_run_is_locked_while_another_process_writes_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        pass
    assert not is_locked(tmp_path)  # the file is there, its holder is gone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--tensorboard", "x"], "nowhere: must be a run folder; it has no run.toml."),
        (["x"], "one of the arguments --tensorboard --wandb is required"),
        (["x", "--tensorboard", "a", "--wandb", "b"], "argument --wandb: not allowed with argument --tensorboard"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_program_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["log", str(make_run(tmp_path)), f"--{package}", "x"]) == 2
    error = capsys.readouterr().err
    assert f"{package}: must be installed for --{package}" in error
    assert f"Run pip install {package}." in error


def test_broken_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (make_run(tmp_path) / "run.toml").write_text("[train\n")
    assert main(["log", str(tmp_path), "--wandb", "birds"]) == 2
    error = capsys.readouterr().err
    assert "run.toml" in error
    assert error.count("\n") == 1


def test_a_broken_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{\n")
    with pytest.raises(CheckpointError, match="must have one JSON object a line"):
        list(follow_log(tmp_path, is_over=lambda: True))
