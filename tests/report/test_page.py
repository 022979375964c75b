from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protokern.cli.explain import summarise
from protokern.report import page as page_module
from protokern.report.page import render_explanation, render_report, write_explanation, write_report
from protokern.results.explanations import ClassPoints, ExplainedImage
from protokern.results.prototypes import ClassSlots, ClassWeight, PrototypeCard
from protokern.results.run import Confusion, ReportData
from tests.report.conftest import CLASSES

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
VOID = {"meta", "img", "br", "link", "input", "hr"}
FETCHING = {"src", "href", "srcset", "poster", "data", "action", "xlink:href"}


class Page(HTMLParser):
    """Reads a page, checks that its tags are balanced, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def stored_images(page: Page) -> dict[str, np.ndarray]:
    """The pictures that the page holds, by their links."""
    pictures = {}
    for image in page.all("image"):
        head, _, body = str(image["href"]).partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=("JPEG",)) as decoded:
            assert decoded.size == (int(str(image["width"])), int(str(image["height"])))
            pictures[f"#{image['id']}"] = np.asarray(decoded)
    return pictures


def shown_images(page: Page) -> list[np.ndarray]:
    """The pictures as the page shows them, one for each place."""
    stored = stored_images(page)
    shown = [stored[str(use["href"])] for use in page.all("use")]
    labelled = [svg for svg in page.all("svg") if svg.get("class") == "picture"]
    assert len(labelled) == len(shown)
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in labelled)
    return shown


def read_sheets(page: str) -> dict[str, Any]:
    """What the page's script reads, found as a browser finds it: up to the first end of a script."""
    start = page.index('<script type="application/json" id="sheets">')
    return json.loads(page[page.index(">", start) + 1 : page.index("</script", start)])


def test_the_page_is_whole_and_its_pictures_decode(report_data: ReportData) -> None:
    page = Page(render_report(report_data))
    # an example; five prototypes with three views; per explained image itself and two matches of two or four views
    assert len(shown_images(page)) == 2 + 5 * 3 + 3 * (1 + 4 + 2)
    assert page.all("img") == []


def test_equal_pictures_are_stored_once(report_data: ReportData) -> None:
    html = render_report(report_data)
    stored = stored_images(Page(html))
    # two of each prototype with a source and of each match, and the explained image, which is the same for all three;
    # the heat map of prototype 0 is the image of none
    assert len(stored) == 5 * 2 + 2 * 2 + 1
    assert len({picture.tobytes() for picture in stored.values()}) == len(stored)
    hidden = [data for data in read_sheets(html)["pictures"] if data is not None]
    assert len(hidden) == len(set(hidden)) > 0
    assert not any(data in uri for data in hidden for uri in re.findall(r'href="data:([^"]+)"', html))


def test_nothing_is_fetched(report_data: ReportData) -> None:
    html = render_report(report_data)
    page = Page(html)
    assert not page.all("link")
    for _, attributes in page.tags:
        for name in FETCHING & attributes.keys():
            assert str(attributes[name]).startswith(("data:", "#")), attributes
    outside_data = re.sub(r"[A-Za-z0-9+/=]{200,}", "", html)
    for word in ("http", "url(", "@import", "fetch(", "import(", "XMLHttpRequest"):
        assert word not in outside_data


def test_user_text_stays_text(report_data: ReportData) -> None:
    page = Page(render_report(report_data))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert not page.all("i") or all("class" in attributes for attributes in page.all("i"))
    assert "<script>alert(1)</script>" in page.text
    assert "Eichelhäher Šojka" in page.text
    assert 'train/a/"><img src=x onerror=alert(2)>.jpg' in page.text
    assert "run <b>one</b>" in page.text
    assert "A note with <i>markup</i> 松鸦." in page.text
    assert '"</pre><script>alert(3)</script>"' in page.text


def test_ids_are_unique_and_links_lead_somewhere(report_data: ReportData) -> None:
    page = Page(render_report(report_data))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"]).removeprefix("#") for link in page.all("a")} <= set(ids)
    assert all(output["for"] is not None for output in page.all("output"))
    assert {place for output in page.all("output") for place in str(output["for"]).split()} <= set(ids)


