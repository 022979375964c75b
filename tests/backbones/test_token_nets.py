"""Vision transformers as backbones: tokens as maps, sizes, blocks, weights of a file, and what refuses."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer

from protokern.backbones import build_backbone, registry, torchvision_nets
from protokern.backbones.token_nets import TokenNet
from protokern.cli.training import notes_on_positions
from protokern.errors import ConfigError
from protokern.explain.receptive_field import find_receptive_field
from protokern.models import ProtoPNet
from protokern.models.base import vectors_of
from protokern.models.build import build_model
from protokern.models.protopnet import ProtoPNetConfig

NAME = "torchvision/vit_b_16"


def small_transformer() -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=5
    )
    with torch.no_grad():  # a class token of zeros would hide that it takes part
        net.class_token.normal_()
    return net.eval()


@pytest.fixture
def small(monkeypatch):
    """Builds a small net under the name of a large one."""
    monkeypatch.setattr(torchvision_nets, "build_tokens", lambda name, in_channels=3: TokenNet(small_transformer()))
    return build_backbone


def tokens_of(net: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """What torchvision's own forward pass gives before its classifier, with the class token first."""
    patches = net._process_input(images)
    with_class = torch.cat([net.class_token.expand(len(images), -1, -1), patches], dim=1)
    return net.encoder(with_class)


