"""`metrics.json`: the accuracies of a finished run, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protokern.results.stages import STAGES
from protokern.runs.progress import Progress
from protokern.storage.files import to_json_bytes, write_file

FORMAT = "protokern-metrics-1"
SUMMARY_FILE = "metrics.json"


def summarise(progress: Progress, *, num_prototypes: int, num_classes: int, seed: int) -> dict[str, Any]:
    """Accuracies after each stage that led to the final weights; numbers of prototypes, seconds and images."""
    stages = {
        STAGES[result["stage"]].summary: {
            "val": result["val_accuracy"],
            "test": result["test_accuracy"],
            "prototypes": result["num_prototypes"],
        }
        for result in progress.results
        if result["epoch"] == progress.epoch
    }
    *_, final = stages.values()
    return {
        "accuracy": final["test"],
        "stages": stages,
        "prototypes": num_prototypes,
        "classes": num_classes,
        "epoch": progress.epoch,
        "images": progress.images,
        "seconds": {stage: round(seconds, 3) for stage, seconds in progress.seconds.items()},
        "seed": seed,
    }


def write_metrics(path: Path, progress: Progress, *, num_prototypes: int, num_classes: int, seed: int) -> None:
    """Write the summary of a finished run.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    summary = summarise(progress, num_prototypes=num_prototypes, num_classes=num_classes, seed=seed)
    write_file(path, to_json_bytes({"format": FORMAT, **summary}))
