"""What changes by slight changes of an image: by hand, against slow programs, and where nothing can change."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.data.regions import BoxRegion, MaskRegion
from protokern.metrics import Context, measure
from protokern.metrics.changes import WORDS, Explained, change
from protokern.metrics.continuity import slightly_changed, with_noise_outside
from tests.explain.small_models import small_model
from tests.metrics import plain
from tests.metrics.marked import random_images


def test_a_case_by_hand() -> None:
    """Two prototypes of three, maps of 1 x 2, an image of 1 x 2 pixels: a map's highest twentieth is its maximum."""
    before = Explained(np.array([3.0, 2.0, 1.0]), np.array([0.0, math.log(3)]), np.array([[[3.0, 1.0]], [[2.0, 0.0]]]))
    after = Explained(np.array([1.5, 2.0, 3.0]), np.array([math.log(3), 0.0]), np.array([[[0.5, 1.5]], [[2.0, 0.0]]]))
    found = change(before, after, np.array([0, 1]), (1, 2))
    assert found.area == pytest.approx(0.5)  # the first moved wholly, the second not at all
    assert found.place == pytest.approx(0.25)  # half of the width
    assert found.highest == pytest.approx(0.25)  # from 3 to 1.5
    assert found.rank == 1  # from 0 to 2
    assert found.map == pytest.approx((1 - 2 / 4) / 2)  # 0.5 + 1.5 of 1 + 3
    assert found.classes == pytest.approx(0)  # 1/4 and 3/4 before and after
    assert found.answer == 1
    assert change(before, before, np.array([0, 1]), (1, 2)) == (0,) * 7


def test_the_paper_compares_logits() -> None:
    before = Explained(np.ones(1), np.array([4.0, -1.0]), np.ones((1, 1, 1)))
    after = Explained(np.ones(1), np.array([2.0, 1.0]), np.ones((1, 1, 1)))
    assert change(before, after, np.array([0]), (1, 1), of_logits=True).classes == pytest.approx(1 - 2 / 5)


def test_nothing_is_no_number() -> None:
    one = Explained(-np.ones(1), np.array([1.0, 0.0]), -np.ones((1, 1, 2)))
    found = change(one, one, np.array([0]), (1, 2))
    assert math.isnan(found.highest)
    assert math.isnan(found.map)


def test_random_explanations_against_a_slow_program() -> None:
    rng = np.random.default_rng(4)
    for _ in range(3):
        pair = [Explained(rng.random(9), rng.normal(size=5), rng.normal(size=(3, 4, 5)) + 0.5) for _ in range(2)]
        found = change(pair[0], pair[1], np.array([7, 0, 3]), (12, 10))
        lists = [(one.activations.tolist(), one.logits.tolist(), one.maps.tolist()) for one in pair]
        assert found._asdict() == pytest.approx(plain.change(lists[0], lists[1], [7, 0, 3], (12, 10)), abs=1e-6)


def jpeg(levels: np.ndarray) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(levels).save(stored, "JPEG", quality=90)
    return np.array(Image.open(stored))


def test_a_slight_change_against_a_slow_program() -> None:
    image = random_images(1)[0][0]
    pixels = (1.125 * image).clip(0, 1)
    grey = 0.2989 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    pixels = (1.125 * pixels - 0.125 * grey.mean()).clip(0, 1)
    grey = 0.2989 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    pixels = (1.125 * pixels - 0.125 * grey).clip(0, 1)
    for y in range(32):
        for x in range(32):
            h, s, v = colorsys.rgb_to_hsv(*pixels[:, y, x].tolist())
            pixels[:, y, x] = torch.tensor(colorsys.hsv_to_rgb((h + 0.05) % 1, s, v))
    state = np.random.SeedSequence([2, 7]).generate_state(1, np.uint64)[0]
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(state) // 2))
    pixels = pixels + math.sqrt(5) / 255 * noise
    mean = torch.zeros_like(pixels)
    for y in range(32):
        for x in range(32):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    at = [31 - abs(31 - abs(place)) for place in (y + down, x + right)]
                    mean[:, y, x] += pixels[:, at[0], at[1]] / 9
    wanted = jpeg((255 * mean.clip(0, 1)).round().byte().permute(1, 2, 0).numpy())
    found = (255 * slightly_changed(image, 7, seed=2)).round().byte().permute(1, 2, 0).numpy()
    difference = np.abs(wanted.astype(int) - found.astype(int))
    assert difference.mean() < 0.5
    assert difference.max() <= 8
    assert np.abs(found / 255 - image.permute(1, 2, 0).numpy()).mean() > 0.05


