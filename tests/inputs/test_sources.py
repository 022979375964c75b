from __future__ import annotations

import pytest
import torch

from protokern.errors import Stopped
from protokern.inputs.loaders import ordered_loader
from protokern.inputs.sources import FrozenFeatures, on_features
from protokern.push import push_prototypes
from tests.train.toy import Squares, toy_config, toy_run


@pytest.fixture
def model(tmp_path):
    return toy_run(tmp_path, toy_config()).model.eval()


def features_of(model, *, memory: int) -> FrozenFeatures:
    loader = ordered_loader(Squares(12, seed=1), 5, workers=0)
    return FrozenFeatures(model, loader, channels_last=True, memory=memory, should_stop=lambda: False)


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
    frozen = FrozenFeatures(model, loader, channels_last=True, memory=0, should_stop=lambda: True)
    with pytest.raises(Stopped):
        list(frozen)


def test_a_push_on_features_is_a_push_on_images(model) -> None:
    loader = ordered_loader(Squares(12, seed=1), 5, workers=0)
    start = model.prototype_layer.prototypes.detach().clone()
    expected = push_prototypes(model, loader)
    pushed = model.prototype_layer.prototypes.detach().clone()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(start)
    backbone, frozen = model.backbone, features_of(model, memory=10**6)
    with on_features(model):
        result = push_prototypes(model, frozen)
    assert model.backbone is backbone
    assert result.image.tolist() == expected.image.tolist()
    assert result.patch.tolist() == expected.patch.tolist()
    torch.testing.assert_close(model.prototype_layer.prototypes.detach(), pushed)