def test_the_map_has_the_patch_tokens_at_their_cells():
    net = small_transformer()
    images = torch.rand(2, 3, 32, 32)
    maps = TokenNet(net)(images)
    tokens = tokens_of(net, images)
    assert maps.shape == (2, 12, 4, 4)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(maps[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_images_of_any_multiple_of_the_patch_get_resized_positions():
    net = TokenNet(small_transformer()).eval()
    assert net(torch.rand(1, 3, 48, 24)).shape == (1, 12, 6, 3)
    with torch.no_grad():
        net.encoder.pos_embedding[:, 1:] = 0.25  # the same at every place, so resizing does nothing
    positions = net._positions(6, 3)
    assert positions.shape == (1, 19, 12)
    torch.testing.assert_close(positions[:, 1:], torch.full((1, 18, 12), 0.25))
    assert torch.equal(positions[:, 0], net.encoder.pos_embedding[:, 0])


def test_positions_are_resized_along_rows_and_columns():
    net = TokenNet(small_transformer())
    with torch.no_grad():
        ramp = torch.arange(4.0)
        net.encoder.pos_embedding[0, 1:] = (ramp[:, None] + 10 * ramp).flatten()[:, None]  # row + 10 column
    grid = net._positions(4, 8)[0, 1:, 0].reshape(4, 8)
    assert (grid.diff(dim=1) > 0).all()
    torch.testing.assert_close(grid.diff(dim=0), torch.ones(3, 8), atol=1e-5, rtol=0)


def test_a_block_is_a_stage(small):
    whole, ended = small(NAME, weights="none"), small(NAME, weights="none", stage=-2)
    images = torch.rand(2, 3, 32, 32)
    assert (whole.stage, ended.stage) == (None, 1)
    assert len(ended.body.encoder.layers) == 2
    seen = []
    whole.body.encoder.layers[1].register_forward_hook(lambda module, given, result: seen.append(result))
    whole(images)
    wanted = seen[0][:, 1:].transpose(1, 2).reshape(2, 12, 4, 4)  # without the norm after the last block
    torch.testing.assert_close(ended(images), wanted)
    assert small(NAME, weights="none", stage=2).stage is None
    with pytest.raises(
        ConfigError, match=r"must be a stage of backbone 'torchvision/vit_b_16': 0 \(stride 8, 12 .*; got 3"
    ):
        small(NAME, weights="none", stage=3)


def test_an_earlier_block_can_weigh_the_map(small):
    whole, weighed = small(NAME, weights="none"), small(NAME, weights="none", salience_stage=0)
    assert weighed.salience_stage == 0
    images = torch.rand(2, 3, 32, 32)
    seen = []
    whole.body.encoder.layers[0].register_forward_hook(lambda module, given, result: seen.append(result))
    maps = whole(images)
    length = seen[0][:, 1:].norm(dim=2).reshape(2, 1, 4, 4)
    share = length / length.amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(weighed(images), maps * share)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file_of_the_whole_classifier(small, tmp_path, suffix):
    net = small_transformer()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    path = tmp_path / f"net{suffix}"
    save_file(net.state_dict(), path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    backbone = small(NAME, weights=path).eval()
    images = torch.rand(1, 3, 32, 32)
    normalised = (images - backbone.mean) / backbone.std
    torch.testing.assert_close(backbone(images).flatten(2).transpose(1, 2), tokens_of(net, normalised)[:, 1:])
    torch.save({**net.state_dict(), "encoder.pos_embedding": torch.zeros(1, 10, 12)}, path.with_suffix(".pth"))
    with pytest.raises(ConfigError, match=r"weights: must fit backbone .*the first: 'encoder.pos_embedding'"):
        small(NAME, weights=path.with_suffix(".pth"))


def test_every_patch_sees_the_whole_image():
    model = ProtoPNet(TokenNet(small_transformer()), 2, prototypes_per_class=1, prototype_dim=4, image_size=32).eval()
    field = find_receptive_field(model.features, torch.rand(3, 32, 32))
    assert field.rows == field.columns == ((0, 32),) * 4
    assert field.share((32, 32)) == 1


def test_a_prototype_of_a_token_is_drawn_at_its_cell(small):
    config = ProtoPNetConfig(backbone=NAME, weights="none", prototypes_per_class=1, prototype_dim=4)
    model = build_model(config, 2, (32, 48)).eval()
    images = torch.rand(2, 3, 32, 48)
    output = model(images)
    features = model.features(images)
    assert features.shape[2:] == (4, 6)
    distance = (features[:, None] - vectors_of(model)[None, :, :, None, None]).square().sum(2)
    assert torch.equal(output.patches, distance.flatten(2).argmin(dim=2))


@pytest.mark.parametrize(("size", "advice"), [(100, "96"), ((32, 44), "[32, 48]"), (3, "8")])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(small, size, advice):
    config = ProtoPNetConfig(backbone=NAME, weights="none", prototypes_per_class=1, prototype_dim=4)
    with pytest.raises(ConfigError) as refused:
        build_model(config, 2, size)
    assert str(refused.value) == (
        f"data.image_size: must be a multiple of 8 for backbone '{NAME}', whose patches have 8 pixels; got {size!r}. "
        f"Set {advice}."
    )
    with pytest.raises(ValueError, match=r"its images have sides that are multiples of 8 pixels\. Check in_channels"):
        ProtoPNet(TokenNet(small_transformer()), 2, prototype_dim=4, image_size=100)


def test_the_large_nets_are_those_of_torchvision():
    with torch.device("meta"):
        backbone = registry.build_backbone("torchvision/vit_b_32", weights="none", in_channels=1, stage=4)
        assert backbone(torch.zeros(1, 1, 64, 96)).shape == (1, 768, 2, 3)
    with pytest.raises(ConfigError, match=r"backbone: must be one of .*torchvision/ and one of vit_b_16, .*; got"):
        registry.build_backbone("torchvision/resnet18")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_transformer_of_timm_takes_any_size_and_leaves_out_its_registers(tmp_path):
    import timm

    name = "vit_small_patch14_reg4_dinov2"
    torch.save(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), tmp_path / "net.pth")
    backbone = build_backbone(f"timm/{name}", weights=tmp_path / "net.pth", stage=2).eval()
    assert backbone(torch.rand(1, 3, 56, 42)).shape == (1, 384, 4, 3)
    config = ProtoPNetConfig(backbone=f"timm/{name}", weights="none", prototypes_per_class=1, prototype_dim=4)
    with pytest.raises(ConfigError, match=r"must be a multiple of 14 for backbone .*; got 100\. Set 98\."):
        build_model(config, 2, 100)


class Getter(nn.Module):
    """What timm makes of a transformer with `features_only=True`."""

    def __init__(self, is_dynamic: bool) -> None:
        super().__init__()
        model: Any = nn.Conv2d(3, 6, 4, 4)
        model.dynamic_img_size = is_dynamic
        patches: Any = nn.Module()
        patches.patch_size = (4, 4)
        model.patch_embed = patches
        self.model = model
        self.feature_info = type("Info", (), {"channels": lambda self: [6]})()
        self.pretrained_cfg = {"fixed_input_size": True, "input_size": (3, 16, 16)}

    def forward(self, images):
        return [self.model(images)]


@pytest.mark.parametrize("takes", ["any size", "one size", "no such argument"])
def test_timm_is_asked_for_a_net_that_takes_any_size(monkeypatch, takes):
    calls = []

    def create_model(name, dynamic_img_size=False, **options):
        calls.append(dynamic_img_size)
        if dynamic_img_size and takes == "no such argument":
            raise TypeError("Cait.__init__() got an unexpected keyword argument 'dynamic_img_size'")
        return Getter(dynamic_img_size and takes == "any size")

    module: Any = ModuleType("timm")
    module.__version__, module.create_model, module.is_model = "1.0", create_model, lambda name: True
    module.get_pretrained_cfg = lambda name: SimpleNamespace(fixed_input_size=True)
    module.data = SimpleNamespace(resolve_model_data_config=lambda net: {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    monkeypatch.setitem(sys.modules, "timm", module)
    body = build_backbone("timm/vit", weights="none").body
    if takes == "any size":
        assert (calls, body.only_size, body.patch_size, body.made_for) == ([True], None, 4, (16, 16))
    else:
        assert (calls, body.only_size, body.patch_size, body.made_for) == ([True, False], (16, 16), None, None)


def test_a_training_says_that_positions_are_resized(small):
    model = ProtoPNet(small(NAME, weights="none"), 2, prototypes_per_class=1, prototype_dim=4, image_size=32)
    assert notes_on_positions(model, (32, 32)) == ()
    assert notes_on_positions(model, (48, 32)) == (
        "the position embeddings of the backbone are for 32 x 32 pixels, and are resized for a data.image_size of "
        "48 x 32",
    )
    plain = ProtoPNet(nn.Conv2d(3, 4, 4, 4), 2, prototypes_per_class=1, prototype_dim=4, image_size=32)
    assert notes_on_positions(plain, (48, 32)) == ()
