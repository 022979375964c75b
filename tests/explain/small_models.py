"""Untrained models that take milliseconds: a ProtoPNet, and a ProtoPool with shared and unused prototypes."""

from __future__ import annotations

import torch
from torch import nn

from protokern.models import ProtoPNet, ProtoPool


def small_model(*, in_channels: int = 3, prototype_size: tuple[int, int] = (1, 1), num_classes: int = 4) -> ProtoPNet:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    model = ProtoPNet(
        backbone,
        num_classes,
        prototypes_per_class=3,
        prototype_dim=5,
        prototype_size=prototype_size,
        in_channels=in_channels,
        image_size=32,
    )
    nn.init.normal_(model.last_layer.weight)
    return model.eval()


def small_pool(*, focal: str = "distance", last_layer: str = "linear", is_hard: bool = True) -> ProtoPool:
    """Four classes with three slots each over seven prototypes: 0 shared, 6 unused, the last slot of class 3 empty."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
    )
    model = ProtoPool(
        backbone,
        4,
        num_prototypes=7,
        slots_per_class=3,
        prototype_dim=5,
        focal=focal,
        last_layer=last_layer,
        image_size=32,
    )
    if last_layer == "linear":
        nn.init.normal_(model.last_layer.weight)
    if is_hard:
        model.harden()
        model.assignment.slots.copy_(torch.tensor([[0, 1, 2], [3, 0, 4], [1, 5, 0], [5, 4, -1]]))
    return model.eval()
