"""What the script draws on a page: the words, numbers, pictures and marks that a reader meets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protokern.report.page import render_explanation, render_report
from protokern.report.text import explanation_lines
from protokern.results.explanations import Explanation
from protokern.results.prototypes import ClassSlots, ClassWeight, Prototype
from protokern.results.run import Confusion, Report
from tests.report.browser.conftest import Drawn
from tests.report.conftest import CLASSES, make_class

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
FETCHING = {"src", "href", "srcset", "poster", "data", "action", "xlink:href"}
Draw = Callable[[str], Drawn]


def test_the_page_is_whole_and_its_pictures_decode(draw: Draw, report_data: Report) -> None:
    page = draw(render_report(report_data))
    # an example; five prototypes with three views; per explained image itself and two matches of two or four views
    assert len(page.pictures) == 2 + 5 * 3 + 3 * (1 + 4 + 2)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.pictures)


def test_nothing_is_fetched(draw: Draw, report_data: Report) -> None:
    html = render_report(report_data)
    page = draw(html)
    assert not page.all("link")
    for _, attributes in page.tags:
        for name in FETCHING & attributes.keys():
            assert str(attributes[name]).startswith(("data:", "#")), attributes
    outside_data = re.sub(r"[A-Za-z0-9+/=]{200,}", "", html)
    for word in ("http", "url(", "@import", "fetch(", "import(", "XMLHttpRequest"):
        assert word not in outside_data


def test_user_text_stays_text(draw: Draw, report_data: Report) -> None:
    page = draw(render_report(report_data))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert not page.all("i") or all("class" in attributes for attributes in page.all("i"))
    assert "<script>alert(1)</script>" in page.text
    assert "Eichelhäher Šojka" in page.text
    assert 'train/a/"><img src=x onerror=alert(2)>.jpg' in page.text
    assert "run <b>one</b>" in page.text
    assert "A note with <i>markup</i> 松鸦." in page.text
    assert '"</pre><script>alert(3)</script>"' in page.text


def test_ids_are_unique_and_links_lead_somewhere(draw: Draw, report_data: Report) -> None:
    page = draw(render_report(report_data))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"]).removeprefix("#") for link in page.all("a")} <= set(ids)
    assert all(output["for"] is not None for output in page.all("output"))
    assert {place for output in page.all("output") for place in str(output["for"]).split()} <= set(ids)


def test_the_numbers_are_there(draw: Draw, report_data: Report) -> None:
    text = draw(render_report(report_data)).text
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


def test_a_pool_shows_every_prototype_once_under_what_uses_it(draw: Draw, pool_data: Report) -> None:
    page = draw(render_report(pool_data))
    cards = [item for item in page.all("li") if item.get("class") == "card"]
    assert [item["id"] for item in cards] == [f"prototype-{index}" for index in range(6)]
    groups = [item["id"] for item in page.all("section") if item.get("class") == "class-group"]
    assert groups == ["group-shared", "group-single", "group-unused"]
    assert "Shared by several classes 3 prototypes" in page.text
    assert "Used by no class 1 prototype Used by no class, no patch of an image. Prototype 5" in page.text
    assert f"shared by, with weights {CLASSES[2]} 3.50 {CLASSES[1]} 2.50 {CLASSES[0]} 1.50" in page.text
    assert "weight 1.50 for its class" not in page.text
    assert "Prototypes 6 of 9 before pruning, 1 used by no class" in page.text
    assert "Shared 3 by two classes or more" in page.text
    assert "6 prototypes, of which 5 are patches" in page.text


def test_the_pool_tells_which_prototypes_sit_in_the_slots_of_each_class(draw: Draw, pool_data: Report) -> None:
    page = draw(render_report(pool_data))
    cells = [cell for cell in page.all("td") if str(cell.get("class")).startswith("slot")]
    kinds = ["slot shared"] * 2 + ["slot"] + ["slot shared"] * 3 + ["slot shared", "slot empty", "slot"]
    assert [cell["class"] for cell in cells] == kinds
    links = [link for link in page.all("a") if "aria-label" in link]
    assert [link["href"] for link in links] == [f"#prototype-{index}" for index in (0, 1, 3, 1, 2, 0, 2, 4)]
    assert links[1]["aria-label"] == f"Prototype 1, shared by {CLASSES[0]}, {CLASSES[1]}"
    assert f"slot 0 slot 1 slot 2 {CLASSES[0]} 0 3 classes 1 2 classes 3 {CLASSES[1]} 1 2 classes" in page.text
    assert "3 shared by several classes 0 , 1 , 2 2 used by one class 3 , 4 1 used by no class 5" in page.text
    assert "1 slot is empty, since the prototype there was pruned." in page.text
    assert len(page.pictures) == 2 + 5 * 3 + (1 + 4 + 2) + 8  # the example, cards, the explained image, filled slots


def test_an_explanation_names_the_slots_that_spoke_and_says_what_the_similarity_is(
    draw: Draw, pool_data: Report
) -> None:
    for page in (draw(render_report(pool_data)), draw(render_explanation(pool_data.explanations[0], "run"))):
        assert f"slot 0: prototype 0, shared with {CLASSES[1]}, {CLASSES[2]}" in page.text
        assert "prototype 5, used by no class" in page.text
        assert "3 of other classes or none, together" in page.text
        assert "less that of the image on average" in page.text
        assert "each slot holds one prototype of a pool" in page.text


def test_text_and_links_of_a_pool_are_as_safe_as_those_of_every_page(draw: Draw, pool_data: Report) -> None:
    test_nothing_is_fetched(draw, pool_data)
    test_user_text_stays_text(draw, pool_data)
    test_ids_are_unique_and_links_lead_somewhere(draw, pool_data)


def test_a_large_pool_is_a_table_of_numbers_and_a_much_used_prototype_folds_its_weights(
    draw: Draw, pool_data: Report
) -> None:
    classes = tuple(f"class {k}" for k in range(100))
    card = replace(pool_data.prototypes[0], classes=tuple(ClassWeight(k, name, 1.0) for k, name in enumerate(classes)))
    slots = tuple(ClassSlots(class_name=name, prototypes=(0, 0, 0)) for name in classes)
    page = draw(render_report(Report(title="large", classes=classes, prototypes=(card,), slots=slots)))
    assert len(page.pictures) == 3
    assert "shared by 100 classes, with weights" in page.text
    assert page.text.count("class 99 1.00") == 1


def test_before_the_choices_are_final_no_prototype_counts_as_unused(draw: Draw, pool_data: Report) -> None:
    cards = tuple(Prototype(index=index, classes=()) for index in range(3))
    page = draw(render_report(Report(title="soft", classes=CLASSES, prototypes=cards, still_chooses=True)))
    assert "Not chosen yet 3 prototypes" in page.text
    assert "sed by no class" not in page.text
    assert "The pool" not in page.text


def test_a_page_of_one_class_each_has_no_pool(draw: Draw, report_data: Report) -> None:
    page = draw(render_report(report_data))
    assert "The pool" not in page.text
    assert "weight 1.50 for its class" in page.text
    groups = [item["id"] for item in page.all("section") if item.get("class") == "class-group"]
    assert groups == ["class-0", "class-1", "class-2"]
    assert "less that of the image on average" not in page.text
    assert "slot" not in page.text


def test_right_wrong_and_unknown_answers_are_told_apart(draw: Draw, report_data: Report) -> None:
    tags = [str(span.get("class")) for span in draw(render_report(report_data)).all("span")]
    assert tags.count("tag right") == 1
    assert tags.count("tag wrong") == 1
    page = draw(render_explanation(replace(report_data.explanations[0], true_class=None), "run"))
    assert "The right answer is not known here." in page.text


def test_frames_lie_where_the_boxes_are(draw: Draw, report_data: Report) -> None:
    spans = [span for span in draw(render_report(report_data)).all("span") if span.get("class") == "frame"]
    assert {span["style"] for span in spans} == {"top: 25%; left: 25%; height: 25%; width: 50%;"}


@pytest.mark.parametrize(
    ("sees_part", "words"), [(True, "the model saw this whole area there"), (False, "always the whole picture")]
)
def test_the_page_says_how_much_a_patch_sees(draw: Draw, report_data: Report, sees_part: bool, words: str) -> None:
    def seen(card: Prototype) -> Prototype:
        if card.picture is None:
            return card
        box = (0, 0, 12, 16) if sees_part else (0, 0, 24, 32)
        return replace(card, picture=replace(card.picture, receptive_field_box=box))

    page = draw(render_report(replace(report_data, prototypes=tuple(map(seen, report_data.prototypes)))))
    assert words in page.text


def test_a_run_without_test_images_push_or_log_still_has_a_page(
    draw: Draw,
) -> None:
    cards = tuple(Prototype(index=k, classes=(ClassWeight(k, f"class {k}", 1.0),)) for k in range(2))
    data = Report(title="bare", classes=("class 0", "class 1"), prototypes=cards, notes=("No push yet.",))
    page = draw(render_report(data))
    assert page.all("img") == []
    assert "not patches of images yet" in page.text
    assert "No push yet." in page.text
    assert "Why these test images" not in page.text


def test_many_classes_get_a_list_of_mistakes_instead_of_a_matrix(
    draw: Draw,
) -> None:
    classes = tuple(f"class {k}" for k in range(40))
    counts = np.eye(40, dtype=int) * 3
    counts[7, 9], counts[3, 1] = 2, 1
    data = Report(title="many", classes=classes, prototypes=(), confusion=Confusion(counts=counts))
    page = draw(render_report(data))
    assert not any(table.get("class") == "confusion" for table in page.all("table"))
    assert "class 7 class 9 2 class 3 class 1 1" in page.text


def test_a_total_of_zero_and_no_matches_are_drawn(draw: Draw, explained: Explanation) -> None:
    one = replace(make_class(0, (), own_points=-1e-9, num_own=1, num_speaking=1), class_name="zero")
    text = draw(render_explanation(replace(explained, classes=(one,)), "run")).text
    assert "0.00 points" in text
    assert f"{MINUS}0.00" not in text


def test_prototypes_that_are_left_out_have_a_line_only_where_there_are_any(draw: Draw, explained: Explanation) -> None:
    one = explained.classes[0]
    text = draw(render_explanation(explained, "run")).text
    assert "1 more of" in text
    assert "3 of other classes, together" in text
    alone = replace(one, num_own=0, own_points=0.0, num_foreign=0, foreign_points=0.0)
    text = draw(render_explanation(replace(explained, classes=(alone,)), "run")).text
    assert "more of" not in text
    assert "of other classes, together" not in text
    assert [line for line in explanation_lines(replace(explained, classes=(alone,))) if "together" in line] == []


def test_the_page_says_what_mattered(draw: Draw, report_data: Report) -> None:
    page = draw(render_report(report_data))
    assert "For 2 of 2 prototypes the colour (hue) matters most." in page.text
    assert f"shape 0.10 0 texture {MINUS}0.05 0" in page.text
    assert "because of colour (hue)" in page.text
    sentence = "Mostly because of its colour (hue): changing that takes 0.80 off the similarity."
    assert page.text.count(sentence) == 3 + 1  # three explanations, and the example
    bare = replace(report_data, prototypes=report_data.prototypes[2:], explanations=())
    assert "This looks like that, because" not in draw(render_report(bare)).text


def test_the_page_explains_itself_by_an_example(draw: Draw, report_data: Report) -> None:
    text = draw(render_report(report_data)).text
    assert f"This picture was called {CLASSES[0]} because its framed part looks like prototype 0" in text
    assert f"gives 4.00 {TIMES} 2.00 = 8.00 points" in text
    assert "The highest total is the answer, and this one is right" in text
    wrong = replace(report_data, explanations=report_data.explanations[1:2])
    assert "The highest total is the answer, here a wrong one" in draw(render_report(wrong)).text
    none = draw(render_report(replace(report_data, explanations=())))
    assert "How to read this page" in none.text
    assert "This picture was called" not in none.text


def test_a_pool_says_which_similarities_have_no_average_taken_off(draw: Draw, pool_data: Report) -> None:
    words = "that similarity is of the place alone, before that of the image on average comes off"
    assert words in draw(render_report(pool_data)).text
    assert words in draw(render_report(replace(pool_data, explanations=()))).text
    assert words not in draw(render_report(replace(pool_data, is_focal=False))).text


def test_what_similarity_means_where_patches_count_by_their_salience(draw: Draw, pool_data: Report) -> None:
    words = "It is multiplied by how much the part stands out in its picture"
    assert words in draw(render_report(replace(pool_data, is_salient=True))).text
    assert words not in draw(render_report(pool_data)).text
