"""`protokern data inspect DIR`: what a data folder has, before anything is trained on it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from protokern.cli.show import marked as marked_warnings
from protokern.data.inspection import KINDS, SPLITS, Inspection, Marked, inspect_data
from protokern.metrics import MEASURES

_WORDS = {"train": "training", "val": "validation", "test": "test"}
_MOST_NAMES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """inspect DIR."""
    parser.add_argument("action", metavar="inspect", choices=("inspect",), help="say what a data folder has")
    parser.add_argument("data", metavar="DIR", type=Path, help="data folder")


def run(args: argparse.Namespace) -> int:
    """Print what was found; images and annotations are read, and nothing is written."""
    print("\n".join(inspection_lines(inspect_data(args.data))))
    return 0


def inspection_lines(found: Inspection) -> list[str]:
    """What a data folder has, as lines: files, classes, images, annotations, warnings."""
    return [
        *found.notes,
        *_class_table(found),
        *_image_lines(found),
        *_annotation_lines(found),
        *(marked_warnings(found.warnings) or ["no leaks, and nothing else to warn of"]),
    ]


def _class_table(found: Inspection) -> list[str]:
    total = f"all {len(found.classes)} classes"
    width = max(len(name) for name in (*found.classes, total))
    rows = [
        (f"{'class':<{width}}", [_WORDS[split] for split in SPLITS]),
        *(
            (f"{name:<{width}}", [str(found.counts[split][label]) for split in SPLITS])
            for label, name in enumerate(found.classes)
        ),
        (f"{total:<{width}}", [str(sum(found.counts[split])) for split in SPLITS]),
    ]
    return ["  ".join([name, *(f"{text:>10}" for text in texts)]) for name, texts in rows]


def _image_lines(found: Inspection) -> list[str]:
    columns, rows = zip(*found.sizes, strict=True)
    return [
        f"width: {_range(columns)}",
        f"height: {_range(rows)}",
        f"colour modes: {_listed(found.modes)}",
        f"formats: {_listed(found.formats)}",
        f"turned by their EXIF orientation: {found.turned}",
    ]


def _range(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)} pixels, median {median(values):g}"


def _listed(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in counts.items()]
    more = len(shown) - _MOST_NAMES
    return ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _annotation_lines(found: Inspection) -> list[str]:
    if found.problem is not None:
        return [f"annotations: they cannot be used: {found.problem}"]
    return [_say_marked(kind, found.marked[kind], found) for kind in KINDS]


def _say_marked(kind: str, one: Marked, found: Inspection) -> str:
    if not one.images:
        users = [name for name, row in MEASURES.items() if (row.needs_parts if kind == "parts" else row.needs_regions)]
        return f"{kind}: none, there is no {one.file}; what uses them: {', '.join(users)}"
    of = [f"{one.images[split]} of {sum(found.counts[split])} {_WORDS[split]}" for split in SPLITS]
    names = f"; {_listed(one.names)}" if one.names else ""
    return f"{kind}: {one.file}, for {', '.join(of)} images{names}"
