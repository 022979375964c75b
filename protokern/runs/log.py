"""`log.jsonl`: the records of a run except batches, one JSON object per line. The first line names the format."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from protokern.errors import CheckpointError
from protokern.results.run import EpochPoint, StageResult
from protokern.results.stages import Stage
from protokern.storage.files import LARGEST_TABLE, append_line, check_format, read_file, write_file

LOG_FORMAT = "protokern-log-1"
_HEADER = json.dumps({"kind": "format", "format": LOG_FORMAT})


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One epoch of training. Losses are means per image, accuracies in [0, 1], `seconds` include the validation.

    `terms` are the terms of the model's loss, before they are multiplied by their coefficients.
    """

    kind: ClassVar[str] = "epoch"

    stage: Stage
    epoch: int
    seconds: float
    images: int
    loss: float
    terms: dict[str, float]
    accuracy: float
    val_accuracy: float
    val_loss: float
    learning_rates: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """The accuracies after a stage, on the validation and the test split.

    Attributes:
        stage: "joint", "hardening" or "warm" stands for the best joint or hardening epoch, or the last warm one, as
            restored before the push.
        epoch: 0-based training epoch that the weights come from.
        num_prototypes: after the stage.
        details: numbers that only this kind of stage has.
    """

    kind: ClassVar[str] = "stage"

    stage: Stage
    epoch: int
    num_prototypes: int
    val_accuracy: float
    val_loss: float
    test_accuracy: float
    details: dict[str, float | int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A message for people, in one line."""

    kind: ClassVar[str] = "notice"

    text: str


LoggedRecord = EpochRecord | StageRecord | Notice


def to_table(record: LoggedRecord) -> dict[str, Any]:
    """A record as a line of the log: its fields and its kind."""
    return {"kind": record.kind, **asdict(record)}


def append_record(path: Path, record: LoggedRecord) -> None:
    """Add one line: the record's fields, and its `kind` ("epoch", "stage" or "notice").

    The line is on the disk when this returns, because a checkpoint counts the lines. A half-written line of a killed
    process is removed first.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    append_line(path, json.dumps(to_table(record)), first=_HEADER)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All complete records of a log, in order; a last line that a killed process cut off is left out.

    Raises:
        CheckpointError: the log is too large or of a newer format, or a line is no record.
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
    """Keep the first `num_lines` records: a resumed run writes the records after its checkpoint again."""
    lines = read_log(path)
    if len(lines) < num_lines:
        raise CheckpointError(f"{path}: must have at least {num_lines} lines to resume; got {len(lines)}.")
    kept = [json.dumps(line) for line in lines[:num_lines]]
    write_file(path, "".join(f"{line}\n" for line in [_HEADER, *kept]).encode())


def read_progress(run_dir: Path, epoch: int) -> tuple[tuple[EpochPoint, ...], tuple[StageResult, ...]]:
    """The curves of a run and the results of the stages that led to the weights of `epoch`, from its log."""
    path = run_dir / "log.jsonl"
    epochs, stages = [], []
    try:
        for record in read_log(path):
            if record["kind"] == "epoch":
                epochs.append(EpochPoint(**{entry.name: record[entry.name] for entry in fields(EpochPoint)}))
            elif record["kind"] == "stage" and record["epoch"] == epoch:
                stages.append(StageResult(**{entry.name: record[entry.name] for entry in fields(StageResult)}))
    except KeyError as error:
        raise CheckpointError(f"{path}: must say what each epoch and stage reached; one lacks {error}.") from error
    return tuple(epochs), tuple(stages)
