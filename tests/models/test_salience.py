"""Models whose patches count by their salience: what is compared, on images, stored maps and exported programs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from protokern.config import config_to_toml, load_config, parse_config
from protokern.errors import ConfigError
from protokern.explain import explain_image, find_receptive_field
from protokern.explain.pictures import upsample
from protokern.models import ProtoPNet, ProtoPool, PrototypeModel
from protokern.models.base import vectors_of
from protokern.models.build import build_untrained
from protokern.nn import SalientLayers

COSINE = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, padding=1), nn.ReLU())


def protopnet(salience: float = 1.0) -> ProtoPNet:
    torch.manual_seed(0)
    return ProtoPNet(
        conv_net(), 3, prototypes_per_class=2, prototype_dim=5, image_size=16, salience=salience, **COSINE
    ).eval()


def protopool(salience: float = 1.0, **options: str) -> ProtoPool:
    torch.manual_seed(0)
    model = ProtoPool(
        conv_net(),
        3,
        num_prototypes=5,
        slots_per_class=2,
        prototype_dim=4,
        image_size=16,
        salience=salience,
        **{**COSINE, **options},
    ).eval()
    model.harden()
    return model


BUILDS = pytest.mark.parametrize("build", [protopnet, protopool])


def similarities(model: PrototypeModel, images: Tensor, power: float = 1.0) -> Tensor:
    """(B, P, H, W): salience times cosine, by loops over patches."""
    maps = model.backbone(images).double()
    layer = model.add_on_layers[0]
    weight, bias = layer.get_parameter("weight")[..., 0, 0].double(), layer.get_parameter("bias").double()
    prototypes = vectors_of(model).double()
    found = torch.zeros(len(images), len(prototypes), *maps.shape[2:], dtype=torch.float64)
    for b, image in enumerate(maps):
        largest = max(float(cell.norm()) for cell in image.flatten(1).T)
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                cell = image[:, row, column]
                salience = (float(cell.norm()) / largest) ** power
                feature = weight @ cell + bias
                for p, prototype in enumerate(prototypes):
                    cosine = float(feature @ prototype) / max(float(feature.norm() * prototype.norm()), 1e-300)
                    found[b, p, row, column] = salience * cosine
    return found


@torch.no_grad()
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_similarity_is_salience_times_cosine_at_the_best_patch(power):
    model, images = protopnet(power), torch.rand(2, 3, 16, 16)
    wanted = similarities(model, images, power).flatten(2)
    output = model(images)
    torch.testing.assert_close(output.activations, wanted.amax(2).float(), rtol=0, atol=1e-6)
    assert torch.equal(output.patches, wanted.argmax(2))
    torch.testing.assert_close(output.min_distances, 1 - output.activations)
    assert output.min_distances.max() <= model.max_distance


@torch.no_grad()
@pytest.mark.parametrize("focal", ["distance", "similarity"])
def test_the_focal_similarity_is_the_best_less_the_mean_of_the_weighted_ones(focal):
    model, images = protopool(focal=focal), torch.rand(2, 3, 16, 16)
    wanted = similarities(model, images).flatten(2)
    torch.testing.assert_close(model(images).activations, (wanted.amax(2) - wanted.mean(2)).float(), rtol=0, atol=1e-6)


@torch.no_grad()
@BUILDS
def test_without_salience_no_bit_changes(build):
    model = build(0.0)
    assert type(model.add_on_layers) is nn.Sequential
    assert not model.prototype_layer.norm_as_weight
    assert list(model.state_dict()) == list(build(1.0).state_dict())


@torch.no_grad()
@BUILDS
def test_explanations_add_up_and_their_map_is_what_was_compared(build):
    model, image = build(), torch.rand(3, 16, 16)
    explanation = explain_image(model, image, top=3)
    assert abs(explanation.points.sum(axis=0) - explanation.logits).max() < 1e-5
    wanted = similarities(model, image[None])[0]
    for view in (evidence.view for one in explanation.classes for evidence in one.evidence):
        by_hand = wanted[view.prototype]
        assert divmod(int(by_hand.argmax()), by_hand.shape[1]) == view.patch
        drawn = upsample(by_hand[None].float(), (16, 16))[0]
        torch.testing.assert_close(torch.from_numpy(view.heat_map), drawn, rtol=0, atol=1e-5)


@torch.no_grad()
@BUILDS
def test_stored_maps_give_what_images_give(build):
    model, images = build(), torch.rand(4, 3, 16, 16)
    wanted, maps = model(images), model.backbone(images)
    found = model(maps, given="maps")
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.patches, wanted.patches)


@BUILDS
def test_stored_maps_give_the_gradients_of_images(build):
    model, images = build(), torch.rand(4, 3, 16, 16)
    maps = model.backbone(images).detach()
    parameters = [*model.add_on_layers.parameters(), model.prototype_layer.prototypes]
    wanted = torch.autograd.grad(model.head(model.add_on_layers(maps)).logits.square().sum(), parameters)
    found = torch.autograd.grad(model(maps, given="maps").logits.square().sum(), parameters)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@BUILDS
def test_a_whole_model_is_exported(build):
    model, images = build(), torch.rand(2, 3, 16, 16)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})
    more = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(program.module()(more).logits, model(more).logits)


@torch.no_grad()
@BUILDS
def test_a_black_image_is_answered(build):
    """Its maps are zero where nothing has a bias, and no patch stands out: all count alike."""
    model = build()
    for layer in (*model.backbone, *model.add_on_layers):
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
    output = model(torch.zeros(1, 3, 16, 16))
    assert torch.isfinite(output.logits).all()
    assert torch.equal(output.patches, torch.zeros_like(output.patches))
    torch.testing.assert_close(output.min_distances, torch.ones_like(output.min_distances))


def test_the_receptive_field_is_that_of_what_a_patch_shows():
    """Not that of its salience, which is a share of the largest length in the image."""
    salient, plain = protopnet(), protopnet(0.0)
    image = torch.rand(3, 16, 16)
    field = find_receptive_field(salient.features, image)
    assert field == find_receptive_field(plain.features, image)
    assert field.rows[0] == (0, 4)


def test_a_configuration_with_salience_builds_such_a_model():
    model = {"backbone": "tiny", "metric": "cosine", "activation": "cosine", "prototype_dim": 8, "salience": 2.0}
    config = parse_config({"model": model})
    layers = build_untrained(config.model, 3, 32).add_on_layers
    assert isinstance(layers, SalientLayers)
    assert layers.power == 2.0


@torch.no_grad()
def test_a_configuration_with_a_stage_for_salience_weighs_the_backbone_s_maps():
    model = {
        "backbone": "tiny", "metric": "cosine", "activation": "cosine", "prototype_dim": 8, "salience": 1.0,
        "salience_stage": -2, "add_on_layers": "linear",
    }  # fmt: skip
    torch.manual_seed(0)
    built = build_untrained(parse_config({"model": model}).model, 3, 32).eval()
    assert built.backbone.weighed_after == "5"
    images = torch.rand(2, 3, 32, 32)
    maps = built.backbone(images)
    wanted = similarities(built, images).flatten(2).amax(2)
    torch.testing.assert_close(built(images).activations.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(built(maps, given="maps").logits, built(images).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"salience": 1.0}, r'model\.metric: must be "cosine" when salience is above 0; got \'sqeuclidean\''),
        ({"salience_stage": -2}, r"model\.salience: must be above 0 when salience_stage is set; got 0\.0"),
        ({"salience": -1.0, "metric": "cosine"}, r"model\.salience: must be a finite number of at least 0; got -1\.0"),
    ],
)
def test_a_salience_that_cannot_be_is_refused_by_its_key(model, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"model": model})


def test_salience_and_its_stage_can_be_taken_out_of_a_recipe():
    changes = ["model.salience=0", "model.salience_stage=none"]
    model = load_config(None, changes, "quick").model
    assert (model.salience, model.salience_stage) == (0.0, None)
    assert "salience_stage" not in config_to_toml(load_config(None, changes, "quick"), {})
    with pytest.raises(
        ConfigError, match=r'salience: must be above 0 .* got 0\.0\. Or set .*salience_stage to "none"\.'
    ):
        load_config(None, changes[:1], "quick")
    with pytest.raises(ConfigError, match=r"model\.salience_stage: must be a whole number or 'none'; got 'last'"):
        load_config(None, ["model.salience_stage=last"], "quick")


@pytest.mark.parametrize("salience", [-1.0, math.nan])
def test_a_salience_that_is_no_power_is_refused(salience):
    with pytest.raises(ValueError, match="salience: must be a finite number of at least 0"):
        protopnet(salience)


def test_salience_needs_the_cosine_metric():
    with pytest.raises(ValueError, match=r'metric: must be "cosine" when salience is above 0; got \'sqeuclidean\''):
        ProtoPNet(conv_net(), 3, prototypes_per_class=2, prototype_dim=5, salience=1.0)


def test_a_focal_mean_of_similarities_that_are_not_linear_is_refused():
    with pytest.raises(
        ValueError, match=r'activation: must be "cosine" or "linear" with salience and focal="similarity"; got \'log\''
    ):
        protopool(focal="similarity", activation="log")
