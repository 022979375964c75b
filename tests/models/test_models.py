"""The contract over all models of the registry, and what is ProtoPNet's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from protokern.losses import Labels, LossCoefficients
from protokern.models import MODELS, ProtoPNet, PrototypeModel
from protokern.models.base import vectors_of
from protokern.models.configurations import find_configuration
from protokern.models.feature_shape import find_feature_shape
from protokern.nn import PrototypeLayer
from tests.models.contract import PointsContract


class TestProtoPNet(PointsContract):
    def build(self, backbone, num_classes):
        return ProtoPNet(
            backbone, num_classes, prototypes_per_class=2, prototype_dim=5, in_channels=self.CHANNELS, image_size=16
        )


class TestProtoPNetWithLargePrototypes(PointsContract):
    def build(self, backbone, num_classes):
        return ProtoPNet(
            backbone,
            num_classes,
            prototypes_per_class=2,
            prototype_dim=5,
            prototype_size=(2, 1),
            in_channels=self.CHANNELS,
            image_size=(16, 8),
        )


class TestProtoPNetWithCosine(PointsContract):
    def build(self, backbone, num_classes):
        options = {"add_on_layers": "linear", "metric": "cosine", "activation": "cosine"}
        return ProtoPNet(
            backbone, num_classes, prototypes_per_class=2, prototype_dim=5, in_channels=self.CHANNELS, **options
        )


class TestProtoPNetWithSalience(PointsContract):
    def build(self, backbone, num_classes):
        options = {"add_on_layers": "linear", "metric": "cosine", "activation": "cosine", "salience": 2.0}
        return ProtoPNet(
            backbone, num_classes, prototypes_per_class=2, prototype_dim=5, in_channels=self.CHANNELS, **options
        )


class TestProtoPNetWithTheMeanOfTheNearest(PointsContract):
    def build(self, backbone, num_classes):
        sizes = {"prototypes_per_class": 2, "prototype_dim": 5, "image_size": 16}
        return ProtoPNet(backbone, num_classes, in_channels=self.CHANNELS, top_k=3, **sizes)


def test_every_model_has_a_contract_test():
    # The others' are in test_protopool_contract.py, test_prototree.py, test_tesnet.py and test_pipnet.py.
    assert list(MODELS) == ["protopnet", "protopool", "prototree", "tesnet", "pipnet"]


def test_names_and_settings_of_all_models_are_known_without_torch():
    script = (
        "import sys; from protokern.models.configurations import all_configurations as found; "
        "print(*(f'{name}={owner.__name__}' for name, owner in found().items()), 'torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [*(f"{name}={kind.Config.__name__}" for name, kind in MODELS.items()), "False"]


def test_a_program_adds_and_removes_a_model():
    assert "mine" not in MODELS
    MODELS["mine"] = ProtoPNet
    assert MODELS["mine"] is ProtoPNet
    assert MODELS.light_settings_of("mine") is None
    assert find_configuration("mine") is ProtoPNet.Config
    del MODELS["mine"]
    assert find_configuration("mine") is None
    with pytest.raises(KeyError, match="mine"):
        _ = MODELS["mine"]


def conv_net(channels: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())


def test_prototypes_are_dealt_to_the_classes_in_order():
    model = ProtoPNet(conv_net(), 3, prototypes_per_class=2, prototype_dim=4)
    assert model.class_identity.tolist() == [[1, 0, 0]] * 2 + [[0, 1, 0]] * 2 + [[0, 0, 1]] * 2
    assert "class_identity" in dict(model.named_buffers())


def test_defaults_are_the_original_ones():
    model = ProtoPNet(conv_net(), 2)
    assert model.prototype_layer.prototypes.shape == (20, 128)
    assert model.prototype_layer.activation == "log"
    assert model.prototype_layer.metric == "sqeuclidean"
    assert model.prototype_layer.epsilon == 1e-4
    assert model.last_layer.weight.unique().tolist() == [-0.5, 1]
    assert isinstance(model.add_on_layers[-1], nn.Sigmoid)


def test_logits_are_weighted_activations():
    model = ProtoPNet(conv_net(), 3, prototypes_per_class=2, prototype_dim=4)
    output = model(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(output.logits, output.activations @ model.last_layer.weight.T)
    assert torch.equal(model.prototype_weight, model.last_layer.weight)
    d = output.min_distances
    torch.testing.assert_close(output.activations, torch.log((d + 1) / (d + 1e-4)))


@pytest.mark.parametrize("activation", ["linear", lambda distance: torch.relu(-distance)], ids=["linear", "function"])
def test_a_model_that_projects_learns(activation):
    torch.manual_seed(0)
    model = ProtoPNet(conv_net(), 3, prototypes_per_class=2, prototype_dim=4, metric="dot", activation=activation)
    images, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    features = model.features(images)
    scores = torch.einsum("bdhw,pd->bphw", features, model.prototype_layer.prototypes).amax((2, 3))
    torch.testing.assert_close(model(images).activations, scores)  # features and prototypes are not negative
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 4.0),
        ({"prototype_size": (2, 3)}, 24.0),
        ({"metric": "cosine"}, 2.0),
        ({"metric": "cosine", "add_on_layers": "linear", "prototype_size": (2, 3)}, 2.0),
        ({"add_on_layers": "linear"}, None),
        ({"metric": "dot", "activation": "linear"}, None),
    ],
)
def test_max_distance_is_the_bound_of_the_metric(options, expected):
    model = ProtoPNet(conv_net(), 2, prototypes_per_class=1, prototype_dim=4, **options)
    assert model.max_distance == expected


def test_dry_run_leaves_the_backbone_as_it_was():
    backbone = conv_net()
    backbone[1].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    ProtoPNet(backbone, 2, prototypes_per_class=1, prototype_dim=4)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])
    assert [module.training for module in backbone.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()


def test_dry_run_gives_the_shape_and_draws_no_random_numbers():
    backbone = conv_net()
    random_state = torch.get_rng_state()
    assert find_feature_shape(backbone, 3, (9, 12)) == (6, 4, 5)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_backbone_of_another_type_is_run_in_its_own_type():
    model = ProtoPNet(conv_net().double(), 2, prototypes_per_class=1, prototype_dim=4)
    assert model.backbone(torch.rand(1, 3, 16, 16, dtype=torch.float64)).shape[1] == 6


def test_backbone_on_the_meta_device_is_run_there():
    with torch.device("meta"):
        model = ProtoPNet(conv_net(), 2, prototypes_per_class=1, prototype_dim=4)
    assert model.prototype_layer.prototypes.is_meta


def test_backbone_without_parameters_works():
    model = ProtoPNet(nn.AvgPool2d(4), 2, prototypes_per_class=1, prototype_dim=4, in_channels=5)
    assert model(torch.rand(2, 5, 16, 16)).logits.shape == (2, 2)


def test_a_model_of_ones_own_must_say_what_its_head_does():
    with pytest.raises(NotImplementedError, match="PrototypeModel must define head"):
        PrototypeModel().head(torch.rand(1, 2, 3, 3))
    with pytest.raises(NotImplementedError, match="PrototypeModel must define loss"):
        PrototypeModel().loss(None, Labels(torch.tensor([0])), LossCoefficients())


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind.pushes])
def test_every_model_of_vectors_is_made_from_its_settings(name):
    kind = MODELS[name]
    activation = "linear" if kind.Config().metric == "dot" else "exp"
    config = kind.Config(prototype_dim=4, prototype_size=(2, 1), activation=activation, epsilon=0.5)
    assert config.name == name
    model = kind.from_config(config, conv_net(), 3, (16, 12))
    assert type(model) is kind
    assert model.num_classes == 3
    assert vectors_of(model).shape[1:] == (4, 2, 1)
    assert isinstance(model.prototype_layer, PrototypeLayer)
    assert (model.prototype_layer.activation, model.prototype_layer.epsilon) == (activation, 0.5)
    assert model(torch.rand(2, 3, 16, 12)).logits.shape == (2, 3)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (
            nn.Flatten(),
            {},
            r"backbone: must map images \(1, 3, 64, 64\) to feature maps .*; got \(1, 12288\). Leave out",
        ),
        (Pair(), {}, "backbone: .*; got tuple. Leave out pooling and the classifier."),
        (nn.Conv2d(1, 4, 3), {}, "backbone: .*it failed: .*Check in_channels and image_size."),
        (nn.Conv2d(3, 4, 99), {}, "backbone: .*it failed: .*Check in_channels and image_size."),
        (
            nn.AvgPool2d(32),
            {"prototype_size": (3, 1)},
            r"prototype_size: must fit the feature grid \(2, 2\) of .*; got",
        ),
        (nn.Identity(), {"num_classes": 0}, "num_classes: must be at least 1; got 0. Give a positive number."),
        (
            nn.Identity(),
            {"prototypes_per_class": 0},
            "prototypes_per_class: must be a finite number of at least 1; got 0.",
        ),
        (
            nn.Identity(),
            {"add_on_layers": "none"},
            "add_on_layers: must be one of regular, bottleneck, single, single_no_bias, linear; got",
        ),
        (nn.Identity(), {"metric": "l1"}, "metric: must be one of sqeuclidean, cosine, dot; got 'l1'."),
    ],
)
def test_wrong_arguments(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        ProtoPNet(backbone, **{"num_classes": 2, "prototype_dim": 4} | options)
