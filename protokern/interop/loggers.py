"""The log of a run in TensorBoard or Weights & Biases: both read `log.jsonl`, and the training knows neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from protokern.errors import import_optional
from protokern.runs.log import read_log

LOG_FILE = "log.jsonl"
_EPOCH_NUMBERS = {
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "seconds": "epoch/seconds",
}
_STAGE_NUMBERS = {"val_accuracy": "val_accuracy", "test_accuracy": "test_accuracy", "num_prototypes": "prototypes"}


class Scalar(NamedTuple):
    """One number of a record.

    Attributes:
        tag: its name, with slashes between the parts.
        value: accuracies in [0, 1].
        epoch: the training epoch that it belongs to, from 0.
    """

    tag: str
    value: float
    epoch: int


def scalars_of(record: Mapping[str, Any]) -> list[Scalar]:
    """The numbers of a record of `log.jsonl`; a notice has none.

    An epoch gives "train/loss", "train/accuracy", "val/loss", "val/accuracy", "epoch/seconds", the terms of the loss as
    "terms/NAME" and the learning rates as "learning_rate/NAME"; a stage "after_STAGE/test_accuracy",
    "after_STAGE/val_accuracy" and "after_STAGE/prototypes".
    """
    if record["kind"] == "epoch":
        named = {tag: record[key] for key, tag in _EPOCH_NUMBERS.items() if key in record}
        for key, folder in (("terms", "terms"), ("learning_rates", "learning_rate")):
            named |= {f"{folder}/{name}": value for name, value in record.get(key, {}).items()}
    elif record["kind"] == "stage":
        stage = f"after_{record['stage']}"
        named = {f"{stage}/{tag}": record[key] for key, tag in _STAGE_NUMBERS.items() if key in record}
    else:
        return []
    return [Scalar(tag, float(value), int(record["epoch"])) for tag, value in named.items()]


def follow_log(
    run: Path, *, every: float = 5.0, is_over: Callable[[], bool], wait: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """The records of a run, and those that its training adds.

    A training that was resumed from an earlier checkpoint takes its last records back and writes them again; they come
    again.

    Args:
        run: the run folder.
        every: seconds between two looks at the log.
        is_over: whether no more will come; asked before each look, so that the last records are seen.
        wait: waits for some seconds.

    Raises:
        CheckpointError: the log is broken.
    """
    seen: list[dict[str, Any]] = []
    while True:
        over = is_over()
        records = read_log(run / LOG_FILE)
        same = next((k for k, (old, new) in enumerate(zip(seen, records, strict=False)) if old != new), None)
        first = min(len(seen), len(records)) if same is None else same
        yield from records[first:]
        seen = records
        if over:
            return
        wait(every)


def to_tensorboard(records: Iterable[Mapping[str, Any]], folder: Path) -> int:
    """Write the numbers and notices of a run as an event file of TensorBoard, each as it comes.

    Args:
        records: of `log.jsonl`.
        folder: the log folder for `tensorboard --logdir`, which is made.

    Returns:
        How many numbers were written.

    Raises:
        MissingPackageError: tensorboard is not installed.
    """
    import_optional("tensorboard", package="tensorboard", needed_for="--tensorboard", install="tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    written = notices = 0
    writer: Any = SummaryWriter(str(folder))
    try:
        for record in records:
            for scalar in scalars_of(record):
                writer.add_scalar(scalar.tag, scalar.value, scalar.epoch)
                written += 1
            if record["kind"] == "notice":
                writer.add_text("notices", record["text"], notices)
                notices += 1
            writer.flush()
    finally:
        writer.close()
    return written


def to_wandb(records: Iterable[Mapping[str, Any]], project: str, name: str, config: Mapping[str, Any]) -> int:
    """Send the numbers of a run to Weights & Biases, each as it comes; where and as whom is up to its own settings.

    Args:
        records: of `log.jsonl`.
        project: where the run goes.
        name: of the run.
        config: the settings of the run, as tables.

    Returns:
        How many numbers were sent.

    Raises:
        MissingPackageError: wandb is not installed.
    """
    wandb: Any = import_optional("wandb", package="wandb", needed_for="--wandb", install="wandb")
    sent = 0
    with wandb.init(project=project, name=name, config=dict(config)) as run:
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        for record in records:
            scalars = scalars_of(record)
            if scalars:
                run.log({"epoch": scalars[0].epoch} | {scalar.tag: scalar.value for scalar in scalars})
            sent += len(scalars)
    return sent
