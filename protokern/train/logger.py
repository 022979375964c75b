"""`log.jsonl`: every record of a run but the batches, one JSON object a line. The first line says the format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError
from protokern.storage.files import LARGEST_TABLE, explain_write_errors, read_file, write_file
from protokern.storage.formats import check_format
from protokern.train.records import LoggedRecord, to_table

LOG_FORMAT = "protokern-log-1"
_HEADER = json.dumps({"kind": "format", "format": LOG_FORMAT}) + "\n"
_LONGEST_LINE = 2**20  # bytes


def append_record(path: Path, record: LoggedRecord) -> None:
    """Add one line: the record's fields, and its `kind` ("epoch", "stage" or "notice").

    The line is on the disk when this returns: a checkpoint counts on it. One that a killed process left half-written
    goes first.

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    line = json.dumps(to_table(record)) + "\n"
    with explain_write_errors(path), open(path, "ab+", opener=_open_own) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            size -= len(tail.rpartition(b"\n")[2])
            file.truncate(size)
        file.write((line if size else _HEADER + line).encode())
        file.flush()
        os.fsync(file.fileno())


def _open_own(path: str, flags: int) -> int:
    """Open, or create, a file of the run folder itself: a link might lead out of it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole records of a log, in order; a last line that was cut off by a kill is left out.

    Raises:
        CheckpointError: too large, of a newer format, or a line is no record.
    """
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in read_file(path, LARGEST_TABLE).decode().split("\n")[:-1] if line]
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: must have one JSON object a line; it is broken ({error}).") from error
    if not all(isinstance(record, dict) and isinstance(record.get("kind"), str) for record in records):
        raise CheckpointError(f"{path}: must have one JSON object with a kind a line; it has others.")
    if records and records[0]["kind"] == "format":  # the oldest logs have no such line
        check_format(path, records.pop(0), LOG_FORMAT)
    return records


def truncate_log(path: Path, num_lines: int) -> None:
    """Keep the first `num_lines` records: a resumed run writes again what came after its checkpoint."""
    lines = read_log(path)
    if len(lines) < num_lines:
        raise CheckpointError(f"{path}: must have at least {num_lines} lines to resume; got {len(lines)}.")
    kept = [json.dumps(line) + "\n" for line in lines[:num_lines]]
    write_file(path, "".join([_HEADER, *kept]).encode())
