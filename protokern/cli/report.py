"""`protokern report RUN`: write RUN/report/index.html, the page of a run; large ones have pictures beside them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch

from protokern.cli.arguments import add_frame_argument, add_run_arguments
from protokern.cli.quality import marked
from protokern.data import Splits
from protokern.explain.collect import collect_report
from protokern.explain.neighbours import NEIGHBOURS
from protokern.report.page import Place, write_report
from protokern.runs.data import open_data
from protokern.runs.folder import PAGE, claim_page
from protokern.runs.open import OpenRun, choose_device, open_run
from protokern.storage.files import translate_write_errors


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


def run(args: argparse.Namespace) -> int:
    """Write the page, with the run's own data if they are still where they were."""
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    path = opened.config.data.path
    has_data = args.data is not None or not path or Path(path).exists()
    splits = open_data(opened.config, run=opened.folder) if has_data else None
    page, warnings = write_page(
        opened, splits, pictures=args.pictures, num_neighbours=args.neighbours, frame=args.frame
    )
    print("\n".join([*marked(warnings), str(page)]))
    return 0


def build_report(run_dir: Path, splits: Splits | None = None) -> Path:
    """Write the page of a run.

    Args:
        run_dir: the run folder, with a checkpoint.
        splits: the run's data; None: a page without explanations of test images.

    Returns:
        Path of the page.

    Raises:
        CheckpointError: no whole checkpoint, broken pictures, or the disk refuses.
        DataError: the data have other classes than the model.
    """
    return write_page(open_run(str(run_dir), data=None, changes=(), device=torch.device("cpu")), splits)[0]


def write_page(
    opened: OpenRun,
    splits: Splits | None,
    *,
    pictures: Place = "auto",
    num_neighbours: int = NEIGHBOURS,
    frame: str = "sufficient",
) -> tuple[Path, tuple[str, ...]]:
    """As `build_report`, for a run that is open; also gives what the page says against trusting the run."""
    outputs = claim_page(opened.folder)
    page = outputs.folder / PAGE
    data = collect_report(opened, splits, num_neighbours=num_neighbours, frame=frame)
    with translate_write_errors(page):
        write_report(data, page, pictures=pictures, replace=outputs.replace)
    return page, data.warnings


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on; got {text!r}")
    return number
