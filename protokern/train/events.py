"""The events of a training: records for the log (`protokern.runs.log`), and events that only a progress bar shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protokern.inputs.stores import FeatureRecord
from protokern.results.stages import Stage
from protokern.runs.log import LoggedRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBegins:
    """A step of the plan begins; for progress bars, not logged.

    Attributes:
        stage, epoch: of the step.
        position: counts from 0 to `steps` - 1.
        steps: of the whole plan.
        done: steps of the same stage that come right before it.
        together: steps of the same stage in a row, with those before and after it.
    """

    stage: Stage
    epoch: int
    position: int
    steps: int
    done: int = 0
    together: int = 1


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
    """The last event of a training after a requested stop; not logged. The training resumes from `checkpoint`."""

    checkpoint: Path


Event = StepBegins | BatchDone | FeatureRecord | LoggedRecord | RunStopped
