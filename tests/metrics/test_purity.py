"""Purity: by hand, against a slow program, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.data import SyntheticBirds
from protokern.data.birds.dataset import BirdTruth
from protokern.data.regions import PartPoint
from protokern.metrics import Context, measure, purity_of
from protokern.metrics.part_boxes import merged
from protokern.metrics.purity import paper_box
from tests.explain.small_models import small_model, small_pool
from tests.metrics import plain
from tests.metrics.marked import random_images, random_parts
from tests.metrics.placed import PlacedNet, batches


def point(name: str) -> PartPoint:
    return PartPoint(name, 0.5, 0.5)


def test_a_case_by_hand() -> None:
    """The eye, left or right, is in the box in two of three images that show it; the wing in one of two."""
    both = (point("left eye"), point("right eye"), point("left wing"))
    images = [
        (both, frozenset({"right eye"})),
        (both, frozenset({"left wing"})),
        ((point("right eye"),), frozenset({"right eye"})),
        ((), frozenset()),
    ]
    assert purity_of(images) == ("eye", pytest.approx(2 / 3))
    assert purity_of([((), frozenset())])[0] == ""


def test_sides_of_names_by_hand() -> None:
    assert [merged(name) for name in ("left eye", "Right_wing", "beak", "left")] == ["eye", "wing", "beak", "left"]


def test_boxes_of_the_paper_by_hand() -> None:
    """Seven patches of 32 pixels tile 224; of thirteen the step is 16, and the last box ends with the image."""
    assert paper_box((0, 6), (7, 7), (224, 224)) == pytest.approx((0, 192 / 224, 32 / 224, 1))
    assert paper_box((3, 11), (13, 13), (224, 224)) == pytest.approx((48 / 224, 176 / 224, 80 / 224, 208 / 224))
    assert paper_box((12, 0), (13, 13), (224, 224)) == pytest.approx((192 / 224, 0, 1, 32 / 224))
    assert paper_box((0, 0), (1, 1), (16, 16)) == pytest.approx((14 / 16, 14 / 16, 1, 1))


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("area", [None, 0.4], ids=str)
def test_against_a_slow_program(protocol: str, area: float | None) -> None:
    model, number = small_model(), 26
    with torch.no_grad():
        model.last_layer.weight[:, 4] = -1.0  # speaks for no class
    images, labels = random_images(number)
    parts = random_parts(number)
    context = Context(parts=parts.__getitem__, protocol=protocol, part_area=area)
    loader = [(images[start : start + 7], labels[start : start + 7]) for start in range(0, number, 7)]
    (result,) = measure(model, loader, number, only=["purity"], context=context)
    with torch.no_grad():
        features = model.features(images).double()  # (N, 5, 8, 8)
    purity: list[float] = []
    for j in range(12):
        vector = model.prototype_layer.prototypes.detach()[j].double()
        distance = ((features - vector[None, :, None, None]) ** 2).sum(dim=1).flatten(1)  # (N, 64)
        nearest = sorted(range(number), key=lambda i: (float(distance[i].min()), i))[:10]
        shares: dict[str, list[bool]] = {}
        for i in nearest:
            row, column = divmod(int(distance[i].argmin()), 8)
            half = 16 / 224 if area is None else math.sqrt(area) / 2
            inside = plain.parts_in_box(parts[i], (row + 0.5) / 8, (column + 0.5) / 8, half)
            if protocol == "paper" and area is None:  # boxes of 5 of 32 pixels, in steps of 27 / 7 = 4
                y, x = (min(4 * at, 27) if at < 7 else 27 for at in (row, column))
                inside = {p.name for p in parts[i] if y <= 32 * p.y <= y + 5 and x <= 32 * p.x <= x + 5}
            for name in {part.name.split()[-1] for part in parts[i]}:
                shares.setdefault(name, []).append(any(one.split()[-1] == name for one in inside))
        purity.append(max(float(np.mean(hits)) for hits in shares.values()))
    purity[4] = math.nan
    assert result.prototypes["purity"] == pytest.approx(purity, nan_ok=True)
    assert result.estimates["mean purity"].value == pytest.approx(np.nanmean(purity))
    assert result.estimates["standard deviation"].value == pytest.approx(np.nanstd(purity))
    assert result.estimates["prototypes with a purity above 0.5"].value == sum(one > 0.5 for one in purity)
    assert result.settings["prototypes without a weight"] == 1


@pytest.mark.parametrize(
    ("size", "cells", "protocol"),
    [((64, 64), 12, "default"), ((48, 80), 12, "default"), ((80, 48), 12, "default"), ((224, 224), 14, "paper")],
    ids=str,
)
def test_prototypes_set_to_a_beaks_patch_have_purity_1_for_the_beak(
    size: tuple[int, int], cells: int, protocol: str
) -> None:
    birds = SyntheticBirds("test", num_classes=2, images_per_class=8, image_size=size)
    truth = BirdTruth(birds)
    beaks = [next((part for part in truth.parts(i) if part.name == "beak"), None) for i in range(16)]
    places = [(0, 0) if beak is None else (int(beak.y * cells), int(beak.x * cells)) for beak in beaks]
    context = Context(parts=truth.parts, protocol=protocol)
    loader = batches(birds.labels, pixels=size)
    (result,) = measure(PlacedNet(places, (cells, cells), 2), loader, 16, only=["purity"], context=context)
    assert result.estimates["mean purity"].value == 1
    assert set(result.prototypes["part"]) == {"beak"}


def test_a_prototype_without_a_class_has_no_purity_and_missing_parts_are_said() -> None:
    images, labels = random_images(12)
    loader = [(images, labels)]
    context = Context(parts=random_parts(12).__getitem__)
    (result,) = measure(small_pool(), loader, 12, only=["purity"], context=context)
    assert math.isnan(result.prototypes["purity"][6])
    assert result.prototypes["part"][6] == ""
    (none,) = measure(small_model(), loader, 12, only=["purity"], context=Context(no_parts="it needs part centres"))
    assert none.left_out == "it needs part centres"
    (empty,) = measure(small_model(), loader, 12, only=["purity"], context=Context(parts=lambda _: ()))
    assert empty.left_out == "no image of this data set has part centres"
