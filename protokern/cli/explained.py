"""What `protokern explain` does for a run and for an ensemble alike: it reads photographs, and writes what it found."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from protokern.config import RunConfig
from protokern.data.folder import describe_deep
from protokern.report.figure import write_figure
from protokern.report.heat_map_figure import write_heat_map_figure
from protokern.report.page import write_explanation
from protokern.report.text import explanation_lines
from protokern.results.explanations import Explanation
from protokern.results.heat_maps import HeatMapComparison
from protokern.results.tables import explanation_table
from protokern.runs.data import read_photographs, reading_of
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.names import longest_name, name_outputs
from protokern.storage.outputs import Outputs, claim_outputs


@dataclass(frozen=True)
class Photographs:
    """Photographs to explain, and where the explanations go.

    Attributes:
        paths: of the photographs.
        images: (C, Y, X) each.
        names: of the page, the figure and the JSON file of each, and of the comparison of heat maps if one is wanted.
        outputs: the folder that these may be written into.
    """

    paths: list[Path]
    images: list[Tensor]
    names: list[tuple[str, ...]]
    outputs: Outputs


def read_all(args: argparse.Namespace, config: RunConfig, check_folder: Callable[[Path], None]) -> Photographs:
    """Read all photographs, then claim the names of the files, so that whatever is wrong shows before the work begins.

    Args:
        args: of the verb.
        config: of the run that says how images are read.
        check_folder: raises an error for a folder that must not be written into.
    """
    paths = [Path(image) for image in args.images]
    images = read_photographs(config, paths)
    note = describe_deep(paths, reading_of(config))
    if note is not None:
        print(note)
    out = Path(args.out)
    check_folder(out)
    suffixes = [".html", f".{args.format}", ".json"]
    if args.compare_heat_maps:
        suffixes.append(f"-heat-maps.{args.format}")
    names = name_outputs(paths, suffixes, longest_name(out))
    outputs = claim_outputs(out, [name for of_image in names for name in of_image], by="explain", inputs=paths)
    return Photographs(paths, images, names, outputs)


def write_all(
    args: argparse.Namespace,
    photographs: Photographs,
    explanations: Iterable[Explanation],
    compare: Callable[[Tensor, Explanation], HeatMapComparison] | None = None,
) -> None:
    """Write page, figure and JSON file of every explanation as it comes, and print its lines.

    Args:
        args: of the verb.
        photographs: what was explained.
        explanations: of each.
        compare: makes the heat maps of an image that `--compare-heat-maps` draws.
    """
    for image, explanation, of_image in zip(photographs.images, explanations, photographs.names, strict=True):
        share = explanation.receptive_field.share(explanation.image.shape[:2])
        told = {"heat_map": args.heat_map, "frame": args.frame, "receptive_field_share": share}
        lines = explanation_lines(explanation)
        with photographs.outputs.writing() as stage:
            page, figure, table, *more = (stage / name for name in of_image)
            write_explanation(explanation, explanation.model_name, page)
            write_figure(explanation, figure)
            write_file(table, to_json_bytes(explanation_table(explanation) | told))
            if more and compare is not None:
                comparison = compare(image, explanation)
                write_heat_map_figure(comparison, more[0])
                lines += [f"  without {method}: {reason}" for method, reason in comparison.left_out]
        places = (f"  {photographs.outputs.folder / name}" for name in of_image)
        print("\n".join([*lines, *places]))
