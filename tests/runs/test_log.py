from __future__ import annotations

import os
from pathlib import Path

import pytest

from protokern.errors import CheckpointError
from protokern.runs.log import EpochRecord, Notice, StageRecord, append_record, read_log, read_progress, truncate_log

PUSH = StageRecord(
    stage="push", epoch=3, num_prototypes=6, val_accuracy=0.5, val_loss=1.5, test_accuracy=0.25, details={"moved": 1}
)


def test_a_line_holds_the_record_and_its_kind(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, Notice(text="hello"))
    append_record(path, PUSH)
    assert read_log(path) == [
        {"kind": "notice", "text": "hello"},
        {
            "kind": "stage",
            "stage": "push",
            "epoch": 3,
            "num_prototypes": 6,
            "val_accuracy": 0.5,
            "val_loss": 1.5,
            "test_accuracy": 0.25,
            "details": {"moved": 1},
        },
    ]


def test_a_line_that_was_cut_off_is_left_out(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, Notice(text="whole"))
    with path.open("a") as file:
        file.write('{"kind": "noti')
    assert read_log(path) == [{"kind": "notice", "text": "whole"}]


def test_a_log_is_cut_back_to_its_checkpoint(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    for text in "abc":
        append_record(path, Notice(text=text))
    truncate_log(path, 1)
    assert [line["text"] for line in read_log(path)] == ["a"]
    with pytest.raises(CheckpointError, match="must have at least 2 lines to resume; got 1"):
        truncate_log(path, 2)


def test_a_run_without_a_log_has_an_empty_one(tmp_path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


def test_a_line_after_one_that_was_cut_off_takes_its_place(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, Notice(text="whole"))
    with path.open("a") as file:
        file.write('{"kind": "noti')
    append_record(path, Notice(text="after"))
    assert [line["text"] for line in read_log(path)] == ["whole", "after"]


def test_a_line_is_on_the_disk_before_the_checkpoint_that_counts_it(tmp_path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "log.jsonl").read_bytes()))
    append_record(tmp_path / "log.jsonl", Notice(text="hello"))
    assert [content.splitlines()[-1] for content in synced] == [b'{"kind": "notice", "text": "hello"}']


@pytest.mark.parametrize("content", [b"nonsense\n", b"[1]\n", b'{"kind": 3}\n', b"\xff\n", b"[" * 100_000 + b"\n"])
def test_a_broken_log_is_named(tmp_path, content) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"log\.jsonl: must have one JSON object (a line; it is broken|with a)"):
        read_log(tmp_path / "log.jsonl")


def test_a_log_that_is_a_link_is_not_followed(tmp_path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    (tmp_path / "log.jsonl").symlink_to(precious)
    with pytest.raises(CheckpointError, match=r"log\.jsonl: could not be written"):
        append_record(tmp_path / "log.jsonl", Notice(text="not there"))
    assert precious.read_text() == "mine\n"


def test_the_first_line_says_the_format_and_a_newer_one_is_refused(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "noti')  # of a run that was killed at its first line
    for text in "ab":
        append_record(path, Notice(text=text))
    truncate_log(path, 1)
    append_record(path, Notice(text="c"))
    lines = path.read_text().splitlines()
    assert lines[0] == '{"kind": "format", "format": "protokern-log-1"}'
    assert [line["text"] for line in read_log(path)] == ["a", "c"]
    path.write_text("\n".join([lines[0].replace("-1", "-2"), *lines[1:], ""]))
    with pytest.raises(CheckpointError, match=r"log\.jsonl: is of format protokern-log-2; this version reads up to"):
        read_log(path)
    path.write_text("\n".join([*lines[1:], ""]))
    assert len(read_log(path)) == 2


def test_progress_keeps_the_stages_that_led_to_the_weights(tmp_path: Path) -> None:
    assert read_progress(tmp_path, 1) == ((), ())
    epoch = EpochRecord(
        stage="joint",
        epoch=1,
        seconds=1.0,
        images=8,
        loss=2.0,
        terms={"cross_entropy": 1.0, "cluster": 0.5, "separation": 0.5, "l1": 0.0},
        accuracy=0.5,
        val_accuracy=0.25,
        val_loss=1.5,
        learning_rates={"prototypes": 0.1},
    )
    append_record(tmp_path / "log.jsonl", epoch)
    append_record(tmp_path / "log.jsonl", Notice(text="hello"))
    for number in (0, 1):
        record = StageRecord(
            stage="push",
            epoch=number,
            num_prototypes=6,
            val_accuracy=0.5,
            val_loss=1.0,
            test_accuracy=0.75,
            details={},
        )
        append_record(tmp_path / "log.jsonl", record)
    epochs, stages = read_progress(tmp_path, 1)
    assert [(point.epoch, point.val_loss) for point in epochs] == [(1, 1.5)]
    assert [(result.epoch, result.test_accuracy) for result in stages] == [(1, 0.75)]
