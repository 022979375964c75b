"""`log.jsonl`: every record of a run but the batches, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError
from protokern.train.files import explain_write_errors, write_file
from protokern.train.records import LoggedRecord, to_table


def append_record(path: Path, record: LoggedRecord) -> None:
    """Add one line: the record's fields, and its `kind` ("epoch", "stage" or "notice").

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    line = json.dumps(to_table(record))
    with explain_write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log, in order; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def truncate_log(path: Path, num_lines: int) -> None:
    """Keep the first `num_lines` lines: a resumed run writes again what came after its checkpoint."""
    lines = read_log(path)
    if len(lines) < num_lines:
        raise CheckpointError(f"{path}: must have at least {num_lines} lines to resume; got {len(lines)}.")
    write_file(path, "".join(json.dumps(line) + "\n" for line in lines[:num_lines]).encode())
