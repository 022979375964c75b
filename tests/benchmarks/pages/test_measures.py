"""Rows of all measures come from run folders, and docs/results.md is what the rows generate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.pages.accuracy import PAGE
from benchmarks.pages.measures import MEASURES, PLACE, MeasureRow, read_measures, table
from benchmarks.pages.results import read_rows

ROW = MeasureRow(
    config="photographs",
    data="birds",
    seed=0,
    measure="purity",
    number="mean purity",
    value=0.335,
    low=0.3,
    high=0.37,
    unit="share",
    images=9,
    git_sha="abc",
)


def test_every_number_of_a_measured_run_is_a_row(run: Path) -> None:
    number = {"value": 0.123456, "low": 0.1, "high": 0.2, "unit": "share", "images": 9, "prototypes": 3}
    count = {"value": 2.0, "low": None, "high": None, "unit": "number", "images": 0, "prototypes": 0}
    found = {"purity": {"numbers": {"mean purity": number, "above": count}}, "on_object": {"left_out": "no boxes"}}
    (run / "measures.json").write_text(json.dumps({"measures": found}), encoding="utf-8")
    rows = read_measures(run)
    assert [(row.config, row.data, row.seed, row.measure, row.number) for row in rows] == [
        ("photographs", "birds", 7, "purity", "mean purity"),
        ("photographs", "birds", 7, "purity", "above"),
    ]
    assert [(row.value, row.low, row.high, row.images) for row in rows] == [
        (0.12346, 0.1, 0.2, 9),
        (2.0, None, None, 0),
    ]


def test_the_table_has_a_column_for_each_run_and_the_newest_numbers() -> None:
    other = replace(ROW, config="pool", value=2.5, unit="number", low=2.0, high=3.0)
    lines = table(
        [replace(ROW, value=0.1), ROW, other, replace(ROW, number="pure", value=3.0, unit="number", low=None)]
    )
    assert lines.splitlines() == [
        "**birds**",
        "",
        "| measure | number | `photographs`, seed 0 | `pool`, seed 0 |",
        "| --- | --- | ---: | ---: |",
        "| purity | mean purity | 33.5 % (30.0 to 37.0) | 2.50 (2.00 to 3.00) |",
        "| purity | pure | 3 |  |",
    ]


def test_the_page_is_what_the_rows_generate() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PLACE.insert(page, table(read_rows(MEASURES, MeasureRow))) == page
