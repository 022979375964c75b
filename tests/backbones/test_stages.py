"""A backbone that ends after an earlier stage gives what its net computes there, from the weights of the whole one."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from protokern.backbones import Backbone, build_backbone
from protokern.backbones.stages import end_after, find_earlier, means_for_any_size
from protokern.errors import ConfigError
from protokern.features import fingerprint_of_weights

# Of every family: the last layer of each stage, its stride and its channels, read from the papers' tables of layers.
STAGES = {
    "resnet18": [("relu", 2, 64), ("layer1", 4, 64), ("layer2", 8, 128), ("layer3", 16, 256), ("layer4", 32, 512)],
    "vgg11": [("1", 1, 64), ("4", 2, 128), ("9", 4, 256), ("14", 8, 512), ("19", 16, 512), ("20", 32, 512)],
    "densenet121": [
        ("relu0", 2, 64),
        ("denseblock1", 4, 256),
        ("denseblock2", 8, 512),
        ("denseblock3", 16, 1024),
        ("relu5", 32, 1024),
    ],
    "convnext_tiny": [("1", 4, 96), ("3", 8, 192), ("5", 16, 384), ("7", 32, 768)],
    "efficientnet_b0": [("1", 2, 16), ("2", 4, 24), ("3", 8, 40), ("5", 16, 112), ("8", 32, 1280)],
    "efficientnet_lite0": [
        ("blocks.0", 2, 16),
        ("blocks.2", 4, 24),
        ("blocks.4", 8, 40),
        ("blocks.10", 16, 112),
        ("head", 32, 1280),
    ],
    "tiny": [("2", 2, 32), ("5", 4, 64), ("11", 8, 128)],
}


def random_backbone(name: str) -> Backbone:
    """A backbone in evaluation mode, with numbers that are drawn in no time."""
    with torch.device("meta"):
        backbone = build_backbone(name, weights="none")
    backbone.to_empty(device="cpu").eval()
    for value in backbone.state_dict().values():
        if value.is_floating_point():
            value.uniform_(-0.1, 0.2)
    for key, value in backbone.state_dict().items():
        if key == "std" or key.endswith("running_var"):
            value.fill_(0.25)
    return backbone


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_gives_the_map_that_the_whole_net_has_there(name):
    backbone = random_backbone(name)
    images = torch.rand(1, 3, 64, 32)
    maps: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> None:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            maps[layer] = output.clone()

        backbone.body.get_submodule(layer).register_forward_hook(hook)

    for layer, _, _ in STAGES[name]:
        keep(layer)
    with torch.inference_mode():
        backbone(images)
    wanted = dict(maps)
    count = len(STAGES[name])
    for stage, (layer, stride, channels) in enumerate(STAGES[name]):
        for number in (stage, stage - count):
            ended = copy.deepcopy(backbone)
            index = end_after(ended.body, number, name=name, in_channels=3)
            with torch.inference_mode():
                features = ended(images)
            assert features.shape == (1, channels, 64 // stride, 32 // stride)
            assert torch.equal(features, wanted[layer])
            assert features.std() > 0
            assert index == (None if stage == count - 1 else stage)
            names = [path for path, _ in backbone.named_modules()]
            left = [path for path, _ in ended.named_modules()]
            assert left == [path for path in names if path in left]
            assert (len(left) < len(names)) == (stage < count - 1)


def test_the_last_stage_is_what_is_given_unasked():
    torch.manual_seed(0)
    whole = build_backbone("tiny", weights="none")
    torch.manual_seed(0)
    ended = build_backbone("tiny", weights="none", stage=-1)
    assert ended.stage is None
    assert fingerprint_of_weights(whole) == fingerprint_of_weights(ended)
    assert [name for name, _ in whole.named_modules()] == [name for name, _ in ended.named_modules()]


def test_the_weights_of_a_whole_net_serve_an_earlier_stage(tmp_path: Path):
    whole = build_backbone("efficientnet_lite0", weights="none").eval()
    torch.save(whole.body.state_dict(), tmp_path / "whole.pth")
    ended = build_backbone("efficientnet_lite0", weights=tmp_path / "whole.pth", stage=-2).eval()
    assert ended.stage == 3
    assert ended(torch.rand(1, 3, 64, 64)).shape == (1, 112, 4, 4)
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ended.state_dict().items())


def test_a_backbone_is_in_training_mode_whatever_its_stage():
    assert all(module.training for module in build_backbone("tiny", weights="none", stage=0).modules())


@pytest.mark.parametrize("stage", [3, -4])
def test_a_stage_that_is_not_there_is_refused_with_those_that_are(stage):
    with pytest.raises(
        ConfigError,
        match=rf"backbone_stage: must be a stage of backbone 'tiny': 0 \(stride 2, 32 channels\), 1 \(stride 4, "
        rf"64 channels\), 2 \(stride 8, 128 channels\), or counted from the last one, -1 to -3; got {stage}\. Choose",
    ):
        build_backbone("tiny", stage=stage)


def test_backbones_of_two_stages_have_two_fingerprints():
    class Same(nn.Module):
        """The same layers whatever the stage, as some nets of timm have them."""

        def __init__(self, stage: int | None) -> None:
            super().__init__()
            self.stage = stage

    found = {fingerprint_of_weights(Same(stage)) for stage in (None, 0, 1)}
    assert len(found) == 3


# Of timm: kinds of wrappers of theirs, with the shape of the last map but one for images of 64 x 64 pixels.
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm/resnet18", (256, 4, 4)),
        ("timm/efficientnet_lite0", (112, 4, 4)),
        ("timm/mobilenetv3_small_050", (24, 4, 4)),
    ],
)
def test_nets_of_the_real_timm_end_after_a_stage(name, shape, tmp_path: Path):
    import timm

    classifier = timm.create_model(name.removeprefix("timm/"), pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "net.pth")
    whole = build_backbone(name, weights=tmp_path / "net.pth").eval()
    ended = build_backbone(name, weights=tmp_path / "net.pth", stage=-2).eval()
    images = torch.rand(1, 3, 64, 64)
    listed = timm.create_model(name.removeprefix("timm/"), pretrained=False, features_only=True)
    listed.load_state_dict(whole.body.net.state_dict())
    with torch.inference_mode():
        features = ended(images)
        wanted = listed.eval()((images - whole.mean) / whole.std)[-2]
    assert features.shape[1:] == shape
    assert torch.equal(features, wanted)
    assert sum(p.numel() for p in ended.parameters()) < sum(p.numel() for p in whole.parameters())
    weighed = build_backbone(name, weights=tmp_path / "net.pth", salience_stage=-2).eval()
    with torch.inference_mode():
        torch.testing.assert_close(weighed(images), weighed_by_hand(whole(images), wanted), rtol=1e-5, atol=1e-6)
    assert fingerprint_of_weights(weighed) != fingerprint_of_weights(whole)
    with pytest.raises(ConfigError, match=rf"must be a stage of backbone '{name}': 0 \(stride 2, .*; got 9"):
        build_backbone(name, weights="none", stage=9)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_the_blocks_of_a_transformer_of_timm_are_its_stages():
    ended = build_backbone("timm/vit_tiny_patch16_224", weights="none", stage=3)
    assert ended.stage == 3
    assert ended(torch.rand(1, 3, 224, 224)).shape == (1, 192, 14, 14)


def weighed_by_hand(maps: torch.Tensor, early: torch.Tensor) -> torch.Tensor:
    """Each vector times the mean length of the early vectors in its patch, over the largest such mean, by loops."""
    out = torch.empty_like(maps)
    for image in range(len(maps)):
        rows, columns = maps.shape[2:]
        fine_y, fine_x = early.shape[2] // rows, early.shape[3] // columns
        means = torch.zeros(rows, columns)
        for row in range(rows):
            for column in range(columns):
                cells = [
                    float(early[image, :, y, x].norm())
                    for y in range(row * fine_y, (row + 1) * fine_y)
                    for x in range(column * fine_x, (column + 1) * fine_x)
                ]
                means[row, column] = sum(cells) / len(cells)
        out[image] = maps[image] * means / means.max()
    return out


@torch.inference_mode()
@pytest.mark.parametrize(("name", "stage"), [*((name, None) for name in STAGES), ("tiny", -2), ("vgg11", -2)])
def test_the_lengths_of_an_earlier_stage_weigh_the_features(name, stage):
    plain = random_backbone(name)
    images = torch.rand(2, 3, 64, 32)
    index = len(STAGES[name]) - (3 if stage else 2)
    early = copy.deepcopy(plain)
    end_after(early.body, index, name=name, in_channels=3)
    if stage is not None:
        end_after(plain.body, stage, name=name, in_channels=3)
    weighed = copy.deepcopy(plain)
    found = find_earlier(weighed.body, -2, name=name, in_channels=3)
    assert found == (index, STAGES[name][index][0])
    weighed.salience_stage, weighed.weighed_after = found
    torch.testing.assert_close(weighed(images), weighed_by_hand(plain(images), early(images)), rtol=1e-5, atol=1e-6)
    assert weighed.state_dict().keys() == plain.state_dict().keys()


@torch.inference_mode()
def test_lengths_are_averaged_on_grids_that_do_not_divide():
    """Of 9 x 9 finer cells a patch of 5 x 5 has the mean of those that it touches."""
    torch.manual_seed(0)
    backbone = build_backbone("tiny", weights="none", salience_stage=-2).eval()
    assert (backbone.salience_stage, backbone.weighed_after) == (1, "5")
    plain, early = copy.deepcopy(backbone), nn.Sequential(*list(backbone.body.children())[:6])
    plain.weighed_after = None
    image = torch.rand(1, 3, 36, 36)
    lengths = early((image - backbone.mean) / backbone.std).norm(dim=1)[0]
    assert lengths.shape == (9, 9)
    spans = [(9 * i // 5, -(-9 * (i + 1) // 5)) for i in range(5)]
    means = torch.tensor([[float(lengths[a:b, c:d].mean()) for c, d in spans] for a, b in spans])
    torch.testing.assert_close(backbone(image), plain(image) * means / means.max())


def test_a_backbone_that_weighs_has_another_fingerprint():
    torch.manual_seed(0)
    plain = build_backbone("tiny", weights="none")
    torch.manual_seed(0)
    weighed = build_backbone("tiny", weights="none", salience_stage=0)
    assert fingerprint_of_weights(plain) != fingerprint_of_weights(weighed)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (3, r"salience_stage: must be a stage of backbone 'tiny': 0 \(stride 2, 32 channels\), .* got 3\. Choose one"),
        (
            -1,
            r"salience_stage: must be a stage before the one that gives the features of backbone 'tiny'; got -1, that "
            r"one itself\. Choose an earlier one, such as -2, or leave it out\.",
        ),
    ],
)
def test_a_stage_that_cannot_weigh_is_refused(stage, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone("tiny", salience_stage=stage)


@pytest.mark.parametrize("fine", [(14, 14), (15, 9), (7, 13), (4, 28)])
def test_means_in_a_traced_program_are_those_of_the_pool(fine: tuple[int, int]) -> None:
    """Also where the finer cells do not divide evenly, so that those of neighbours overlap."""
    lengths = torch.rand(2, 1, *fine)
    wanted = torch.nn.functional.adaptive_avg_pool2d(lengths, (4, 7))
    torch.testing.assert_close(means_for_any_size(lengths, 4, 7), wanted)


def test_a_program_for_any_size_weighs_by_the_stage() -> None:
    backbone = build_backbone("tiny", weights="none", salience_stage=-2).eval()
    free = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(backbone, (torch.rand(3, 3, 40, 48),), dynamic_shapes=free)
        images = torch.rand(2, 3, 53, 34)
        torch.testing.assert_close(program.module()(images), backbone(images))
