"""What crash-safe checkpoints cost: `python -m benchmarks checkpoints`, with `--data DIR` for photographs.

One training, whose epochs end with a checkpoint and without one in turns. Each round gives one ratio of the two; within
the epochs that write, the writing is timed separately, because a few per cent are lost in the noise of whole epochs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import CHECKPOINTS, append_rows
from benchmarks.pages.scenario_rows import CheckpointRow
from benchmarks.pages.targets import checkpoint_verdict
from benchmarks.scenarios.scenario import begin, columns, flags
from protokern.config import RunConfig, config_to_dict, parse_config
from protokern.data import Splits, open_splits
from protokern.data.sources import BirdCounts
from protokern.models.build import build_model
from protokern.runs.log import EpochRecord
from protokern.runs.open import load_model
from protokern.train.loop import train
from protokern.train.state import Job, TrainingRun


@dataclass
class Times:
    """Seconds of every epoch, the first of which only warms up, and of every checkpoint."""

    writing: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    checkpoints: list[float] = field(default_factory=list)


class TimedRun(TrainingRun):
    """A run that times its checkpoints, and leaves out those that are not wanted."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.writes: Callable[[], bool] = lambda: True
        self.seconds: list[float] = []

    def save(self, name: str) -> None:
        if self.writes():
            started = time.perf_counter()
            super().save(name)
            self.seconds.append(time.perf_counter() - started)


def make_run(folder: Path, config: RunConfig, splits: Splits) -> TimedRun:
    return TimedRun(
        Job(
            folder=folder,
            model=build_model(config.model, len(splits.classes), config.data.image_size),
            splits=splits,
            classes=tuple(splits.classes),
            config=config_to_dict(config),
            train=config.train,
            prune=config.prune,
        )
    )


def time_rounds(run: TimedRun, rounds: int) -> Times:
    """Train; epochs with and without a checkpoint alternate, and so does which of the two comes first in a round."""
    times = Times()
    epochs = 0

    def writes() -> bool:
        return epochs % 4 in (0, 1)  # of the pairs 1, 2 | 3, 4 | 5, 6 | ... write 1, 4, 5, 8, ...

    run.writes = lambda: epochs == 0 or writes()
    started = time.perf_counter()
    for record in train(run):
        if not isinstance(record, EpochRecord):
            continue
        elapsed = time.perf_counter() - started
        if epochs:
            (times.writing if writes() else times.without).append(elapsed)
        epochs += 1
        if epochs > 2 * rounds:
            break
        started = time.perf_counter()
    times.checkpoints = run.seconds[-len(times.writing) :]
    run.writes = lambda: True
    return times


def check_written(run: TrainingRun) -> int:
    """Bytes of a checkpoint, after a look at whether it gives the model back; ends the program if it does not."""
    run.save("check-0")
    model, _, _ = load_model(run.job.folder)
    ours, read = run.model.state_dict(), model.state_dict()
    if ours.keys() != read.keys() or not all(torch.equal(ours[name].cpu(), read[name]) for name in ours):
        sys.exit("checkpoints: what was written is not what the model holds; nothing is stored")
    assert run.last_checkpoint is not None
    return sum(path.stat().st_size for path in run.last_checkpoint.iterdir())


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("checkpoints", __doc__, CHECKPOINTS)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg and test/; default: synthetic birds")
    parser.add_argument("--birds", type=int, default=32, help="of each of ten classes, without --data")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, square")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each kind")
    parser.add_argument("--folder", type=Path, help="on the disk to write to; default: where temporary files are")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    counts = BirdCounts(train_per_class=arguments.birds, val_per_class=4, test_per_class=2)
    splits = open_splits(arguments.data, image_size=arguments.image_size, cache="memory", birds=counts)
    epochs = 2 * arguments.rounds + 1
    config = parse_config(
        {
            "model": {"backbone": arguments.backbone, "weights": "none"},
            "data": {"image_size": arguments.image_size},
            "train": {"warm_epochs": 0, "joint_epochs": epochs + 1, "push_start": epochs + 1, "patience": 0},
        }
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = make_run(Path(folder), config, splits)
        with watch_others() as others:
            times = time_rounds(run, arguments.rounds)
        written = check_written(run)
    pairs = zip(times.writing, times.without, strict=True)
    without_s, checkpoint_s = statistics.median(times.without), statistics.median(times.checkpoints)
    row = CheckpointRow(
        **columns(machine, others),
        backbone=arguments.backbone,
        images=len(splits.train),
        image_size=arguments.image_size,
        prototypes=run.model.num_prototypes,
        rounds=arguments.rounds,
        epoch_s=round(without_s, 3),
        checkpoint_s=round(checkpoint_s, 4),
        checkpoint_mb=round(written / 1e6, 1),
        share=round(checkpoint_s / without_s, 5),
        ratio=round(statistics.median(one / other for one, other in pairs), 4),
    )
    print(f"{row.images} images, {row.backbone} at {row.image_size} pixels, checkpoints of {row.checkpoint_mb:.0f} MB")
    print(f"epoch without one {row.epoch_s:.2f} s, a checkpoint {row.checkpoint_s:.3f} s")
    print(f"{checkpoint_verdict(row)}; epochs with one over epochs without: {row.ratio:.3f}")
    append_rows(arguments.out, [row])
    return 0
