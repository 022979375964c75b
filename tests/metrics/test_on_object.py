"""Patch centres on boxes and masks: by hand, against a slow program, and where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protokern.data import SyntheticBirds
from protokern.data.birds.dataset import BirdTruth, share_on_bird
from protokern.data.regions import BoxRegion, MaskRegion
from protokern.metrics import Context, measure, object_shares, patches_on
from tests.metrics import plain
from tests.metrics.placed import PlacedNet, batches

BIRD = "mask, own class"


def test_a_case_by_hand() -> None:
    """8 x 4 pixels, 4 x 2 patches: centres at y 1, 3, 5, 7 and x 1, 3. The box holds those of y 3, 5 and x 1."""
    box = BoxRegion((8, 4), ((2.0, 0.0, 6.0, 2.0),))
    assert patches_on(box, (4, 2), (1, 1)).tolist() == [[False, False], [True, False], [True, False], [False, False]]
    shares = object_shares(box, np.array([2, 4, 5]), np.array([0.3, 0.2, 0.1]), (4, 2), (1, 1))
    assert shares == (pytest.approx(2 / 3), 0.0, 0.25)


def test_a_box_is_half_open_and_a_mask_is_read_at_the_pixel_of_the_centre() -> None:
    for box, is_in in (
        ((0.0, 0.0, 1.0, 2.0), False),  # the centre, (1, 1), is on its lower side
        ((0.0, 0.0, 2.0, 1.0), False),  # on its right side
        ((1.0, 0.0, 2.0, 2.0), True),  # on its upper side
        ((0.0, 1.0, 2.0, 2.0), True),  # on its left side
    ):
        assert patches_on(BoxRegion((2, 2), (box,)), (1, 1), (1, 1)).item() is is_in
    mask = np.zeros((2, 2), dtype=bool)
    mask[1, 1] = True
    assert patches_on(MaskRegion(mask), (1, 1), (1, 1)).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("image", [(20, 33), (33, 20), (224, 224)], ids=str)
def test_against_a_slow_program(image: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    cells = (7, 5)
    patches = rng.integers((cells[0] - size[0] + 1) * (cells[1] - size[1] + 1), size=6)
    distances = rng.integers(4, size=6) / 4  # with ties
    mask = rng.random(image) < 0.4
    boxes = ((image[0] * 0.2, image[1] * 0.1, image[0] * 0.7, image[1] * 0.5), (0.5, 2.25, 9.5, 11.0))

    def in_mask(y, x) -> bool:
        return bool(mask[int(y * image[0]), int(x * image[1])])

    def in_boxes(y, x) -> bool:
        return any(y0 <= y * image[0] < y1 and x0 <= x * image[1] < x1 for y0, x0, y1, x1 in boxes)

    for region, inside in ((MaskRegion(mask), in_mask), (BoxRegion(image, boxes), in_boxes)):
        found = object_shares(region, patches, distances, cells, size)
        assert found == pytest.approx(plain.on_object(inside, patches.tolist(), distances.tolist(), cells, size))


@pytest.mark.parametrize("image_size", [64, (48, 80), (80, 48)], ids=str)
def test_prototypes_on_the_beak_are_on_the_bird_and_a_net_that_sees_the_background_is_not(image_size) -> None:
    """The net shows the place that it is told: the visible beak of each bird, or a corner far from its box."""
    birds = SyntheticBirds("test", num_classes=2, images_per_class=6, image_size=image_size)
    truth = BirdTruth(birds)
    cells = (birds.image_size[0] // 2, birds.image_size[1] // 2)
    beaks, elsewhere, used = [], [], []
    for index in range(len(birds)):
        masks = birds.annotations(index).masks
        on_beak = np.argwhere(masks["beak"][1::2, 1::2])  # cells whose centre is on it
        off_bird = np.argwhere(~masks["bird"][1::2, 1::2])
        if len(on_beak):
            used.append(index)
            beaks.append(tuple(on_beak[0]))
            elsewhere.append(tuple(off_bird[0]))
    assert len(used) >= 8
    for places, wanted in ((beaks, 1.0), (elsewhere, 0.0)):
        model = PlacedNet(places, cells, num_classes=2)
        loader = batches([birds.labels[index] for index in used])
        (result,) = measure(
            model, loader, len(used), only=["on_object"], context=Context(regions=lambda i: truth.regions(used[i]))
        )
        assert result.estimates["mask, own class"].value == result.estimates["mask, best alone"].value == wanted
        chance = np.mean([birds.annotations(index).masks["bird"][1::2, 1::2].mean() for index in used])
        assert result.estimates["mask, by chance"].value == pytest.approx(chance)
        assert 0 < chance < 1
        if wanted:
            assert result.estimates["box bird, own class"].value == 1.0


def test_birds_agree_with_what_the_painter_counts() -> None:
    birds = SyntheticBirds("test", num_classes=2, images_per_class=4, image_size=48)
    truth = BirdTruth(birds)
    for index in range(len(birds)):
        is_on = patches_on(truth.regions(index)["mask"], (6, 6), (1, 1)).ravel()
        mask = birds.annotations(index).masks["bird"]
        assert [share_on_bird([mask], [patch], (6, 6)) for patch in range(36)] == is_on.tolist()
        names = {part.name for part in truth.parts(index)}
        seen = {name for name, (_, _, is_visible) in birds.annotations(index).keypoints.items() if is_visible}
        assert names == seen


def test_only_the_prototypes_of_the_true_class_count_and_other_images_are_told() -> None:
    """Class 1 looks at the left column of a 2 x 2 grid, class 0 at the right one; image 2 has no annotation."""
    left = MaskRegion(np.array([[True, False], [True, False]]))
    model = PlacedNet([(0, 1), (1, 0), (1, 0)], (2, 2), num_classes=2)
    regions = [{"mask": left}, {"mask": left}, {}]
    (result,) = measure(
        model, batches([0, 1, 1]), 3, only=["on_object"], context=Context(regions=lambda index: regions[index])
    )
    assert result.estimates["mask, own class"].value == 0.5
    assert result.estimates["mask, own class"].images == 2
    assert result.skipped["images without box and mask"] == 1


def test_what_is_missing_is_said() -> None:
    model = PlacedNet([(0, 0)], (2, 2), num_classes=2)
    (result,) = measure(model, batches([0]), 1, only=["on_object"], context=Context(no_regions="nobody marked it"))
    assert (result.left_out, dict(result.estimates)) == ("nobody marked it", {})
    (result,) = measure(model, batches([0]), 1, only=["on_object"], context=Context(regions=lambda _: {}))
    assert result.left_out == "no image of this data set has a box or a mask"


def test_a_class_without_a_prototype_is_told() -> None:
    model = PlacedNet([(0, 0), (0, 0)], (2, 2), num_classes=2)
    model.class_identity[:, 1] = 0
    everything = MaskRegion(np.ones((2, 2), dtype=bool))
    context = Context(regions=lambda _: {"mask": everything})
    (result,) = measure(model, batches([0, 1]), 2, only=["on_object"], context=context)
    assert result.skipped["images whose class has no prototype"] == 1
    assert result.estimates["mask, own class"].images == 1
    assert torch.equal(model.class_identity[:, 1], torch.zeros(len(model.class_identity)))


def test_how_often_every_prototype_is_on_the_object() -> None:
    """The prototypes of class 0 are on it in one of two images, those of class 1 in both."""
    mask = np.zeros((2, 2), dtype=bool)
    mask[0, 0] = True
    places = [(0, 0), (1, 1), (0, 0), (0, 0)]
    context = Context(regions=lambda _: {"mask": MaskRegion(mask)})
    (result,) = measure(PlacedNet(places, (2, 2), 2), batches([0, 0, 1, 1]), 4, only=["on_object"], context=context)
    assert result.prototypes == {"mask, on it": [0.5, 0.5, 1.0, 1.0]}
