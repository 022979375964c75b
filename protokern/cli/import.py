"""`protokern import FILE --out RUN`: a network of a released program as a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from protokern.cli.arguments import check_count
from protokern.errors import ConfigError
from protokern.storage.files import read_file, read_json

_LARGEST_LIST = 1 << 22  # bytes of a file of names
_SYSTEMS = ("protopnet", "tesnet", "protopool", "prototree", "pipnet", "cabrnet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("file", metavar="FILE", help="file of torch.save, or a folder of ProtoTree or CaBRNet")
    parser.add_argument("--out", metavar="RUN", required=True, help="folder of the run")
    parser.add_argument("--backbone", metavar="NAME", help="default: found by the names and shapes of the tensors")
    parser.add_argument("--classes", metavar="NAMES.txt", help="class names, one a line, in the order of the logits")
    parser.add_argument(
        "--images", metavar="DIR", help="data folder: to measure the accuracy and to find the prototypes"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels; default: as the file says, else 224"
    )
    parser.add_argument("--system", choices=_SYSTEMS, help="the released program; default: found by the tensors")
    parser.add_argument(
        "--tree-map",
        metavar="FILE",
        help='of a ProtoTree: JSON such as {"": 0, "l": 1}, the prototypes of the branches',
    )


def run(args: argparse.Namespace) -> int:
    """Load the network, write the run, and say what was inferred, dropped and found."""
    from protokern.interop.imported_run import check_place, with_images, write_run  # with torch, too slow for --help
    from protokern.interop.loading import load_released

    out = Path(args.out)
    check_place(out)
    if args.image_size is not None:
        check_count("image-size", args.image_size)
    net = load_released(
        args.file,
        backbone=args.backbone,
        classes=None if args.classes is None else _read_names(Path(args.classes)),
        system=args.system,
        image_size=args.image_size,
        tree_map=None if args.tree_map is None else _read_map(Path(args.tree_map)),
    )
    splits = None
    if args.images is not None:
        net, splits = with_images(net, args.images)
    write_run(net, out, splits)
    model = net.model
    sizes = f"{model.num_prototypes} prototypes, {model.num_classes} classes"
    print(f"{net.system}: {sizes}, backbone {net.config.model.backbone}")
    for note in net.notes:
        print(f"- {note}")
    print(f"- logits differ from the released formula by at most {net.difference:.1e} on random features")
    if args.classes is None and args.images is None:
        print(
            "- class names: numbers, because neither --classes nor --images gives others; other commands want the "
            "names of the data's folders"
        )
    print(f"wrote {out}")
    return 0


def _read_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in read_file(path, _LARGEST_LIST).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"--classes: must be a text file in UTF-8; got {path}.") from error
    return [name for name in names if name]


def _read_map(path: Path) -> Mapping[str, int]:
    table = json.loads(json.dumps(read_json(path)))
    if not isinstance(table, dict) or not all(type(row) is int for row in table.values()):
        raise ConfigError(f'--tree-map: must be JSON such as {{"": 0, "l": 1}}; got {path} with something else.')
    return table
