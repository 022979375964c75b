"""The prototype layer with weights of the patches: given ones, and those of the features' norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.nn import PrototypeLayer


def directions(*shape: int) -> Tensor:
    """Random feature maps (B, D, H, W) of unit vectors."""
    return torch.nn.functional.normalize(torch.randn(shape), dim=1)


def every_distance(layer: PrototypeLayer, features: Tensor, **weights: Tensor) -> Tensor:
    """The smallest distances (B, P) by every method of a layer, which must agree."""
    pool = layer(features, **weights)
    nearest = layer.min_distance(features, exact=True, **weights)
    few, places = layer.nearest_distances(features, 2, **weights)
    whole = layer.distance_map(features, **weights).flatten(2)
    there = layer.distance_at(features, nearest.patch, **weights)
    assert torch.equal(pool.patch, nearest.patch)
    assert torch.equal(places[..., 0], nearest.patch)
    assert torch.equal(whole.argmin(2), nearest.patch)
    for other in (pool.min_distance, few[..., 0], whole.amin(2), there):
        torch.testing.assert_close(other, nearest.value, rtol=1e-6, atol=1e-6)
    return nearest.value


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_every_method_takes_weights(metric):
    layer = PrototypeLayer(5, 4, metric=metric)
    features = torch.rand(3, 4, 4, 5)
    weight = torch.rand(3, 4, 5) * 0.9 + 0.1
    distance = layer.distance_map(features)
    w = weight[:, None]
    wanted = 1 - w * (1 - distance) if metric == "cosine" else distance - w.log()
    torch.testing.assert_close(every_distance(layer, features, patch_weight=weight), wanted.flatten(2).amin(2))
    some = torch.tensor([4, 1])
    nearest = layer.min_distance(features, some, patch_weight=weight)
    assert torch.equal(nearest.patch, layer.min_distance(features, patch_weight=weight).patch[:, some])
    there = layer.distance_at(features, nearest.patch, some, patch_weight=weight)
    torch.testing.assert_close(there, nearest.value)


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_similarity_is_the_norm_times_the_cosine(top_k):
    layer = PrototypeLayer(5, 4, metric="cosine", activation="cosine", norm_as_weight=True, top_k=top_k)
    unit, length = directions(3, 4, 4, 5), torch.rand(3, 1, 4, 5) * 0.9 + 0.05
    cosine = torch.einsum("bdhw,pd->bphw", unit, torch.nn.functional.normalize(layer.prototypes, dim=1))
    similarity = (length * cosine).flatten(2)
    wanted = similarity.topk(top_k, 2).values
    torch.testing.assert_close(every_distance(layer, unit * length), 1 - wanted[..., 0])
    pool = layer(unit * length)
    torch.testing.assert_close(pool.activation, wanted.mean(2))
    assert torch.equal(pool.patch, similarity.argmax(2))


def test_vectors_of_norm_one_and_more_give_the_plain_cosine():
    options = {"metric": "cosine", "activation": "cosine", "backend": "reference"}
    plain, layer = PrototypeLayer(5, 4, **options), PrototypeLayer(5, 4, **options, norm_as_weight=True)
    layer.load_state_dict(plain.state_dict())
    features = directions(2, 4, 3, 3) * (1 + torch.rand(2, 1, 3, 3))
    for one, other in zip(layer(features * 1.001), plain(features * 1.001), strict=True):
        assert torch.equal(one, other)


def test_patches_of_several_cells_have_the_mean_weight_of_their_cells():
    layer = PrototypeLayer(5, 4, (2, 3), metric="cosine", norm_as_weight=True)
    features = torch.randn(2, 4, 4, 5) * 0.4
    plain = PrototypeLayer(5, 4, (2, 3), metric="cosine")
    plain.load_state_dict(layer.state_dict())
    weight = torch.zeros(2, 3, 3)
    for row in range(3):
        for column in range(3):
            cells = features[:, :, row : row + 2, column : column + 3]
            weight[:, row, column] = sum(
                cells[:, :, i, j].square().sum(1).sqrt().clamp(max=1) for i in range(2) for j in range(3)
            )
    wanted = every_distance(plain, features, patch_weight=weight / 6)
    torch.testing.assert_close(every_distance(layer, features), wanted, rtol=1e-5, atol=1e-6)


def test_given_weights_and_norms_are_multiplied():
    layer = PrototypeLayer(5, 4, metric="cosine", norm_as_weight=True)
    features = directions(2, 4, 3, 3) * 0.5
    given = torch.rand(2, 3, 3)
    plain = PrototypeLayer(5, 4, metric="cosine")
    plain.load_state_dict(layer.state_dict())
    wanted = every_distance(plain, features, patch_weight=0.5 * given)
    torch.testing.assert_close(every_distance(layer, features, patch_weight=given), wanted)
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[:, 0] = False
    assert (layer(features, mask).patch >= 3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_vectors_are_at_distance_one(dtype):
    layer = PrototypeLayer(5, 4, metric="cosine", norm_as_weight=True).to(dtype)
    features = torch.zeros(2, 4, 3, 3, dtype=dtype, requires_grad=True)
    pool = layer(features)
    assert torch.equal(pool.min_distance, torch.ones(2, 5))
    (grad,) = torch.autograd.grad(pool.min_distance.sum(), features)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_the_gradient_goes_through_the_norm_too():
    layer = PrototypeLayer(3, 4, metric="cosine", norm_as_weight=True).double()
    features = (torch.randn(2, 4, 2, 3, dtype=torch.float64) * 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x).min_distance, features)
    assert torch.autograd.gradcheck(layer.distance_map, features)


def test_norms_of_cosines_alone():
    message = (
        r"^norm_as_weight: must be False unless metric is 'cosine'; got True with metric 'sqeuclidean'\. "
        r"Choose the other metric, or give weights as patch_weight\.$"
    )
    with pytest.raises(ValueError, match=message):
        PrototypeLayer(5, 4, norm_as_weight=True)
    assert "norm_as_weight=True" in repr(PrototypeLayer(5, 4, metric="cosine", norm_as_weight=True))
    assert "norm_as_weight" not in repr(PrototypeLayer(5, 4, metric="cosine"))


def test_what_counts_all_patches_alike_is_refused():
    PrototypeLayer(5, 4, metric="cosine").require_even_weights("means")
    message = r"^norm_as_weight: must be False for means, which counts all patches alike; got True\. Leave it out\.$"
    with pytest.raises(ValueError, match=message):
        PrototypeLayer(5, 4, metric="cosine", norm_as_weight=True).require_even_weights("means")
