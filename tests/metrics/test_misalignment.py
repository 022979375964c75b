"""The attack from outside of the box: its bounds, its strength on nets that break and do not, and its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from protokern.metrics import Context, measure
from protokern.metrics.misalignment import MOST, attacked, box_of
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model
from tests.metrics import plain
from tests.metrics.marked import random_images


class Leak(nn.Module):
    """Every cell of maps (B, C, H, W) gets ten times the mean of all cells."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + 10 * maps.mean(dim=(2, 3), keepdim=True)


class MeanAround(nn.Module):
    """A cell of 4 x 4 pixels is its own mean, plus `leak` times the mean of the whole image."""

    def __init__(self, leak: float) -> None:
        super().__init__()
        self.leak = leak

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
        return cells + self.leak * images.mean(dim=(1, 2, 3), keepdim=True)


def mean_net(leak: float) -> ProtoPNet:
    """Two classes with one prototype each, at 0.2 and at 0.8; the similarity is exp(-d)."""
    model = ProtoPNet(
        MeanAround(leak), 2, prototypes_per_class=1, prototype_dim=1, image_size=32, add_on_layers="linear",
        activation="exp",
    ).eval()  # fmt: skip
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor([[0.2], [0.8]]))
    return model


def test_a_box_by_hand() -> None:
    """Of 100 values six are not below the percentile 95; they lie in the rows 2 and 3."""
    similarity = torch.zeros(10, 10)
    similarity[2, 4:7] = 1.0
    similarity[3, 3:6] = 2.0
    assert box_of(similarity, (10, 10)) == (2, 3, 4, 7)


def test_the_attack_keeps_its_bounds() -> None:
    model, (images, _) = small_model(), random_images(3)
    images[0, :, :4] = 0.0
    images[1, :, :4] = 1.0
    free = torch.ones(3, 1, 32, 32, dtype=torch.bool)
    free[:, :, 8:20, 8:20] = False
    prototypes = torch.tensor([0, 5, 7])
    changed = attacked(model, images, prototypes, free, seed=4)
    shift = (changed - images).abs()
    assert float(shift[:, :, 8:20, 8:20].max()) == 0
    assert float(shift.max()) == pytest.approx(MOST, rel=1e-4)
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1 + 1e-6
    assert torch.equal(changed, attacked(model, images, prototypes, free, seed=4))
    assert not torch.equal(changed, attacked(model, images, prototypes, free, seed=5))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_attack_finds_the_worst_there_is_where_it_is_known() -> None:
    """The leak adds the image's mean: at best every free pixel moves by the bound, away from the prototype."""
    model = mean_net(8.0)
    with torch.no_grad():
        model.prototype_layer.prototypes.fill_(4.0)
    image = torch.full((1, 3, 32, 32), 0.5)  # every cell is 0.5 + 8 * 0.5 = 4.5, and only grows further away
    free = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    free[:, :, 12:20, 12:20] = False
    changed = attacked(model, image, torch.tensor([0]), free, seed=0)
    moved = float((changed - image).mean(dim=1).sum()) / MOST
    assert moved == pytest.approx(32 * 32 - 8 * 8, rel=1e-3)


def test_a_net_that_leaks_breaks_and_one_that_does_not_holds() -> None:
    images = torch.full((4, 3, 32, 32), 0.5)
    for index, value in enumerate((0.2, 0.8, 0.2, 0.8)):
        images[index, :, 12:20, 12:20] = value
    labels = torch.tensor([0, 1, 0, 1])
    found = {}
    for leak in (0.0, 8.0):
        model = mean_net(leak)
        with torch.no_grad():  # the prototypes are the cells of the square again
            for number in (0, 1):
                model.prototype_layer.prototypes[number] = model.features(images[number : number + 1])[0, 0, 4, 4]
        (result,) = measure(model, [(images, labels)], 4, only=["misalignment"])
        found[leak] = {name: number.value for name, number in result.estimates.items()}
    assert found[0.0]["similarity lost (PAC)"] == pytest.approx(0, abs=1e-6)
    assert found[0.0]["place of the box (PLC)"] < 0.05
    assert found[8.0]["similarity lost (PAC)"] > 0.03
    assert found[8.0]["right answers before"] == 1


def test_the_numbers_of_a_data_set_are_those_of_the_attacked_images() -> None:
    model, number = small_model(), 5
    model.backbone = nn.Sequential(model.backbone, Leak())
    images, labels = random_images(number)
    loader = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    (result,) = measure(model, loader, number, only=["misalignment"], context=Context(subset=4, seed=2))
    layer = model.prototype_layer
    lost, ranks, right, places = [], [], [], []

    def explain(image: torch.Tensor):
        with torch.no_grad():
            features = model.features(image[None])
            output = model.head(features)
        distance = ((features[0][None] - layer.prototypes.detach()[:, :, None, None]) ** 2).sum(dim=1)
        return ((distance + 1) / (distance + layer.epsilon)).log(), output

    for index in np.random.default_rng(2).permutation(number)[:4].tolist():
        label = int(labels[index])
        maps, before = explain(images[index])
        j = max(range(3 * label, 3 * label + 3), key=lambda one: (float(maps[one].max()), -one))
        boxes = [box(maps[j])]
        free = torch.ones(1, 1, 32, 32, dtype=torch.bool)
        free[:, :, boxes[0][0] : boxes[0][2], boxes[0][1] : boxes[0][3]] = False
        seed = int(np.random.SeedSequence([2, index]).generate_state(1)[0])
        changed = attacked(model, images[index][None], torch.tensor([j]), free, seed=seed)[0]  # tested above
        after_maps, after = explain(changed)
        boxes.append(box(after_maps[j]))
        pixels = [{(y, x) for y in range(b[0], b[2]) for x in range(b[1], b[3])} for b in boxes]
        places.append(1 - len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1]))
        lost.append(1 - float(after_maps[j].max()) / float(maps[j].max()))
        order = [sum(v > one.activations[0, j] for v in one.activations[0]) for one in (before, after)]
        ranks.append(abs(int(order[0]) - int(order[1])))
        right.append(int(after.logits[0].argmax()) == label)
    values = {name: one.value for name, one in result.estimates.items()}
    assert values["similarity lost (PAC)"] == pytest.approx(np.mean(lost), rel=1e-3, abs=1e-5)
    assert values["place of the box (PLC)"] == pytest.approx(np.mean(places), abs=1e-6)
    assert values["rank of the prototype (PRC)"] == np.mean(ranks)
    assert values["right answers after"] == np.mean(right)
    assert np.mean(lost) > 0
    assert result.passes == 4 * 21


def box(similarity: torch.Tensor) -> tuple[int, int, int, int]:
    large = plain.upsampled(similarity.tolist(), (32, 32))
    top = plain.percentile([value for row in large for value in row], 0.95)
    high = [(y, x) for y in range(32) for x in range(32) if large[y][x] >= top]
    ys, xs = [y for y, _ in high], [x for _, x in high]
    return min(ys), min(xs), max(ys) + 1, max(xs) + 1


def test_a_similarity_without_shares() -> None:
    model = small_model()
    model.prototype_layer.activation = "linear"
    (result,) = measure(model, [], 0, only=["misalignment"])
    assert "negative distance" in result.left_out
    model = mean_net(0.0)
    model.prototype_layer.activation = lambda distance: -1 - distance
    images, labels = random_images(2)
    (none,) = measure(model, [(images, labels % 2)], 2, only=["misalignment"])
    assert none.skipped["images whose best similarity is not above 0"] == 2
    assert math.isnan(none.estimates["similarity lost (PAC)"].value)
