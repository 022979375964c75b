"""Views of an image show the same places up to a few pixels, and differ in light and colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protokern.data import open_splits
from protokern.data import views as module
from protokern.data.augment import WHOLE_IMAGE, Augmentation, draw_quad, inside_quad, warp
from protokern.data.sources import BirdCounts
from protokern.data.views import change_light, draw_views
from protokern.errors import DataError


def places(size: int) -> torch.Tensor:
    """An image whose pixels say where they are: (1, 2, Y, X), x and y from 0 to 1."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    return torch.stack([line.expand(size, size), line[:, None].expand(size, size)])[None]


def test_a_part_of_a_quadrilateral_shows_what_the_whole_shows_there() -> None:
    quad = draw_quad(Augmentation(rotation=20, skew=0.3, smallest_crop=0.5), np.random.default_rng(3))
    whole = warp(places(200), [quad], (100, 100))[0]
    part = warp(places(200), [inside_quad(quad, (0.25, 0.1, 0.75, 0.6))], (50, 50))[0]
    torch.testing.assert_close(part, whole[:, 10:60, 25:75], atol=2e-3, rtol=0)


def test_views_show_the_same_places_up_to_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "change_light", lambda image, rng: image)
    rngs = [np.random.default_rng(seed) for seed in range(20)]
    several = draw_views(places(224).expand(20, -1, -1, -1), Augmentation(rotation=10), rngs, (224, 224), 2)
    assert several.shape == (20, 2, 2, 224, 224)
    shift = 224 * (several[:, 0] - several[:, 1])[..., 40:-40, 40:-40].abs()
    assert 1 < float(shift.max()) < 4.5  # pixels of the photograph, which a view shows smaller or turned


def test_without_an_augmentation_the_whole_image_is_shown_but_for_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "change_light", lambda image, rng: image)
    (view,) = draw_views(places(228), None, [np.random.default_rng(0)], (224, 224), 1)[0]
    assert float(view.min()) < 4.5 / 228
    assert float(view.max()) > 1 - 4.5 / 228
    assert float(view[0, 0, -1] - view[0, 0, 0]) == pytest.approx(223 / 228, abs=1e-3)
    assert inside_quad(WHOLE_IMAGE, (0, 0, 1, 1)) == WHOLE_IMAGE


@pytest.mark.parametrize("channels", [1, 3])
def test_light_changes_stay_in_range_and_are_of_eight_kinds(channels: int) -> None:
    torch.manual_seed(0)
    image = 0.2 + 0.5 * torch.rand(channels, 12, 10)
    changed = [change_light(image, np.random.default_rng(seed)) for seed in range(80)]
    assert all(one.shape == image.shape for one in changed)
    assert all(0 <= float(one.min()) <= float(one.max()) <= 1 for one in changed)
    same = sum(torch.equal(one, image) for one in changed)
    assert 2 <= same <= (30 if channels == 3 else 50)
    assert max(float((one - image).abs().mean()) for one in changed) > 0.1


def birds(channels: int = 3):
    counts = BirdCounts(num_classes=2, train_per_class=3, val_per_class=1, test_per_class=1, differ_in="species")
    return open_splits(None, image_size=24, seed=0, augmentation="crop", birds=counts, channels=channels)


def test_items_of_several_views_depend_on_epoch_and_index_alone() -> None:
    train = birds().train.with_views(2)
    item, label = train[4]
    assert item.shape == (2, 3, 24, 24)
    assert label == train.labels[4]
    assert not torch.equal(item[0], item[1])
    assert torch.equal(train.__getitems__([1, 4])[1][0], item)
    train.set_epoch(1)
    assert not torch.equal(train[4][0], item)
    assert train.without_augmentation()[4][0].shape == (3, 24, 24)


def test_one_view_is_what_it_was() -> None:
    train = birds().train
    assert torch.equal(train.with_views(1)[2][0], train[2][0])


def test_channels_that_are_no_colours_are_refused() -> None:
    with pytest.raises(DataError, match=r"data.channels: must be 1 or 3 for a model that learns from 2 views .*got 4"):
        birds(channels=4).train.with_views(2)
