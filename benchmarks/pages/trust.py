"""How far runs can be trusted: `python -m benchmarks trust RUN...` stores what `protokern metrics RUN` wrote there, and
`--write` fills docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages.accuracy import PAGE, percent, read_run, rows_of
from benchmarks.pages.results import RESULTS, Place, append_rows, read_rows

TRUST = RESULTS / "trust.csv"
PLACE = Place("trust", "trust")


@dataclass(frozen=True)
class TrustRow:
    """What `protokern metrics` found in one run, on its test images; shares in percent.

    Attributes:
        config, data, seed: as in `benchmarks.accuracy`.
        accuracy: of the test images at the end.
        prototypes: at the end.
        own_class, best_alone, by_chance: patch centres on the object; None without boxes and masks.
        four: share of the margin between first and second class that the four largest contributions carry.
        for_80: contributions that carry four fifths of it.
        positive: share of the points of the answer that speaks for it.
        duplicates: pairs of prototypes.
        alone_1, alone_3, alone_5: similarity left when all but 1 x 1, 3 x 3, 5 x 5 cells is grey; None: not measured.
        frame: the same of the sufficient frame; None: not measured.
        frame_area: median share of the image that it takes; None: not measured.
        git_sha: of the training.
    """

    config: str
    data: str
    seed: int
    accuracy: float
    prototypes: int
    own_class: float | None
    best_alone: float | None
    by_chance: float | None
    four: float
    for_80: float
    positive: float
    duplicates: int
    alone_1: float | None
    alone_3: float | None
    alone_5: float | None
    frame: float | None
    frame_area: float | None
    git_sha: str


def read_trust(folder: Path) -> TrustRow:
    """The row of a run that `protokern metrics` has measured.

    Raises:
        ValueError: its settings are those of none of examples/configs.
    """
    run = read_run(folder)
    measures = json.loads((folder / "measures.json").read_text(encoding="utf-8"))["measures"]
    numbers = {
        f"{measure}: {name}": number["value"]
        for measure, found in measures.items()
        for name, number in found.get("numbers", {}).items()  # a measure that was left out has none
    }

    def share(start: str, end: str = "") -> float | None:
        found = [value for name, value in numbers.items() if name.startswith(start) and name.endswith(end)]
        return round(100 * found[0], 2) if found else None

    accuracy = run.pruned_last_layer if run.pruned_last_layer is not None else run.last_layer
    assert accuracy is not None  # only a black box has none, and no run
    return TrustRow(
        config=run.config,
        data=run.data,
        seed=run.seed,
        accuracy=accuracy,
        prototypes=run.prototypes,
        own_class=share("on_object", "own class"),
        best_alone=share("on_object", "best alone"),
        by_chance=share("on_object", "by chance"),
        four=round(100 * numbers["concentration: share of the largest 4"], 2),
        for_80=round(numbers["concentration: prototypes for 80%"], 2),
        positive=round(100 * numbers["concentration: positive share of the points"], 2),
        duplicates=int(numbers["duplicates: pairs"]),
        alone_1=share("left_alone: 1 x 1"),
        alone_3=share("left_alone: 3 x 3"),
        alone_5=share("left_alone: 5 x 5"),
        frame=share("left_alone: sufficient frame"),
        frame_area=share("left_alone: area of the sufficient frame"),
        git_sha=run.git_sha,
    )


COLUMNS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "own_class": "on the object",
    "best_alone": "best alone",
    "by_chance": "by chance",
    "four": "four carry",
    "for_80": "for 80 %",
    "positive": "positive",
    "duplicates": "duplicates",
    "alone_3": "3 x 3 alone",
    "frame": "frame alone",
    "frame_area": "its area",
}


def table(rows: Sequence[TrustRow]) -> str:
    """Means over the newest row of each seed, for each recipe and data set."""
    newest = {(row.config, row.data, row.seed): row for row in rows}
    lines = [
        f"| recipe | data | seeds | prototypes | {' | '.join(COLUMNS.values())} |",
        f"| --- | --- | --- | ---: | {' | '.join('---:' for _ in COLUMNS)} |",
    ]
    for config, data in dict.fromkeys((row.config, row.data) for row in newest.values()):
        group = [row for row in newest.values() if (row.config, row.data) == (config, data)]
        cells = []
        for name in COLUMNS:
            values = [getattr(row, name) for row in group]
            cells.append(percent(None if None in values else statistics.mean(values)))
        seeds = ", ".join(str(row.seed) for row in sorted(group, key=lambda row: row.seed))
        prototypes = f"{statistics.mean(row.prototypes for row in group):.0f}"
        lines.append(f"| `{config}` | {data} | {seeds} | {prototypes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Store rows, print the table, and write it into the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks trust", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders that `protokern metrics` has measured")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    arguments = parser.parse_args(argv)
    append_rows(TRUST, rows_of(parser, read_trust, arguments.runs))
    text = table(read_rows(TRUST, TrustRow))
    print(text)
    if arguments.write:
        PLACE.write(PAGE, text)
    return 0
