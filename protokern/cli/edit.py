"""`protokern edit RUN --apply EDITS --out RUN2`: correct the prototypes of a run; the run itself stays as it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from protokern.cli.arguments import add_run_arguments
from protokern.cli.show import progress_in_turn
from protokern.edits.bench import Bench, EditedNet
from protokern.edits.history import read_history, settle
from protokern.edits.records import EditError
from protokern.edits.saving import write_edited
from protokern.runs.data import check_classes, open_data
from protokern.runs.features import find_inputs, split_features
from protokern.runs.folder import check_vacant
from protokern.runs.open import choose_device, open_run
from protokern.storage.names import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --apply, --out, --data, --set, --device."""
    add_run_arguments(parser)
    parser.add_argument("--apply", metavar="EDITS", required=True, help="the edits, a JSON object a line")
    parser.add_argument("--out", metavar="RUN2", required=True, help="folder of the run that they make; need not exist")


def run(args: argparse.Namespace) -> int:
    """Apply the edits, solve the last layer again, and write a new run.

    Raises:
        EditError: an edit does not fit the run, or there is none.
        CheckpointError: the run is broken, has no patches as prototypes, or --out is taken.
    """
    path, folder = Path(args.apply), Path(args.out)
    if not path.is_file():
        raise EditError(f"--apply: must be a file of edits; got {path}, which is none.")
    entries = read_history(path)
    check_vacant(folder)
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    inputs = find_inputs(opened, splits)
    for note in (*splits.notes, *inputs.notes):
        print(note)
    bench = Bench(opened, inputs)
    net = bench.apply(settle(entries))
    (test,) = split_features(opened, inputs.test)
    checkpoint, result = write_edited(bench, net, entries, folder, splits, test, progress=progress_in_turn())
    print("\n".join([*outcome_lines(net, opened.classes), f"test: {result.accuracy:.1%} of {result.images} images"]))
    print(f"wrote {checkpoint}")
    return 0


def outcome_lines(net: EditedNet, classes: Sequence[str]) -> list[str]:
    """What edits did to a net, in a few lines."""
    before, after = net.val_before, net.val_after
    names = [one_line(name) for name in classes]
    won = sum(one.after == one.label for one in net.changed)
    lost = sum(one.before == one.label for one in net.changed)
    lines = [
        f"prototypes: {net.model.num_prototypes}, {len(net.forbidden)} forbidden",
        f"validation: {before.accuracy:.1%} -> {after.accuracy:.1%} of {after.images} images; {len(net.changed)} are "
        f"answered otherwise, {won} of them now right and {lost} now wrong",
    ]
    for one in net.forbidden:
        assert one.forbidden is not None
        reason = f": {one_line(one.forbidden.reason)}" if one.forbidden.reason else ""
        lines.append(f"forbidden: prototype {one.number} of {' and '.join(names[k] for k in one.classes)}{reason}")
    lines += [f"limited: {names[k]}: {limit.in_words}" for k, limit in net.limits.items()]
    if net.empty_classes:
        lines.append(f"warning: no prototype is left for {', '.join(names[k] for k in net.empty_classes)}")
    return lines
