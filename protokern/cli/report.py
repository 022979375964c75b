"""`protokern report RUN`: write RUN/report/index.html, the page of a run; a large page has its pictures beside it."""

from __future__ import annotations

import argparse
from typing import get_args

from protokern.cli.arguments import add_frame_argument, add_run_arguments
from protokern.cli.ensemble import report_ensemble
from protokern.cli.show import marked, progress_in_turn
from protokern.explain.collect import MOST_FRAMED, write_page
from protokern.explain.neighbours import NEIGHBOURS
from protokern.report.page import Place
from protokern.runs.data import open_data, open_if_there
from protokern.runs.ensemble import is_ensemble
from protokern.runs.features import find_inputs
from protokern.runs.open import choose_device, open_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, the shared flags, --frame, --pictures and --neighbours."""
    add_run_arguments(parser)
    add_frame_argument(parser)
    parser.add_argument(
        "--pictures",
        choices=get_args(Place),
        default="auto",
        help="inside: one file that holds all; beside: in a folder by the page; default: inside up to 16 MB of them",
    )
    parser.add_argument(
        "--neighbours",
        metavar="K",
        type=_count,
        default=NEIGHBOURS,
        help=f"nearest patches shown of each prototype, in training and test images; 0: none; default: {NEIGHBOURS}",
    )
    parser.add_argument(
        "--all-frames",
        action="store_true",
        help=f"seek the frames of all prototypes; default: of more than {MOST_FRAMED} only of those in explanations "
        "and of the first ones of every class",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, with the data of the run if they still exist."""
    if is_ensemble(args.run):
        return report_ensemble(args)
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    has_data = args.data is not None  # data that were given must exist
    splits = open_data(opened.config, run=opened.folder) if has_data else open_if_there(opened.config, opened.folder)
    inputs = None if splits is None else find_inputs(opened, splits)
    for note in () if inputs is None else inputs.notes:
        print(note)
    page, report = write_page(
        opened,
        splits,
        inputs=inputs,
        pictures=args.pictures,
        num_neighbours=args.neighbours,
        frame=args.frame,
        all_frames=args.all_frames,
        progress=progress_in_turn(),
    )
    print("\n".join([*marked(report.warnings), str(page)]))
    return 0


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on; got {text!r}")
    return number
