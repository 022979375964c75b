"""`protokern neighbours RUN --out OUT`: the nearest patches of every prototype, as a table and a figure for each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from protokern.explain.prototypes import find_prototypes, prototype_cards
from protokern.report.grids import write_neighbours
from protokern.results.prototypes import GlobalExplanation, Neighbour, PrototypeCard, SplitNeighbours
from protokern.runs.data import check_classes, open_data
from protokern.runs.open import OpenRun, check_pushed, choose_device, open_run
from protokern.runs.outputs import check_out
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.outputs import claim_outputs

_MOST_NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="OUT", required=True, help="folder for the table and the figures")
    parser.add_argument("--k", type=int, default=NEIGHBOURS, help=f"neighbours in each split; default: {NEIGHBOURS}")
    add_only_argument(parser)
    add_frame_argument(parser)
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search both splits, once each, for all prototypes; write and draw those that were asked for."""
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
    found = find_in_splits(opened, splits, files, args.k)
    if args.frame == "sufficient":
        files = frame_prototypes(opened, files, splits, prototypes=chosen, progress=show_progress)
    cards = prototype_cards(opened.model, opened.classes, files, args.frame)
    cards = see_neighbours(cards, opened, splits, files, found, chosen, args.frame)
    entries = [_entry(cards[index], found) for index in chosen]
    content = to_json_bytes({"checkpoint": opened.checkpoint.name, "k": args.k, "prototypes": entries})
    with outputs.writing(last=table) as stage:
        for index, name in figures.items():
            write_neighbours(cards[index], stage / name)
        write_file(stage / table, content)
    print("\n".join([*_summary(opened, found, chosen), f"  {out / table}", f"  {out}/prototype-*.{args.format}"]))
    return 0


def _summary(opened: OpenRun, found: GlobalExplanation, chosen: Sequence[int]) -> list[str]:
    together = found.belong_together
    apart = [j for j in chosen if not together[j]]
    lines = [f"{len(chosen) - len(apart)} of {len(chosen)} prototypes belong together with their nearest patches"]
    for j in apart[:_MOST_NAMED]:
        shares = (_percent(float(split.agreement[j])) for split in (found.train, found.test))
        names = [opened.classes[k] for k in (opened.model.class_identity[j] > 0).nonzero().flatten().tolist()]
        lines.append(
            f"  not prototype {j} ({', '.join(names) or 'of no class'}): "
            f"{' of the training and '.join(shares)} of the test patches are of its class"
        )
    if len(apart) > _MOST_NAMED:
        lines.append(f"  and {len(apart) - _MOST_NAMED} more")
    return lines


def _percent(share: float) -> str:
    return "none" if share != share else f"{share:.0%}"


def _entry(card: PrototypeCard, found: GlobalExplanation) -> dict[str, Any]:
    """A prototype as the table has it. Boxes are y0, x0, y1, x1 in pixels, half-open."""
    assert card.neighbours is not None
    return {
        "prototype": card.index,
        "classes": [one.class_name for one in card.classes],
        "source": card.source_name,
        "belongs_together": bool(found.belong_together[card.index]),
        "train": _split_entry(found.train, card.index, card.neighbours.train),
        "test": _split_entry(found.test, card.index, card.neighbours.test),
    }


def _split_entry(split: SplitNeighbours, index: int, neighbours: Sequence[Neighbour]) -> dict[str, Any]:
    agreement = float(split.agreement[index])
    return {
        "agreement": None if agreement != agreement else agreement,
        "neighbours": [
            {
                "image": neighbour.name,
                "class": neighbour.class_name,
                "similarity": neighbour.similarity,
                "distance": neighbour.distance,
                "patch": divmod(int(split.patch[index, rank]), split.grid[1]),
                "patch_box": neighbour.patch_box,
                "receptive_field_box": neighbour.picture.receptive_field_box,
            }
            for rank, neighbour in enumerate(neighbours)
        ],
    }
