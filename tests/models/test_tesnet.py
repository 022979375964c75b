"""TesNet against the released formulas over the whole map, written out plainly here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from protokern.errors import ConfigError
from protokern.losses import Labels, LossCoefficients
from protokern.models import TesNet
from protokern.models.tesnet_settings import TesNetConfig
from protokern.push import push_prototypes
from tests.models.contract import PointsContract

SIZES = {"prototypes_per_class": 2, "prototype_dim": 5}


class TestTesNet(PointsContract):
    TERMS = PointsContract.TERMS | {"l1", "orthonormality", "subspace_separation"}
    PROJECTS = True

    def build(self, backbone, num_classes):
        return TesNet(backbone, num_classes, in_channels=self.CHANNELS, image_size=16, **SIZES)

    def coefficient(self, model, name, coefficients):
        own = name in ("orthonormality", "subspace_separation")
        return getattr(model if own else coefficients, name)


def bare_model(num_classes: int = 2, depth: int = 3, **options) -> TesNet:
    """A model whose features are its images."""
    settings = {"prototypes_per_class": 2, "prototype_dim": depth, **options}
    model = TesNet(nn.Identity(), num_classes, in_channels=depth, image_size=8, **settings)
    model.add_on_layers = nn.Sequential()
    return model


def released_head(features, prototypes, weight):
    """Both maps by convolutions, then their largest and smallest entry."""
    unit = F.normalize(prototypes, dim=1)[:, :, None, None]
    projections = F.conv2d(features, unit)
    cosines = -F.conv2d(F.normalize(features, dim=1), unit)
    projection = F.max_pool2d(projections, projections.shape[2:]).flatten(1)
    cosine = -F.max_pool2d(-cosines, cosines.shape[2:]).flatten(1)
    return projection @ weight.T, projection, cosine


def test_head_is_the_released_one_in_value_and_gradient():
    torch.manual_seed(0)
    model = bare_model(3, 6)
    with torch.no_grad():
        model.prototype_layer.prototypes.uniform_(0, 1)  # as the release starts, of any length
    features = torch.rand(4, 6, 5, 7, requires_grad=True)
    prototypes, weight = model.prototype_layer.prototypes, model.last_layer.weight
    output = model.head(features)
    wanted = released_head(features, prototypes, weight)
    got = (output.logits, output.activations, output.cosine_distances - 1)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.min_distances, -wanted[1], rtol=1e-5, atol=1e-5)
    random = [torch.randn_like(one) for one in wanted]
    inputs = (features, prototypes, weight)
    ours = torch.autograd.grad(got, inputs, random)
    theirs = torch.autograd.grad(wanted, inputs, random)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_largest_projection_and_the_largest_cosine_may_be_at_different_patches():
    model = bare_model(1, 2)
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor([[2.0, 0], [0, 0.5]]))
    features = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)  # (3, 4) and (1, 0)
    output = model.head(features)
    assert output.patches.tolist() == [[0, 0]]
    assert output.activations.tolist() == [[3, 4]]
    assert output.cosine_distances.tolist() == [[0, pytest.approx(0.2)]]


def test_the_mean_of_several_projections_is_that_of_the_largest():
    torch.manual_seed(0)
    model = bare_model(2, 4, top_k=3)
    features = torch.rand(2, 4, 3, 5)
    projections = torch.einsum("bdhw,pd->bphw", features, model.prototype_layer.prototypes)
    mean = projections.flatten(2).topk(3, dim=2).values.mean(dim=2)
    torch.testing.assert_close(model.head(features).activations, mean)


def test_prototypes_of_several_cells_are_one_vector_of_unit_length():
    torch.manual_seed(0)
    model = bare_model(2, 3, prototype_size=(2, 1))
    prototypes = model.prototype_layer.prototypes
    assert prototypes.shape == (4, 3, 2, 1)
    torch.testing.assert_close(prototypes.flatten(1).norm(dim=1), torch.ones(4))
    assert model.max_distance == 6
    features = torch.rand(2, 3, 4, 5)
    output = model.head(features)
    windows = features.unfold(2, 2, 1)[..., None].permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (B, N, D, h, w)
    projections = torch.einsum("bndhw,pdhw->bpn", windows, prototypes)
    torch.testing.assert_close(output.activations, projections.amax(2))
    cosines = projections / windows.flatten(2).norm(dim=2)[:, None]
    torch.testing.assert_close(output.cosine_distances, 1 - cosines.amax(2))
    loss = model.loss(output, Labels(torch.tensor([0, 1])), LossCoefficients())
    assert loss.total.isfinite()


def test_defaults_are_the_released_ones():
    model = TesNet(nn.Conv2d(3, 6, 3, 2), 2)
    prototypes = model.prototype_layer.prototypes
    assert prototypes.shape == (20, 64)
    assert prototypes.detach().min() >= 0
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(20))
    assert model.last_layer.weight.unique().tolist() == [-0.5, 1]
    assert isinstance(model.add_on_layers[-1], nn.Sigmoid)
    assert (model.orthonormality, model.subspace_separation) == (1e-4, -1e-7)
    assert model.max_distance == 64


def test_prototypes_have_unit_length_after_a_step():
    torch.manual_seed(0)
    model = TesNet(nn.Conv2d(3, 6, 3, 2), 2, **SIZES)
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    before = model.prototype_layer.prototypes.detach().clone()
    output = model(images)
    model.loss(output, Labels(labels), LossCoefficients()).total.backward()
    optimizer.step()
    stepped = model.prototype_layer.prototypes.detach().clone()
    model.after_step(output, labels)
    after = model.prototype_layer.prototypes.detach()
    assert not torch.allclose(stepped.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(after, stepped / stepped.norm(dim=1, keepdim=True))
    assert not torch.allclose(after, before)


def test_a_push_takes_the_patch_of_the_largest_projection_and_keeps_unit_length():
    model = bare_model(2, 2, prototypes_per_class=1)
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor([[1.0, 0], [0, 1]]))
    # Class 0: the patch (1, 0) has the larger cosine, (3, 4) the larger projection; class 1 has (8, 6) and (0, 5).
    images = torch.tensor([[[1.0, 3.0], [0, 4.0]], [[8.0, 0], [6.0, 5.0]]])[:, :, None]
    loader = [(images, torch.tensor([0, 1]))]
    parameter = model.prototype_layer.prototypes
    result = push_prototypes(model, loader)
    assert model.prototype_layer.prototypes is parameter
    torch.testing.assert_close(parameter.detach(), torch.tensor([[0.6, 0.8], [0.8, 0.6]]))
    assert (result.image.tolist(), result.patch.tolist()) == ([0, 1], [1, 0])
    assert result.distance.tolist() == [-3, -6]
    # The projection of a patch on its own direction is its length.
    assert model.head(images).activations.detach().diagonal().tolist() == [pytest.approx(5), pytest.approx(10)]
    again = push_prototypes(model, loader)
    assert (again.image.tolist(), again.patch.tolist()) == ([0, 1], [1, 0])
    assert again.distance.tolist() == [pytest.approx(-5), pytest.approx(-10)]


def test_a_class_that_lost_prototypes_keeps_a_smaller_basis():
    torch.manual_seed(0)
    model = bare_model(2, 5, prototypes_per_class=3)
    model.keep_prototypes([4, 0, 3])
    output = model.head(torch.rand(2, 5, 3, 3))
    labels = Labels(torch.tensor([0, 1]))
    _, terms = model.loss(output, labels, LossCoefficients())
    rows = model.prototype_layer.prototypes.detach()
    one, two = rows[1:2], rows[[0, 2]]
    orthonormality = (one @ one.T - 1).abs().sum() + (two @ two.T - torch.eye(2)).abs().sum()
    assert terms["orthonormality"].item() == pytest.approx(orthonormality.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "cosine"}, 'metric: must be "dot" in a TesNet, which projects patches; got '),
        ({"activation": "log"}, 'activation: must be "linear" when metric is "dot"; got '),
        ({"prototypes_per_class": 0}, "prototypes_per_class: must be a finite number of at least 1; got 0"),
        ({"orthonormality": float("nan")}, "orthonormality: must be a finite number; got nan"),
        ({"salience": 1.0}, 'metric: must be "cosine" when salience is above 0; got '),
    ],
)
def test_settings_that_make_no_tesnet_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TesNetConfig(**settings)
