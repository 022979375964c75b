from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.errors import MissingPackageError
from protokern.explain import explain_image, find_receptive_field
from protokern.explain.heat_maps import HEAT_MAPS, gradient_heat_map
from protokern.kernels import distance_map
from protokern.models import ProtoPNet, ProtoPool
from protokern.models.base import PrototypeModel, vectors_of
from tests.explain.small_models import small_model, small_pool


def reference_map(model: PrototypeModel, image: Tensor, j: int, patch: tuple[int, int]) -> np.ndarray:
    """The gradient by torch.autograd through the whole distance map: no kernel for single patches, no captum."""
    pixels = image[None].clone().requires_grad_()
    layer = model.prototype_layer
    height, width = layer.prototype_size
    row, column = patch
    seen = model.features(pixels)[0, :, row : row + height, column : column + width]  # (D, h, w)
    squared = (seen - vectors_of(model)[j].reshape(seen.shape)).square().sum()
    (gradient,) = torch.autograd.grad(layer.activate(squared), pixels)
    return gradient[0].abs().sum(dim=0).numpy()


class Squeezing(nn.Module):
    """A net whose every cell sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return features * features.mean(dim=(2, 3), keepdim=True).sigmoid()


NETS = {
    "two-convs": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1)),
    "pooled": lambda: nn.Sequential(nn.Conv2d(3, 6, 5, 1, 2), nn.BatchNorm2d(6), nn.GELU(), nn.AvgPool2d(4)),
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 4, 2, dilation=2), nn.Tanh()),
    "squeezing": Squeezing,
}


@pytest.mark.parametrize("size", [(1, 1), (2, 3)], ids=["one-cell", "six-cells"])
@pytest.mark.parametrize("net", NETS)
def test_the_map_is_the_gradient_of_the_similarity_and_zero_outside_the_receptive_field(
    net: str, size: tuple[int, int]
) -> None:
    model = ProtoPNet(
        NETS[net](),
        2,
        prototypes_per_class=2,
        prototype_dim=5,
        prototype_size=size,
        add_on_layers="single",
        image_size=32,
    ).eval()
    image = torch.rand(3, 32, 40)
    field = find_receptive_field(model.features, image)
    explanation = explain_image(model, image, heat_map="gradient", receptive_field=field)
    for evidence in explanation.classes[0].evidence:
        view = evidence.view
        assert view.heat_map.dtype == np.float32
        assert view.heat_map.shape == (32, 40)
        expected = reference_map(model, image, view.prototype, view.patch)
        np.testing.assert_allclose(view.heat_map, expected, rtol=1e-4, atol=1e-6 * expected.max())
        assert view.heat_map.max() > 0
        y0, x0, y1, x1 = field.box(*view.patch, size)
        for values in (view.heat_map.copy(), expected):
            values[y0:y1, x0:x1] = 0
            assert not values.any()


def test_a_patch_that_counts_by_its_norm_is_shown_with_that_weight() -> None:
    settings = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "image_size": 32}
    model = ProtoPNet(NETS["two-convs"](), 2, prototypes_per_class=2, prototype_dim=5, **settings).eval()
    model.prototype_layer.norm_as_weight = True
    image = torch.rand(3, 32, 40)
    pixels = image[None].clone().requires_grad_()
    vector = model.features(pixels)[0, :, 3, 4]
    assert 0 < vector.norm() < 1
    prototype = model.prototype_layer.prototypes[1].detach()
    # |x| cos(x, p) = x . p / |p|
    (gradient,) = torch.autograd.grad(vector @ prototype / prototype.norm(), pixels)
    heat_map = gradient_heat_map(model, image, 1, (3, 4))
    np.testing.assert_allclose(heat_map, gradient[0].abs().sum(dim=0).numpy(), rtol=1e-4, atol=1e-6)


def test_a_pool_is_shown_by_the_activation_before_the_mean_is_taken_off() -> None:
    model = small_pool()
    image = torch.rand(3, 24, 40)
    view = explain_image(model, image, top=1, heat_map="gradient").classes[0].evidence[0].view
    expected = reference_map(model, image, view.prototype, view.patch)
    np.testing.assert_allclose(view.heat_map, expected, rtol=1e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize("method", ["gradient", "smoothgrad"])
@pytest.mark.parametrize(("in_channels", "size"), [(1, (24, 40)), (5, (17, 19))])
def test_any_channel_count_and_size(in_channels: int, size: tuple[int, int], method: str) -> None:
    model = small_model(in_channels=in_channels)
    explanation = explain_image(model, torch.rand(in_channels, *size), top=2, heat_map=method)
    for evidence in explanation.classes[0].evidence:
        heat_map, (y0, x0, y1, x1) = evidence.view.heat_map, evidence.view.receptive_field_box
        assert heat_map.shape == size
        assert (heat_map >= 0).all()
        assert heat_map.sum() == pytest.approx(heat_map[y0:y1, x0:x1].sum())


def test_smoothgrad_is_the_mean_of_gradients_under_noise() -> None:
    model = small_model()
    image = torch.rand(3, 32, 32)
    patch = (3, 4)
    heat_map = gradient_heat_map(model, image, 1, patch, method="smoothgrad", samples=3, noise=0.2, seed=5)
    stdev = torch.full((3, 3, 32, 32), 0.2 * float(image.max() - image.min()))
    noisy = image + torch.normal(0, stdev, generator=torch.Generator().manual_seed(5))
    layer = model.prototype_layer
    pixels = noisy.clone().requires_grad_()
    distance = distance_map(model.features(pixels), layer.prototypes, backend="reference")[:, 1, 3, 4]
    (gradient,) = torch.autograd.grad(layer.activate(distance).sum(), pixels)
    expected = gradient.mean(dim=0).abs().sum(dim=0).numpy()
    np.testing.assert_allclose(heat_map, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_smoothgrad_is_the_same_every_time_in_any_company_and_leaves_the_generator_alone() -> None:
    model = small_model()
    image = torch.rand(3, 32, 32)
    state = torch.get_rng_state()
    one, again = (explain_image(model, image, top=3, heat_map="smoothgrad").classes[0].evidence for _ in range(2))
    alone = explain_image(model, image, top=1, heat_map="smoothgrad").classes[0].evidence[0].view
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first.view.heat_map, second.view.heat_map)
    np.testing.assert_array_equal(one[0].view.heat_map, alone.heat_map)
    plain = explain_image(model, image, top=1, heat_map="gradient").classes[0].evidence[0].view
    assert not np.array_equal(alone.heat_map, plain.heat_map)


def test_all_but_the_heat_map_stays_as_it_is() -> None:
    model = small_model()
    model.train()
    image = torch.rand(3, 32, 32)
    plain = explain_image(model, image)
    assert HEAT_MAPS == ("upsample", "gradient", "smoothgrad", "occlusion", "rise", "prp")
    with torch.inference_mode():
        views = explain_image(model, image, heat_map="gradient").classes[0].evidence
    for one, other in zip(plain.classes[0].evidence, views, strict=True):
        assert one.view.patch_box == other.view.patch_box
        assert one.view.activation_box == other.view.activation_box
        assert one.points == other.points
        assert not np.array_equal(one.view.heat_map, other.view.heat_map)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_gradient_at_the_prototypes_own_patch_is_zero_and_not_rounding() -> None:
    """A similarity at its maximum has no slope; what a computer finds there is noise."""
    model = small_model()
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        features = model.features(image[None])[0]
        model.prototype_layer.prototypes[0] = features[:, 2, 3] * (1 + 1e-7)
    assert not gradient_heat_map(model, image, 0, (2, 3)).any()
    assert gradient_heat_map(model, image, 0, (2, 4)).any()
    assert gradient_heat_map(model, image, 0, (2, 3), method="smoothgrad").any()


def test_a_projection_has_a_slope_at_the_prototypes_own_patch() -> None:
    model = small_model()
    model.prototype_layer.metric, model.prototype_layer.activation = "dot", "linear"
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        model.prototype_layer.prototypes[0] = model.features(image[None])[0, :, 2, 3]
    assert gradient_heat_map(model, image, 0, (2, 3)).any()


def test_other_heat_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heat_map: must be one of upsample, gradient, .*, prp; got 'lime'"):
        explain_image(small_model(), torch.rand(3, 32, 32), heat_map="lime")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prototype": 12}, "prototype: must be from 0 to 11; got 12"),
        ({"patch": (0, 8)}, r"patch: must be in the grid of 8 x 8 patches; got \(0, 8\)"),
        ({"method": "upsample"}, "method: must be gradient or smoothgrad; got 'upsample'"),
        ({"samples": 0}, "samples: must be at least 1; got 0"),
        ({"noise": -0.1}, "noise: must be a finite number of at least 0; got -0.1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_heat_map(small_model(), torch.rand(3, 32, 32), **{"prototype": 0, "patch": (0, 0)} | arguments)


def test_without_captum_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    with pytest.raises(MissingPackageError, match=r"captum.*Run pip install 'protokern\[explain\]'"):
        explain_image(small_model(), torch.rand(3, 32, 32), heat_map="gradient")
    explain_image(small_model(), torch.rand(3, 32, 32))


def test_a_soft_pool_is_refused_as_ever() -> None:
    assert isinstance(small_pool(is_hard=False), ProtoPool)
    with pytest.raises(ValueError, match="model: must have made its choices final"):
        explain_image(small_pool(is_hard=False), torch.rand(3, 32, 32), heat_map="gradient")
