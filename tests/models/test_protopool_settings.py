"""The settings of a ProtoPool: what they build, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.errors import ConfigError
from protokern.models import ProtoPool
from protokern.models.protopool import ProtoPoolConfig


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


def test_pool_is_as_large_as_the_classes_and_twice_the_slots_unless_told():
    for num_classes, slots, wanted in ((3, 2, 4), (9, 2, 9)):
        config = ProtoPoolConfig(slots_per_class=slots, prototype_dim=4)
        assert ProtoPool.from_config(config, conv_net(), num_classes, 16).num_prototypes == wanted
    config = ProtoPoolConfig(
        num_prototypes=5,
        slots_per_class=2,
        prototype_dim=4,
        focal="similarity",
        last_layer="sum",
        schedule_epochs=7,
        compat=True,
    )
    model = ProtoPool.from_config(config, conv_net(), 9, 16)
    assert model.num_prototypes == 5
    assert (model.focal, model.compat, model.assignment.schedule_epochs) == ("similarity", True, 7)
    assert list(model.last_layer.parameters()) == []


def test_first_weights_of_the_last_layer_can_be_chosen():
    config = ProtoPoolConfig(slots_per_class=1, prototype_dim=4, correct_class_weight=2, incorrect_class_weight=-1)
    weight = ProtoPool.from_config(config, conv_net(), 2, 16).last_layer.weight
    assert weight.tolist() == [[2, -1], [-1, 2]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prototypes": -1}, r"num_prototypes: must be a finite number of at least 0; got -1"),
        ({"slots_per_class": 0}, r"slots_per_class: must be a finite number of at least 1; got 0"),
        ({"schedule_epochs": 0}, r"schedule_epochs: must be a finite number of at least 1; got 0"),
        ({"num_prototypes": 9}, r"num_prototypes: must be at least slots_per_class \(10\), or 0; got 9"),
        ({"correct_class_weight": float("nan")}, r"correct_class_weight: must be a finite number; got nan"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        ProtoPoolConfig(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, r"num_classes: must be at least 1; got 0\."),
        ({"slots_per_class": 0}, r"slots_per_class: must be a finite number of at least 1; got 0\."),
        ({"slots_per_class": 8}, r"num_prototypes: must be at least slots_per_class \(8\), or 0; got 7\."),
        ({"schedule_epochs": 0}, r"schedule_epochs: must be a finite number of at least 1; got 0\."),
        ({"focal": "max"}, r"focal: must be one of distance, similarity; got 'max'\. Check the spelling\."),
        ({"last_layer": "mean"}, r"last_layer: must be one of linear, sum; got 'mean'\. Check the spelling\."),
        (
            {"focal": "similarity", "activation": torch.exp},
            r'activation: must be a name with focal="similarity", .*; got a function\. Use focal="distance", or',
        ),
        (
            {"add_on_layers": "none"},
            r"add_on_layers: must be one of regular, bottleneck, single, single_no_bias, linear; got 'none'\.",
        ),
        ({"metric": "l1"}, r"metric: must be one of sqeuclidean, cosine, dot; got 'l1'\."),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ProtoPool(conv_net(), **{"num_classes": 2, "num_prototypes": 7, "slots_per_class": 3} | options)
