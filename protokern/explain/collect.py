"""Collects what the page of a run shows: its prototypes, its log, and explanations of some test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from protokern.config.run import LARGEST_CONFIG
from protokern.errors import CheckpointError
from protokern.evaluate import NO_ANSWER, Predictions, count_confusion, count_unanswered, predict
from protokern.explain.images import explain_for_people, with_prototypes
from protokern.explain.modifications import Modification
from protokern.explain.neighbours import NEIGHBOURS, add_neighbours
from protokern.explain.prototype_frames import choose_framed, frame_prototypes, other_image
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.explain.reasons import (
    add_global_reasons,
    add_local_reasons,
    choose_local_modifications,
    find_importance,
)
from protokern.explain.shown import Explanation, Report
from protokern.explain.trust import collect_trust
from protokern.inputs.loaders import DataSplits
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.report.page import Place, write_report
from protokern.results.measures import Trust
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import ClassSlots, Prototype
from protokern.results.run import Confusion, ScoringRow, TreeNode
from protokern.results.scores import score_classes
from protokern.runs.data import RunData, check_classes, open_if_there, prepare_colours
from protokern.runs.features import RunFeatures, find_inputs
from protokern.runs.folder import PAGE, claim_page, versions
from protokern.runs.log import read_progress
from protokern.runs.open import OpenRun, open_run
from protokern.runs.prototypes import PrototypeFiles, store_frames
from protokern.runs.quality import run_warnings
from protokern.storage.files import read_file, translate_write_errors

EXPLAINED_EACH = 6  # right answers, and as many wrong ones
MOST_FRAMED = 120  # prototypes, unless all are asked for: the net runs some twenty times for each


def collect_report(
    run: OpenRun,
    splits: RunData | Literal["own"] | None = "own",
    *,
    inputs: DataSplits | None = None,
    num_neighbours: int = NEIGHBOURS,
    frame: str = "sufficient",
    all_frames: bool = True,
    progress: Progress = show_nothing,
) -> Report:
    """Gather what the page of a run shows, from its folder and, if they exist, from its data.

    Args:
        run: any run, see `open_run` of `protokern.runs.open`.
        splits: its data; "own": open the data of the run if they still exist; None: show no images.
        inputs: what passes over these data read, see `find_inputs` of `protokern.runs.features`, which is called
            without it: the stored features of a frozen backbone, as far as they fit.
        num_neighbours: patches shown for each prototype, in training and in test images; 0: none.
        frame: which box is drawn as the frame, see `drawn_box`. Missing sufficient frames of the prototypes are
            computed and stored with their pictures.
        all_frames: whether sufficient frames of all prototypes are sought; False: of more than 120 only those that the
            explanations show, and the first ones of every class.
        progress: shows the progress of the measures, of the answers to the test images, of the explanations and of the
            frames.

    Raises:
        CheckpointError: the pictures of the prototypes or the stored measures are broken.
        DataError: the data have other classes than the model, or fewer images than the push; or stored features are
            damaged.
    """
    data = open_if_there(run.config, run.folder) if splits == "own" else splits
    if data is not None:
        check_classes(data, run.classes)  # before pictures are written from them
    notes: list[str] = []
    files = _find_pictures(run, data, notes)
    importance = find_importance(run, notes)
    report = begin_report(run, data, files, notes, collect_trust(run, data, files, progress=progress))
    features = None if data is None else RunFeatures.of(run, inputs or find_inputs(run, data))
    if data is None or features is None:
        notes.append("Made without test images, so nothing is explained here. Give the data of the run with --data.")
        report = replace(report, warnings=run_warnings(run, None, None))
    else:
        changes = {} if importance is None else choose_local_modifications(importance, notes)
        report = _with_answers(report, run, data, features, files, changes, frame, progress)
    if files is not None and frame == "sufficient":
        shown = {match.prototype.index for one in report.explanations for part in one.classes for match in part.matches}
        chosen = None if all_frames else choose_framed(files, shown, MOST_FRAMED)
        files = _with_frames(run, files, data, chosen, notes, progress)
    cards = describe_prototypes(run.model, run.classes, files, frame)
    if importance is not None:
        cards = add_global_reasons(cards, importance)
    if data is not None and features is not None and files is not None and run.model.is_hard and num_neighbours:
        cards = add_neighbours(cards, run, data, features, files, num_neighbours, frame)
    explanations = tuple(with_prototypes(one, cards) for one in report.explanations)
    return replace(report, prototypes=cards, explanations=explanations, notes=tuple(notes))


def begin_report(
    run: OpenRun, data: RunData | None, files: PrototypeFiles | None, notes: list[str], trust: Trust | None
) -> Report:
    """What the page says of the run itself, with its measures; no prototypes and no answers yet.

    Args:
        run: any run.
        data: its data, if they are there.
        files: its prototypes, if they have pictures.
        notes: grows by what the page should say.
        trust: the measures.
    """
    if not run.model.is_hard:
        notes.append(
            "The classes of this run still choose their prototypes: until the choices are final, no prototype has a "
            "class or points of its own, and no answer can be explained."
        )
    epochs, stages = read_progress(run.folder, run.epoch)
    return Report(
        title=run.folder.resolve().name,
        classes=run.classes,
        prototypes=(),
        slots=class_slots(run.model, run.classes),
        tree=tree_nodes(run.model, run.classes),
        scoring=scoring_rows(run.model, run.classes),
        is_focal=run.model.is_focal,
        is_salient=run.model.prototype_layer.norm_as_weight,
        is_projected=run.model.prototype_layer.is_projected,
        shows_distance=run.model.prototype_layer.shows_distance,
        still_chooses=not run.model.is_hard,
        epochs=epochs,
        stages=stages,
        trust=trust,
        settings=_settings(run.folder / "run.toml"),
        facts=_facts(run, data, files),
    )


def _with_answers(
    report: Report,
    run: OpenRun,
    data: RunData,
    features: RunFeatures,
    files: PrototypeFiles | None,
    changes: dict[str, Modification],
    frame: str,
    progress: Progress,
) -> Report:
    """Add the answers to the test images, explanations of some, and the scores of the classes."""
    answered = progress(features.test, "answers to the test images", len(features.test))
    predictions = predict(run.model, answered, features.test.given)
    labels, answers = torch.from_numpy(predictions.labels), torch.from_numpy(predictions.answers)
    counts = count_confusion(labels, answers, len(run.classes))
    unanswered = count_unanswered(labels, answers, len(run.classes))
    scores = score_classes(counts, unanswered)
    is_answer = _is_answer(run, data) if features.test.is_stored else _always
    cards = describe_prototypes(run.model, run.classes, files, frame)
    chosen = [] if report.still_chooses else choose_images(predictions, len(run.classes), is_answer)
    return replace(
        report,
        explanations=_explain(run, data, cards, progress(chosen, "explanations", len(chosen)), files, changes, frame),
        confusion=Confusion(counts=counts.numpy(), unanswered=unanswered.numpy() if run.model.can_abstain else None),
        scores=scores,
        warnings=run_warnings(run, data, scores),
    )


def _settings(path: Path) -> str:
    """The text of a run.toml; empty if there is none."""
    return read_file(path, LARGEST_CONFIG).decode("utf-8", "replace") if path.exists() else ""


def _find_pictures(run: OpenRun, splits: RunData | None, notes: list[str]) -> PrototypeFiles | None:
    """The pictures of the prototypes; a note says why there are none."""
    files = find_prototypes(run, splits)
    if run.push is None:
        notes.append("This run has had no push yet: its prototypes are vectors, not patches of images.")
    elif files is None:
        notes.append("The pictures of the prototypes are missing. Give the data of the run with --data to make them.")
    return files


def _with_frames(
    run: OpenRun,
    files: PrototypeFiles,
    splits: RunData | None,
    prototypes: Sequence[int] | None,
    notes: list[str],
    progress: Progress,
) -> PrototypeFiles:
    """The files with the sufficient frames of some prototypes, or all; missing frames are computed and stored."""
    framed = frame_prototypes(run, files, splits, prototypes, progress=progress)
    if framed != files and files.weights is not None:
        try:
            store_frames(framed)
        except CheckpointError as error:
            notes.append(f"The frames of the prototypes could not be stored, so the next page takes as long. {error}")
    return framed


def _always(image: int, answer: int) -> bool:
    return True


def _is_answer(run: OpenRun, data: RunData) -> Callable[[int, int], bool]:
    """Whether the model also gives an answer to a test image that was read from stored features to the image itself.

    Stored features are rounded, so two nearly equal classes may change places. An explanation is of the image.
    """

    def is_answer(image: int, answer: int) -> bool:
        pixels = data.test[image][0][None].to(run.model.device, run.model.dtype)
        with evaluating(run.model):
            output = run.model(pixels)
            is_mute = bool(run.model.abstains(output)[0])
            return (NO_ANSWER if is_mute else int(output.logits.argmax())) == answer

    return is_answer


def choose_images(
    predictions: Predictions, num_classes: int, is_answer: Callable[[int, int], bool] = _always
) -> list[int]:
    """The test images that are explained. A rule chooses them, so that they are not chosen for their looks.

    They are the first image with the right answer of up to six classes, evenly spread over the list of classes, and the
    first image with a wrong answer of the first six classes that have one; ordered by class, right before wrong.

    Args:
        predictions: the answers to all test images.
        num_classes: K.
        is_answer: from an image and its answer to whether it may be chosen.
    """
    right = predictions.labels == predictions.answers
    chosen: list[tuple[int, int, int]] = []  # (class, 0 right or 1 wrong, image)
    for kind, mask in enumerate((right, ~right)):
        having = [k for k in range(num_classes) if (mask & (predictions.labels == k)).any()]
        if kind == 0 and len(having) > EXPLAINED_EACH:
            having = [having[round(place)] for place in np.linspace(0, len(having) - 1, EXPLAINED_EACH)]
        for k in having[:EXPLAINED_EACH]:
            images = np.flatnonzero(mask & (predictions.labels == k)).tolist()
            first = next((image for image in images if is_answer(image, int(predictions.answers[image]))), None)
            chosen += [] if first is None else [(k, kind, first)]
    return [image for _, _, image in sorted(chosen)]


def _explain(
    run: OpenRun,
    splits: RunData,
    cards: Sequence[Prototype],
    chosen: Iterable[int],
    files: PrototypeFiles | None,
    changes: dict[str, Modification],
    frame: str,
) -> tuple[Explanation, ...]:
    items, field, dataset = [], None, splits.test
    for index in chosen:
        image, label = dataset[index]
        if field is None and files is not None:
            field = files.field_for(image)
        explanation = explain_for_people(
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
            explanation = add_local_reasons(explanation, dataset.display_image(index), run.model, changes, prepare)
        items.append(explanation)
    return tuple(items)


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
    """The slots of every class; empty for a model without slots, or one that still chooses."""
    if model.slots is None or not model.is_hard:
        return ()
    return tuple(
        ClassSlots(class_name=name, prototypes=tuple(index if index >= 0 else None for index in row))
        for name, row in zip(classes, model.slots.tolist(), strict=True)
    )


def tree_nodes(model: PrototypeModel, classes: Sequence[str]) -> tuple[TreeNode, ...] | None:
    """The nodes of a model that decides along a path, with the classes of its leaves; None for any other."""
    if model.reasons == "points":
        return None
    leaves = model.leaf_probabilities().tolist()
    return tuple(
        TreeNode(
            prototype=node.prototype,
            absent=node.absent,
            present=node.present,
            classes=() if node.leaf is None else tuple(zip(classes, leaves[node.leaf], strict=True)),
        )
        for node in model.nodes()
    )


def scoring_rows(model: PrototypeModel, classes: Sequence[str]) -> tuple[ScoringRow, ...] | None:
    """What each class is scored by, the heaviest first; None for a model whose prototypes are patches."""
    if model.pushes:
        return None
    weight = model.prototype_weight.detach().cpu()  # (K, P)
    is_own = model.class_identity.cpu().T > 0
    rows = []
    for k, name in enumerate(classes):
        order = [j for j in weight[k].argsort(descending=True, stable=True).tolist() if is_own[k, j]]
        rows.append(ScoringRow(class_name=name, weights=tuple((j, float(weight[k, j])) for j in order)))
    return tuple(rows)


def build_report(run_dir: Path, splits: RunData | Literal["own"] | None = "own") -> Path:
    """Write the page of a run.

    Args:
        run_dir: the run folder, with a checkpoint.
        splits: its data, as in `collect_report`.

    Returns:
        Path of the page.

    Raises:
        CheckpointError: no complete checkpoint, broken pictures, or the disk is full or not writable.
        DataError: the data have other classes than the model.
    """
    return write_page(open_run(str(run_dir), data=None, changes=(), device=torch.device("cpu")), splits)[0]


def write_page(
    run: OpenRun,
    splits: RunData | Literal["own"] | None = "own",
    *,
    inputs: DataSplits | None = None,
    pictures: Place = "auto",
    num_neighbours: int = NEIGHBOURS,
    frame: str = "sufficient",
    all_frames: bool = True,
    progress: Progress = show_nothing,
) -> tuple[Path, Report]:
    """As `build_report`, for an open run; returns the page and its report. Arguments as in `collect_report`."""
    outputs = claim_page(run.folder)
    page = outputs.folder / PAGE
    report = collect_report(
        run,
        splits,
        inputs=inputs,
        num_neighbours=num_neighbours,
        frame=frame,
        all_frames=all_frames,
        progress=progress,
    )
    with translate_write_errors(page):
        write_report(report, page, pictures=pictures, replace=outputs.replace, progress=progress)
    return page, report
