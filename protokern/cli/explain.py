"""`protokern explain RUN IMAGE... --out OUT`: for every image a page, a figure, a JSON file and a few lines of text."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from protokern.cli.arguments import add_device_argument, add_format_argument, add_frame_argument
from protokern.cli.printing import one_line
from protokern.cli.show import show_progress
from protokern.data.decode import read_image
from protokern.data.folder import describe_deep
from protokern.errors import CheckpointError
from protokern.explain.heat_maps import HEAT_MAPS, check_heat_map
from protokern.explain.images import explain_for_people, with_cards
from protokern.explain.prototype_frames import frame_prototypes, other_image
from protokern.explain.prototypes import find_prototypes, prototype_cards
from protokern.report.figure import write_figure
from protokern.report.page import write_explanation
from protokern.report.words import name_classes, name_foreign, name_sharers, name_slots, say_role
from protokern.results.explanations import ClassExplanation, ClassPoints, Evidence, ExplainedImage, Explanation
from protokern.runs.data import reading_of
from protokern.runs.open import OpenRun, choose_device, open_run
from protokern.runs.outputs import check_out
from protokern.runs.prototypes import PrototypeFiles
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.names import fit_name, longest_name, look_alike_key
from protokern.storage.outputs import claim_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, IMAGE, --out, --heat-map, --frame, --format, --device."""
    parser.add_argument("run", metavar="RUN", help="run folder, or one of its checkpoints")
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
    """Explain every image; all are read before the first is explained, so that a wrong path costs nothing."""
    check_heat_map(args.heat_map)
    opened = open_run(args.run, data=None, changes=(), device=choose_device(args.device))
    if not opened.model.is_hard:
        raise CheckpointError(
            f"{opened.checkpoint}: must have final choices to be explained; its classes still choose their prototypes. "
            "Go on with 'protokern train --resume', or make them final with 'protokern push'."
        )
    data = opened.config.data
    reading = reading_of(opened.config)
    images = [(path, read_image(path, data.image_size, reading)) for path in map(Path, args.images)]
    note = describe_deep([path for path, _ in images], reading)
    if note is not None:
        print(note)
    out = Path(args.out)
    check_out(out, opened)
    names = _output_names([path for path, _ in images], args.format, longest_name(out))
    outputs = claim_outputs(
        out, [name for of_image in names for name in of_image], by="explain", inputs=[path for path, _ in images]
    )
    files = find_prototypes(opened, None)
    if files is None:
        print("The prototypes have no pictures: " + _why_no_pictures(opened))
    cards = prototype_cards(opened.model, opened.classes, files, args.frame)
    field = None if files is None else files.field_for(images[0][1])
    for (path, image), of_image in zip(images, names, strict=True):
        item, explanation = explain_for_people(
            opened.model,
            image,
            path.name,
            opened.classes,
            cards,
            receptive_field=field,
            heat_map=args.heat_map,
            frame=args.frame,
            other=partial(other_image, opened, files),
        )
        if files is not None and args.frame == "sufficient":
            shown = {match.prototype.index for one in item.classes for match in one.matches}
            files = frame_prototypes(opened, files, prototypes=shown, progress=show_progress)
            cards = prototype_cards(opened.model, opened.classes, files, args.frame)
            item = with_cards(item, cards)
        field = explanation.receptive_field
        entries = explanation_table(path.name, explanation, opened.classes, files)
        share = field.share((image.shape[1], image.shape[2]))
        with outputs.writing() as stage:
            page, figure, table = (stage / name for name in of_image)
            write_explanation(item, opened.folder.resolve().name, page)
            write_figure(item, figure)
            told = {"heat_map": args.heat_map, "frame": args.frame, "receptive_field_share": share}
            write_file(table, to_json_bytes(entries | told))
        print("\n".join([*summarise(item), *(f"  {out / name}" for name in of_image)]))
    return 0


