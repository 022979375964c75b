"""`protokern importance RUN`: how much hue, shape, texture and other visible properties matter to every prototype."""

from __future__ import annotations

import argparse
from pathlib import Path

from protokern.cli.arguments import add_run_arguments
from protokern.cli.show import show_progress
from protokern.errors import ConfigError
from protokern.explain.modifications import MODIFICATIONS, choose_modifications
from protokern.explain.run_importance import claim_importance, measure_photographs, measure_run
from protokern.runs.data import check_classes, open_data
from protokern.runs.importance import FOLDER
from protokern.runs.open import check_pushed, choose_device, open_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help=f"where the files go; default: RUN/{FOLDER}")
    parser.add_argument(
        "--modifications",
        metavar="NAME",
        nargs="+",
        choices=tuple(MODIFICATIONS),
        help=f"some of {', '.join(MODIFICATIONS)}; default: all",
    )
    parser.add_argument("--images", metavar="IMAGE", nargs="+", help="photographs to measure instead of the data set")
    parser.add_argument("--local", action="store_true", help="also write the scores of every single image; long tables")


def run(args: argparse.Namespace) -> int:
    """Measure training and test images, or the images that were given; write the files and print what matters most."""
    modifications = choose_modifications(args.modifications)
    if args.images and args.local:
        raise ConfigError("--local: must be without --images, whose scores are written for every image anyway.")
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    check_pushed(opened)
    images = [Path(image) for image in args.images or ()]
    outputs = claim_importance(opened, args.out, images=images, with_local=args.local)
    if images:
        written = measure_photographs(opened, modifications, images, outputs)
    else:
        splits = open_data(opened.config, run=opened.folder)
        check_classes(splits, opened.classes)
        for note in splits.notes:
            print(note)
        written = measure_run(opened, splits, modifications, outputs, with_local=args.local, progress=show_progress)
    print("\n".join([*written.lines, *(f"  {path}" for path in written.paths)]))
    return 0