def test_the_numbers_are_there(report_data: ReportData) -> None:
    text = Page(render_report(report_data)).text
    assert "Test accuracy 80.0% 12 of 15 images" in text
    assert "Right after the push 65.0% 70.0% before it" in text
    assert "Prototypes 6 of 9 before pruning" in text
    assert f"4.00 {TIMES} 2.00 = 8.00 points" in text
    assert f"2.00 {TIMES} {MINUS}0.50 = {MINUS}1.00 points" in text
    assert "2 prototypes shown 7.00" in text
    assert "0.75" in text
    assert f"3 of other classes, together {MINUS}2.50" in text
    assert "5.25 points" in text
    assert "pruning 6 70.0% \N{EN DASH}" in text


def test_a_pool_shows_every_prototype_once_under_what_uses_it(pool_data: ReportData) -> None:
    page = Page(render_report(pool_data))
    cards = [item for item in page.all("li") if item.get("class") == "card"]
    assert [item["id"] for item in cards] == [f"prototype-{index}" for index in range(6)]
    assert [item["data-classes"] for item in cards] == ["0 1 2", "0 1", "1 2", "0", "2", "none"]
    groups = [item["id"] for item in page.all("section") if item.get("class") == "class-group"]
    assert groups == ["group-shared", "group-single", "group-unused"]
    assert "Shared by several classes 3 prototypes" in page.text
    assert "Used by no class 1 prototype Used by no class, no patch of an image. Prototype 5" in page.text
    assert f"shared by, with weights {CLASSES[0]} 1.50 {CLASSES[1]} 2.50 {CLASSES[2]} 3.50" in page.text
    assert "weight 1.50 for its class" not in page.text
    assert "Prototypes 6 of 9 before pruning, 1 used by no class" in page.text
    assert "Shared 3 by two classes or more" in page.text
    assert "6 prototypes, of which 5 are patches" in page.text


def test_the_pool_tells_which_prototypes_sit_in_the_slots_of_each_class(pool_data: ReportData) -> None:
    page = Page(render_report(pool_data))
    cells = [cell for cell in page.all("td") if str(cell.get("class")).startswith("slot")]
    kinds = ["slot shared"] * 2 + ["slot"] + ["slot shared"] * 3 + ["slot shared", "slot empty", "slot"]
    assert [cell["class"] for cell in cells] == kinds
    links = [link for link in page.all("a") if "aria-label" in link]
    assert [link["href"] for link in links] == [f"#prototype-{index}" for index in (0, 1, 3, 1, 2, 0, 2, 4)]
    assert links[1]["aria-label"] == f"Prototype 1, shared by {CLASSES[0]}, {CLASSES[1]}"
    assert f"slot 0 slot 1 slot 2 {CLASSES[0]} 0 3 classes 1 2 classes 3 {CLASSES[1]} 1 2 classes" in page.text
    assert "3 shared by several classes 0 , 1 , 2 2 used by one class 3 , 4 1 used by no class 5" in page.text
    assert "1 slot is empty, since the prototype there was pruned." in page.text
    assert (
        len(shown_images(page)) == 2 + 5 * 3 + (1 + 4 + 2) + 8
    )  # the example, cards, the explained image, filled slots


def test_an_explanation_names_the_slots_that_spoke_and_says_what_the_similarity_is(pool_data: ReportData) -> None:
    for page in (Page(render_report(pool_data)), Page(render_explanation(pool_data.explanations[0], "run"))):
        assert f"slot 0: prototype 0, shared with {CLASSES[1]}, {CLASSES[2]}" in page.text
        assert "prototype 5, used by no class" in page.text
        assert "3 of other classes or none, together" in page.text
        assert "less that of the image on average" in page.text
        assert "each slot holds one prototype of a pool" in page.text


def test_text_and_links_of_a_pool_are_as_safe_as_those_of_every_page(pool_data: ReportData) -> None:
    test_nothing_is_fetched(pool_data)
    test_user_text_stays_text(pool_data)
    test_ids_are_unique_and_links_lead_somewhere(pool_data)


def test_a_large_pool_is_a_table_of_numbers_and_a_much_used_prototype_folds_its_weights(pool_data: ReportData) -> None:
    classes = tuple(f"class {k}" for k in range(100))
    card = replace(pool_data.prototypes[0], classes=tuple(ClassWeight(k, name, 1.0) for k, name in enumerate(classes)))
    slots = tuple(ClassSlots(class_name=name, prototypes=(0, 0, 0)) for name in classes)
    page = Page(render_report(ReportData(title="large", classes=classes, prototypes=(card,), slots=slots)))
    assert len(shown_images(page)) == 3
    assert "shared by 100 classes, with weights" in page.text
    assert page.text.count("class 99 1.00") == 1


