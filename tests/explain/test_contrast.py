"""Why one class and not another: differences of points that add up to the difference of the logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protokern.explain import explain_image
from protokern.explain.images import explain_for_people
from protokern.explain.prototypes import describe_prototypes
from protokern.explain.shown import Contrast
from protokern.models import ProtoTree
from tests.explain.small_models import small_model, small_pool
from tests.explain.test_paths import tree as tree
from tests.explain.test_shown import Frames
from tests.report.test_page import read_page

CLASSES = ("wren", "jay", "tit", "owl")


def contrast_of(a: str = "jay", b: str = "owl", *, top: int = 4) -> tuple[Contrast, torch.Tensor, torch.Tensor]:
    model, image = small_model(), torch.rand(3, 24, 40)
    item = explain_for_people(model, image, "bird.jpg", CLASSES, describe_prototypes(model, CLASSES, None))
    with torch.no_grad():
        return item.contrast(a, b, top=top), model(image[None]).logits[0], model.last_layer.weight.detach()


def test_the_differences_add_up_to_that_of_the_logits() -> None:
    contrast, logits, weight = contrast_of()
    assert contrast.difference == pytest.approx(float(logits[1] - logits[3]), abs=1e-5)
    assert len(contrast.rows) == 4
    assert contrast.num_other == 8
    assert sum(row.difference for row in contrast.rows) + contrast.other_difference == pytest.approx(
        contrast.difference, abs=1e-6
    )
    sizes = [abs(row.difference) for row in contrast.rows]
    assert sizes == sorted(sizes, reverse=True)
    for row in contrast.rows:
        j = row.evidence.view.prototype
        assert row.weight_a == float(weight[1, j])
        assert row.weight_b == float(weight[3, j])
        assert row.points_a == row.evidence.similarity * row.weight_a
        assert row.evidence.prototype.classes[0].class_name == CLASSES[j // 3]


def test_classes_may_be_given_by_index_and_the_other_way_round_has_the_other_sign() -> None:
    contrast, _, _ = contrast_of()
    model, image = small_model(), torch.rand(3, 24, 40)
    item = explain_image(model, image)
    assert item.contrast(3, 1).difference == -item.contrast(1, 3).difference
    assert item.contrast("class 3", "class 1").to_dict() == item.contrast(3, 1).to_dict()
    assert repr(contrast) == f"Contrast of bird.jpg: jay and not owl, {contrast.difference:.2f} points"


def test_it_says_itself_in_words_and_shows_itself_as_a_page(tmp_path: Path) -> None:
    contrast, _, _ = contrast_of()
    lines = str(contrast).splitlines()
    assert lines[0] == (
        f"bird.jpg: jay and not owl: {contrast.total_a:.2f} - {contrast.total_b:.2f} = {contrast.difference:.2f} points"
    )
    assert len(lines) == 1 + 4 + 1
    assert lines[-1].endswith("8 other prototypes, together")
    (frame,) = Frames(contrast._repr_html_()).found
    page = read_page(str(frame["srcdoc"]))
    assert page["item"]["answer"] == "jay and not owl"
    rows = page["item"]["first"]
    assert len(rows["reasons"]) == sum(row.difference > 0 for row in contrast.rows)
    assert len(rows["reasons"]) + len(rows["no_reasons"]) == 4
    assert all(match["against"] for match in rows["no_reasons"])
    contrast.save(tmp_path / "one.html")
    assert (tmp_path / "one.html").read_text(encoding="utf-8") == frame["srcdoc"]


def test_to_dict_has_all_numbers() -> None:
    contrast, _, _ = contrast_of(top=2)
    table = contrast.to_dict()
    assert (table["a"], table["b"], table["num_other"]) == ("jay", "owl", 10)
    assert table["difference"] == contrast.total_a - contrast.total_b
    assert [row["difference"] for row in table["prototypes"]] == [row.difference for row in contrast.rows]


def test_shared_prototypes_say_the_difference_of_their_weights() -> None:
    model, image = small_pool(), torch.rand(3, 24, 40)
    item = explain_image(model, image)
    contrast = item.contrast(0, 1, top=7)
    with torch.no_grad():
        logits = model(image[None]).logits[0]
    assert sum(row.difference for row in contrast.rows) == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)


def test_what_cannot_be_contrasted_is_refused() -> None:
    item = explain_image(small_model(), torch.rand(3, 24, 40))
    with pytest.raises(ValueError, match=r"a: must be a class, one of class 0, .*; got 'wrem'. Check the spelling"):
        item.contrast("wrem", "class 1")
    with pytest.raises(ValueError, match=r"b: must be a class, .*; got 4"):
        item.contrast(0, 4)
    with pytest.raises(ValueError, match="b: must be another class than a; got 'class 2' twice"):
        item.contrast(2, "class 2")
    with pytest.raises(ValueError, match="top: must be at least 1; got 0"):
        item.contrast(0, 1, top=0)


def test_a_tree_is_asked_for_its_decisions_instead(tree: ProtoTree) -> None:
    with pytest.raises(ValueError, match="contrast: must be asked of a model whose reasons are points"):
        explain_image(tree, torch.rand(3, 24, 40)).contrast(0, 1)
