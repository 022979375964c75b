"""What a training yields: what is logged (`protokern.runs.log`), and what only a progress bar shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protokern.inputs.stores import FeatureRecord
from protokern.results.stages import Stage
from protokern.runs.log import LoggedRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBegins:
    """A step of the plan begins; for progress bars, not logged. `position` counts from 0 up to `steps`."""

    stage: Stage
    epoch: int
    position: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchDone:
    """One batch is done; for progress bars, not logged. `batch` counts from 1 to `batches`."""

    stage: Stage
    epoch: int
    batch: int
    batches: int
    loss: float


@dataclass(frozen=True, slots=True)
class RunStopped:
    """The last event of a training that was asked to stop; not logged. It goes on from `checkpoint`."""

    checkpoint: Path


Event = StepBegins | BatchDone | FeatureRecord | LoggedRecord | RunStopped
