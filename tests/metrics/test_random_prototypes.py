"""Random prototypes: each is a patch of a training image of its class, and the model is itself again afterwards."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from protokern.backbones import build_backbone
from protokern.metrics import Context, measure
from protokern.metrics.random_prototypes import HAVE_REFERENCE, draw_patches, measure_random, with_prototypes
from protokern.models import ProtoPNet
from tests.metrics.marked import random_images


class Images:
    """Twelve random images of four classes."""

    def __init__(self) -> None:
        self.images, labels = random_images(12)
        self.labels: list[int] = labels.tolist()
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return self.images[index], self.labels[index]


def net(**settings: object) -> ProtoPNet:
    torch.manual_seed(3)
    return ProtoPNet(
        build_backbone("tiny"), 4, prototypes_per_class=3, prototype_dim=6, image_size=32, **settings
    ).eval()


@pytest.mark.parametrize("size", [(1, 1), (2, 1)])
def test_every_prototype_becomes_a_patch_of_an_image_of_its_class(size: tuple[int, int]) -> None:
    model, images = net(prototype_size=size), Images()
    patches, sources, places = draw_patches(model, images, seed=1)
    assert patches.shape == model.prototype_layer.prototypes.shape
    with torch.no_grad():
        for index, (image, (y, x)) in enumerate(zip(sources, places, strict=True)):
            assert images.labels[image] == index // 3
            features = model.features(images.images[image][None])[0]
            patch = features[:, y : y + size[0], x : x + size[1]].reshape(patches[index].shape)
            assert torch.allclose(patches[index], patch, atol=1e-6)  # another batch rounds differently
    assert len(set(places)) > 3
    assert len(set(sources)) > 4


def test_the_draw_is_that_of_the_seed_and_images_are_bounded() -> None:
    model, images = net(), Images()
    first, sources, _ = draw_patches(model, images, seed=1, most_images=4)
    assert Counter(images.labels[image] for image in set(sources)) == dict.fromkeys(range(4), 1)
    assert len(images.read) == 4
    assert torch.equal(draw_patches(model, images, seed=1, most_images=4)[0], first)
    assert not torch.equal(draw_patches(model, images, seed=2, most_images=4)[0], first)


def test_a_prototype_of_no_class_gets_a_patch_of_any_image() -> None:
    model = net()
    model.class_identity[5] = 0
    patches, sources, _ = draw_patches(model, Images())
    assert 0 <= sources[5] < 12
    assert torch.isfinite(patches).all()


def fail_with_zeros(model: ProtoPNet) -> None:
    with with_prototypes(model, torch.zeros_like(model.prototype_layer.prototypes)):
        assert not model.prototype_layer.prototypes.any()
        raise RuntimeError("inside")


def test_the_model_is_itself_again_also_after_an_error() -> None:
    model = net()
    own = model.prototype_layer.prototypes.detach().clone()
    with pytest.raises(RuntimeError, match="inside"):
        fail_with_zeros(model)
    assert torch.equal(model.prototype_layer.prototypes, own)


def test_the_numbers_are_those_of_a_net_with_these_prototypes() -> None:
    model, images = net(), Images()
    context = Context(subset=5, seed=2)
    found = measure_random(model, DataLoader(images, 5), 12, images, context=context)  # type: ignore[arg-type]
    assert [one.name for one in found] == [name for name in HAVE_REFERENCE if name in {one.name for one in found}]
    other = net()
    with torch.no_grad():
        other.prototype_layer.prototypes.copy_(draw_patches(model, images, seed=2)[0])
    names = [one.name for one in found]
    wanted = measure(other, DataLoader(images, 5), 12, only=names, context=context)  # type: ignore[arg-type]
    for one, same in zip(found, wanted, strict=True):
        assert repr(one.estimates) == repr(same.estimates)  # NaN is not equal to itself
        assert not one.prototypes
    own = measure(model, DataLoader(images, 5), 12, only=["stability", "accuracy"], context=context)  # type: ignore[arg-type]
    assert {one.name: one.estimates for one in own} != {
        one.name: one.estimates for one in found if one.name in ("stability", "accuracy")
    }


def test_without_a_measure_that_has_a_reference_nothing_is_read() -> None:
    images = Images()
    assert measure_random(net(), (), 12, images, only=["duplicates", "size"]) == ()
    assert images.read == []
