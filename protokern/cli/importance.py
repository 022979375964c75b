"""`protokern importance RUN`: how much hue, shape, texture and other visible properties matter to every prototype."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from protokern.cli.arguments import add_run_arguments
from protokern.cli.show import show_progress
from protokern.data import ImageDataset
from protokern.data.decode import parse_image_size, pixels_to_tensor, read_pixels
from protokern.data.pixels import to_display
from protokern.errors import ConfigError
from protokern.explain.importance import REPLICATES, stream_importance, summarise_importance
from protokern.explain.importance_statistics import compare_importance
from protokern.explain.modifications import MODIFICATIONS, Modification, choose_modifications
from protokern.models.build import image_format
from protokern.nn import evaluating
from protokern.report.text import importance_lines, local_lines
from protokern.results.importance import GlobalImportance, ImportanceBatch
from protokern.runs.data import check_classes, open_data, prepare_colours, reading_of
from protokern.runs.importance import FOLDER, JSON, SPLITS, TABLES, LocalTable, open_local_table, write_importance
from protokern.runs.open import OpenRun, check_pushed, choose_device, open_run
from protokern.runs.outputs import check_out, is_inside
from protokern.storage.outputs import Outputs, claim_outputs

SHOWN_PROTOTYPES = 4
_IMAGES = "images.csv"
_SEED = 0


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
    parser.add_argument(
        "--images", metavar="IMAGE", nargs="+", help="photographs to measure alone, in place of the data set"
    )
    parser.add_argument("--local", action="store_true", help="also write the scores of every single image; long tables")


def run(args: argparse.Namespace) -> int:
    """Measure train and test, or the images that were given; write the files and print what matters most."""
    modifications = choose_modifications(args.modifications)
    if args.images and args.local:
        raise ConfigError("--local: must be without --images, whose scores are written for every image anyway.")
    opened = open_run(args.run, data=args.data, changes=args.changes, device=choose_device(args.device))
    push = check_pushed(opened)
    outputs = _claim(opened, args)
    if args.images:
        return _measure_images(opened, modifications, [Path(image) for image in args.images], outputs)
    splits = open_data(opened.config, run=opened.folder)
    check_classes(splits, opened.classes)
    for note in splits.notes:
        print(note)
    with outputs.writing(last=JSON) as stage:
        train, test = (
            _measure_split(opened, modifications, split, dataset, stage, with_local=args.local)
            for split, dataset in zip(SPLITS, (splits.push, splits.test), strict=True)
        )
        comparisons = compare_importance(train, test)
        made_by = {
            "checkpoint": opened.checkpoint.name,
            "image_size": splits.push.image_size,
            "bootstrap": {"replicates": REPLICATES, "seed": _SEED, "interval": 0.95},
        }
        paths = write_importance(stage, train, test, comparisons, push, made_by)
        paths += [_local_path(stage, split) for split in SPLITS if args.local]
        # Of an earlier run, perhaps of other prototypes: the table that is read again must not tell of others.
        for name in (JSON, *(_local_path(stage, split).name for split in SPLITS)):
            outputs.remove(name)
    files = (f"  {outputs.folder / path.name}" for path in paths)
    print("\n".join([*importance_lines(train, test, comparisons), *files]))
    return 0


def _claim(opened: OpenRun, args: argparse.Namespace) -> Outputs:
    """The folder for the files, in which nothing of anybody else will be replaced."""
    folder = opened.folder / FOLDER if args.out is None else Path(args.out)
    if args.out is not None:
        check_out(folder, opened, own=FOLDER)
    locals_ = [_local_path(folder, split).name for split in SPLITS if args.local]
    names = [_IMAGES] if args.images else [*TABLES, *locals_]
    argument = str(folder) if args.out is None else "--out"
    # The run keeps this folder for us: without a listing its files are from a version that wrote none.
    is_own = is_inside(folder, opened.folder / FOLDER)
    inputs = [Path(image) for image in args.images or ()]
    return claim_outputs(folder, names, by="importance", argument=argument, inputs=inputs, trusts_unlisted=is_own)


def _measure_split(
    opened: OpenRun,
    modifications: dict[str, Modification],
    split: str,
    dataset: ImageDataset,
    folder: Path,
    *,
    with_local: bool,
) -> GlobalImportance:
    images = show_progress(_pictures(dataset), f"{split} images", len(dataset))
    batches = _stream(opened, modifications, images)
    path = _local_path(folder, split)
    with ExitStack() as stack:
        if with_local:
            table = stack.enter_context(open_local_table(path))
            batches = _write_rows(batches, table, dataset)
        return summarise_importance(batches, replicates=REPLICATES, seed=_SEED)


def _stream(
    opened: OpenRun, modifications: dict[str, Modification], images: Iterable[np.ndarray]
) -> Iterator[ImportanceBatch]:
    train = opened.config.train
    return stream_importance(
        opened.model,
        images,
        modifications,
        prepare=prepare_colours(opened.config),
        batch_size=train.batch_size,
        memory_format=image_format(train.channels_last),
    )


def _pictures(dataset: ImageDataset) -> Iterator[np.ndarray]:
    for index in range(len(dataset)):
        yield dataset.display_image(index)


def _write_rows(
    batches: Iterable[ImportanceBatch], table: LocalTable, dataset: ImageDataset
) -> Iterator[ImportanceBatch]:
    for batch in batches:
        positions = range(batch.first, batch.first + len(batch.delta))
        table.add(batch, [dataset.sample_name(index) for index in positions])
        yield batch


def _local_path(folder: Path, split: str) -> Path:
    return folder / f"{split}-local.csv"


def _measure_images(
    opened: OpenRun, modifications: dict[str, Modification], paths: Sequence[Path], outputs: Outputs
) -> int:
    """Local scores of single photographs, all of which are read before the first is measured."""
    size = parse_image_size(opened.config.data.image_size)
    reading = reading_of(opened.config)
    pictures = [to_display(read_pixels(path, size, reading)) for path in paths]
    lines: list[str] = []
    with outputs.writing() as stage, open_local_table(stage / _IMAGES) as table:
        for batch in _stream(opened, modifications, iter(pictures)):
            positions = range(batch.first, batch.first + len(batch.delta))
            table.add(batch, [str(paths[position]) for position in positions])  # two may have one name
            for index, position in enumerate(positions):
                label, prototypes = _strongest(opened, pictures[position])
                lines += local_lines(f"{paths[position].name}: {opened.classes[label]}", prototypes, batch, index)
    print("\n".join([*lines, f"  {outputs.folder / _IMAGES}"]))
    return 0


def _strongest(opened: OpenRun, picture: np.ndarray) -> tuple[int, list[int]]:
    """The class that the model gives a picture, and the prototypes with the most points for it."""
    model = opened.model
    image = pixels_to_tensor(picture[np.newaxis].copy()).to(model.device, model.dtype)
    prepare = prepare_colours(opened.config)
    if prepare is not None:
        image = prepare(image)
    with evaluating(model):
        output = model(image)
        label = int(output.logits[0].argmax())
        points = output.activations[0] * model.prototype_weight[label]
    return label, points.argsort(descending=True, stable=True)[:SHOWN_PROTOTYPES].tolist()
