"""Rows of measures come from run folders, and docs/results.md is what the rows generate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.pages.accuracy import PAGE
from benchmarks.pages.results import read_rows
from benchmarks.pages.trust import PLACE, TRUST, TrustRow, read_trust, table

ON_OBJECT = {"box bird, own class": 0.9, "box bird, best alone": 0.95, "box bird, by chance": 0.4}
CONCENTRATION = {
    "share of the largest 4": 0.81,
    "prototypes for 80%": 4.25,
    "positive share of the points": 1.0,
}


def measured(run: Path, **families: dict[str, float]) -> TrustRow:
    found = {
        family: {"numbers": {name: {"value": value} for name, value in numbers.items()}}
        for family, numbers in families.items()
    }
    (run / "measures.json").write_text(json.dumps({"measures": found}), encoding="utf-8")
    return read_trust(run)


def test_a_measured_run_gives_its_row(run: Path) -> None:
    alone = {"1 x 1 cells": 0.3, "3 x 3 cells": 0.8, "5 x 5 cells": 1.0, "sufficient frame": 0.92}
    alone["area of the sufficient frame, median"] = 0.2
    row = measured(run, on_object=ON_OBJECT, concentration=CONCENTRATION, duplicates={"pairs": 2.0}, left_alone=alone)
    assert (row.config, row.data, row.seed, row.accuracy, row.prototypes) == ("photographs", "birds", 7, 83.0, 30)
    assert (row.own_class, row.best_alone, row.by_chance) == (90.0, 95.0, 40.0)
    assert (row.four, row.for_80, row.positive, row.duplicates) == (81.0, 4.25, 100.0, 2)
    assert (row.alone_1, row.alone_3, row.alone_5, row.frame, row.frame_area) == (30.0, 80.0, 100.0, 92.0, 20.0)


def test_what_was_not_measured_has_no_number(run: Path) -> None:
    measured(run, concentration=CONCENTRATION, duplicates={"pairs": 0.0})
    path = run / "measures.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["measures"]["on_object"] = {"left_out": "no boxes.csv beside the images"}
    path.write_text(json.dumps(found), encoding="utf-8")
    row = read_trust(run)
    assert (row.own_class, row.by_chance, row.alone_3, row.frame) == (None, None, None, None)
    assert "| `photographs` | birds | 7 | 30 | 83.0 |  |  |  | 81.0 |" in table([row])


def test_the_table_has_the_mean_of_the_newest_row_of_each_seed(run: Path) -> None:
    row = measured(run, concentration=CONCENTRATION, duplicates={"pairs": 0.0})
    text = table([replace(row, accuracy=1.0), row, replace(row, seed=8, accuracy=85.0)])
    assert "| `photographs` | birds | 7, 8 | 30 | 84.0 |" in text


def test_the_page_is_what_the_rows_generate() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PLACE.insert(page, table(read_rows(TRUST, TrustRow))) == page
