from __future__ import annotations

import json
from pathlib import Path

import pytest

from protokern.edits.history import EDITS_FORMAT, append_entry, read_history, settle
from protokern.edits.records import Add, Assign, EditError, Forbid, Keep, Redo, Replace, Undo, from_table, to_table
from protokern.errors import CheckpointError

EVERY = (
    Forbid(prototype=3, reason="a sticker"),
    Keep(prototype=3),
    Replace(prototype=0, image="train/a/1.png", patch=(2, 5)),
    Add(classes=("a", "b"), image="train/a/1.png", patch=(0, 0)),
    Assign(prototype=1, classes=("b",)),
    Undo(),
    Redo(),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    assert read_history(path) == []
    for entry in EVERY:
        append_entry(path, entry)
    assert read_history(path) == list(EVERY)
    assert json.loads(path.read_text().splitlines()[0]) == {"kind": "format", "format": EDITS_FORMAT}


def test_a_history_cut_off_anywhere_has_whole_entries_and_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    for entry in EVERY:
        append_entry(path, entry)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = max(sum(end <= length for end in ends) - 1, 0)
        assert read_history(path) == list(EVERY[:kept])
        append_entry(path, Undo())
        assert read_history(path) == [*EVERY[:kept], Undo()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 2: must be one of forbid, keep, replace, add, assign, limit, undo, redo; got 'list'"),
        ('{"kind": "burn"}', "must be one of forbid, .*; got 'burn'"),
        ('{"kind": "forbid"}', "must have 'prototype' in 'forbid'"),
        ('{"kind": "forbid", "prototype": -1}', "must have a number from 0 as 'prototype' in 'forbid'; got '-1'"),
        ('{"kind": "forbid", "prototype": true}', "must have a number from 0"),
        ('{"kind": "keep", "prototype": 1, "x": 2}', "must have no 'x' in 'keep'"),
        ('{"kind": "add", "classes": [], "image": "a", "patch": [0, 0]}', "must have different names of classes"),
        ('{"kind": "add", "classes": ["a", "a"], "image": "a", "patch": [0, 0]}', "must have different names"),
        ('{"kind": "replace", "prototype": 1, "image": "a", "patch": [0]}', r"must have \[row, column\]"),
        ('{"kind": "replace", "prototype": 1, "image": 3, "patch": [0, 0]}', "must have a text as 'image'"),
        ("{", "line 2: must be a JSON object"),
    ],
)
def test_a_line_that_is_no_entry_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"kind": "format", "format": EDITS_FORMAT}) + f"\n{line}\n")
    with pytest.raises(CheckpointError, match=message):
        read_history(path)


def test_a_file_without_a_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text('{"kind": "undo"}\n')
    with pytest.raises(CheckpointError, match="line 1: must name its format, 'protokern-edits-1'"):
        read_history(path)


def test_undo_and_redo() -> None:
    one, two, three = (Forbid(prototype=j) for j in range(3))

    def counted(*entries: object) -> list[tuple[int, bool]]:
        return [(each.edit.prototype, each.counts) for each in settle(entries)]

    assert counted(one, two, Undo()) == [(0, True), (1, False)]
    assert counted(one, two, Undo(), Undo(), Redo()) == [(0, True), (1, False)]
    assert counted(one, two, Undo(), Undo(), Redo(), Redo()) == [(0, True), (1, True)]
    assert counted(one, Undo(), three, Redo()) == [(0, False), (2, True)]
    assert counted(one, Undo(), three, Undo(), Undo(), Redo()) == [(0, False), (2, True)]
    assert counted(Undo(), Redo()) == []


def test_a_table_is_plain_json() -> None:
    for entry in EVERY:
        table = json.loads(json.dumps(to_table(entry)))
        assert from_table(table) == entry
    with pytest.raises(EditError):
        from_table({"kind": ["forbid"]})
