from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
from PIL import Image

from protokern.report.images import PictureShelf
from protokern.report.page import render_report, shelve
from protokern.report.sheets import sheets_json
from protokern.report.words import say_frame
from protokern.results.importance import Reason
from protokern.results.places import LazyPicture, SeenPicture
from protokern.results.prototypes import ClassWeight, Neighbours, PrototypeCard
from protokern.results.run import ReportData
from tests.report.conftest import CLASSES, FILE_NAME, PROOF, make_neighbour, with_tested_frames


def test_a_sheet_has_what_the_script_shows(report_data: ReportData) -> None:
    shelf, num_on_page = shelve(report_data)
    table = json.loads(sheets_json(report_data, shelf, num_on_page, beside=False))
    first, last = table["sheets"][0], table["sheets"][-1]
    assert first["index"] == 0
    assert [(table["texts"][place], weight) for place, weight in first["classes"]] == [(CLASSES[0], "1.50")]
    assert first["source"] == FILE_NAME
    assert first["moved"] == "0.25"
    assert first["view"][1:] == [24, 32, [6, 8, 12, 24], [0, 4, 20, 30]]
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
    assert view[1:] == [24, 32, [6, 8, 12, 24], [0, 4, 20, 30]]
    classes = [[table["texts"].index(CLASSES[2]), "\N{MINUS SIGN}0.25"]]
    assert last == {"index": 5, "classes": classes, "of": CLASSES[2]}


def test_numbers_come_as_the_sentence_rounds_them(report_data: ReportData) -> None:
    card = replace(report_data.prototypes[0], reasons=(Reason("hue", 0.605024, 0.581516, 0.62796, 0.612601),))
    data = replace(report_data, prototypes=(card, *report_data.prototypes[1:]))
    shelf, num_on_page = shelve(data)
    sheet = json.loads(sheets_json(data, shelf, num_on_page, beside=False))["sheets"][0]
    assert "takes 0.61 off" in sheet["because"]
    assert sheet["reasons"] == [["colour (hue)", 0.605024, 0.581516, 0.62796, 0.612601]]


def test_pictures_of_the_page_are_not_repeated_in_the_sheets(report_data: ReportData) -> None:
    shelf, num_on_page = shelve(report_data)
    table = json.loads(sheets_json(report_data, shelf, num_on_page, beside=False))
    assert 0 < num_on_page < len(shelf.pictures)
    assert table["pictures"][:num_on_page] == [None] * num_on_page
    for data in table["pictures"][num_on_page:]:
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=("JPEG",)) as image:
            assert image.size == (32, 24)
    beside = json.loads(sheets_json(report_data, shelf, num_on_page, beside=True))
    assert beside["pictures"] == [one.name for one in shelf.pictures]


def test_nothing_in_the_sheets_can_end_their_script(report_data: ReportData) -> None:
    name = "</script><!-- & \u2028 ../../etc/passwd \N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 300
    card = replace(report_data.prototypes[0], source_name=name, classes=(ClassWeight(0, name, 1.0),))
    data = replace(report_data, prototypes=(card,), explanations=())
    text = sheets_json(data, *shelve(data), beside=True)
    assert "<" not in text
    assert ">" not in text
    table = json.loads(text)
    assert table["sheets"][0]["source"] == name
    assert not [one for one in table["pictures"] if not one.removesuffix(".jpg").isalnum()]


def test_a_tested_frame_has_its_mark_and_its_words(report_data: ReportData) -> None:
    plain, tested = report_data, with_tested_frames(report_data)
    for data, has_proof in ((plain, False), (tested, True)):
        table = json.loads(sheets_json(data, *shelve(data), beside=False))
        first = table["sheets"][0]
        assert table["tested"] is has_proof
        assert first["view"][5:] == ([[8, 10, 12, 14]] if has_proof else [])
        assert first.get("proof") == (say_frame(PROOF) if has_proof else None)
        html = render_report(data)
        words = "This frame alone keeps 93\N{NO-BREAK SPACE}% of the similarity; 18\N{NO-BREAK SPACE}% of the image."
        # Three explanations with two matches each, of which one prototype is no patch of an image.
        assert html.count('<span class="proof">' + words) == (9 if has_proof else 0)
        assert ("everything outside of it was made grey" in html) is has_proof
        assert ("It cannot prove that the model ignored everything outside" in html) is not has_proof


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
    cards = tuple(PrototypeCard(index=k, classes=(), neighbours=near) for k in range(3))
    data = ReportData(title="lazy", classes=("a",), prototypes=cards)
    assert reads == []
    shelf, num_on_page = shelve(data)
    assert (num_on_page, len(shelf.pictures), len(reads)) == (0, 1, 1)
    sheet = json.loads(sheets_json(data, shelf, num_on_page, beside=True))["sheets"][2]
    assert sheet["near"][1] == ["", []]
    assert [row[0] for row in sheet["near"][0][1]] == [[0, 24, 32, [0, 0, 8, 8], None]] * 5
    assert isinstance(shelf, PictureShelf)
