"""What `evaluate`, `explain` and `report` do where RUN is the folder of an ensemble."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protokern.cli.show import marked, progress_in_turn, show_progress
from protokern.errors import CheckpointError, ConfigError
from protokern.evaluate import Evaluation, evaluate
from protokern.inputs.loaders import LabelledImages, ordered_loader
from protokern.models.build import image_format
from protokern.models.ensemble import EnsembleOutput
from protokern.report.text import score_table
from protokern.results.scores import score_classes
from protokern.runs.data import check_classes, open_data
from protokern.runs.ensemble import OpenEnsemble, check_adds_up, open_ensemble
from protokern.runs.evaluation import NAMES, write_evaluation
from protokern.runs.folder import PAGE, claim_page
from protokern.runs.open import choose_device
from protokern.runs.outputs import check_out
from protokern.runs.quality import answer_warnings
from protokern.storage.files import translate_write_errors
from protokern.storage.outputs import claim_outputs


def _open(args: argparse.Namespace) -> OpenEnsemble:
    data, changes = getattr(args, "data", None), getattr(args, "changes", ())
    return open_ensemble(args.run, data=data, changes=changes, device=choose_device(args.device))


def evaluate_ensemble(args: argparse.Namespace, words: dict[str, str]) -> int:
    """As `protokern evaluate` of a run; the last line also has the accuracy of every member.

    Args:
        args: of the verb.
        words: the names of the splits, as people say them.
    """
    if args.strangers is not None:
        raise ConfigError(
            f"--strangers: must be left out for an ensemble; got {args.strangers}. Evaluate its members one by one."
        )
    opened = _open(args)
    out = opened.folder if args.out is None else Path(args.out)
    _check_out(opened, out)
    outputs = claim_outputs(out, NAMES, by="evaluate")
    run = opened.members[0]
    splits = open_data(run.config, run=run.folder)
    check_classes(splits, opened.classes)
    images = {"test": splits.test, "val": splits.val, "train": splits.push}[args.split]
    for note in splits.notes:
        print(note)
    result, right = _answer_all(opened, images)
    assert result.confusion is not None
    scores = score_classes(result.confusion)
    line = {
        "members": right,
        "combine": opened.model.combine,
        "split": args.split,
        "prototypes": opened.model.num_prototypes,
        "loss": round(result.loss, 6),
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
        "accuracy": result.accuracy,
        "images": result.images,
    }
    warnings = answer_warnings(scores, opened.classes, words[args.split])
    print("\n".join([*score_table(scores, opened.classes, words[args.split]), *marked(warnings)]))
    written = write_evaluation(outputs, line, scores, opened.classes, result.confusion.tolist(), warnings)
    print("\n".join(f"wrote {path}" for path in written))
    print(json.dumps(line))
    return 0


def _answer_all(opened: OpenEnsemble, images: LabelledImages) -> tuple[Evaluation, dict[str, float]]:
    """The answers to a data set, and the accuracy of every member in the same pass."""
    config = opened.members[0].config
    batches = ordered_loader(images, config.train.batch_size, config.data.workers)
    labels: list[Tensor] = []
    answers: list[Tensor] = []

    def seen() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, of_batch in show_progress(batches, "evaluate", len(batches)):
            labels.append(of_batch)
            yield inputs, of_batch

    def answer(inputs: Tensor) -> Any:
        output: EnsembleOutput = opened.model(inputs)
        answers.append(torch.stack([one.logits.argmax(dim=1).cpu() for one in output.members]))
        return output

    result = evaluate(
        answer,
        seen(),
        opened.model.members[0].device,
        memory_format=image_format(config.train.channels_last),
        num_classes=len(opened.classes),
    )
    right = (torch.cat(answers, dim=1) == torch.cat(labels)).double().mean(dim=1).tolist()
    return result, dict(zip(opened.names, right, strict=True))


def explain_ensemble(args: argparse.Namespace) -> int:
    """As `protokern explain` of a run: the points of all members add up."""
    from protokern.cli.explained import read_all, write_all
    from protokern.explain.ensemble import explain_together, member_files

    opened = check_adds_up(_open(args))
    photographs = read_all(args, opened.members[0].config, lambda out: _check_out(opened, out))
    files = member_files(opened, None)
    explanations = (
        explain_together(opened, image, path.name, files=files, heat_map=args.heat_map, frame=args.frame)
        for image, path in zip(photographs.images, photographs.paths, strict=True)
    )
    write_all(args, photographs, explanations)
    return 0


def report_ensemble(args: argparse.Namespace) -> int:
    """As `protokern report` of a run, into the folder of the ensemble; the data must be there."""
    from protokern.explain.ensemble import collect_together
    from protokern.report.page import write_report

    opened = check_adds_up(_open(args))
    run = opened.members[0]
    outputs = claim_page(opened.folder)
    page = outputs.folder / PAGE
    splits = open_data(run.config, run=run.folder)
    report = collect_together(
        opened, splits, num_neighbours=args.neighbours, frame=args.frame, progress=progress_in_turn()
    )
    with translate_write_errors(page):
        write_report(report, page, pictures=args.pictures, replace=outputs.replace, progress=progress_in_turn())
    print(page)
    return 0


def _check_out(opened: OpenEnsemble, out: Path) -> None:
    for run in opened.members:
        if out.resolve() == run.folder.resolve():
            raise CheckpointError(f"--out: must not be the folder of a member; got {out}. Give another folder.")
        check_out(out, run)
