"""Nets of timm, with a stand-in for the package: what is asked of it, and every error."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from protokern.backbones import build_backbone
from protokern.errors import ConfigError, MissingPackageError
from protokern.models.build import build_model
from protokern.models.protopnet import ProtoPNetConfig


class Net(nn.Module):
    """What timm makes with `features_only=True`: a list of one map."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3, stride=4, padding=1)
        self.feature_info = SimpleNamespace(channels=lambda: [6])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(images)]


@pytest.fixture
def timm(monkeypatch) -> Any:
    module: Any = ModuleType("timm")
    module.__version__ = "1.0"
    module.calls = []

    def create_model(name, **options):
        module.calls.append((name, options))
        if name == "no_features":
            raise RuntimeError("features_only not implemented\nfor this net")
        net: Any = Net(options["in_chans"])
        if name == "channels_last":
            net.forward = lambda images: [net.conv(images).permute(0, 2, 3, 1)]
        overlay = options.get("pretrained_cfg_overlay")
        if overlay is not None:
            net.load_state_dict(overlay["state_dict"])
        return net

    names = ["resnet18", "no_features", "channels_last"]
    module.create_model = create_model
    module.is_model = lambda name: name in names
    module.list_models = lambda: names
    module.data = SimpleNamespace(
        resolve_model_data_config=lambda net: {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_a_net_of_timm_gives_its_last_stage_of_normalised_images(timm):
    backbone = build_backbone("timm/resnet18", weights="none")
    images = torch.rand(2, 3, 16, 16)
    wanted = backbone.body.net.conv((images - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / backbone.std)
    torch.testing.assert_close(backbone(images), wanted)
    assert timm.calls == [
        ("resnet18", {"features_only": True, "out_indices": (-1,), "in_chans": 3, "pretrained": False})
    ]


def test_weights_are_timm_s_or_those_of_a_file(timm, tmp_path):
    state = {name: torch.full_like(value, 0.5) for name, value in Net(3).state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    backbone = build_backbone("timm/resnet18", weights=tmp_path / "net.pth")
    assert torch.equal(backbone.body.net.conv.weight.detach(), state["conv.weight"])
    build_backbone("timm/resnet18")
    assert [options["pretrained"] for _, options in timm.calls] == [True, True]
    assert "pretrained_cfg_overlay" not in timm.calls[1][1]


def test_a_model_stands_on_a_net_of_timm(timm):
    config = ProtoPNetConfig(backbone="timm/resnet18", weights="none", prototypes_per_class=1, prototype_dim=4)
    assert build_model(config, 3, 16)(torch.rand(2, 3, 16, 16)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet19", r"must be a net of timm 1\.0; got 'timm/resnet19'\. Similar: timm/resnet18\."),
        ("timm/zzz", r"got 'timm/zzz'\. See timm\.list_models\(\)\."),
        ("timm/no_features", r"cannot make the features of 'timm/no_features' .*\(features_only not implemented\)"),
        ("timm/", "must be one of"),
    ],
)
def test_nets_that_timm_cannot_give_are_refused(timm, name, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, weights="none")


def test_maps_of_another_layout_are_refused(timm):
    config = ProtoPNetConfig(backbone="timm/channels_last", weights="none")
    with pytest.raises(ConfigError, match=r"timm gives features \(1, 4, 4, 6\) where \(B, 6, H, W\) are wanted"):
        build_model(config, 3, 16)


def test_a_missing_timm_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"timm: must be installed .* Run pip install 'protokern\[timm\]'\."):
        build_backbone("timm/resnet18", weights="none")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_the_real_timm(tmp_path):
    import timm

    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "net.pth")
    backbone = build_backbone("timm/resnet18", weights=tmp_path / "net.pth").eval()
    own = build_backbone("resnet18", weights=tmp_path / "net.pth").eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images), own(images))
