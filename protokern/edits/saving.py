"""An edited net as a run of its own, which every command opens; the run that it came from is not touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from protokern.config import RunConfig, config_to_dict, config_to_toml
from protokern.config.run import RUN_FORMAT
from protokern.edits.bench import Bench, EditedNet
from protokern.edits.forbidden import forbidden_places
from protokern.edits.history import append_entry
from protokern.edits.records import Entry
from protokern.evaluate import Evaluation, evaluate
from protokern.explain.prototypes import write_prototypes
from protokern.inputs.sources import SplitFeatures
from protokern.nn import evaluating
from protokern.results.progress import Progress, show_nothing
from protokern.results.stages import Stage
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.runs.data import RunData
from protokern.runs.features import feature_folder
from protokern.runs.folder import RUN_FILE, check_new_run, check_vacant, versions
from protokern.runs.forbidden import read_forbidden, settle_forbidden
from protokern.runs.log import LoggedRecord, Notice, StageRecord, append_record
from protokern.runs.open import OpenRun, check_pushed
from protokern.runs.split import settle_own_split
from protokern.storage.files import write_file
from protokern.storage.lock import lock_run

APPLIED_FILE = "edits-applied.jsonl"  # the history that made the run; its numbers are those of the run before
_LAST: Stage = "last_layer"


def config_of(run: OpenRun, net: EditedNet) -> RunConfig:
    """The settings of the edited run: room for all prototypes, and the features of the run that it came from."""
    per_class = getattr(run.config.model, "prototypes_per_class", 1)
    needed = math.ceil(net.model.num_prototypes / net.model.num_classes)
    model = replace(run.config.model, prototypes_per_class=max(per_class, needed))  # type: ignore[call-arg]
    store = feature_folder(run)
    data = replace(run.config.data, feature_store=str(store.resolve()) if store.is_dir() else "")
    return replace(run.config, model=model, data=data)


def write_edited(
    bench: Bench,
    net: EditedNet,
    entries: Sequence[Entry],
    folder: Path,
    splits: RunData,
    test: SplitFeatures,
    *,
    progress: Progress = show_nothing,
) -> tuple[Path, Evaluation]:
    """Write a run folder with the edited net.

    Args:
        bench: of the run that was edited.
        net: what to write.
        entries: the history that made it.
        folder: need not exist; must hold no run.
        splits: the data of the run.
        test: the features of the test images, which are the same under the edited net.
        progress: shows the pictures of the prototypes.

    Returns:
        The checkpoint's folder, and the accuracy on the test images.

    Raises:
        CheckpointError: the folder holds a run or other files in its places, lies among the data, the disk is full, or
            the forbidden.json of the run is broken.
    """
    run, config = bench.run, config_of(bench.run, net)
    push, before = check_pushed(run), read_forbidden(run.folder)
    forbidden = forbidden_places(net, push, run.classes, splits.push.sample_name, before)
    check_vacant(folder)
    check_new_run(folder, config)
    with evaluating(net.model):
        result = evaluate(net.model.head, test, net.model.device)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        check_vacant(folder)
        settle_own_split(folder, splits.own_split)
        settle_forbidden(folder, forbidden)
        write_file(folder / RUN_FILE, config_to_toml(config, {"format": RUN_FORMAT, **versions()}).encode())
        for entry in entries:
            append_entry(folder / APPLIED_FILE, entry)
        for record in _records(bench, net, result):
            append_record(folder / "log.jsonl", record)
        state = CheckpointState(
            config=config_to_dict(config), classes=run.classes, stage=_LAST, epoch=run.epoch, push=net.push
        )
        checkpoint = save_checkpoint(folder, f"{_LAST}-{run.epoch}", net.model, state)
        write_prototypes(folder, net.model, splits, net.push, features=bench.features.of, progress=progress)
    return checkpoint, result


def _records(bench: Bench, net: EditedNet, result: Evaluation) -> list[LoggedRecord]:
    solved = net.solved
    details = {} if solved is None else {"l1": solved.l1, "nonzero": solved.nonzero, "gap": solved.gap}
    return [
        Notice(
            text=f"edited from {bench.run.folder.resolve().name}, which has {bench.run.model.num_prototypes} prototypes"
        ),
        StageRecord(
            stage=_LAST,
            epoch=bench.run.epoch,
            num_prototypes=net.model.num_prototypes,
            val_accuracy=net.val_after.accuracy,
            val_loss=net.val_after.loss,
            test_accuracy=result.accuracy,
            details=details,
        ),
    ]
