"""The numbers that pages and figures show add up to the logit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from protokern.explain.images import explain_for_people
from protokern.explain.prototypes import describe_prototypes
from protokern.models.base import PrototypeModel
from protokern.report.figure import write_figure
from protokern.results.explanations import Explanation
from tests.explain.small_models import small_model, small_pool

CLASSES = ("wren", "jay", "tit", "owl")
MODELS = {
    "protopnet": small_model,
    "pool": small_pool,
    "pool-of-similarities": lambda: small_pool(focal="similarity", last_layer="sum"),
}


def explain(model: PrototypeModel, true_class: int | None = None) -> tuple[Explanation, torch.Tensor]:
    image = torch.rand(3, 24, 40)
    cards = describe_prototypes(model, CLASSES, None)
    item = explain_for_people(model, image, "bird.jpg", CLASSES, cards, true_class=true_class)
    with torch.no_grad():
        return item, model(image[None]).logits[0]


@pytest.mark.parametrize("name", MODELS)
def test_points_shown_and_folded_away_add_up_to_the_logit_of_every_class(name: str) -> None:
    model = MODELS[name]()
    seen = set()
    for true_class in (None, *range(4)):
        item, logits = explain(model, true_class)
        for one in item.classes:
            seen.add(one.class_index)
            shown = sum(match.points for match in one.evidence)
            assert shown + one.own_points + one.foreign_points == pytest.approx(one.total, abs=1e-5)
            assert one.total == pytest.approx(float(logits[one.class_index]), abs=1e-5)
            assert len(one.evidence) + one.num_own + one.num_foreign == model.num_prototypes
            for match in one.evidence:
                assert match.points == match.similarity * match.weight
    assert seen == set(range(4))


@pytest.mark.parametrize("name", ["protopnet", "pool"])
def test_the_numbers_in_a_figure_add_up_to_its_total(name: str, tmp_path: Path) -> None:
    item, _ = explain(MODELS[name]())
    write_figure(item, tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    points = [float(word.split()[0]) for word in words if re.fullmatch(r"-?[\d.]+ points", word)]
    folded = [float(word.split()[0]) for word in words if re.match(r"-?[\d.]+ +\d+ ", word)]
    (total,) = (float(word.split()[0]) for word in words if word.endswith("points in all"))
    shown = item.classes[0]
    assert len(points) == 3
    assert len(folded) == (shown.num_own > 0) + (shown.num_foreign > 0) > 0
    # every number is rounded to two decimals
    assert sum(points) + sum(folded) == pytest.approx(total, abs=0.005 * 6)