def summarise(item: ExplainedImage) -> list[str]:
    """The explanation in a few lines of plain text."""
    first, *others = item.classes
    lines = [f"{one_line(item.name)}: {first.class_name}, {first.total:.2f} points ({first.probability:.1%})"]
    for match in first.matches:
        card = match.prototype
        source = f" from {one_line(card.source_name)}" if card.source_name is not None else ""
        role = "" if match.is_reason else f": {say_role(match)}, so no reason for it"
        place = f"{name_slots(match.slots)}, {name_sharers(match, first)}" if match.slots else name_classes(card)
        lines.append(
            f"  {match.points:8.2f} = {match.similarity:.2f} x {match.weight:.2f}"
            f"  looks like prototype {card.index} ({place}){source}{role}"
        )
    if first.num_own:
        lines.append(f"  {first.own_points:8.2f}   {first.num_own} other prototypes of {first.class_name}, together")
    if first.num_foreign:
        lines.append(f"  {first.foreign_points:8.2f}   {first.num_foreign} prototypes {name_foreign(first)}, together")
    lines.append("  then " + ", ".join(_ranked(others)))
    return lines


def _ranked(classes: Iterable[ClassPoints]) -> list[str]:
    return [f"{one.class_name} {one.total:.2f} ({one.probability:.1%})" for one in classes]


def explanation_table(
    name: str, explanation: Explanation, classes: Sequence[str], files: PrototypeFiles | None
) -> dict[str, Any]:
    """The explanation as JSON holds it: everything but the pictures. Boxes are y0, x0, y1, x1 in pixels, half-open."""
    probabilities = explanation.probabilities

    def class_table(one: ClassExplanation) -> dict[str, Any]:
        return {
            "class": classes[one.class_index],
            "logit": one.logit,
            "probability": float(probabilities[one.class_index]),
            "prototypes": [evidence_table(evidence) for evidence in one.evidence],
            "other_points": one.other_points,
            "num_other": one.num_other,
        }

    def evidence_table(evidence: Evidence) -> dict[str, Any]:
        view = evidence.view
        source = None if files is None else files.prototypes[view.prototype].source
        return {
            "prototype": view.prototype,
            "prototype_classes": [classes[k] for k in evidence.prototype_classes],
            "slots": evidence.slots,
            "similarity": evidence.similarity,
            "distance": evidence.distance,
            "weight": evidence.weight,
            "points": evidence.points,
            "is_reason": evidence.is_reason,
            "patch": view.patch,
            "activation_box": view.activation_box,
            "patch_box": view.patch_box,
            "receptive_field_box": view.receptive_field_box,
            "sufficient_frame": None if view.sufficient is None else asdict(view.sufficient),
            "source": None if source is None else source.name,
            "source_frame": None if source is None or source.sufficient is None else asdict(source.sufficient),
        }

    return {
        "image": name,
        "predicted": classes[explanation.predicted],
        "logits": {name: float(logit) for name, logit in zip(classes, explanation.logits, strict=True)},
        "classes": [class_table(one) for one in explanation.classes],
    }


def _why_no_pictures(opened: OpenRun) -> str:
    if opened.push is None:
        return "the run has had no push yet, so they are not patches of images."
    return "run 'protokern report RUN --data DIR' once to make them."


def _output_names(paths: Sequence[Path], figure_format: str, longest: int) -> list[tuple[str, str, str]]:
    """Names of the page, the figure and the table of every image.

    They are the images' own, numbered where a file system might take two for one.
    """
    names: list[tuple[str, str, str]] = []
    taken: set[str] = set()
    for path in paths:
        number = 1
        while True:
            ending = "" if number == 1 else f"-{number}"
            page, figure, table = (
                fit_name(path.stem, ending + suffix, longest) for suffix in (".html", f".{figure_format}", ".json")
            )
            if look_alike_key(page) not in taken:
                break
            number += 1
        taken.add(look_alike_key(page))
        names.append((page, figure, table))
    return names
