"""`protokern report RUN`: write RUN/report/index.html, one page that needs no other file."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from protokern.cli.arguments import add_run_arguments, choose_device
from protokern.cli.report_data import collect_report
from protokern.cli.runs import OpenRun, open_data, open_run
from protokern.data import Splits
from protokern.report.page import write_report
from protokern.train.files import explain_write_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN and the shared flags."""
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, with the run's own data if they are still where they were."""
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    path = opened.config.data.path
    has_data = args.data is not None or not path or Path(path).exists()
    print(_build(opened, open_data(opened.config) if has_data else None))
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
    return _build(open_run(str(run_dir), data=None, changes=(), device=torch.device("cpu")), splits)


def _build(opened: OpenRun, splits: Splits | None) -> Path:
    page = opened.folder / "report" / "index.html"
    data = collect_report(opened, splits)
    with explain_write_errors(page):
        write_report(data, page)
    return page
