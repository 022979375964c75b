"""`train.frozen_layers` and `train.batch_norm`: what stands still while the backbone learns."""

from __future__ import annotations

import pytest
import torch

from protokern.backbones import build_backbone
from protokern.config import parse_config
from protokern.config.train import TrainConfig
from protokern.errors import ConfigError
from protokern.models import ProtoPNet
from protokern.train.optimizers import freeze, make_optimizer


@pytest.fixture
def model() -> ProtoPNet:
    return ProtoPNet(build_backbone("tiny"), 2, prototypes_per_class=2, prototype_dim=8)


def _step(model: ProtoPNet, config: TrainConfig) -> None:
    optimizer = make_optimizer(model, "joint", config)
    model(torch.rand(4, 3, 32, 32)).logits.square().sum().backward()
    optimizer.step()


def test_a_frozen_layer_keeps_weights_and_statistics_while_the_rest_learns(model: ProtoPNet) -> None:
    name = next(name for name, layer in model.backbone.named_modules() if isinstance(layer, torch.nn.Conv2d))
    norm = next(name for name, layer in model.backbone.named_modules() if isinstance(layer, torch.nn.BatchNorm2d))
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    _step(model, TrainConfig(frozen_layers=(name, norm)))
    for key, value in model.backbone.state_dict().items():
        is_frozen = key.startswith((f"{name}.", f"{norm}.", "mean", "std"))
        assert torch.equal(value, before[key]) == is_frozen, key


def test_frozen_batch_norm_keeps_its_statistics_and_still_learns_its_weights(model: ProtoPNet) -> None:
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    _step(model, TrainConfig(batch_norm="frozen"))
    after = model.backbone.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if "running" in key)
    assert not any(torch.equal(after[key], before[key]) for key in before if key.endswith("weight"))


def test_batch_norm_in_training_uses_the_batch_by_default(model: ProtoPNet) -> None:
    before = {key: value.clone() for key, value in model.backbone.state_dict().items() if "running_mean" in key}
    _step(model, TrainConfig())
    assert not any(torch.equal(model.backbone.state_dict()[key], value) for key, value in before.items())


def test_unknown_layer_is_named_with_similar_ones(model: ProtoPNet) -> None:
    with pytest.raises(ConfigError, match=r"train\.frozen_layers: must name submodules of the backbone; got 'bodyy'"):
        freeze(model, "joint", TrainConfig(frozen_layers=("bodyy",)))


def test_frozen_layers_of_another_type_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.frozen_layers: must be a list of texts in \[ \]; got 3"):
        parse_config({"train": {"frozen_layers": 3}})
