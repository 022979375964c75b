"""What is said of prototypes, weights and answers that mislead; small cases by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.models import ProtoPNet, ProtoPool
from protokern.push import PushResult
from protokern.results.scores import score_classes
from protokern.runs.quality import answer_warnings, copied_prototypes, model_warnings

CLASSES = ("hat", "dress")


def net(prototypes: list[float], weight: list[list[float]] | None = None) -> ProtoPNet:
    """Two classes with half of the prototypes each, of depth 1."""
    model = ProtoPNet(
        nn.Identity(), 2, prototypes_per_class=len(prototypes) // 2, prototype_dim=1, in_channels=1, image_size=4
    )
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor(prototypes)[:, None])
        if weight is not None:
            model.last_layer.weight.copy_(torch.tensor(weight))
    return model


def pushed(images: list[int], patches: list[int]) -> PushResult:
    nothing = torch.zeros(len(images))
    return PushResult(
        image=torch.tensor(images), patch=torch.tensor(patches), distance=nothing, label=nothing.long(), grid=(2, 2)
    )


def test_distinct_prototypes_have_no_warning() -> None:
    model = net([0.1, 0.2, 0.3, 0.4])
    assert model_warnings(model, pushed([0, 0, 1, 2], [0, 1, 0, 0]), CLASSES) == ()
    assert model_warnings(model, None, CLASSES) == ()


def test_copies_are_equal_vectors_or_one_patch_of_one_image() -> None:
    """1 and 2 are equal in numbers; 2 and 3 come from one place although rounding told them apart."""
    model = net([0.1, 0.2, 0.2, 0.20001, 0.5, 0.6, 0.7, 0.8])
    push = pushed([0, 1, 2, 2, 4, 5, 6, -1], [0, 0, 3, 3, 0, 0, 0, -1])
    assert copied_prototypes(model, push) == {2: 1, 3: 1}
    assert copied_prototypes(model, None) == {2: 1}
    (text,) = model_warnings(model, push, CLASSES)
    assert text == (
        "2 of 8 prototypes are copies of another one, the same patch of the same image: 2 is 1 again, 3 is 1 again. "
        "There are 6 distinct ones, and each counts as often as it is there. Give more training images or a smaller "
        "model.prototypes_per_class, or drop the copies with 'protokern prune RUN --drop'."
    )


def test_prototypes_of_two_classes_are_no_copies_of_each_other() -> None:
    assert copied_prototypes(net([0.3, 0.1, 0.3, 0.2]), None) == {}


def test_prototypes_without_a_patch_are_not_one_patch() -> None:
    assert copied_prototypes(net([0.1, 0.2, 0.3, 0.4]), pushed([-1, -1, 0, 1], [-1, -1, 0, 0])) == {}


def test_weights_to_other_classes_that_outweigh_the_own_are_named() -> None:
    model = net([0.1, 0.2, 0.3, 0.4], [[1.0, 1.5, -52.0, 0.0], [-0.5, 3.0, 1.25, 1.0]])
    (text,) = model_warnings(model, None, CLASSES)
    assert text.startswith(
        "2 of 4 prototypes weigh more for or against another class than for their own: most of all prototype 2, with "
        "-52.00 for hat and 1.25 for its own. Answers are then made of what speaks against other classes. Lower "
        "train.last_layer_bound"
    )


def test_prototypes_against_their_own_class_are_named() -> None:
    model = net([0.1, 0.2, 0.3, 0.4], [[1.0, -0.6, 0.0, 0.0], [0.0, 0.1, 1.0, 0.0]])
    (text,) = model_warnings(model, None, CLASSES)
    assert text.startswith(
        "2 of 4 prototypes do not speak for their own class, with a weight of 0 or below: 1, 3. Drop"
    )


def test_a_pool_that_still_chooses_has_nothing_to_look_at() -> None:
    assert (
        model_warnings(
            ProtoPool(nn.Identity(), 2, num_prototypes=4, slots_per_class=2, prototype_dim=3, in_channels=3),
            None,
            CLASSES,
        )
        == ()
    )


@pytest.mark.filterwarnings("error")
def test_prototypes_that_no_class_of_a_pool_uses_weigh_nothing() -> None:
    model = ProtoPool(
        nn.Identity(), 2, num_prototypes=4, slots_per_class=2, prototype_dim=3, in_channels=3, image_size=4
    )
    model.harden()
    assert model_warnings(model, None, CLASSES) == ()


def test_classes_that_are_never_the_answer_are_named() -> None:
    scores = score_classes(torch.tensor([[20, 0], [1, 0]]))
    assert answer_warnings(scores, CLASSES) == (
        "1 of 2 classes is never the answer to a test image: dress (1 image). Give more training images of it; where "
        "a class is rare, the accuracy hides it.",
    )


def test_classes_without_a_right_answer_are_named() -> None:
    scores = score_classes(torch.tensor([[0, 4], [2, 6]]))
    (text,) = answer_warnings(scores, CLASSES, "validation")
    assert text.startswith("Of 1 of 2 classes no validation image gets the right answer: hat (4 images). The confusion")


def test_good_answers_and_classes_without_images_have_no_warning() -> None:
    assert answer_warnings(score_classes(torch.tensor([[4, 1], [0, 6]])), CLASSES) == ()
    assert answer_warnings(score_classes(torch.tensor([[4, 0], [0, 0]])), CLASSES) == ()
