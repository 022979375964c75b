from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from protokern.report.page_json import to_json
from protokern.report.view import view_report
from protokern.report.words import say_frame
from protokern.results.importance import Reason
from protokern.results.places import LazyPicture, SeenPicture
from protokern.results.prototypes import ClassWeight, Neighbours, Prototype
from protokern.results.run import Report
from tests.report.conftest import CLASSES, FILE_NAME, PROOF, make_neighbour, make_source, with_tested_frames


def test_a_sheet_has_what_the_script_shows(report_data: Report) -> None:
    table, _ = view_report(report_data)
    first, last = table["sheets"][0], table["sheets"][-1]
    assert first["index"] == 0
    assert [(table["texts"][place], weight, k) for place, weight, k in first["classes"]] == [(CLASSES[0], "1.50", 0)]
    assert first["source"] == FILE_NAME
    assert first["moved"] == "0.25"
    assert first["view"][1:] == [24, 32, (6, 8, 12, 24), (0, 4, 20, 30)]
    assert first["because"].startswith("Mostly because of its colour (hue)")
    assert first["main"] == ["colour (hue)"]
    assert first["reasons"][0] == ["colour (hue)", 0.8, 0.7, 0.9, 0.75]
    assert first["reasons"][2] == ["texture", -0.05, -0.1, 0.0, None]
    (train_words, train), (test_words, test) = first["near"]
    assert train_words == "2 of the 3 are of its class."
    assert test_words == "It is not of its class."
    assert [own for _, _, _, own, _, _ in train] == [1, 1, 0]
    view, name, of_class, own, similarity, distance = test[0]
    assert (table["texts"][name], table["texts"][of_class], own) == (FILE_NAME, CLASSES[2], 0)
    assert (similarity, distance) == ("3.97", "0.3")
    assert view[1:] == [24, 32, (6, 8, 12, 24), (0, 4, 20, 30)]
    classes = [[table["texts"].index(CLASSES[2]), "\N{MINUS SIGN}0.25", 2]]
    assert last == {"index": 5, "classes": classes, "of": CLASSES[2], "no_patch": "Not a patch of an image."}


def test_a_prototype_that_was_a_patch_from_the_start_has_not_moved(report_data: Report) -> None:
    card = replace(report_data.prototypes[0], source=replace(make_source(FILE_NAME), distance=0.0))
    data = replace(report_data, prototypes=(card, *report_data.prototypes[1:]))
    assert "moved" not in view_report(data)[0]["sheets"][0]


def test_a_page_of_projections_shows_no_distances(report_data: Report) -> None:
    table, _ = view_report(replace(report_data, is_projected=True, shows_distance=False))
    first = table["sheets"][0]
    assert "moved" not in first
    assert [row[5] for _, rows in first["near"] for row in rows] == [""] * 4
    (reading,) = (text for _, word, text in table["how"]["reading"] if word == "Similarity")
    assert "It is a projection" in str(reading)
    plain = str(view_report(report_data)[0]["how"]["reading"])
    assert "projection" not in plain


def test_numbers_come_as_the_sentence_rounds_them(report_data: Report) -> None:
    card = replace(report_data.prototypes[0], reasons=(Reason("hue", 0.605024, 0.581516, 0.62796, 0.612601),))
    data = replace(report_data, prototypes=(card, *report_data.prototypes[1:]))
    sheet = view_report(data)[0]["sheets"][0]
    assert "takes 0.61 off" in sheet["because"]
    assert sheet["reasons"] == [["colour (hue)", 0.605024, 0.581516, 0.62796, 0.612601]]


def test_nothing_in_the_json_can_end_its_script(report_data: Report) -> None:
    name = "</script><!-- & \u2028 ../../etc/passwd \N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 300
    card = replace(report_data.prototypes[0], source=make_source(name), classes=(ClassWeight(0, name, 1.0),))
    data = replace(report_data, prototypes=(card,), explanations=())
    text = to_json(*view_report(data), beside=True)
    assert "<" not in text
    assert ">" not in text
    table = json.loads(text)
    assert table["sheets"][0]["source"] == name
    assert not [one for one in table["pictures"] if not one.removesuffix(".jpg").isalnum()]


def test_a_tested_frame_has_its_mark_and_its_words(report_data: Report) -> None:
    words = "This frame alone keeps 93\N{NO-BREAK SPACE}% of the similarity; 18\N{NO-BREAK SPACE}% of the image."
    for data, has_proof in ((report_data, False), (with_tested_frames(report_data), True)):
        table, _ = view_report(data)
        first = table["sheets"][0]
        assert table["tested"] is has_proof
        assert first["view"][5:] == ([(8, 10, 12, 14)] if has_proof else [])
        assert first.get("proof") == (say_frame(PROOF) if has_proof else None)
        text = to_json(*view_report(data), beside=True)
        # Three explanations with two matches each, of which one prototype is no patch of an image.
        assert text.count(f'_proof":"{words}') == (9 if has_proof else 0)
        assert ("everything outside of it was made grey" in text) is has_proof
        assert ("It cannot prove that the model ignored everything outside" in text) is not has_proof


def test_pictures_are_read_when_they_are_drawn_and_the_second_is_not_read() -> None:
    reads = []

    def load() -> np.ndarray:
        reads.append(1)
        return np.zeros((24, 32, 3), np.uint8)

    picture = LazyPicture(load=load, shape=(24, 32, 3), key=("train", 3))
    seen = SeenPicture(image=picture, box=(0, 0, 8, 8), receptive_field_box=(0, 0, 24, 32))
    near = Neighbours(
        train=tuple(replace(make_neighbour(0, "a"), picture=seen) for _ in range(5)),
        test=(),
        agreement_train=1.0,
        agreement_test=0.0,
    )
    cards = tuple(Prototype(index=k, classes=(), neighbours=near) for k in range(3))
    data = Report(title="lazy", classes=("a",), prototypes=cards)
    assert reads == []
    table, shelf = view_report(data)
    assert (len(shelf.pictures), len(reads)) == (1, 1)
    sheet = table["sheets"][2]
    assert sheet["near"][1] == ["", []]
    assert [row[0] for row in sheet["near"][0][1]] == [[0, 24, 32, (0, 0, 8, 8), None]] * 5
