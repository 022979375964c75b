"""One constructor for all models: a configuration, or its fields by name, and what is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protokern.errors import ConfigError
from protokern.models import MODELS, ProtoPNet, ProtoPool, PrototypeModel
from protokern.models.protopnet import ProtoPNetConfig
from protokern.models.protopool import ProtoPoolConfig

SMALL = {"prototype_dim": 4, "prototype_size": (2, 1), "activation": "exp", "epsilon": 0.5}
OF_CHANNELS = {"num_prototypes": 4, "activation": "exp", "smallest_presence": 0.2}


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


def halved(distance: Tensor) -> Tensor:
    return -0.5 * distance


@pytest.mark.parametrize("kind", MODELS.values())
def test_a_config_its_fields_by_name_and_from_config_make_the_same_model(kind: type[PrototypeModel]) -> None:
    of_vectors = SMALL | ({"activation": "linear"} if kind.Config().metric == "dot" else {})
    small = of_vectors if kind.pushes else OF_CHANNELS
    models = [
        kind(conv_net(), 3, kind.Config(**small), image_size=16),
        kind(conv_net(), 3, image_size=16, **small),
        kind.from_config(kind.Config(**small), conv_net(), 3, 16),
    ]
    states = [model.state_dict() for model in models]
    assert list(states[0]) == list(states[1]) == list(states[2])
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value)
        assert torch.equal(states[2][name], value)
    assert str(models[0]) == str(models[1]) == str(models[2])
    assert models[0].prototype_layer.activation == small["activation"]


@pytest.mark.parametrize("kind", [ProtoPNet, ProtoPool])
def test_an_activation_may_be_a_function_beside_a_config_and_beside_settings(kind: type[PrototypeModel]) -> None:
    for given in ({"config": kind.Config(**SMALL)}, SMALL | {"activation": halved}):
        model = kind(conv_net(), 3, image_size=16, **{"activation": halved, **given})
        assert model.prototype_layer.activation is halved


@pytest.mark.parametrize(("kind", "own"), [(ProtoPNet, {}), (ProtoPool, {"focal": "similarity"})])
def test_every_setting_of_the_layer_reaches_it(kind: type[PrototypeModel], own: dict[str, Any]) -> None:
    layer: Any = kind(conv_net(), 3, image_size=16, **SMALL, **own, top_k=3, search_precision="tf32").prototype_layer
    assert layer.prototypes.shape[1:] == (4, 2, 1)
    assert (layer.activation, layer.epsilon, layer.top_k, layer.precision) == ("exp", 0.5, 3, "tf32")
    cosine = {"metric": "cosine", "activation": "linear", "add_on_layers": "linear", "salience": 0.5}
    layer = kind(conv_net(), 3, image_size=16, prototype_dim=4, **own, **cosine, backend="reference").prototype_layer
    assert (layer.metric, layer.activation, layer.norm_as_weight, layer.backend) == (
        "cosine",
        "linear",
        True,
        "reference",
    )
    assert (layer.top_k, layer.precision) == (1, None)


def test_the_similarity_is_the_mean_of_those_of_the_nearest_patches() -> None:
    model = ProtoPNet(conv_net(), 3, prototype_dim=4, image_size=16, top_k=3, activation="linear").eval()
    images = torch.rand(2, 3, 16, 16)
    output = model(images)
    patches = model.features(images).flatten(2).transpose(1, 2)  # (B, N, D)
    squared = (patches[:, :, None] - model.prototype_layer.prototypes).square().sum(dim=3)  # (B, N, P)
    nearest = squared.sort(dim=1).values
    torch.testing.assert_close(output.activations, -nearest[:, :3].mean(dim=1))
    torch.testing.assert_close(output.min_distances, nearest[:, 0])


def test_the_channels_of_the_images_are_those_of_the_backbone() -> None:
    backbone = nn.Conv2d(2, 4, 3)
    backbone.in_channels = 2
    model = ProtoPNet.from_config(ProtoPNetConfig(prototype_dim=4), backbone, 2, 16)
    assert model(torch.rand(1, 2, 16, 16)).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config": 3}, "config: must be a ProtoPNetConfig; got 3. Write prototypes_per_class=3."),
        ({"config": "tiny"}, "config: must be a ProtoPNetConfig; got 'tiny'. Or give its fields by name."),
        (
            {"config": ProtoPoolConfig()},
            "config: must be a ProtoPNetConfig; got a ProtoPoolConfig. Or give its fields by name.",
        ),
        (
            {"config": ProtoPNetConfig(), "activation": "exp", "prototype_dim": 4},
            "config: must be None where settings are given by name; got both, with prototype_dim, activation. "
            "Set them in the config.",
        ),
        (
            {"prototypes_per_clas": 3},
            "prototypes_per_clas: must be a field of ProtoPNetConfig; got an unknown name. "
            "Did you mean prototypes_per_class? Fields: ",
        ),
        (
            {"crowding": 3},
            "crowding: must be a field of ProtoPNetConfig; got an unknown name. Fields: prototype_dim, ",
        ),
        ({"name": "protopnet"}, "name: must be a field of ProtoPNetConfig; got an unknown name. Fields: "),
        (
            {"weights": "none"},
            "weights: must be given to build_backbone; got it for a model, which takes a finished backbone.",
        ),
    ],
)
def test_what_is_no_setting_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        ProtoPNet(conv_net(), 2, **given)


def test_an_unknown_name_lists_the_fields_that_a_model_takes() -> None:
    with pytest.raises(TypeError) as caught:
        ProtoPool(conv_net(), 2, crowding=1)
    listed = str(caught.value).partition("Fields: ")[2].rstrip(".").split(", ")
    of_the_backbone = {"name", "backbone", "weights", "backbone_stage", "salience_stage"}
    assert set(listed) == {field.name for field in fields(ProtoPoolConfig)} - of_the_backbone


def test_the_number_that_once_was_the_third_argument_is_named_for_every_model() -> None:
    with pytest.raises(TypeError, match=r"^config: must be a ProtoPoolConfig; got 5\. Write num_prototypes=5\.$"):
        ProtoPool(conv_net(), 2, 5)


def test_a_value_out_of_range_is_refused_as_in_a_file() -> None:
    with pytest.raises(ConfigError, match=r'^metric: must be "cosine" when activation is "cosine"; got'):
        ProtoPNet(conv_net(), 2, activation="cosine")
    with pytest.raises(ConfigError, match=r'^activation: must be "linear" when metric is "dot"; got \'log\''):
        ProtoPNet(conv_net(), 2, metric="dot")
    with pytest.raises(ValueError, match=r"^activation: must be one of log, .* or a callable; got 3\."):
        ProtoPNet(conv_net(), 2, activation=3)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ProtoPNet, {"top_k": 0}, r"^top_k: must be from 1 to 8; got 0\.$"),
        (ProtoPNet, {"top_k": 9}, r"^top_k: must be from 1 to 8; got 9\.$"),
        (
            ProtoPNet,
            {"top_k": 5, "image_size": 5},
            r"^top_k: must be at most 4, the patches in the feature grid \(2, 2\) of \(5, 5\) pixels; got 5\. Take ",
        ),
        (
            ProtoPNet,
            {"search_precision": "fp8"},
            r"^search_precision: must be one of auto, fp32, tf32, bf16; got 'fp8'\.$",
        ),
        (ProtoPool, {"top_k": 2}, r'^top_k: must be 1 unless focal is "similarity" and salience is 0; got 2\.$'),
        (
            ProtoPool,
            {"top_k": 2, "focal": "similarity", "metric": "cosine", "activation": "cosine", "salience": 1.0},
            r'^top_k: must be 1 unless focal is "similarity" and salience is 0; got 2\.$',
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(kind: type[PrototypeModel], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(conv_net(), 2, prototype_dim=4, **settings)
