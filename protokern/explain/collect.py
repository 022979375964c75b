"""Collects what the page of a run shows: its prototypes, its log, and explanations of some test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from protokern.config.run import LARGEST_CONFIG
from protokern.errors import CheckpointError
from protokern.evaluate import Predictions, count_confusion, predict, score_classes
from protokern.explain.images import explain_for_people
from protokern.explain.modifications import Modification
from protokern.explain.neighbours import NEIGHBOURS, add_neighbours
from protokern.explain.prototype_frames import Progress, frame_prototypes, other_image, show_nothing
from protokern.explain.prototypes import find_prototypes, prototype_cards
from protokern.explain.reasons import (
    add_global_reasons,
    add_local_reasons,
    choose_local_modifications,
    find_importance,
)
from protokern.inputs.loaders import ordered_loader
from protokern.models.base import PrototypeModel
from protokern.results.explanations import ExplainedImage
from protokern.results.prototypes import ClassSlots, PrototypeCard
from protokern.results.run import ClassRow, Confusion, EpochPoint, ReportData, StageResult
from protokern.runs.data import RunData, check_classes, prepare_colours
from protokern.runs.folder import versions
from protokern.runs.log import read_log
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles, store_frames
from protokern.runs.quality import run_warnings
from protokern.storage.files import read_file

EXPLAINED_EACH = 6  # right answers, and as many wrong ones


def collect_report(
    run: OpenRun,
    splits: RunData | None,
    *,
    num_neighbours: int = NEIGHBOURS,
    frame: str = "sufficient",
    progress: Progress = show_nothing,
) -> ReportData:
    """Gather what the page of a run shows, from its folder, and from its data where they are at hand.

    Args:
        run: any run.
        splits: its data, if they are at hand.
        num_neighbours: patches shown for each prototype, of training and of test images; 0: none.
        frame: which box is drawn as the frame, see `drawn_box`. Sufficient frames of the prototypes that are missing
            are found and stored with their pictures.
        progress: shows how far the frames are.

    Raises:
        CheckpointError: the pictures of the prototypes are broken.
        DataError: the data have other classes than the model, or too few images to hold those of the push.
    """
    if splits is not None:
        check_classes(splits, run.classes)  # before pictures are written from them
    notes: list[str] = []
    files = _find_pictures(run, splits, frame, notes, progress)
    importance = find_importance(run, notes)
    cards = prototype_cards(run.model, run.classes, files, frame)
    if importance is not None:
        cards = add_global_reasons(cards, importance)
    still_chooses = not run.model.is_hard
    if still_chooses:
        notes.append(
            "The classes of this run still choose their prototypes: until the choices are final, no prototype has a "
            "class or points of its own, and no answer can be explained."
        )
    explanations: tuple[ExplainedImage, ...] = ()
    confusion = None
    if splits is None:
        notes.append("Made without test images, so nothing is explained here. Give the data of the run with --data.")
    else:
        predictions = predict(run.model, ordered_loader(splits.test, run.config.train.batch_size, workers=0))
        labels, answers = torch.from_numpy(predictions.labels), torch.from_numpy(predictions.answers)
        confusion = Confusion(counts=count_confusion(labels, answers, len(run.classes)).numpy())
        if files is not None and not still_chooses and num_neighbours:
            cards = add_neighbours(cards, run, splits, files, num_neighbours, frame)
        chosen = [] if still_chooses else choose_images(predictions, len(run.classes))
        changes = {} if importance is None else choose_local_modifications(importance, notes)
        explanations = _explain(run, splits, cards, chosen, files, changes, frame)
    epochs, stages = read_progress(run.folder, run.epoch)
    data = ReportData(
        title=run.folder.resolve().name,
        classes=run.classes,
        prototypes=cards,
        slots=class_slots(run.model, run.classes),
        is_focal=run.model.is_focal,
        is_salient=run.model.prototype_layer.norm_as_weight,
        still_chooses=still_chooses,
        explanations=explanations,
        confusion=confusion,
        epochs=epochs,
        stages=stages,
        settings=_settings(run.folder / "run.toml"),
        notes=tuple(notes),
        facts=_facts(run, splits, files),
    )
    return _judged(data, run, splits)


def _settings(path: Path) -> str:
    """The text of a run.toml; empty where there is none."""
    return read_file(path, LARGEST_CONFIG).decode("utf-8", "replace") if path.exists() else ""


def _judged(data: ReportData, run: OpenRun, splits: RunData | None) -> ReportData:
    """With how every class fares, and what speaks against trusting the run."""
    if data.confusion is None:
        return replace(data, warnings=run_warnings(run, splits, None))
    scores = score_classes(torch.from_numpy(data.confusion.counts))
    return replace(
        data,
        class_rows=tuple(
            ClassRow(name, one.images, one.answers, one.precision, one.recall, one.f1)
            for name, one in zip(run.classes, scores.classes, strict=True)
        ),
        balanced_accuracy=scores.balanced_accuracy,
        warnings=run_warnings(run, splits, scores),
    )


def _find_pictures(
    run: OpenRun, splits: RunData | None, frame: str, notes: list[str], progress: Progress
) -> PrototypeFiles | None:
    """The pictures of the prototypes with the frames that are wanted; a note says why there are none."""
    files = find_prototypes(run, splits)
    if run.push is None:
        notes.append("This run has had no push yet: its prototypes are vectors, not patches of images.")
    elif files is None:
        notes.append("The pictures of the prototypes are missing. Give the data of the run with --data to make them.")
    return files if files is None or frame != "sufficient" else _with_frames(run, files, splits, notes, progress)


def _with_frames(
    run: OpenRun, files: PrototypeFiles, splits: RunData | None, notes: list[str], progress: Progress
) -> PrototypeFiles:
    """The files with the sufficient frames of all prototypes; those that were not stored yet are stored now."""
    framed = frame_prototypes(run, files, splits, progress=progress)
    if framed != files and files.weights is not None:
        try:
            store_frames(framed)
        except CheckpointError as error:
            notes.append(f"The frames of the prototypes could not be stored, so the next page takes as long. {error}")
    return framed


def choose_images(predictions: Predictions, num_classes: int) -> list[int]:
    """Which test images are explained: by rule, so that nobody picks the pretty ones.

    The first image with the right answer of up to six classes, evenly spread over the list of classes, and the first
    with a wrong answer of the first up to six classes that have one; in the order of classes, right before wrong.
    """
    right = predictions.labels == predictions.answers
    chosen: list[tuple[int, int, int]] = []  # (class, 0 right or 1 wrong, image)
    for kind, mask in enumerate((right, ~right)):
        having = [k for k in range(num_classes) if (mask & (predictions.labels == k)).any()]
        if kind == 0 and len(having) > EXPLAINED_EACH:
            having = [having[round(place)] for place in np.linspace(0, len(having) - 1, EXPLAINED_EACH)]
        for k in having[:EXPLAINED_EACH]:
            chosen.append((k, kind, int(np.flatnonzero(mask & (predictions.labels == k))[0])))
    return [image for _, _, image in sorted(chosen)]


def _explain(
    run: OpenRun,
    splits: RunData,
    cards: Sequence[PrototypeCard],
    chosen: Sequence[int],
    files: PrototypeFiles | None,
    changes: dict[str, Modification],
    frame: str,
) -> tuple[ExplainedImage, ...]:
    items, field, dataset = [], None, splits.test
    for index in chosen:
        image, label = dataset[index]
        if field is None and files is not None:
            field = files.field_for(image)
        item, explanation = explain_for_people(
            run.model,
            image,
            dataset.sample_name(index),
            run.classes,
            cards,
            true_class=label,
            receptive_field=field,
            frame=frame,
            other=partial(other_image, run, files, splits=splits),
        )
        field = explanation.receptive_field
        if changes:
            prepare = prepare_colours(run.config)
            item = add_local_reasons(item, dataset.display_image(index), run.model, changes, prepare)
        items.append(item)
    return tuple(items)


def read_progress(run_dir: Path, epoch: int) -> tuple[tuple[EpochPoint, ...], tuple[StageResult, ...]]:
    """Curves, and the results of the stages that led to the weights of `epoch`, from the log of a run."""
    path = run_dir / "log.jsonl"
    epochs, stages = [], []
    try:
        for record in read_log(path):
            if record["kind"] == "epoch":
                epochs.append(EpochPoint(**{entry.name: record[entry.name] for entry in fields(EpochPoint)}))
            elif record["kind"] == "stage" and record["epoch"] == epoch:
                stages.append(StageResult(**{entry.name: record[entry.name] for entry in fields(StageResult)}))
    except KeyError as error:
        raise CheckpointError(f"{path}: must say what each epoch and stage reached; one lacks {error}.") from error
    return tuple(epochs), tuple(stages)


def _facts(run: OpenRun, splits: RunData | None, files: PrototypeFiles | None) -> tuple[tuple[str, str], ...]:
    size = run.config.data.image_size
    rows, columns = (size, size) if isinstance(size, int) else size
    stage = run.stage.replace("_", " ")
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    patches: list[tuple[str, str]] = []
    if files is not None:
        grid, share = files.grid, files.receptive_field.share(files.image_size)
        patches.append(("patches", f"{grid[0]} by {grid[1]}; one in the middle sees {share:.0%} of the image"))
    counts: list[tuple[str, str]] = []
    if splits is not None:
        sizes = f"{len(splits.push)} for training, {len(splits.val)} for validation, {len(splits.test)} for testing"
        counts.append(("number of images", sizes))
    return (
        ("model", f"{run.config.model.name} on {run.config.model.backbone}"),
        ("parameters", f"{num_parameters:,}"),
        ("images", f"{rows} by {columns} pixels"),
        *patches,
        *counts,
        ("weights", f"{stage}, after epoch {run.epoch + 1}"),
        ("page by", ", ".join(f"{name} {version}" for name, version in versions().items())),
    )


def class_slots(model: PrototypeModel, classes: Sequence[str]) -> tuple[ClassSlots, ...]:
    """What every class has in its slots; nothing for a model without slots, or one that still chooses."""
    if model.slots is None or not model.is_hard:
        return ()
    return tuple(
        ClassSlots(class_name=name, prototypes=tuple(index if index >= 0 else None for index in row))
        for name, row in zip(classes, model.slots.tolist(), strict=True)
    )
