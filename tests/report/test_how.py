"""The example at the head of the page: what it says of the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protokern.report.page import render_report
from protokern.results.run import Report
from tests.report.test_page import read_page


@pytest.mark.parametrize(
    ("speaking", "words"),
    [
        (6, "The points of all 6 prototypes add up to 5.25"),
        (5, "The points of the 5 prototypes of 6 that have any add up to 5.25"),
        (1, "The points of the one prototype of 6 that has any add up to 5.25"),
    ],
)
def test_the_prototypes_that_have_points_are_counted(report_data: Report, speaking: int, words: str) -> None:
    item = report_data.explanations[0]
    first, *others = item.classes
    item = replace(item, classes=(replace(first, num_speaking=speaking), *others))
    (*_, last) = read_page(render_report(replace(report_data, explanations=(item,))))["how"]["says"]
    assert words in str(last[0])
