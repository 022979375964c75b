"""`protokern evaluate`: accuracy of a trained model as one line of JSON."""

from __future__ import annotations

import argparse
import json

from protokern.cli.arguments import add_run_arguments, choose_device
from protokern.cli.runs import check_classes, feature_store, open_data, open_run
from protokern.cli.show import show_progress
from protokern.train.evaluate import evaluate
from protokern.train.frozen import image_format
from protokern.train.loaders import ordered_loader
from protokern.train.stored import find_store, taking_stored_maps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")


def run(args: argparse.Namespace) -> int:
    """Print {"checkpoint", "split", "prototypes", "loss", "accuracy", "images"} as the last line."""
    device = choose_device(args.device)
    opened = open_run(args.run, data=args.data, changes=args.changes, device=device)
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    for note in splits.notes:
        print(note)
    images = {"test": splits.test, "val": splits.val, "train": splits.push}[args.split]
    config = opened.config.train
    folder = (feature_store(opened.config) or opened.folder / "features") / args.split
    stored = find_store(folder, opened.model, images, config)
    batches = ordered_loader(stored or images, config.batch_size, opened.config.data.workers)
    with taking_stored_maps(opened.model, stored is not None):
        result = evaluate(
            opened.model,
            show_progress(batches, "evaluate", len(batches)),
            device,
            memory_format=image_format(config.channels_last),
        )
    line = {
        "checkpoint": opened.checkpoint.name,
        "split": args.split,
        "prototypes": opened.model.num_prototypes,
        "loss": round(result.loss, 6),
        "accuracy": result.accuracy,
        "images": result.images,
    }
    print(json.dumps(line))
    return 0
