"""Importance against a plain loop over images and prototypes, its weights, its interval, its memory, bad input."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.explain import importance, local_importance
from protokern.explain.importance import stream_importance
from protokern.explain.importance_sums import ImportanceSums
from protokern.explain.modifications import MODIFICATIONS
from protokern.models import ProtoPNet, ProtoPool, PrototypeModel

FEW = {name: MODIFICATIONS[name] for name in ("hue", "shape", "contrast")}


def backbone(in_channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(in_channels, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU())


def protopnet(**settings: object) -> ProtoPNet:
    return ProtoPNet(backbone(), 3, prototypes_per_class=2, prototype_dim=5, image_size=16, **settings).eval()


def protopool(focal: str) -> ProtoPool:
    return ProtoPool(
        backbone(), 3, num_prototypes=6, slots_per_class=2, prototype_dim=5, focal=focal, image_size=16
    ).eval()


def photos(count: int = 5, size: tuple[int, int] = (16, 20)) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    coarse = random.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [np.kron(one, np.ones((size[0] // 4, size[1] // 5, 1), np.uint8)) for one in coarse]


def similarity_map(model: PrototypeModel, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Distance and similarity of every prototype at every patch, (P, H' * W')."""
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        distance = model.prototype_layer.distance_map(model.features(tensor))[0].flatten(1)
    return distance, model.prototype_layer.activate(distance)


