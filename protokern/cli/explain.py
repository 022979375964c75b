"""`protokern explain RUN IMAGE... --out OUT`: for every image a page, a figure, a JSON file and a few lines of text."""

from __future__ import annotations

import argparse
from pathlib import Path

from protokern.cli.arguments import add_device_argument, add_format_argument, add_frame_argument
from protokern.cli.ensemble import explain_ensemble
from protokern.cli.show import show_progress
from protokern.data.folder import describe_deep
from protokern.explain.heat_maps import HEAT_MAPS, check_heat_map
from protokern.explain.images import explain_images
from protokern.explain.prototypes import find_prototypes
from protokern.report.figure import write_figure
from protokern.report.page import write_explanation
from protokern.report.text import explanation_lines
from protokern.results.tables import explanation_table
from protokern.runs.data import read_photographs, reading_of
from protokern.runs.ensemble import is_ensemble
from protokern.runs.open import OpenRun, check_final, choose_device, open_run
from protokern.runs.outputs import check_out
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.names import longest_name, name_outputs
from protokern.storage.outputs import claim_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, IMAGE, --out, --heat-map, --frame, --format, --device."""
    parser.add_argument("run", metavar="RUN", help="run folder, one of its checkpoints, or folder of an ensemble")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="photographs to explain")
    parser.add_argument("--out", metavar="OUT", required=True, help="folder for the pages, figures and JSON files")
    parser.add_argument(
        "--heat-map",
        choices=HEAT_MAPS,
        default="upsample",
        help="of the image: the activation of all patches, as in the paper (default), or the pixels that change the "
        "similarity, which needs captum",
    )
    add_frame_argument(parser)
    add_format_argument(parser)
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Explain every image. All are read before the first one is explained, so that a wrong path shows at once."""
    check_heat_map(args.heat_map)
    if is_ensemble(args.run):
        return explain_ensemble(args)
    opened = check_final(open_run(args.run, data=None, changes=(), device=choose_device(args.device)))
    paths = [Path(image) for image in args.images]
    images = read_photographs(opened.config, paths)
    note = describe_deep(paths, reading_of(opened.config))
    if note is not None:
        print(note)
    out = Path(args.out)
    check_out(out, opened)
    names = name_outputs(paths, (".html", f".{args.format}", ".json"), longest_name(out))
    outputs = claim_outputs(out, [name for of_image in names for name in of_image], by="explain", inputs=paths)
    files = find_prototypes(opened, None)
    if files is None:
        print("The prototypes have no pictures: " + _why_no_pictures(opened))
    explanations = explain_images(
        opened,
        images,
        [path.name for path in paths],
        files=files,
        heat_map=args.heat_map,
        frame=args.frame,
        progress=show_progress,
    )
    for explanation, of_image in zip(explanations, names, strict=True):
        share = explanation.receptive_field.share(explanation.image.shape[:2])
        told = {"heat_map": args.heat_map, "frame": args.frame, "receptive_field_share": share}
        with outputs.writing() as stage:
            page, figure, table = (stage / name for name in of_image)
            write_explanation(explanation, explanation.model_name, page)
            write_figure(explanation, figure)
            write_file(table, to_json_bytes(explanation_table(explanation) | told))
        print("\n".join([*explanation_lines(explanation), *(f"  {out / name}" for name in of_image)]))
    return 0


def _why_no_pictures(opened: OpenRun) -> str:
    if opened.push is None:
        return "the run has had no push yet, so they are not patches of images."
    return "run 'protokern report RUN --data DIR' once to make them."
