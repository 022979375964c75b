"""Maps on masks and boxes: by hand, against a slow program, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.data import SyntheticBirds
from protokern.data.birds.dataset import BirdTruth
from protokern.data.regions import BoxRegion, MaskRegion
from protokern.metrics import Context, map_shares, measure
from tests.explain.small_models import small_model
from tests.metrics import plain
from tests.metrics.marked import random_images
from tests.metrics.placed import PlacedNet, batches


def test_a_case_by_hand() -> None:
    """A map of 2 x 10: 0 .. 9 above, 10 .. 19 below. The object is the right half of both rows."""
    heat = np.arange(20.0).reshape(1, 2, 10)
    on = np.zeros((2, 10), dtype=bool)
    on[:, 5:] = True
    found = map_shares(heat, on)
    assert found.energy == pytest.approx((35 + 85) / 190)
    assert found.pointing == 1  # only 19 is above the eighteenth value of twenty
    assert found.outside_inside == pytest.approx((70 / 9) / 12)  # the 0 counts in no mean
    assert found.inside_outside == pytest.approx((12 - 70 / 9) / 19)
    assert found.object_overlap == pytest.approx(1 / 10)  # 19 alone reaches the percentile 18.05
    assert found.background_overlap == 0
    assert found.iou == pytest.approx(1 / 10)


def test_nothing_is_no_number() -> None:
    on = np.zeros((2, 10), dtype=bool)
    on[0, 0] = True
    constant = map_shares(np.ones((1, 2, 10)), on)
    assert math.isnan(constant.energy[0])
    assert math.isnan(constant.pointing[0])
    negative = map_shares(-np.arange(1.0, 21).reshape(1, 2, 10), on)
    assert math.isnan(negative.outside_inside[0])
    assert math.isnan(negative.inside_outside[0])
    outside = np.zeros((1, 2, 10))
    outside[0, 1, 9] = 2.0
    alone = map_shares(outside, on)
    assert math.isnan(alone.outside_inside[0])
    assert alone.inside_outside == -1
    inside = map_shares(outside[:, ::-1, ::-1], on)
    assert (inside.outside_inside[0], inside.inside_outside[0]) == (0, 1)


def test_random_maps_against_a_slow_program() -> None:
    rng = np.random.default_rng(2)
    for size in ((7, 9), (16, 5)):
        heat = rng.normal(size=(4, *size)).round(1)  # with ties
        on = rng.random(size) < 0.3
        found = map_shares(heat, on)
        for position, one in enumerate(heat):
            wanted = plain.map_shares(one, on)
            assert {name: column[position] for name, column in found._asdict().items()} == pytest.approx(wanted)


@pytest.mark.parametrize("protocol", ["default", "paper"])
def test_over_a_data_set_against_a_slow_program(protocol: str) -> None:
    model = small_model()
    images, labels = random_images(5)
    rng = np.random.default_rng(1)
    masks = [rng.random((20, 40)) < 0.4 for _ in range(4)]
    box = BoxRegion((32, 32), ((4.5, 2.0, 20.0, 30.5),))

    def regions(index: int):
        return {"mask": MaskRegion(masks[index]), "box bird": box} if index < 4 else {}

    loader = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    (result,) = measure(model, loader, 5, only=["object_maps"], context=Context(regions=regions, protocol=protocol))
    inside_box = [[4.5 <= y + 0.5 < 20 and 2 <= x + 0.5 < 30.5 for x in range(32)] for y in range(32)]
    names = {
        "energy": "relevance by energy",
        "pointing": "relevance of the highest tenth",
        "iou": "intersection over union",
        "outside_inside": "outside over inside (OIRR)",
    }
    wanted: dict[str, list[float]] = {}
    layer = model.prototype_layer
    for i in range(4):
        with torch.no_grad():
            features = model.features(images[i][None])[0].double()
        on = [[bool(masks[i][(2 * y + 1) * 20 // 64][(2 * x + 1) * 40 // 64]) for x in range(32)] for y in range(32)]
        of_image: dict[str, list[float]] = {}
        for j in range(3 * i, 3 * i + 3):
            distance = ((features - layer.prototypes.detach()[j].double()[:, None, None]) ** 2).sum(dim=0)
            coarse = ((distance + 1) / (distance + layer.epsilon)).log()
            heat = plain.upsampled(coarse.tolist(), (32, 32))
            bump = plain.upsampled((coarse == coarse.max()).double().tolist(), (32, 32))
            if protocol == "default":
                heat = [[max(value, float(coarse.min())) for value in row] for row in heat]
            for region, where in (("mask", on), ("box bird", inside_box)):
                shares = plain.map_shares(heat, where)
                if protocol == "paper":
                    of_bump = plain.map_shares(bump, where)
                    shares |= {name: of_bump[name] for name in ("energy", "pointing")}
                for name, words in names.items():
                    of_image.setdefault(f"{region}, {words}", []).append(shares[name])
        for name, values in of_image.items():
            wanted.setdefault(name, []).append(np.mean(values))
    for name, values in wanted.items():
        assert result.estimates[name].value == pytest.approx(np.mean(values), rel=1e-3)
        assert result.estimates[name].images == 4
    assert result.estimates["box bird, share of the image"].value == pytest.approx(np.mean(inside_box))
    assert result.skipped["images without box and mask"] == 1
    column = result.prototypes["mask, relevance by energy"]
    assert np.mean(column) == pytest.approx(np.mean(wanted["mask, relevance by energy"]), rel=1e-3)


def test_maps_that_peak_on_the_bird_are_on_it_and_maps_in_a_corner_are_not() -> None:
    birds = SyntheticBirds("test", num_classes=2, images_per_class=6, image_size=64)
    truth = BirdTruth(birds)
    centres = []
    for index in range(12):
        ys, xs = np.nonzero(birds.annotations(index).masks["bird"])
        middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
        centres.append((int(ys[middle]) // 4, int(xs[middle]) // 4))
    found = []
    for places in (centres, [(0, 0)] * 12):
        loader = batches(birds.labels, pixels=(64, 64))
        (result,) = measure(
            PlacedNet(places, (16, 16), 2), loader, 12, only=["object_maps"], context=Context(regions=truth.regions)
        )
        found.append({name: number.value for name, number in result.estimates.items()})
    on, off = found
    assert on["mask, relevance by energy"] > 0.8 > 0.3 > off["mask, relevance by energy"]
    assert on["box bird, inside minus outside (IOR)"] > 0 > off["box bird, inside minus outside (IOR)"]


def test_what_is_missing_is_said() -> None:
    images, labels = random_images(4)
    (none,) = measure(small_model(), [(images, labels)], 4, only=["object_maps"])
    assert none.left_out == "no annotations were given"
    (empty,) = measure(
        small_model(), [(images, labels)], 4, only=["object_maps"], context=Context(regions=lambda _: {})
    )
    assert empty.left_out == "no image of this data set has a box or a mask"