def expected(model: PrototypeModel, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """delta (N, M, P) and similarity (N, P), an image and a prototype at a time."""
    delta = np.zeros((len(images), len(FEW), model.num_prototypes))
    similarity = np.zeros((len(images), model.num_prototypes))
    for i, image in enumerate(images):
        distance, before = similarity_map(model, image)
        for m, modification in enumerate(FEW.values()):
            _, after = similarity_map(model, modification(image))
            for j in range(model.num_prototypes):
                patch = int(distance[j].argmin())
                similarity[i, j] = before[j, patch]
                delta[i, m, j] = before[j, patch] - after[j, patch]
    return delta, similarity


def weighed() -> ProtoPNet:
    """A net whose patches count by the length of their features, most of which are below 1."""
    model = protopnet(metric="cosine", activation="cosine", add_on_layers="linear")
    model.prototype_layer.norm_as_weight = True
    return model


MODELS = {
    "protopnet": protopnet,
    "several cells": lambda: protopnet(prototype_size=(2, 3)),
    "exp": lambda: protopnet(activation="exp"),
    "weighed by norm": weighed,
    "pool, distance": lambda: protopool("distance"),
    "pool, similarity": lambda: protopool("similarity"),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_scores_are_those_of_a_plain_loop(build) -> None:
    model, images = build(), photos()
    delta, similarity = expected(model, images)
    found = importance(model, iter(images), FEW, batch_size=2)
    assert found.names == ("hue", "shape", "contrast")
    assert found.num_images == 5
    weighted = (delta * similarity[:, None]).sum(axis=0) / similarity.sum(axis=0)
    # The similarities are logarithms of float32 distances, about 1e-6 apart for another order of sums.
    np.testing.assert_allclose(found.score, weighted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.similarity, similarity.mean(axis=0), rtol=1e-5)
    local = local_importance(model, images[3], FEW)
    np.testing.assert_allclose(local.delta, delta[3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(local.similarity, similarity[3], rtol=1e-5)


def test_local_scores_are_taken_at_the_patch_of_the_original() -> None:
    model, image = protopnet(), photos(1)[0]
    local = local_importance(model, image)
    assert local.names == tuple(MODIFICATIONS)
    with torch.no_grad():
        output = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    np.testing.assert_array_equal(local.patch, output.patches[0].numpy())
    np.testing.assert_allclose(local.similarity, output.activations[0].numpy(), rtol=1e-6)
    hue, _ = similarity_map(model, MODIFICATIONS["hue"](image))
    row = local.names.index("hue")
    np.testing.assert_allclose(local.modified_distance[row], hue[range(6), local.patch], rtol=1e-5, atol=1e-6)


def test_what_changes_nothing_has_no_importance_at_all() -> None:
    found = importance(protopnet(), photos(), {"nothing": lambda image: image.copy()})
    assert (found.score == 0).all()
    assert (found.low == 0).all()
    assert (found.high == 0).all()


def test_any_image_size_and_the_batch_size_is_no_matter() -> None:
    model, images = protopnet(), photos(7, size=(36, 25))
    one, all_at_once = (importance(model, images, FEW, batch_size=size) for size in (1, 7))
    for name in ("score", "low", "high", "similarity"):
        np.testing.assert_allclose(getattr(one, name), getattr(all_at_once, name), rtol=1e-4, atol=1e-5)


def test_negative_similarities_have_no_weight_and_without_a_positive_one_all_weigh_alike() -> None:
    sums = ImportanceSums(1, 2, replicates=100, seed=0)
    sums.add(np.array([[[1.0, 5.0]], [[3.0, 7.0]]]), np.array([[-2.0, -1.0], [0.5, -3.0]]))
    np.testing.assert_allclose(sums.score(), [[3.0, 6.0]])
    np.testing.assert_allclose(sums.mean_similarity(), [-0.75, -2.0])


def test_the_interval_covers_the_mean_of_a_known_distribution() -> None:
    random = np.random.default_rng(3)
    sums = ImportanceSums(1, 2000, replicates=300, seed=0)
    for _ in range(5):
        sums.add(random.normal(0.7, 1.0, (20, 1, 2000)), np.ones((20, 2000)))
    low, high = sums.interval()
    # 1.96 standard errors of a mean of 100 values; the bootstrap's own is 1 % smaller.
    assert np.mean(high - low) == pytest.approx(2 * 1.96 / math.sqrt(100), rel=0.05)
    assert 0.92 < np.mean((low < 0.7) & (high > 0.7)) < 0.97


def test_the_interval_is_the_same_for_the_same_seed_and_unknown_for_one_image() -> None:
    model, images = protopnet(), photos(12)
    first, again, other = (importance(model, images, FEW, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low != other.low).any()
    assert (first.low <= first.score).all()
    assert (first.score <= first.high).all()
    np.testing.assert_array_equal(first.score, other.score)
    assert np.isnan(importance(model, images[:1], FEW).low).all()


def test_prepare_makes_what_the_backbone_takes() -> None:
    torch.manual_seed(0)
    model = ProtoPNet(backbone(1), 2, prototypes_per_class=2, prototype_dim=5, in_channels=1, image_size=16).eval()
    found = importance(model, photos(), FEW, prepare=lambda images: images.mean(dim=1, keepdim=True))
    assert found.score.shape == (3, 4)
    assert np.isfinite(found.score).all()


def test_the_model_keeps_its_modes_and_the_caller_its_gradients() -> None:
    model = protopnet().train()
    stream: Any = stream_importance(model, photos(), FEW, batch_size=2)
    next(stream)
    assert model.training
    assert torch.is_grad_enabled()
    stream.close()


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """NumPy's arrays are counted by size, torch's tensors by number."""
    model = protopnet()
    modifications = {"darker": lambda image: image // 2}
    tensors: list[int] = []

    def many_images(count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            yield np.full((64, 64, 3), number % 256, np.uint8)
        tensors.append(sum(issubclass(type(one), Tensor) for one in gc.get_objects()))

    def peak(count: int) -> int:
        tracemalloc.start()
        importance(model, many_images(count), modifications, batch_size=4, replicates=100)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)
    few, many = peak(8), peak(160)
    assert many < few + 64 * 64 * 3  # less than one image more
    assert tensors[2] == tensors[1]


@pytest.mark.parametrize(
    ("images", "modifications", "arguments", "message"),
    [
        ([], FEW, {}, "images: must be at least one; got none"),
        (photos(2) + photos(1, (20, 20)), FEW, {}, r"images: must all be of one size; got \(16, 20\) and \(20, 20\)"),
        ([np.zeros((8, 8), np.uint8)], FEW, {}, r"image: must be an array of shape \(Y, X, 3\)"),
        (photos(), {"mine": lambda image: image[1:]}, {}, r"modifications: 'mine' must return"),
        (photos(), {}, {}, "modifications: must hold at least one"),
        (photos(), FEW, {"batch_size": 0}, "batch_size: must be at least 1; got 0"),
        (photos(), FEW, {"replicates": 99}, "replicates: must be at least 100; got 99"),
        (photos(), FEW, {"prepare": lambda x: x / 0}, "model: must give finite distances; got NaN or inf at image 0"),
    ],
)
def test_bad_input_is_refused(images, modifications, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        importance(protopnet(), images, modifications, **arguments)


def test_distances_that_are_not_finite_name_image_and_modification() -> None:
    model = protopnet()
    black = {"hue": MODIFICATIONS["hue"], "black": np.zeros_like}
    images = [np.clip(image, 1, 255) for image in photos()]
    with pytest.raises(ValueError, match="NaN or inf at image 0 changed in black"):
        importance(model, images, black, prepare=lambda x: torch.where(x == 0, torch.nan, x), batch_size=2)
