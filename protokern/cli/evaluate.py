"""`protokern evaluate`: how good a trained model is, as a whole and class by class."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from protokern.cli.arguments import add_run_arguments
from protokern.cli.ensemble import evaluate_ensemble
from protokern.cli.show import marked, show_progress
from protokern.cli.strangers import KEEP, check_keep, judge_strangers
from protokern.data.any_folder import list_images
from protokern.evaluate import evaluate
from protokern.inputs.loaders import ordered_loader
from protokern.inputs.stores import find_store
from protokern.models.build import image_format
from protokern.report.text import score_table
from protokern.results.scores import score_classes
from protokern.runs.data import check_classes, open_data
from protokern.runs.ensemble import is_ensemble
from protokern.runs.evaluation import NAMES, write_evaluation
from protokern.runs.features import feature_folder
from protokern.runs.open import choose_device, open_run
from protokern.runs.outputs import claim_numbers
from protokern.runs.quality import run_warnings

_IN_WORDS = {"test": "test", "val": "validation", "train": "training"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--split", choices=tuple(_IN_WORDS), default="test", help="default: test")
    parser.add_argument(
        "--strangers",
        metavar="DIR",
        type=Path,
        help="a folder of images of none of the classes: how many of them are taken for one",
    )
    parser.add_argument(
        "--keep",
        metavar="SHARE",
        type=float,
        help="of the validation images, the share whose answers the thresholds for strangers keep: fewer keep more "
        f"strangers out; default: {KEEP}",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the numbers as JSON and CSV; default: the run folder")


def run(args: argparse.Namespace) -> int:
    """Print a table of the classes, and as the last line {"checkpoint", "split", ..., "accuracy", "images"}."""
    keep = check_keep(args.keep, args.strangers)
    if is_ensemble(args.run):
        return evaluate_ensemble(args, _IN_WORDS)
    device = choose_device(args.device)
    opened = open_run(args.run, data=args.data, changes=args.changes, device=device)
    outputs = claim_numbers(opened, args.out, NAMES, by="evaluate")
    strangers = None if args.strangers is None else list_images(args.strangers)
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    images = {"test": splits.test, "val": splits.val, "train": splits.push}[args.split]
    config = opened.config.train
    inputs, note = find_store(feature_folder(opened) / args.split, opened.model, images, config)
    for one in (*splits.notes, *([note] if note else [])):
        print(one)
    batches = ordered_loader(inputs, config.batch_size, opened.config.data.workers)
    result = evaluate(
        partial(opened.model, given=batches.given),
        show_progress(batches, "evaluate", len(batches)),
        device,
        memory_format=image_format(config.channels_last),
        num_classes=len(opened.classes),
        abstains=opened.model.abstains,
    )
    assert result.confusion is not None
    scores = score_classes(result.confusion, result.unanswered)
    line: dict[str, Any] = {
        "checkpoint": opened.checkpoint.name,
        "split": args.split,
        "prototypes": opened.model.num_prototypes,
        "loss": round(result.loss, 6),
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_f1": scores.macro_f1,
    }
    if opened.model.can_abstain:
        line["abstained"] = result.abstained
    told = []
    if strangers is not None:
        found = judge_strangers(opened, splits, images, args.strangers, strangers, keep)
        line["strangers"], told = found.numbers(), found.lines(_IN_WORDS[args.split])
    line |= {"accuracy": result.accuracy, "images": result.images}
    warnings = run_warnings(opened, splits, scores, _IN_WORDS[args.split])
    table = score_table(scores, opened.classes, _IN_WORDS[args.split], abstained=line.get("abstained"))
    print("\n".join([*table, *told, *marked(warnings)]))
    if outputs is None:
        print(f"The numbers were not written, only printed: {opened.folder} may only be read. Give --out.")
    else:
        written = write_evaluation(outputs, line, scores, opened.classes, result.confusion.tolist(), warnings)
        print("\n".join(f"wrote {path}" for path in written))
    print(json.dumps(line))
    return 0
