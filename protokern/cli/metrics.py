"""`protokern metrics RUN`: how far the explanations of a run can be trusted, in numbers with their intervals."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from protokern.cli.arguments import add_run_arguments, check_count
from protokern.cli.show import show_progress
from protokern.errors import CheckpointError, ConfigError
from protokern.explain.framing import FRAME_MAKERS
from protokern.inputs.loaders import ordered_loader
from protokern.metrics import FILLS, MEASURES, PROTOCOLS, Context, Estimate, MeasureResult, MetricTable, measure
from protokern.metrics.context import SUBSET
from protokern.metrics.files import facts_of, file_names, passes_of_random, write_measures
from protokern.metrics.random_prototypes import measure_random
from protokern.metrics.registry import check_names
from protokern.results.places import Box
from protokern.runs.data import FoundAnnotations, check_classes, find_annotations, open_data
from protokern.runs.open import OpenRun, choose_device, open_run
from protokern.runs.outputs import claim_numbers
from protokern.runs.prototypes import read_prototypes


class _List(argparse.Action):
    """--list: print the measures and end, so that no RUN is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(_list_lines()))
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    add_run_arguments(parser)
    parser.add_argument("--list", action=_List, nargs=0, help="print what every measure asks and what it needs")
    names = ", ".join(MEASURES)
    slow = ", ".join(name for name, row in MEASURES.items() if not row.by_default)
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", help=f"only these measures, of {names}; default: all but {slow}"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the numbers as JSON and CSV; default: the run folder")
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        default=SUBSET,
        help=f"images for the measures that need further passes of the net; default: {SUBSET}",
    )
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="the images to measure over; default: test"
    )
    parser.add_argument(
        "--frames",
        choices=FRAME_MAKERS,
        nargs="*",
        default=list(FRAME_MAKERS),
        help="frames that left_alone tests, and deletion if it is grid; default: all kinds",
    )
    parser.add_argument(
        "--fill",
        choices=FILLS,
        default=FILLS[0],
        help="what left_alone and deletion replace the rest with; default: grey",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the drawn images, of noise and of the intervals; default: 0"
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="paper: as the released programs measure, where the default differs",
    )
    parser.add_argument(
        "--part-area",
        metavar="SHARE",
        type=float,
        help="look for parts in a box of this share of the image; default: the fixed boxes of the papers",
    )


def run(args: argparse.Namespace) -> int:
    """Measure over the images of a split; print a line for each number and write all of them."""
    check_count("images", args.images)
    unknown = [name for name in args.only or () if name not in MEASURES]
    if unknown:
        raise ConfigError(f"--only: must be some of {', '.join(MEASURES)}; got {unknown[0]!r}. Check the spelling.")
    if args.seed < 0:
        raise ConfigError(f"--seed: must be at least 0; got {args.seed}.")
    if args.part_area is not None and not 0 < args.part_area <= 1:
        raise ConfigError(f"--part-area: must be above 0 and at most 1; got {args.part_area}.")
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    if not opened.model.is_hard:
        raise CheckpointError(
            f"{opened.checkpoint}: must have final choices to be measured; its classes still choose their prototypes. "
            "Go on with 'protokern train --resume', or make them final with 'protokern push'."
        )
    outputs = claim_numbers(opened, args.out, file_names(), by="metrics")
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    for note in splits.notes:
        print(note)
    chosen = [MEASURES[name] for name in check_names(args.only)]
    needs_any = any(row.needs_regions or row.needs_parts for row in chosen)
    found = find_annotations(opened.config, splits, args.split) if needs_any else FoundAnnotations()
    images = splits.test if args.split == "test" else splits.push
    context = Context(
        regions=found.regions,
        no_regions=found.no_regions,
        parts=found.parts,
        no_parts=found.no_parts,
        image=lambda index: images[index][0],
        frames={kind: FRAME_MAKERS[kind](opened.model) for kind in args.frames},
        push=opened.push,
        source_boxes=_source_boxes(opened),
        subset=args.images,
        fill=args.fill,
        seed=args.seed,
        protocol=args.protocol,
        part_area=args.part_area,
    )
    loader = ordered_loader(images, opened.config.train.batch_size, opened.config.data.workers)
    batches = show_progress(loader, "metrics", len(loader))
    results = measure(opened.model, batches, len(images), only=args.only, context=context)
    batches = show_progress(loader, "random prototypes", len(loader))
    random = measure_random(opened.model, batches, len(images), splits.push, only=args.only, context=context)
    facts = {
        "checkpoint": opened.checkpoint.name,
        "split": args.split,
        "images": len(images),
        **facts_of(opened.model, random),
    }
    print("\n".join([*_result_lines(results, random), _say_passes(results, random, len(images))]))
    if outputs is None:
        print(f"The numbers were not written, only printed: {opened.folder} may only be read. Give --out.")
    else:
        print("\n".join(f"wrote {path}" for path in write_measures(outputs, facts, results)))
    return 0


