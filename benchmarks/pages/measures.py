"""All measures of runs beside each other: `python -m benchmarks measures RUN...` stores what `protokern metrics RUN`
wrote there, and `--write` fills docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages.accuracy import PAGE, read_run, rows_of
from benchmarks.pages.results import RESULTS, Place, append_rows, read_rows

MEASURES = RESULTS / "measures.csv"
PLACE = Place("measures", "measures")


@dataclass(frozen=True)
class MeasureRow:
    """One number of a measure in one run, on its test images.

    Attributes:
        config, data, seed: as in `benchmarks.pages.accuracy`.
        measure, number: as `protokern metrics` names them.
        value: in `unit`; None where it is not known.
        low, high: of its 95 % interval; None where there is none.
        unit: "share", "number" or another word of `protokern.metrics`.
        images: that it is over.
        git_sha: of the training.
    """

    config: str
    data: str
    seed: int
    measure: str
    number: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    images: int
    git_sha: str


def read_measures(folder: Path) -> list[MeasureRow]:
    """The rows of a run that `protokern metrics` has measured.

    Raises:
        ValueError: its settings are those of none of examples/configs.
    """
    run = read_run(folder)
    measures = json.loads((folder / "measures.json").read_text(encoding="utf-8"))["measures"]
    return [
        MeasureRow(
            config=run.config,
            data=run.data,
            seed=run.seed,
            measure=measure,
            number=name,
            value=_rounded(number["value"]),
            low=_rounded(number["low"]),
            high=_rounded(number["high"]),
            unit=number["unit"],
            images=number["images"],
            git_sha=run.git_sha,
        )
        for measure, found in measures.items()
        for name, number in found.get("numbers", {}).items()  # a measure that was left out has none
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def table(rows: Sequence[MeasureRow]) -> str:
    """For each data set a table: a row per number, a column per recipe and seed, each with its newest rows."""
    blocks = []
    for data in dict.fromkeys(row.data for row in rows):
        newest = {(row.config, row.seed, row.measure, row.number): row for row in rows if row.data == data}
        runs = list(dict.fromkeys((config, seed) for config, seed, _, _ in newest))
        numbers = list(dict.fromkeys((measure, number) for _, _, measure, number in newest))
        lines = [
            f"**{data}**",
            "",
            f"| measure | number | {' | '.join(f'`{config}`, seed {seed}' for config, seed in runs)} |",
            f"| --- | --- | {' | '.join('---:' for _ in runs)} |",
        ]
        for measure, number in sorted(numbers, key=lambda one: [name for name, _ in numbers].index(one[0])):
            cells = [_cell(newest.get((config, seed, measure, number))) for config, seed in runs]
            lines.append(f"| {measure} | {number} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(row: MeasureRow | None) -> str:
    if row is None or row.value is None:
        return ""
    scale, end = (100, " %") if row.unit == "share" else (1, "")
    digits = 1 if row.unit == "share" else 0 if float(row.value).is_integer() else 2
    text = f"{scale * row.value:.{digits}f}{end}"
    if row.low is None or row.high is None:
        return text
    return f"{text} ({scale * row.low:.{digits}f} to {scale * row.high:.{digits}f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Store rows, print the tables, and write them into the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks measures", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders that `protokern metrics` has measured")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    arguments = parser.parse_args(argv)
    for found in rows_of(parser, read_measures, arguments.runs):
        append_rows(MEASURES, found)
    text = table(read_rows(MEASURES, MeasureRow))
    print(text)
    if arguments.write:
        PLACE.write(PAGE, text)
    return 0
