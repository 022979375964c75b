"""Small models of every kind, with settings that reach every branch of an export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.backbones.efficientnet_lite import SamePadConv2d
from protokern.backbones.registry import Backbone
from protokern.backbones.stages import find_earlier
from protokern.interop.export.source import ExportSource
from protokern.models import PIPNet, ProtoPNet, ProtoPool, ProtoTree, TesNet
from protokern.models.base import PrototypeModel

SIZE = 40
CLASSES = 3
SALIENT = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}


def inverse(distance: Tensor) -> Tensor:
    return 1 / (1 + distance)


def tiny() -> nn.Module:
    return build_backbone("tiny", weights="none")


def padded_by_size() -> Backbone:
    """As in EfficientNet-Lite: convolutions whose zeros depend on whether a side is even, and an earlier stage."""
    body = nn.Sequential(
        nn.Sequential(SamePadConv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(SamePadConv2d(6, 8, 5, 2), nn.ReLU()),
        nn.Sequential(SamePadConv2d(8, 8, 3, 2), nn.ReLU(), SamePadConv2d(8, 8, 3, 1)),
    )
    backbone = Backbone(body, (0.5,) * 3, (0.25,) * 3, 3)
    backbone.salience_stage, backbone.weighed_after = find_earlier(body, -2, name="padded", in_channels=3)
    return backbone


def _protopnet(backbone: nn.Module | None = None, **settings: object) -> ProtoPNet:
    wanted = {"prototypes_per_class": 4, "prototype_dim": 8, "image_size": SIZE, **settings}
    return ProtoPNet(backbone or tiny(), CLASSES, **wanted)


def _pool(**settings: object) -> ProtoPool:
    wanted = {"num_prototypes": 6, "slots_per_class": 2, "prototype_dim": 8, "image_size": SIZE, **settings}
    return ProtoPool(tiny(), CLASSES, **wanted)


def _tree(**settings: object) -> ProtoTree:
    model = ProtoTree(tiny(), CLASSES, depth=4, prototype_dim=8, image_size=SIZE, **settings)
    model.last_layer.leaf_logits.normal_(std=3)
    return model


def _pipnet(**settings: object) -> PIPNet:
    model = PIPNet(tiny(), CLASSES, num_prototypes=12, image_size=SIZE, **settings)
    nn.init.uniform_(model.last_layer.weight, -0.1, 1)
    if model.last_layer.bias is not None:
        nn.init.uniform_(model.last_layer.bias)
    return model


NETS: dict[str, Callable[[], PrototypeModel]] = {
    "log": _protopnet,
    "linear": lambda: _protopnet(activation="linear"),
    "exp": lambda: _protopnet(activation="exp", prototype_size=(2, 1)),
    "function": lambda: _protopnet(activation=inverse),
    "cosine": lambda: _protopnet(metric="cosine", activation="cosine", add_on_layers="linear"),
    "projected": lambda: _protopnet(metric="dot", activation="linear", add_on_layers="linear"),
    "salient": lambda: _protopnet(**SALIENT),
    "salient by a stage": lambda: _protopnet(padded_by_size(), **SALIENT),
    "salient windows": lambda: _protopnet(**{**SALIENT, "prototype_size": (2, 2), "activation": "log"}),
    "three nearest": lambda: _protopnet(top_k=3),
    "three nearest, projected": lambda: _protopnet(top_k=3, metric="dot", activation="linear"),
    "pool": _pool,
    "pool of cosines": lambda: _pool(**SALIENT),
    "pool with a last layer": lambda: _pool(focal="similarity", last_layer="linear"),
    "pool of windows": lambda: _pool(focal="similarity", activation="exp", prototype_size=(1, 2)),
    "tesnet": lambda: TesNet(tiny(), CLASSES, prototypes_per_class=4, prototype_dim=8, image_size=SIZE),
    "tree": _tree,
    "tree of squares": lambda: _tree(activation="exp"),
    "pipnet": _pipnet,
    "pipnet with a bias": lambda: _pipnet(bias=True, smallest_presence=0.2),
}


def make(name: str) -> PrototypeModel:
    """A net with final choices, and running statistics that are not those of a new net."""
    torch.manual_seed(0)
    model = NETS[name]()
    with torch.no_grad():
        model.train()(torch.rand(4, 3, SIZE, SIZE))
    model.harden()
    return model.eval()


def source_of(model: PrototypeModel, name: str) -> ExportSource:
    """What is exported of it."""
    return ExportSource(
        model=model,
        name="birds",
        classes=("a", "b", "c"),
        image_size=(SIZE, SIZE),
        channels=3,
        settings={"model": {"name": name, "activation": "log", "metric": "sqeuclidean", "epsilon": 1e-4}},
        prototypes=(),
    )
