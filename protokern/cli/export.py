"""`protokern export RUN --format FORMAT --out DIR`: a trained model as files for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from protokern.errors import ConfigError
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.interop.export.formats import FORMATS
from protokern.interop.export.plain_search import REPAIRS
from protokern.interop.export.side_files import PICTURES, TABLE, picture_bytes, picture_names, prototype_table
from protokern.interop.export.source import ExportOptions, ExportSource, source_of_run
from protokern.interop.export.trace import fixed_size_reason
from protokern.runs.data import open_if_there
from protokern.runs.open import OpenRun, check_final, open_run
from protokern.runs.outputs import check_out
from protokern.runs.prototypes import PrototypeFiles
from protokern.storage.files import to_json_bytes, write_synced
from protokern.storage.outputs import Outputs, claim_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("run", metavar="RUN", help="run folder, or one of its checkpoints")
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help=_in_words())
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the files")
    parser.add_argument(
        "--repair",
        choices=REPAIRS,
        default=REPAIRS[0],
        help="how many nearest patches are measured exactly: four a prototype (default), or one, which is quicker and "
        "may choose the other of two that are equally near",
    )
    parser.add_argument(
        "--size",
        choices=("any", "fixed"),
        help="images of any size (default where the backbone allows it), or of the run's alone",
    )
    parser.add_argument(
        "--heat-maps", action="store_true", help="onnx: also a file that gives maps of similarity for chosen prototypes"
    )
    parser.add_argument("--license", metavar="NAME", default="", help="licence of the weights, such as cc-by-4.0")


def run(args: argparse.Namespace) -> int:
    """Write the model, its prototypes and their pictures."""
    chosen = FORMATS[args.format]
    opened = open_run(args.run, data=None, changes=(), device=torch.device("cpu"))
    check_final(opened)
    options = _options(args, opened)
    out = Path(args.out)
    check_out(out, opened)
    pictures = find_prototypes(opened, None) or find_prototypes(opened, open_if_there(opened.config, opened.folder))
    cards = describe_prototypes(opened.model, opened.classes, pictures)
    source = source_of_run(opened, cards, license=args.license)
    outputs = claim_outputs(out, [*chosen.files(source, options), TABLE], by="export")
    album = claim_outputs(out / PICTURES, picture_names(source), by="export")
    with outputs.writing(last=TABLE) as stage:
        for line in chosen.write(source, options, stage):
            print(line)
        write_synced(stage / TABLE, to_json_bytes(prototype_table(source)))
        if pictures is not None:
            _write_pictures(source, pictures, album)
    for name in (*chosen.files(source, options), TABLE):
        print(f"wrote {out / name}")
    print(_say_pictures(source, out))
    return 0


def _in_words() -> str:
    return "; ".join(f"{name}: {one.purpose}" for name, one in FORMATS.items())


def _options(args: argparse.Namespace, opened: OpenRun) -> ExportOptions:
    if args.heat_maps and args.format != "onnx":
        raise ConfigError(f"--heat-maps: must be given with --format onnx; got {args.format}. Leave it out.")
    reason = fixed_size_reason(opened.model.backbone)
    if reason is not None and args.size == "any":
        raise ConfigError(f"--size: must be fixed for this run, because {reason}; got any. Leave it out.")
    if reason is not None and args.size is None:
        print(f"The size of images is fixed, because {reason}.")
    any_size = reason is None and args.size != "fixed"
    return ExportOptions(repair=args.repair, any_size=any_size, heat_maps=args.heat_maps)


def _write_pictures(source: ExportSource, files: PrototypeFiles, album: Outputs) -> None:
    names = picture_names(source)
    if names:
        with album.writing() as stage:
            for name in names:
                (stage / name).write_bytes(picture_bytes(files, name))


def _say_pictures(source: ExportSource, out: Path) -> str:
    names = picture_names(source)
    if names:
        return f"wrote {len(names)} pictures of prototypes into {out / PICTURES}"
    return "no pictures of prototypes: the run has none, and its data are not there"
