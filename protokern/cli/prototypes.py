"""`protokern prototypes RUN --out OUT`: the prototypes of a run in a grid, as a figure."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

import torch

from protokern.cli.arguments import add_format_argument, add_frame_argument, add_only_argument, check_count, check_only
from protokern.cli.show import show_progress
from protokern.errors import ConfigError
from protokern.explain.prototype_frames import frame_prototypes
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.report.grids import COLUMNS, ROWS, write_prototype_grid
from protokern.results.prototypes import Prototype
from protokern.runs.data import open_data
from protokern.runs.open import OpenRun, check_pushed, open_run
from protokern.runs.outputs import check_out
from protokern.storage.outputs import claim_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("run", metavar="RUN", help="run folder, or one of its checkpoints")
    parser.add_argument("--out", metavar="OUT", required=True, help="folder for the figures")
    add_only_argument(parser)
    parser.add_argument("--class", dest="classes", metavar="NAME", nargs="+", help="only prototypes of these classes")
    parser.add_argument(
        "--picture", choices=("box", "heat"), default="box", help="image with a frame (default), or heat map"
    )
    parser.add_argument("--columns", type=int, default=COLUMNS, help=f"of a page; default: {COLUMNS}")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of a page; default: {ROWS}")
    add_frame_argument(parser)
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the chosen prototypes from the pictures in the run folder."""
    for name in ("columns", "rows"):
        check_count(name, getattr(args, name))
    opened = open_run(args.run, data=None, changes=(), device=torch.device("cpu"))
    check_pushed(opened)
    out, name = Path(args.out), f"prototypes.{args.format}"
    check_out(out, opened)
    outputs = claim_outputs(out, [name], by="prototypes")
    frame = args.frame if args.picture == "box" else "grid"  # a heat map has no frame
    cards = _chosen(opened, args.only, args.classes, frame)
    with outputs.writing() as stage:
        written = write_prototype_grid(
            cards,
            stage / name,
            picture=args.picture,
            columns=args.columns,
            rows=args.rows,
        )
    for path in written:
        print(out / path.name)
    return 0


def _chosen(opened: OpenRun, only: Sequence[int] | None, names: Sequence[str] | None, frame: str) -> list[Prototype]:
    indices = set(check_only(only, opened.model.num_prototypes))
    unknown = [name for name in names or () if name not in opened.classes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], opened.classes, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"--class: must be classes of the run; got {unknown[0]!r}.{hint}")
    files = find_prototypes(opened, None) or find_prototypes(opened, open_data(opened.config, run=opened.folder))
    chosen = [
        card.index
        for card in describe_prototypes(opened.model, opened.classes, files)
        if card.index in indices and card.picture is not None
        if not names or any(one.class_name in names for one in card.classes)
    ]
    if not chosen:
        raise ConfigError("--only, --class: must leave at least one prototype that is a patch of an image; none is.")
    if files is not None and frame == "sufficient":
        files = frame_prototypes(opened, files, prototypes=chosen, progress=show_progress)
    cards = describe_prototypes(opened.model, opened.classes, files, frame)
    return [cards[index] for index in chosen]
