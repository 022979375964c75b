"""What a run says while it goes on (records, for people and the log) and what it must remember to go on (progress)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from protokern.results.stages import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """A step of the plan begins; for progress bars, not logged. `position` counts from 0 up to `steps`."""

    stage: Stage
    epoch: int
    position: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRecord:
    """One batch is done; for progress bars, not logged. `batch` counts from 1 to `batches`."""

    stage: Stage
    epoch: int
    batch: int
    batches: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureRecord:
    """A frozen backbone has run over more images of a split; for progress bars, not logged. `done` is of `images`."""

    split: str
    done: int
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One epoch of training. Losses are means per image, accuracies in [0, 1], `seconds` include the validation.

    `terms` are those of the model's loss, before they are multiplied by their coefficients.
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
    """What a stage leaves behind, measured on the validation and the test split.

    Attributes:
        stage: "joint", "hardening" or "warm" stands for the best joint or hardening epoch, or the last warm one, as
            restored before the push.
        epoch: 0-based training epoch that the weights come from.
        num_prototypes: after the stage.
        details: what only this kind of stage has.
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
    """Something a person should know, in one line."""

    kind: ClassVar[str] = "notice"

    text: str


LoggedRecord = EpochRecord | StageRecord | Notice
Record = StepRecord | BatchRecord | FeatureRecord | LoggedRecord


def to_table(record: LoggedRecord) -> dict[str, Any]:
    """A record's fields and its kind, as the log holds them."""
    return {"kind": record.kind, **asdict(record)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best weights so far by the validation split: accuracy, then cross entropy."""

    checkpoint: str
    epoch: int
    accuracy: float
    loss: float

    def is_beaten_by(self, accuracy: float, loss: float) -> bool:
        """Whether another result is better."""
        return (accuracy, -loss) > (self.accuracy, -self.loss)


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands; saved with every checkpoint, so that a run goes on as if it had never stopped.

    Attributes:
        position: index in the plan of the step to do next.
        batch: batches of that step that are done already.
        epoch: training epoch that the present weights come from; -1 before the first.
        optimizer_stage: stage of the optimizer in use.
        images: in each split, to notice other data.
        names: fingerprints of the images' names and classes in each split, to notice other data of as many images.
        sums: running sums of an epoch that is not finished.
        best_joint: best joint epoch since the last push; from the hardening on, best hardening epoch.
        best_live: best epoch of the live stage at hand, counted from 1; 0: the push before it.
        best_pushed: best last-layer stage.
        waited: joint or hardening epochs since `best_joint` changed.
        seconds: spent in each stage.
        results: StageRecords as tables, one list entry each, in order.
        log_lines: lines of the log when the checkpoint was written.
    """

    position: int = 0
    batch: int = 0
    epoch: int = -1
    optimizer_stage: Stage | None = None
    images: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    best_joint: Best | None = None
    best_live: Best | None = None
    best_pushed: Best | None = None
    waited: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    log_lines: int = 0

    def to_table(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Progress:
        """The opposite of `to_table`."""
        values = {**table, "names": dict(table.get("names", {}))}
        for name in ("best_joint", "best_live", "best_pushed"):
            values[name] = Best(**values[name]) if values.get(name) else None  # older files lack the second
        return cls(**values)
