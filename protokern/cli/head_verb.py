"""What `push` and `prune` share: a step on a trained model, a new checkpoint, new pictures of the prototypes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from protokern.cli.show import describe, progress_in_turn, show_progress
from protokern.config import config_to_dict
from protokern.config.run import feature_store
from protokern.data import Splits
from protokern.inputs.loaders import DataSplits
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.results.stages import Stage
from protokern.runs.checkpoints import CheckpointState, find_checkpoint, run_folder, save_checkpoint
from protokern.runs.data import check_classes, open_data
from protokern.runs.features import find_inputs
from protokern.runs.folder import check_prototypes_folder
from protokern.runs.forbidden import read_forbidden
from protokern.runs.log import LoggedRecord, append_record
from protokern.runs.open import OpenRun, choose_device, open_run
from protokern.storage.lock import lock_run
from protokern.train.forbidden import find_places
from protokern.train.state import Job, TrainingRun

HeadStep = Callable[[TrainingRun], list[LoggedRecord]]


def run_head_step(
    args: argparse.Namespace, stage: Stage, step: HeadStep, *, check: Callable[[OpenRun], None] = lambda _: None
) -> int:
    """Do `step` on the model of RUN; write `<stage>-<epoch>-<n>`, the prototypes, and an existing page again.

    Args:
        args: arguments of the verb.
        stage: the stage that the step belongs to.
        step: what to do.
        check: raises an error if the step cannot be done, before any image is read.
    """
    device = choose_device(args.device)
    folder = run_folder(find_checkpoint(Path(args.run)))
    check_prototypes_folder(folder)
    with lock_run(folder):  # read only after this: another command may just have finished
        opened = open_run(args.run, data=args.data, changes=args.changes, device=device)
        check(opened)
        return _write_step(opened, stage, step)


def _write_step(opened: OpenRun, stage: Stage, step: HeadStep) -> int:
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    inputs = find_inputs(opened, splits)
    for note in (*splits.notes, *inputs.notes):
        print(note)
    run = _as_training(opened, splits, inputs)
    records = step(run)
    job, epoch = run.job, opened.epoch
    state = CheckpointState(config=job.config, classes=job.classes, stage=stage, epoch=epoch, push=run.push)
    path = save_checkpoint(opened.folder, f"{stage}-{epoch}", run.model, state, is_numbered=True)
    for record in records:
        append_record(job.log_path, record)
        print(describe(record))
    if run.push is not None:
        _write_pictures(opened.folder, run.model, splits, run.push)
    print(f"wrote {path}")
    if (opened.folder / "report" / "index.html").exists():  # the old page would show a model that no longer exists
        print(f"wrote {_write_page(opened.folder, splits, inputs)}")
    return 0


def _as_training(opened: OpenRun, splits: Splits, inputs: DataSplits) -> TrainingRun:
    forbidden = read_forbidden(opened.folder)
    job = Job(
        folder=opened.folder,
        model=opened.model,
        splits=splits,
        classes=opened.classes,
        config=config_to_dict(opened.config),
        train=opened.config.train,
        prune=opened.config.prune,
        workers=opened.config.data.workers,
        feature_store=feature_store(opened.config),
        forbidden=None if forbidden is None else find_places(forbidden, splits.push, opened.classes)[0],
    )
    return TrainingRun.of_trained(job, inputs, epoch=opened.epoch, push=opened.push)


def _write_pictures(folder: Path, model: PrototypeModel, splits: Splits, push: PushResult) -> None:
    from protokern.explain.prototypes import write_prototypes  # heavy, and not for --help

    write_prototypes(folder, model, splits, push, progress=show_progress)


def _write_page(folder: Path, splits: Splits, inputs: DataSplits) -> Path:
    from protokern.explain.collect import write_page  # heavy, and not for --help

    return write_page(open_run(folder), splits, inputs=inputs, all_frames=False, progress=progress_in_turn())[0]