def test_before_the_choices_are_final_no_prototype_counts_as_unused(pool_data: ReportData) -> None:
    cards = tuple(PrototypeCard(index=index, classes=()) for index in range(3))
    page = Page(render_report(ReportData(title="soft", classes=CLASSES, prototypes=cards, still_chooses=True)))
    assert "Not chosen yet 3 prototypes" in page.text
    assert "sed by no class" not in page.text
    assert "The pool" not in page.text


def test_a_page_of_one_class_each_has_no_pool(report_data: ReportData) -> None:
    page = Page(render_report(report_data))
    assert "The pool" not in page.text
    assert "weight 1.50 for its class" in page.text
    groups = [item["id"] for item in page.all("section") if item.get("class") == "class-group"]
    assert groups == ["class-0", "class-1", "class-2"]
    assert "less that of the image on average" not in page.text
    assert "slot" not in page.text


def test_right_wrong_and_unknown_answers_are_told_apart(report_data: ReportData) -> None:
    tags = [str(span.get("class")) for span in Page(render_report(report_data)).all("span")]
    assert tags.count("tag right") == 1
    assert tags.count("tag wrong") == 1
    page = Page(render_explanation(replace(report_data.explanations[0], true_class=None), "run"))
    assert "The right answer is not known here." in page.text


def test_frames_lie_where_the_boxes_are(report_data: ReportData) -> None:
    spans = [span for span in Page(render_report(report_data)).all("span") if span.get("class") == "frame"]
    assert {span["style"] for span in spans} == {"top:25.00%;left:25.00%;height:25.00%;width:50.00%"}


@pytest.mark.parametrize(
    ("sees_part", "words"), [(True, "the model saw this whole area there"), (False, "always the whole picture")]
)
def test_the_page_says_how_much_a_patch_sees(report_data: ReportData, sees_part: bool, words: str) -> None:
    def seen(card: PrototypeCard) -> PrototypeCard:
        if card.picture is None:
            return card
        box = (0, 0, 12, 16) if sees_part else (0, 0, 24, 32)
        return replace(card, picture=replace(card.picture, receptive_field_box=box))

    page = Page(render_report(replace(report_data, prototypes=tuple(map(seen, report_data.prototypes)))))
    assert words in page.text


def test_a_run_without_test_images_push_or_log_still_has_a_page() -> None:
    cards = tuple(PrototypeCard(index=k, classes=(ClassWeight(k, f"class {k}", 1.0),)) for k in range(2))
    data = ReportData(title="bare", classes=("class 0", "class 1"), prototypes=cards, notes=("No push yet.",))
    page = Page(render_report(data))
    assert page.all("img") == []
    assert "not patches of images yet" in page.text
    assert "No push yet." in page.text
    assert "Why these test images" not in page.text


def test_many_classes_get_a_list_of_mistakes_instead_of_a_matrix() -> None:
    classes = tuple(f"class {k}" for k in range(40))
    counts = np.eye(40, dtype=int) * 3
    counts[7, 9], counts[3, 1] = 2, 1
    data = ReportData(title="many", classes=classes, prototypes=(), confusion=Confusion(counts=counts))
    page = Page(render_report(data))
    assert not any(table.get("class") == "confusion" for table in page.all("table"))
    assert "class 7 class 9 2 class 3 class 1 1" in page.text


def test_a_total_of_zero_and_no_matches_are_drawn(explained: ExplainedImage) -> None:
    one = ClassPoints(
        class_index=0,
        class_name="zero",
        total=0.0,
        probability=0.5,
        matches=(),
        own_points=-1e-9,
        num_own=1,
        foreign_points=0.0,
        num_foreign=0,
        num_speaking=1,
    )
    text = Page(render_explanation(replace(explained, classes=(one,)), "run")).text
    assert "0.00 points" in text
    assert f"{MINUS}0.00" not in text


