from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from protokern.errors import Stopped
from protokern.features import FeatureStore, FeatureWriter, Fingerprint
from protokern.inputs.loaders import StoredImages, given_of, ordered_loader, training_loader
from protokern.inputs.sources import FrozenSplits, MemorySource
from protokern.models.base import PrototypeModel
from protokern.nn import apply_to_rows
from protokern.prune import prune_prototypes
from protokern.push import push_prototypes
from protokern.search import find_nearest_patches
from tests.train.toy import Squares, toy_config, toy_run


@pytest.fixture
def model(tmp_path):
    return toy_run(tmp_path, toy_config()).model.eval()


def features_of(model, *, memory: int) -> MemorySource:
    loader = ordered_loader(Squares(12, seed=1), 5, workers=0)
    return MemorySource(loader, model, channels_last=True, limit=memory, should_stop=lambda: False)


@pytest.mark.parametrize("memory", [0, 2000, 10**6])
def test_every_pass_gives_the_model_s_features(model, memory) -> None:
    frozen = features_of(model, memory=memory)
    for _ in range(3):
        batches = list(frozen)
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 0, 1], [2, 0, 1, 2, 0], [1, 2]]
        for (features, _), (images, _) in zip(batches, ordered_loader(Squares(12, seed=1), 5, 0), strict=True):
            torch.testing.assert_close(features, model.features(images).detach())
            assert not features.requires_grad


@pytest.mark.parametrize(("memory", "runs"), [(0, 9), (10**6, 3)])
def test_the_backbone_runs_once_when_there_is_memory(model, memory, runs) -> None:
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    frozen = features_of(model, memory=memory)
    for _ in range(3):
        list(frozen)
    assert len(calls) == runs


def test_a_pass_that_was_broken_off_is_not_kept(model) -> None:
    frozen = features_of(model, memory=10**6)
    next(iter(frozen))
    assert sum(len(labels) for _, labels in frozen) == 12


def test_a_pass_that_is_asked_to_stop_does(model) -> None:
    loader = ordered_loader(Squares(12, seed=1), 5, workers=0)
    frozen = MemorySource(loader, model, channels_last=True, limit=0, should_stop=lambda: True)
    with pytest.raises(Stopped):
        list(frozen)


def test_a_push_on_features_is_a_push_on_images(model) -> None:
    loader = ordered_loader(Squares(12, seed=1), 5, workers=0)
    start = model.prototype_layer.prototypes.detach().clone()
    expected = push_prototypes(model, loader)
    pushed = model.prototype_layer.prototypes.detach().clone()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(start)
    frozen = features_of(model, memory=10**6)
    result = push_prototypes(model, frozen, given=frozen.given)
    assert result.image.tolist() == expected.image.tolist()
    assert result.patch.tolist() == expected.patch.tolist()
    torch.testing.assert_close(model.prototype_layer.prototypes.detach(), pushed)


@pytest.fixture
def stored(model: PrototypeModel, tmp_path: Path) -> StoredImages:
    """What the backbone gives for twelve squares."""
    images = Squares(12, seed=1)
    fingerprint = Fingerprint(weights="toy", transform="none", files="twelve")
    with FeatureWriter(tmp_path / "store", fingerprint, images=12, precision="fp32") as writer, torch.no_grad():
        writer.append(model.backbone(images.images), torch.tensor(images.labels))
    return StoredImages(FeatureStore.open(tmp_path / "store"), images)


class InBatches(Squares):
    """Images that come in batches, as some data sets of other libraries do."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [self[index] for index in indices]


def test_only_stored_maps_are_given_as_maps(stored: StoredImages) -> None:
    """Not every data set that gives whole batches is a store."""
    assert [given_of(one) for one in (Squares(3, seed=1), InBatches(3, seed=1), stored)] == ["images", "images", "maps"]
    assert ordered_loader(stored, 5, workers=0).given == "maps"
    assert training_loader(InBatches(3, seed=1), [[0, 2]], workers=0, seed=0).given == "images"


def test_stored_maps_are_read_by_no_worker(stored: StoredImages) -> None:
    assert ordered_loader(stored, 5, workers=2).num_workers == 0
    assert ordered_loader(InBatches(3, seed=1), 5, workers=2).num_workers == 2


def test_features_in_memory_are_those_of_whole_maps(model: PrototypeModel, stored: StoredImages) -> None:
    """And those of a model that is given stored maps are the row form: two roundings, both kept."""
    source = MemorySource(
        ordered_loader(stored, 12, workers=0), model, channels_last=True, limit=0, should_stop=lambda: False
    )
    ((found, _),) = source
    maps = stored.store.read(list(range(12))).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(found, model.add_on_layers(maps))
        assert torch.equal(model.features(maps, given="maps"), apply_to_rows(model.add_on_layers, maps))
        assert model.features(found, given="features") is found


@torch.no_grad()
def test_a_model_takes_images_maps_and_features(model: PrototypeModel) -> None:
    images = Squares(4, seed=1).images
    wanted = model(images)
    maps = model.backbone(images)
    for inputs, given in ((maps, "maps"), (model.add_on_layers(maps), "features")):
        torch.testing.assert_close(model(inputs, given=given).logits, wanted.logits)


@pytest.mark.parametrize(
    "find",
    [
        functools.partial(find_nearest_patches, k=3),
        push_prototypes,
        functools.partial(prune_prototypes, k=3, threshold=2),
    ],
    ids=["search", "push", "prune"],
)
def test_what_is_found_on_images_is_found_on_their_stored_maps(
    model: PrototypeModel, stored: StoredImages, find: Callable[..., Any]
) -> None:
    images = ordered_loader(Squares(12, seed=1), 5, workers=0)
    maps = ordered_loader(stored, 5, workers=0)
    wanted, found = find(copy.deepcopy(model), images), find(copy.deepcopy(model), maps, given=maps.given)
    for name, value in vars(wanted).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-5)


def test_three_sources_share_the_memory_by_their_batches(model: PrototypeModel) -> None:
    """Of 5, 2 and 1 batches; the features of a batch of one image need 512 bytes."""
    loaders = [ordered_loader(Squares(count, seed=1), 1, workers=0) for count in (5, 2, 1)]
    one = model.features(Squares(1, seed=1).images).nbytes
    for limit, runs in ((8 * one, 8), (8 * one - 1, 16)):
        calls: list[int] = []
        hook = model.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        splits = FrozenSplits.make(model, *loaders, channels_last=True, limit=limit, should_stop=lambda: False)
        for source in (splits.push, splits.val, splits.test) * 2:
            list(source)
        hook.remove()
        assert len(calls) == runs


def test_the_flag_of_earlier_versions_says_what_to_write_now(model: PrototypeModel) -> None:
    with pytest.raises(AttributeError, match=r"takes_stored_maps: is no attribute .* model\(maps, given=\"maps\"\)\."):
        model.takes_stored_maps = True  # type: ignore[misc, assignment]
