from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from protokern.explain import Box, SufficientFrame, explain_image, frame_explanation, sufficient_frame
from protokern.explain.framing import drawn_box
from tests.explain.small_models import small_model


def frame_with(box: Box | None) -> SufficientFrame:
    return SufficientFrame(box=box, similarity=1.0, kept_grey=0.9, kept_blur=0.9, kept_other=None, area=0.1, passes=3)


@dataclass
class Place:
    sufficient: SufficientFrame | None
    activation_box: Box
    patch_box: Box


@pytest.mark.parametrize(
    ("frame", "sufficient", "box"),
    [
        ("sufficient", frame_with(Box(2, 2, 4, 4)), Box(2, 2, 4, 4)),
        ("sufficient", frame_with(None), Box(1, 1, 5, 5)),
        ("sufficient", None, Box(1, 1, 5, 5)),
        ("grid", frame_with(Box(2, 2, 4, 4)), Box(1, 1, 5, 5)),
        ("paper", frame_with(Box(2, 2, 4, 4)), Box(0, 0, 9, 9)),
    ],
)
def test_the_frame_is_the_box_that_was_asked_for(frame: str, sufficient: SufficientFrame | None, box: Box) -> None:
    assert drawn_box(Place(sufficient, Box(0, 0, 9, 9), Box(1, 1, 5, 5)), frame) == box


def test_the_views_of_the_chosen_classes_are_framed_and_nothing_else_changes() -> None:
    model = small_model()
    image, other = torch.rand(3, 24, 40), torch.rand(3, 24, 40)
    plain = explain_image(model, image, top=3)
    first, second, third = (one.class_index for one in plain.classes)
    framed = frame_explanation(model, image, plain, classes=(first, second), other=other)
    shown_in_full = {e.view.prototype for one in plain.classes if one.class_index != third for e in one.evidence}
    for before, after in zip(plain.classes, framed.classes, strict=True):
        for one, two in zip(before.evidence, after.evidence, strict=True):
            assert one.view.sufficient is None
            assert (one.points, one.view.patch, one.view.patch_box) == (two.points, two.view.patch, two.view.patch_box)
            assert (two.view.sufficient is not None) == (two.view.prototype in shown_in_full)
            if two.view.sufficient is not None:
                alone = sufficient_frame(model, image, two.view.prototype, two.view.patch, other=other)
                assert two.view.sufficient.similarity == pytest.approx(two.similarity, rel=1e-5)
                assert two.view.sufficient.box.area <= alone.box.area
                assert two.view.sufficient.kept_other is not None