def test_prototypes_that_are_left_out_have_a_line_only_where_there_are_any(explained: ExplainedImage) -> None:
    one = explained.classes[0]
    text = Page(render_explanation(explained, "run")).text
    assert "1 more of" in text
    assert "3 of other classes, together" in text
    alone = replace(one, num_own=0, own_points=0.0, num_foreign=0, foreign_points=0.0)
    text = Page(render_explanation(replace(explained, classes=(alone,)), "run")).text
    assert "more of" not in text
    assert "of other classes, together" not in text
    assert [line for line in summarise(replace(explained, classes=(alone,))) if "together" in line] == []


def test_pages_are_written_at_once_and_leave_nothing_else(
    report_data: ReportData, explained: ExplainedImage, tmp_path: Path
) -> None:
    write_report(report_data, tmp_path / "report" / "index.html")
    write_explanation(explained, "run", tmp_path / "one.html")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["index.html", "one.html", "report"]
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8") == render_report(report_data)


def test_pictures_beside_the_page_are_files_that_are_read_as_they_come_into_view(
    report_data: ReportData, tmp_path: Path
) -> None:
    path = tmp_path / "report" / "index.html"
    write_report(report_data, path, pictures="beside")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    used = {str(image["src"]) for image in page.all("img")}
    used |= {f"pictures/{name}" for name in read_sheets(html)["pictures"]}
    written = {file.relative_to(path.parent).as_posix() for file in (path.parent / "pictures").iterdir()}
    assert used == written
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report"]
    for image in page.all("img"):
        assert image["loading"] == "lazy"
        assert (image["width"], image["height"]) == ("32", "24")
        assert image["alt"]
    assert "data:image" not in html.replace("`data:image/jpeg;base64,${name}`", "")
    write_report(report_data, path)
    assert not (path.parent / "pictures").exists()


def test_large_pages_have_their_pictures_beside_them(
    report_data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MOST_INSIDE", 1000)
    write_report(report_data, tmp_path / "index.html")
    assert (tmp_path / "pictures").exists()
    write_report(report_data, tmp_path / "index.html", pictures="inside")
    assert not (tmp_path / "pictures").exists()
    monkeypatch.setattr(page_module, "LARGEST_PAGE", 1000)
    with pytest.raises(ValueError, match="pictures: must be 'auto' or 'beside' for 0 MB of pictures, for one page"):
        write_report(report_data, tmp_path / "index.html", pictures="inside")


def test_the_page_says_what_mattered(report_data: ReportData) -> None:
    page = Page(render_report(report_data))
    assert "For 2 of 2 prototypes the colour (hue) matters most." in page.text
    assert f"shape 0.10 0 texture {MINUS}0.05 0" in page.text
    assert "because of colour (hue)" in page.text
    sentence = "Mostly because of its colour (hue): changing that takes 0.80 off the similarity."
    assert page.text.count(sentence) == 3 + 1  # three explanations, and the example
    bare = replace(report_data, prototypes=report_data.prototypes[2:], explanations=())
    assert "This looks like that, because" not in Page(render_report(bare)).text


def test_the_page_explains_itself_by_an_example(report_data: ReportData) -> None:
    text = Page(render_report(report_data)).text
    assert f"This picture was called {CLASSES[0]} because its framed part looks like prototype 0" in text
    assert f"gives 4.00 {TIMES} 2.00 = 8.00 points" in text
    assert "The highest total is the answer, and this one is right" in text
    wrong = replace(report_data, explanations=report_data.explanations[1:2])
    assert "The highest total is the answer, here a wrong one" in Page(render_report(wrong)).text
    none = Page(render_report(replace(report_data, explanations=())))
    assert "How to read this page" in none.text
    assert "This picture was called" not in none.text


def test_a_pool_says_which_similarities_have_no_average_taken_off(pool_data: ReportData) -> None:
    words = "that similarity is of the place alone, before that of the image on average comes off"
    assert words in Page(render_report(pool_data)).text
    assert words in Page(render_report(replace(pool_data, explanations=()))).text
    assert words not in Page(render_report(replace(pool_data, is_focal=False))).text


def test_what_similarity_means_where_patches_count_by_their_salience(pool_data: ReportData) -> None:
    words = "It is multiplied by how much the part stands out in its picture"
    assert words in Page(render_report(replace(pool_data, is_salient=True))).text
    assert words not in Page(render_report(pool_data)).text
