"""The section "Can this be trusted?": what each measure says, what it is compared with, and what is not shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protokern.metrics import MEASURES
from protokern.report.questions import GROUPS, QUESTIONS
from protokern.report.trust import view_numbers_of, view_trust
from protokern.report.view import view_report
from protokern.results.measures import MeasureResult, Trust
from protokern.results.run import Report
from tests.report.conftest import make_number, make_trust

MINUS = "\N{MINUS SIGN}"


def rows_of(trust: Trust) -> dict[str, dict[str, Any]]:
    table = view_trust(trust)
    assert table is not None
    return {row["name"]: row for _, rows in table["groups"] for row in rows}


def plain(pieces: list[Any]) -> str:
    return "".join(piece if isinstance(piece, str) else piece[1] for piece in pieces)


def test_a_measure_is_a_sentence_a_number_an_interval_and_a_bar_beside_its_reference() -> None:
    row = rows_of(make_trust())["left alone"]
    assert plain(row["say"]) == (
        "With everything outside of the bright area of its heat map replaced by a blur of itself, 62.5% of the "
        "similarity of the best match is left."
    )
    assert ["b", "62.5%"] in row["say"]
    assert (row["number"], row["interval"], row["over"]) == ("62.5%", "50.0% to 75.0%", "8 pictures")
    assert (row["line"], row["better"]) == ("random patches as prototypes: 37.5%", "more is better")
    assert row["bar"] == [0.625, 0.5, 0.75, 0.375, 0.0]
    assert row["all"] == [
        ["1 x 1 cells", "25.0%", "20.0% to 30.0%", "8 pictures", ""],
        ["grid frame", "62.5%", "50.0% to 75.0%", "8 pictures", "37.5%"],
    ]
    assert row["details"] == [
        "images drawn: 8",
        "the rest is: blurred",
        "images whose best similarity is not above 0: 1",
    ]


def test_a_share_is_told_with_how_strong_the_matches_of_both_are() -> None:
    strength = "similarity of the match"
    own, random = (
        MeasureResult(
            name="left_alone",
            estimates={
                "grid frame": make_number(value, (0.25, 1.0), 8),
                strength: replace(make_number(similarity, (0.25, 1.0), 8), unit="number"),
            },
        )
        for value, similarity in ((0.75, 0.6875), (0.875, 0.28125))
    )
    row = rows_of(Trust(results=(own,), random=(random,)))["left alone"]
    assert row["line"] == (
        "random patches as prototypes: 87.5%, of matches with a mean similarity of 0.2812; those of the prototypes "
        "have 0.6875"
    )
    older = rows_of(
        Trust(results=(own,), random=(replace(random, estimates={"grid frame": own.estimates["grid frame"]}),))
    )
    assert older["left alone"]["line"] == "random patches as prototypes: 75.0%"


def test_what_has_a_reference_of_its_own_is_compared_with_that() -> None:
    row = rows_of(make_trust())["on object"]
    assert (
        plain(row["say"])
        == "90.0% of the prototypes of its class match on the object of a picture, by its box <b>jay</b>."
    )
    assert row["line"] == "a place at random: 40.0%"
    assert row["bar"] == [0.9, 0.8, 1.0, 0.4, 0.0]
    assert row["ends"] == []


def test_a_count_is_a_part_of_all_prototypes() -> None:
    row = rows_of(make_trust())["duplicates"]
    assert plain(row["say"]) == "2 of 6 prototypes repeat an earlier one."
    assert (row["interval"], row["line"], row["better"]) == ("", "", "less is better")
    assert row["over"] == "counted, so it has no interval"
    assert row["bar"] == [pytest.approx(1 / 3, abs=1e-4), None, None, None, 0.0]


def test_a_bar_has_room_for_numbers_below_0_and_above_1() -> None:
    one = MeasureResult(name="left_alone", estimates={"grid frame": make_number(1.0, (-0.5, 1.5), 3)})
    assert rows_of(Trust(results=(one,)))["left alone"]["bar"] == [0.75, 0.0, 1.0, None, 0.25]


def test_the_best_and_the_worst_prototypes_are_those_by_its_direction() -> None:
    best, worst = rows_of(make_trust())["left alone"]["ends"]
    assert best == ["best", [[3, "100.0%"], [4, "87.5%"], [2, "75.0%"]]]
    assert worst == ["worst", [[1, f"{MINUS}25.0%"], [0, "50.0%"], [5, "62.5%"]]]
    likeness = "likeness of the map, backbone and add-on layers shuffled"
    one = MeasureResult(
        name="randomisation",
        estimates={likeness: make_number(0.1, (0.0, 0.2), 6)},
        prototypes={likeness: [0.6, -0.5, 0.4, -0.3, 0.2, -0.1]},
    )
    row = rows_of(Trust(results=(one,)))["randomisation"]
    assert row["better"] == "nearer to 0 is better"
    best, worst = row["ends"]
    assert [index for index, _ in best[1]] == [5, 4, 3]
    assert [index for index, _ in worst[1]] == [0, 1, 2]


def test_prototypes_that_are_alike_are_counted_and_not_called_best() -> None:
    def ends(values: list[float]) -> list[Any]:
        one = MeasureResult(
            name="stability",
            estimates={"same patch": make_number(0.9, (0.8, 1.0), 6)},
            prototypes={"same patch": values},
        )
        found: list[Any] = rows_of(Trust(results=(one,)))["stability"]["ends"]
        return found

    assert [title for title, _ in ends([1.0, 1.0, 1.0, 1.0, 0.5, 0.25])] == ["best, 3 of 4 with 100.0%", "worst"]
    assert ends([1.0, 1.0, 1.0, 1.0, 0.5, 0.25])[1][1] == [[5, "25.0%"], [4, "50.0%"]]
    assert [numbers for _, numbers in ends([0.5, 0.5, 0.5, 0.5, 0.5, 1.0])] == [
        [[5, "100.0%"]],
        [[4, "50.0%"], [3, "50.0%"], [2, "50.0%"]],
    ]
    assert ends([1.0] * 6) == []
    assert ends([1.0, 0.5, 0.25, 0.75, 0.1]) == []  # too few to have both ends


def test_a_prototype_has_its_own_numbers_beside_those_of_all() -> None:
    trust = make_trust()
    assert view_numbers_of(trust, 0) == [
        ["similarity left without the surroundings", "50.0%", "68.8%"],
        ["pictures of its class with one part at its place: beak", "80.0%", "65.0%"],
    ]
    assert view_numbers_of(trust, 3)[2:] == [["repeats an earlier prototype", "0", ""]]
    assert [name for name, _, _ in view_numbers_of(trust, 5)] == ["similarity left without the surroundings"]
    assert view_numbers_of(None, 0) == []


def test_what_was_left_out_is_said_with_its_reason() -> None:
    table = view_trust(make_trust())
    assert table is not None
    assert table["left_out"] == [["purity", "it needs part centres"]]
    assert "purity" not in rows_of(make_trust())


def test_the_page_says_how_much_was_measured_and_how_to_measure_more() -> None:
    def notes(trust: Trust) -> list[str]:
        table = view_trust(trust)
        assert table is not None
        found: list[str] = table["notes"]
        return found

    few = (
        "drawn at random, so that this page is made quickly. 'protokern metrics RUN' measures over all pictures, and "
        "more."
    )
    assert notes(make_trust()) == [f"Left alone is over 8 of 15 test pictures, {few}"]
    alone = replace(make_trust(), results=make_trust().results[:1], quick=("left_alone",))
    assert notes(alone) == [f"The means here are over 8 of 15 test pictures, {few}"]
    assert notes(replace(alone, num_images=8)) == [f"The means here are over all 8 test pictures, {few}"]
    assert notes(replace(make_trust(), quick=())) == []
    (stale,) = notes(replace(make_trust(), quick=(), is_stale=True))
    assert stale.startswith("Measures of other weights than those of this page are stored with the run")
    (seen,) = notes(replace(make_trust(), quick=(), split="train"))
    assert "training pictures, which the model has seen" in seen
    (without,) = notes(replace(make_trust(), num_images=None))
    assert "Give the data of the run with --data." in without


def test_a_measure_without_a_sentence_still_has_its_numbers() -> None:
    one = MeasureResult(name="my_own", estimates={"width": make_number(0.5, (0.4, 0.6), 3)})
    table = view_trust(Trust(results=(one,)))
    assert table is not None
    ((title, (row,)),) = table["groups"]
    assert title == "Other measures"
    assert "say" not in row
    assert row["all"] == [["width", "50.0%", "40.0% to 60.0%", "3 pictures", ""]]


def test_a_number_that_no_picture_has_gets_no_sentence() -> None:
    one = MeasureResult(name="stability", estimates={"same patch": make_number(float("nan"))})
    row = rows_of(Trust(results=(one,)))["stability"]
    assert "say" not in row
    assert row["all"] == [["same patch", "unknown", "", "", ""]]


def test_every_measure_has_a_sentence_and_a_place() -> None:
    assert set(QUESTIONS) == set(MEASURES)
    assert sorted(name for _, names in GROUPS for name in names) == sorted(MEASURES)


def test_the_section_is_on_the_page_if_something_was_measured(report_data: Report, trusted_data: Report) -> None:
    assert "trust" not in view_report(report_data)[0]
    table, _ = view_report(trusted_data)
    assert ["trust", "Trust"] in table["nav"]
    assert table["trust"]["title"] == "Can this be trusted?"
    assert table["sheets"][0]["trust"][0][1] == "50.0%"
    assert "trust" not in view_report(replace(report_data, trust=Trust(results=())))[0]
