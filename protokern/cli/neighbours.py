"""`protokern neighbours RUN --out OUT`: the nearest patches of every prototype, as a table and a figure for each."""

from __future__ import annotations

import argparse
from pathlib import Path

from protokern.cli.arguments import (
    add_format_argument,
    add_frame_argument,
    add_only_argument,
    add_run_arguments,
    check_count,
    check_only,
)
from protokern.cli.show import show_progress
from protokern.explain.neighbours import NEIGHBOURS, find_in_splits, see_neighbours
from protokern.explain.prototype_frames import frame_prototypes
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.report.grids import write_neighbours
from protokern.report.text import neighbours_lines
from protokern.results.tables import neighbours_table
from protokern.runs.data import check_classes, open_data
from protokern.runs.features import RunFeatures, find_inputs
from protokern.runs.open import check_pushed, choose_device, open_run
from protokern.runs.outputs import check_out
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.outputs import claim_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="OUT", required=True, help="folder for the table and the figures")
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help=f"neighbours in each split; default: {NEIGHBOURS}")
    add_only_argument(parser)
    add_frame_argument(parser)
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search both splits once for all prototypes; write and draw the chosen ones."""
    check_count("k", args.k)
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    check_pushed(opened)
    chosen = check_only(args.only, opened.model.num_prototypes)
    out, table = Path(args.out), "neighbours.json"
    check_out(out, opened)
    figures = {index: f"prototype-{index:04d}.{args.format}" for index in chosen}
    outputs = claim_outputs(out, [*figures.values(), table], by="neighbours")
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    files = find_prototypes(opened, splits)
    assert files is not None
    inputs = find_inputs(opened, splits)
    for note in inputs.notes:
        print(note)
    features = RunFeatures.of(opened, inputs)
    found = find_in_splits(opened, splits, features, files, args.k)
    if args.frame == "sufficient":
        files = frame_prototypes(opened, files, splits, prototypes=chosen, progress=show_progress)
    prototypes = describe_prototypes(opened.model, opened.classes, files, args.frame)
    prototypes = see_neighbours(prototypes, opened, splits, features, files, found, chosen, args.frame)
    shown = [prototypes[index] for index in chosen]
    entries = [neighbours_table(one, found) for one in shown]
    content = to_json_bytes({"checkpoint": opened.checkpoint.name, "k": args.k, "prototypes": entries})
    with outputs.writing(last=table) as stage:
        for one in shown:
            write_neighbours(one, stage / figures[one.index])
        write_file(stage / table, content)
    print("\n".join([*neighbours_lines(shown, found), f"  {out / table}", f"  {out}/prototype-*.{args.format}"]))
    return 0
