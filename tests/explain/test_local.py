from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.explain.boxes import activation_box, patch_box
from protokern.explain.local import EXPLAINED_CLASSES, explain_image
from protokern.results.places import Box
from tests.explain.small_models import small_model, small_pool


@pytest.mark.parametrize(("in_channels", "size"), [(3, (32, 32)), (1, (24, 40)), (5, (17, 19))])
def test_points_of_all_prototypes_sum_to_the_logits(in_channels: int, size: tuple[int, int]) -> None:
    model = small_model(in_channels=in_channels)
    image = torch.rand(in_channels, *size)
    explanation = explain_image(model, image, top=2, classes=range(4))
    with torch.no_grad():
        logits = model(image[None]).logits[0].numpy()
    np.testing.assert_allclose(explanation.logits, logits, rtol=0, atol=1e-6)
    np.testing.assert_allclose(explanation.points.sum(axis=0), logits, rtol=0, atol=1e-5)
    for one in explanation.classes:
        shown = sum(evidence.points for evidence in one.evidence)
        assert shown + one.other_points == pytest.approx(one.logit, abs=1e-5)
        assert len(one.evidence) + one.num_other == 12


def test_evidence_is_similarity_times_weight_at_the_nearest_patch() -> None:
    model = small_model()
    image = torch.rand(3, 32, 32)
    explanation = explain_image(model, image)
    with torch.no_grad():
        output = model(image[None])
    one = explanation.classes[0]
    assert one.class_index == explanation.predicted == int(output.logits.argmax())
    assert len(one.evidence) == 10
    absolute = [abs(evidence.points) for evidence in one.evidence]
    assert absolute == sorted(absolute, reverse=True)
    for evidence in one.evidence:
        j = evidence.view.prototype
        assert evidence.points == evidence.similarity * evidence.weight
        assert evidence.similarity == pytest.approx(float(output.activations[0, j]))
        assert evidence.distance == pytest.approx(float(output.min_distances[0, j]))
        assert evidence.weight == pytest.approx(model.last_layer.weight[one.class_index, j].item())
        assert evidence.prototype_classes == (j // 3,)
        assert evidence.slots == ()
        row, column = evidence.view.patch
        assert row * 8 + column == int(output.patches[0, j])


@pytest.mark.parametrize("num_speaking", [12, 4, 1, 0])
def test_prototypes_that_say_nothing_about_a_class_are_not_shown(num_speaking: int) -> None:
    model = small_model()
    with torch.no_grad():
        model.last_layer.weight[:, num_speaking:] = 0
    for one in explain_image(model, torch.rand(3, 32, 32)).classes:
        # One stays when all are silent, so that there is something to look at.
        assert len(one.evidence) == min(max(num_speaking, 1), 10)
        assert len(one.evidence) + one.num_other == 12
        assert all(evidence.points for evidence in one.evidence) == (num_speaking > 0)


@pytest.mark.parametrize("last_layer", ["linear", "sum"])
@pytest.mark.parametrize("focal", ["distance", "similarity"])
def test_points_of_a_shared_pool_sum_to_the_logits(focal: str, last_layer: str) -> None:
    model = small_pool(focal=focal, last_layer=last_layer)
    image = torch.rand(3, 24, 40)
    explanation = explain_image(model, image, top=3, classes=range(4))
    with torch.no_grad():
        output = model(image[None])
    np.testing.assert_allclose(explanation.points.sum(axis=0), output.logits[0].numpy(), rtol=0, atol=1e-5)
    for one in explanation.classes:
        assert sum(evidence.points for evidence in one.evidence) + one.other_points == pytest.approx(
            one.logit, abs=1e-5
        )
        for evidence in one.evidence:
            assert evidence.points == evidence.similarity * evidence.weight
            focal_similarity = float(output.activations[0, evidence.view.prototype])
            assert evidence.similarity == pytest.approx(focal_similarity)


def test_evidence_of_a_pool_names_all_classes_of_the_prototype_and_its_slots_in_the_explained_one() -> None:
    explanation = explain_image(small_pool(), torch.rand(3, 32, 32), top=7, classes=range(4))
    classes = {0: (0, 1, 2), 1: (0, 2), 2: (0,), 3: (1,), 4: (1, 3), 5: (2, 3)}  # 6 is in no slot
    slots = {(0, 0): (0,), (0, 1): (1,), (0, 2): (2,), (1, 3): (0,), (1, 0): (1,), (1, 4): (2,)}
    slots |= {(2, 1): (0,), (2, 5): (1,), (2, 0): (2,), (3, 5): (0,), (3, 4): (1,)}
    for one in explanation.classes:
        assert sorted(evidence.view.prototype for evidence in one.evidence) == list(range(6))
        for evidence in one.evidence:
            j = evidence.view.prototype
            assert evidence.prototype_classes == classes[j]
            assert evidence.slots == slots.get((one.class_index, j), ())
    assert not explanation.points[6].any()


def test_the_heat_map_of_a_pool_is_the_activation_and_not_the_focal_similarity() -> None:
    model = small_pool()
    image = torch.rand(3, 32, 32)
    evidence = explain_image(model, image, top=1).classes[0].evidence[0]
    with torch.no_grad():
        layer = model.prototype_layer
        activation = layer.activate(layer.distance_map(model.features(image[None])))[:, evidence.view.prototype]
    row, column = evidence.view.patch
    expected = nn.functional.interpolate(activation[None], size=(32, 32), mode="bicubic")[0, 0].numpy()
    np.testing.assert_allclose(evidence.view.heat_map, expected, atol=1e-5)
    assert float(activation[0, row, column]) == pytest.approx(float(activation.max()))
    assert evidence.similarity < float(activation.max())


def test_a_model_that_still_chooses_has_nothing_to_explain_yet() -> None:
    with pytest.raises(ValueError, match=r"model: must have made its choices final.*they are soft. Call model.harden"):
        explain_image(small_pool(is_hard=False), torch.rand(3, 32, 32))


def test_the_heat_map_is_the_upsampled_activation_and_the_box_its_highest_part() -> None:
    model = small_model()
    image = torch.rand(3, 32, 48)
    view = explain_image(model, image).classes[0].evidence[0].view
    with torch.no_grad():
        layer = model.prototype_layer
        activation = layer.activate(layer.distance_map(model.features(image[None])))[:, view.prototype]  # (1, 8, 12)
    expected = nn.functional.interpolate(activation[None], size=(32, 48), mode="bicubic")[0, 0].numpy()
    np.testing.assert_allclose(view.heat_map, expected, atol=1e-5)
    assert view.activation_box == activation_box(view.heat_map)
    row, column = view.patch
    assert view.patch_box == patch_box(view.heat_map, Box(4 * row, 4 * column, 4 * row + 4, 4 * column + 4))
    field = view.receptive_field_box
    assert field == Box(
        max(0, 4 * row - 3), max(0, 4 * column - 3), min(32, 4 * row + 4), min(48, 4 * column + 4)
    )  # two 3x3 convolutions of stride 2: seven pixels, from 4 r - 3


def test_large_prototypes_see_all_their_cells() -> None:
    model = small_model(prototype_size=(2, 3))
    view = explain_image(model, torch.rand(3, 32, 32), top=1).classes[0].evidence[0].view
    row, column = view.patch
    assert view.receptive_field_box == Box(
        max(0, 4 * row - 3), max(0, 4 * column - 3), min(32, 4 * row + 8), min(32, 4 * column + 12)
    )


def test_by_default_the_three_highest_classes_are_explained_and_fewer_where_there_are_fewer() -> None:
    explanation = explain_image(small_model(), torch.rand(3, 32, 32))
    assert [one.class_index for one in explanation.classes] == np.argsort(-explanation.logits)[:3].tolist()
    assert len(explain_image(small_model(num_classes=2), torch.rand(3, 32, 32)).classes) == 2
    assert EXPLAINED_CLASSES == 3
    assert explanation.probabilities.sum() == pytest.approx(1)
    assert int(explanation.probabilities.argmax()) == explanation.predicted


def test_another_class_takes_the_last_place_in_the_same_pass() -> None:
    model, image = small_model(), torch.rand(3, 32, 32)
    first = explain_image(model, image)
    ranked, field = np.argsort(-first.logits, kind="stable").tolist(), first.receptive_field
    passes: list[int] = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    explained = explain_image(model, image, also=[ranked[3]], receptive_field=field)
    assert len(passes) == 1
    assert [one.class_index for one in explained.classes] == [ranked[0], ranked[1], ranked[3]]
    alone = explain_image(model, image, classes=[ranked[3]], receptive_field=field).classes[0]
    assert explained.classes[2].logit == alone.logit
    assert [one.points for one in explained.classes[2].evidence] == [one.points for one in alone.evidence]
    among = explain_image(model, image, also=[ranked[1]], receptive_field=field)
    assert [one.class_index for one in among.classes] == ranked[:3]


def test_the_points_that_are_not_shown_are_those_of_the_class_and_of_others() -> None:
    model = small_model()
    for one in explain_image(model, torch.rand(3, 32, 32), top=3).classes:
        shown = {evidence.prototype.index for evidence in one.evidence}
        own = {3 * one.class_index + k for k in range(3)}
        assert one.num_own == len(own - shown)
        assert one.num_own + one.num_foreign == one.num_other == 12 - len(shown)
        assert one.own_points + one.foreign_points == pytest.approx(one.other_points, abs=1e-9)
        assert one.matches == one.reasons + one.no_reasons
        assert all(evidence.prototype.index in own and evidence.points > 0 for evidence in one.reasons)


def test_a_known_receptive_field_is_used_again() -> None:
    model = small_model()
    first = explain_image(model, torch.rand(3, 32, 32))
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    again = explain_image(model, torch.rand(3, 32, 32), receptive_field=first.receptive_field)
    assert len(calls) == 1
    assert again.receptive_field is first.receptive_field


def test_modes_and_weights_are_left_as_they_were() -> None:
    model = small_model()
    model.train()
    model.backbone.get_submodule("1").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain_image(model, torch.rand(3, 32, 32))
    assert model.training
    assert not model.backbone.get_submodule("1").training
    assert model.backbone.get_submodule("0").training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (torch.rand(1, 3, 32, 32), {}, r"image: must have shape \(C, Y, X\); got \(1, 3, 32, 32\)"),
        (torch.rand(3, 32, 32), {"top": 0}, "top: must be at least 1; got 0"),
        (torch.rand(3, 32, 32), {"classes": [1, 4]}, "classes: must be from 0 to 3; got 4"),
        (torch.rand(3, 32, 32), {"also": [-1]}, "also: must be from 0 to 3; got -1"),
        (torch.full((3, 32, 32), torch.inf), {}, "image: must give finite features"),
    ],
)
def test_bad_arguments_are_refused(image: Tensor, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_image(small_model(), image, **arguments)


def test_at_least_half_of_what_is_shown_are_reasons() -> None:
    """Class 1 has the prototypes 3, 4 and 5: one of them speaks against it, and all others shout against it."""
    model = small_model()
    with torch.no_grad():
        model.last_layer.weight.fill_(-50.0)
        model.last_layer.weight[1, 3:6] = torch.tensor([1.0, -0.1, 0.5])
        model.last_layer.weight[1, 0] = 700.0  # of class 0, and yet for class 1
    (one,) = explain_image(model, torch.rand(3, 32, 32), top=4, classes=[1]).classes
    shown = {evidence.view.prototype: evidence.is_reason for evidence in one.evidence}
    assert len(shown) == 4
    assert {j for j, is_reason in shown.items() if is_reason} == {3, 5}
    assert shown[0] is False, "the loudest of all stands for another class"
    absolute = [abs(evidence.points) for evidence in one.evidence]
    assert absolute == sorted(absolute, reverse=True)
    assert sum(evidence.points for evidence in one.evidence) + one.other_points == pytest.approx(one.logit, rel=1e-4)


def test_a_class_without_reasons_shows_what_speaks_against_it() -> None:
    model = small_model()
    with torch.no_grad():
        model.last_layer.weight.fill_(-1.0)
    (one,) = explain_image(model, torch.rand(3, 32, 32), top=3, classes=[2]).classes
    assert [evidence.is_reason for evidence in one.evidence] == [False] * 3


def test_a_shared_prototype_of_a_pool_is_a_reason_for_each_of_its_classes() -> None:
    model = small_pool()
    with torch.no_grad():
        model.last_layer.weight.fill_(0.1)
    for one in explain_image(model, torch.rand(3, 32, 32), top=7, classes=range(4)).classes:
        for evidence in one.evidence:
            is_own = one.class_index in evidence.prototype_classes
            assert evidence.is_reason == (is_own and evidence.points > 0)