def _result_lines(results: Sequence[MeasureResult], random: Sequence[MeasureResult] = ()) -> list[str]:
    """One line per number: its name, its value, its interval, over how many images, and that of random prototypes."""
    references = {one.name: one.estimates for one in random}
    width = max((len(name) for one in results for name in one.estimates), default=0)
    lines = []
    for one in results:
        if one.left_out is not None:
            lines.append(f"{one.name}: {one.left_out}; left out")
            continue
        further = f" ({one.passes} images more through the net)" if one.passes else ""
        lines.append(f"{one.name}: {MEASURES[one.name].question}{further}")
        reference = references.get(one.name, {})
        lines += [f"  {name:<{width}}  {_say(number, reference.get(name))}" for name, number in one.estimates.items()]
        notes = [f"{name}: {value}" for name, value in one.settings.items()]
        notes += [f"{name}: {number}" for name, number in one.skipped.items() if number]
        lines += [f"  ({'; '.join(notes)})"] if notes else []
    return lines


def _say_passes(results: Sequence[MeasureResult], random: Sequence[MeasureResult], num_images: int) -> str:
    """How many images went through the net for everything."""
    own, other = MetricTable(tuple(results)).passes, passes_of_random(random)
    unchanged, changed = (own[kind] + other[kind] for kind in ("unchanged", "changed"))
    times = f" ({unchanged / num_images:.1f} times the {num_images:,} that were measured)" if num_images else ""
    return f"{unchanged:,} images went through the net as they are{times}, and {changed:,} changed ones"


def _say(number: Estimate, reference: Estimate | None) -> str:
    def words(value: float) -> str:
        return f"{round(value, 3) + 0.0:.1%}" if number.unit == "share" else f"{value:.4g}"  # no -0.0%

    if math.isnan(number.value):
        return "unknown: no image has it"
    interval = "" if number.low is None or number.high is None else f"  ({words(number.low)} to {words(number.high)})"
    over = [f"  {n} {what}" for n, what in ((number.images, "images"), (number.prototypes, "prototypes")) if n]
    if reference is not None and not math.isnan(reference.value):
        over.append(f"  random prototypes: {words(reference.value)}")
    return f"{words(number.value):>7}{interval}" + "".join(over)


def _list_lines() -> list[str]:
    """Every measure with its question and what it needs beside the images."""
    width = max(len(name) for name in MEASURES)
    lines = []
    for name, row in MEASURES.items():
        needs = [
            what
            for what, is_needed in (("boxes or masks", row.needs_regions), ("part centres", row.needs_parts))
            if is_needed
        ]
        lines.append(
            f"{name:<{width}}  {row.question}"
            + (f" Uses {' and '.join(needs)}." if needs else "")
            + ("" if row.by_default else " Only if it is named.")
        )
    return lines


def _source_boxes(opened: OpenRun) -> list[Box | None] | None:
    """The frames of the prototypes' own sources, as they were drawn; None if none were drawn for this push."""
    files = None if opened.push is None else read_prototypes(opened.folder)
    if files is None or opened.push is None or not files.comes_from(opened.push, opened.model):
        return None
    return [None if record.source is None else record.source.patch_box for record in files.prototypes]
