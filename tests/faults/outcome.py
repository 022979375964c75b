"""What a finished run leaves behind, without what depends on the clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from protokern.runs.checkpoints import find_checkpoint
from protokern.runs.log import read_log
from protokern.storage.outputs import LISTING


@dataclass(frozen=True)
class Outcome:
    """`weights` and `files` are bytes by name; the rest is as the files hold it, without seconds."""

    checkpoint: str
    weights: dict[str, bytes]
    files: dict[str, bytes]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]


def read_outcome(folder: Path) -> Outcome:
    """What the finished run in `folder` left behind."""
    checkpoint = find_checkpoint(folder)
    prototypes = sorted((folder / "prototypes").iterdir())
    assert (folder / "report" / "index.html").is_file()
    return Outcome(
        checkpoint=checkpoint.name,
        weights={name: value.numpy().tobytes() for name, value in load_file(checkpoint / "model.safetensors").items()},
        files={path.name: path.read_bytes() for path in prototypes},
        metrics=_without_seconds(json.loads((folder / "metrics.json").read_text())),
        log=[_without_seconds(record) for record in read_log(folder / "log.jsonl")],
    )


def check_same(folder: Path, whole: Outcome) -> None:
    """Assert that the run in `folder` ended with the same bits as one that nothing interrupted, and left no litter."""
    found = read_outcome(folder)
    assert found.checkpoint == whole.checkpoint
    assert found.weights == whole.weights
    assert found.metrics == whole.metrics
    assert found.log == whole.log
    assert found.files == whole.files
    assert [path for path in folder.rglob(".*") if path.name not in (".lock", LISTING)] == []


def _without_seconds(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "seconds"}