def test_images_of_other_channels_are_changed_too() -> None:
    for channels in (1, 2, 5):
        image = torch.rand(channels, 8, 9, generator=torch.Generator().manual_seed(1))
        changed = slightly_changed(image, 0)
        assert changed.shape == image.shape
        assert not torch.equal(changed, image)


def test_noise_is_outside_of_the_object_alone() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8] = True
    regions = {"mask": MaskRegion(mask), "box bird": BoxRegion((16, 16), ((0.0, 0.0, 16.0, 16.0),))}
    image = torch.full((3, 16, 16), 0.5)
    noise = with_noise_outside(image, 3, regions) - image
    assert (noise[:, 4:8] == 0).all()
    rest = torch.cat([noise[:, :4], noise[:, 8:]], dim=1)
    assert float(rest.std()) == pytest.approx(0.05 * 0.225, rel=0.1)
    del regions["mask"]
    assert torch.equal(with_noise_outside(image, 3, regions), image)
    assert with_noise_outside(image, 3, {}) is None


def explanation(model, image: torch.Tensor, shown=None):
    """Activations, logits and the maps of the strongest prototypes, as lists, and which these are."""
    layer = model.prototype_layer
    with torch.no_grad():
        features = model.features(image[None])
        output = model.head(features)
    activations = output.activations[0].double().tolist()
    chosen = shown or sorted(range(len(activations)), key=lambda j: -activations[j])[:2]
    maps = []
    for j in chosen:
        distance = ((features[0].double() - layer.prototypes.detach()[j].double()[:, None, None]) ** 2).sum(dim=0)
        maps.append(((distance + 1) / (distance + layer.epsilon)).log().tolist())
    return (activations, output.logits[0].double().tolist(), maps), chosen


@pytest.mark.parametrize("name", ["continuity", "completeness"])
def test_over_a_data_set_against_a_slow_program(name: str) -> None:
    model, number = small_model(), 5
    images, labels = random_images(number)
    box = BoxRegion((32, 32), ((0.0, 0.0, 20.0, 16.0),))

    def regions(index: int):
        return {} if index == 1 else {"box bird": box}

    context = Context(subset=4, shown=2, seed=1, regions=regions)
    (result,) = measure(
        model, [(images[:2], labels[:2]), (images[2:], labels[2:])], number, only=[name], context=context
    )
    wanted = []
    drawn = np.random.default_rng(1).permutation(number)[:4].tolist()
    assert 1 in drawn
    for index in drawn:
        if name == "continuity":
            changed = slightly_changed(images[index], index, 1)  # compared with a slow program above
        else:
            state = np.random.SeedSequence([1, index]).generate_state(1, np.uint64)[0]
            noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(state) // 2))
            noise[:, :20, :16] = 0
            changed = images[index] + 0.05 * 0.225 * noise
        if name == "completeness" and index == 1:
            continue
        before, shown = explanation(model, images[index])
        after, _ = explanation(model, changed, shown)
        wanted.append(plain.change(before, after, shown, (32, 32)))
    for field, words in WORDS.items():
        value = float(np.mean([one[field] for one in wanted]))
        assert result.estimates[words].value == pytest.approx(value, rel=1e-3, abs=1e-5), field
    assert result.settings["images"] == result.passes == len(wanted)
    if name == "completeness":
        assert result.skipped == {"images without box and mask": 1}


def test_noise_around_an_object_that_fills_the_image_changes_nothing() -> None:
    whole = MaskRegion(np.ones((1, 1), dtype=bool))
    context = Context(regions=lambda _: {"mask": whole})
    (result,) = measure(small_model(), [random_images(4)], 4, only=["completeness"], context=context)
    assert [number.value for number in result.estimates.values()] == pytest.approx([0.0] * 7, abs=1e-5)


def test_what_is_missing_is_said() -> None:
    (none,) = measure(small_model(), [random_images(4)], 4, only=["completeness"])
    assert none.left_out == "no annotations were given"
    context = Context(regions=lambda _: {})
    (empty,) = measure(small_model(), [random_images(4)], 4, only=["completeness"], context=context)
    assert empty.left_out == "no drawn image has a box or a mask"
