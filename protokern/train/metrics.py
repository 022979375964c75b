"""`metrics.json`: what a finished run reached, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protokern.results.stages import STAGES
from protokern.storage.files import to_json_bytes, write_file
from protokern.train.run import TrainingRun

FORMAT = "protokern-metrics-1"


def summarise(run: TrainingRun) -> dict[str, Any]:
    """Accuracies after each stage that led to the final weights, prototypes, seconds and images."""
    progress = run.progress
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
        "prototypes": run.model.num_prototypes,
        "classes": len(run.classes),
        "epoch": progress.epoch,
        "images": progress.images,
        "seconds": {stage: round(seconds, 3) for stage, seconds in progress.seconds.items()},
        "seed": run.train.seed,
    }


def write_metrics(path: Path, run: TrainingRun) -> None:
    """Write the summary of a finished run; the first of several ranks does it."""
    if run.ranks.is_first:
        write_file(path, to_json_bytes({"format": FORMAT, **summarise(run)}))
