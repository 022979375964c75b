from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.report.canvas import Canvas
from protokern.report.figure import write_figure
from protokern.report.grids import write_neighbours, write_prototype_grid
from protokern.results.places import LazyPicture
from protokern.results.prototypes import Neighbour, Neighbours, Prototype
from protokern.results.run import Report
from tests.report.conftest import with_tested_frames


def svg_words(path: Path) -> list[str]:
    """The texts of an SVG file, as somebody who searches in it finds them."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    return [word.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for word in found]


def margins(path: Path) -> list[float]:
    """Inches of white at the four sides of a PNG file."""
    with Image.open(path) as image:
        ink = np.any(np.asarray(image.convert("RGB")) < 250, axis=2)
        dpi = 160
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ends = (rows[0], ink.shape[0] - 1 - rows[-1], columns[0], ink.shape[1] - 1 - columns[-1])
    return [float(end / dpi) for end in ends]


@pytest.fixture
def card(report_data: Report) -> Prototype:
    first, second = report_data.prototypes[:2]

    def neighbour(number: int, class_name: str) -> Neighbour:
        return Neighbour(
            picture=second.picture,
            name=f"{number}.jpg",
            class_name=class_name,
            similarity=number,
            distance=0.5,
            patch_box=(0, 0, 1, 1),
        )

    own, other = first.classes[0].class_name, report_data.classes[2]
    found = Neighbours(
        train=(neighbour(5, own), neighbour(4, own)), test=(neighbour(3, other),), agreement_train=1, agreement_test=0
    )
    return replace(first, neighbours=found)


def test_a_grid_shows_the_number_and_class_of_every_prototype_with_a_picture(
    report_data: Report, tmp_path: Path
) -> None:
    written = write_prototype_grid(report_data.prototypes, tmp_path / "grid.svg", columns=3)
    assert written == [tmp_path / "grid.svg"]
    words = svg_words(tmp_path / "grid.svg")
    assert [word for word in words if word.startswith("prototype")] == [f"prototype {n}" for n in range(5)]
    assert "<script>alert(1)</…" in words
    assert (tmp_path / "grid.svg").read_text().count("<image") == 5


def test_what_a_frame_was_tested_for_stands_below_the_picture(report_data: Report, tmp_path: Path) -> None:
    plain, tested = tmp_path / "plain.svg", tmp_path / "tested.svg"
    write_prototype_grid(report_data.prototypes, plain)
    write_prototype_grid(with_tested_frames(report_data).prototypes, tested)
    assert svg_words(tested).count("keeps 93 %, area 18 %") == 5
    assert not any("keeps" in word for word in svg_words(plain))
    assert tested.read_text().count("<path") > plain.read_text().count("<path")  # the thin marks
    write_prototype_grid(with_tested_frames(report_data).prototypes, tested, picture="heat")
    assert not any("keeps" in word for word in svg_words(tested))


def test_what_does_not_fit_goes_to_the_next_page(report_data: Report, tmp_path: Path) -> None:
    cards = report_data.prototypes
    written = write_prototype_grid(cards, tmp_path / "grid.png", columns=2, rows=1, picture="heat")
    assert [path.name for path in written] == ["grid.png", "grid-2.png", "grid-3.png"]
    assert write_prototype_grid(cards, tmp_path / "grid.pdf", columns=2, rows=1) == [tmp_path / "grid.pdf"]
    content = (tmp_path / "grid.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", content)) == 3
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_with_a_tested_frame_the_nearest_patches_are_marked_and_not_framed(
    card: Prototype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[object, object]] = []

    def show(self: Canvas, *given: object, cell: object = None, side: float) -> None:
        drawn.append((given[3] if len(given) > 3 else None, cell))

    monkeypatch.setattr(Canvas, "show", show)
    write_neighbours(card, tmp_path / "grid.png")
    own, _, *neighbours = drawn
    assert own == (card.picture.box, None)
    assert neighbours == [(card.neighbours.train[0].picture.box, None)] * 3
    drawn.clear()
    assert card.picture is not None
    write_neighbours(replace(card, picture=replace(card.picture, cell=(4, 4, 8, 8))), tmp_path / "tested.png")
    own, _, *neighbours = drawn
    assert own == (card.picture.box, (4, 4, 8, 8))
    assert neighbours == [(None, card.neighbours.train[0].picture.box)] * 3


def test_neighbours_are_drawn_with_their_classes_and_agreement(card: Prototype, tmp_path: Path) -> None:
    write_neighbours(card, tmp_path / "one.svg")
    words = svg_words(tmp_path / "one.svg")
    for word in ("100%", "0%", "similarity 5.00", "similarity 3.00", "Eichelhäher Šojka", "training images"):
        assert word in words
    assert (tmp_path / "one.svg").read_text().count("<image") == 5


def test_figures_have_narrow_margins(report_data: Report, card: Prototype, tmp_path: Path) -> None:
    write_figure(report_data.explanations[0], tmp_path / "explanation.png", max_matches=1)
    write_prototype_grid(report_data.prototypes[:2], tmp_path / "grid.png")
    write_neighbours(card, tmp_path / "neighbours.png")
    for path in tmp_path.iterdir():
        assert max(margins(path)) < 0.2


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_a_figure_is_the_same_file_every_time(report_data: Report, tmp_path: Path, suffix: str) -> None:
    one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
    for path in (one, two):
        write_prototype_grid(report_data.prototypes[:1], path)
    assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_drawn_is_refused(report_data: Report, tmp_path: Path) -> None:
    path, cards = tmp_path / "one.png", report_data.prototypes
    with pytest.raises(ValueError, match="cards: must hold at least one prototype with a picture; got none"):
        write_prototype_grid(cards[5:], path)
    with pytest.raises(ValueError, match="picture: must be box or heat; got 'crop'"):
        write_prototype_grid(cards, path, picture="crop")
    with pytest.raises(ValueError, match="columns and rows: must be at least 1; got 0 and 7"):
        write_prototype_grid(cards, path, columns=0)
    with pytest.raises(ValueError, match="card: must have neighbours; prototype 5 has none"):
        write_neighbours(cards[5], path)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_figure_that_cannot_be_drawn_leaves_the_older_one_whole(
    suffix: str, report_data: Report, tmp_path: Path
) -> None:
    path = tmp_path / f"grid.{suffix}"
    first = report_data.prototypes[0]
    write_prototype_grid([first], path)
    before = path.read_bytes()

    def fail() -> np.ndarray:
        raise OSError("gone")

    assert first.picture is not None
    gone = replace(first.picture, image=LazyPicture(load=fail, shape=(24, 32, 3), key="gone"))
    cards = [first, replace(first, picture=gone)] if suffix == "pdf" else [replace(first, picture=gone)]
    with pytest.raises(OSError, match="gone"):
        write_prototype_grid(cards, path, columns=1, rows=1)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
