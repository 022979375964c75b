"""`protokern explain RUN IMAGE... --out OUT`: for every image a page, a figure, a JSON file and a few lines of text."""

from __future__ import annotations

import argparse
from functools import partial

from protokern.cli.arguments import add_device_argument, add_format_argument, add_frame_argument
from protokern.cli.ensemble import explain_ensemble
from protokern.cli.explained import read_all, write_all
from protokern.cli.show import show_progress
from protokern.errors import ConfigError
from protokern.explain.compare_heat_maps import compare_heat_maps
from protokern.explain.heat_maps import HEAT_MAPS, check_heat_map
from protokern.explain.images import explain_images
from protokern.explain.prototypes import find_prototypes
from protokern.runs.ensemble import is_ensemble
from protokern.runs.open import OpenRun, check_final, choose_device, open_run
from protokern.runs.outputs import check_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, IMAGE, --out, --heat-map, --compare-heat-maps, --frame, --format, --device."""
    parser.add_argument("run", metavar="RUN", help="run folder, one of its checkpoints, or folder of an ensemble")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="photographs to explain")
    parser.add_argument("--out", metavar="OUT", required=True, help="folder for the pages, figures and JSON files")
    parser.add_argument(
        "--heat-map",
        choices=HEAT_MAPS,
        default="upsample",
        help="of the image: the activation of all patches, as in the paper (default), or the pixels that the "
        "similarity depends on: by gradients (captum), by hiding parts, or by relevance (zennit)",
    )
    parser.add_argument(
        "--compare-heat-maps",
        action="store_true",
        help="also write a figure of the first prototypes with the heat maps of every method side by side; on a "
        "CPU it takes about twenty seconds for each image",
    )
    add_frame_argument(parser)
    add_format_argument(parser)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Explain every image. All are read before the first one is explained, so that a wrong path shows at once."""
    check_heat_map(args.heat_map)
    if is_ensemble(args.run):
        if args.compare_heat_maps:
            raise ConfigError("--compare-heat-maps: must be left out for an ensemble. Explain its members one by one.")
        return explain_ensemble(args)
    opened = check_final(open_run(args.run, data=None, changes=(), device=choose_device(args.device)))
    photographs = read_all(args, opened.config, lambda out: check_out(out, opened))
    files = find_prototypes(opened, None)
    if files is None:
        print("The prototypes have no pictures: " + _why_no_pictures(opened))
    explanations = explain_images(
        opened,
        photographs.images,
        [path.name for path in photographs.paths],
        files=files,
        heat_map=args.heat_map,
        frame=args.frame,
        progress=show_progress,
    )
    write_all(args, photographs, explanations, partial(compare_heat_maps, opened.model))
    return 0


def _why_no_pictures(opened: OpenRun) -> str:
    if opened.push is None:
        return "the run has had no push yet, so they are not patches of images."
    return "run 'protokern report RUN --data DIR' once to make them."
