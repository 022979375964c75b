"""The prototype layer: parameters, outputs, heat maps, compilation and errors."""

from __future__ import annotations

import math

import pytest
import torch

from protokern.nn import PrototypeLayer


@pytest.mark.parametrize(("size", "shape"), [((1, 1), (6, 4)), ((2, 1), (6, 4, 2, 1)), ((2, 3), (6, 4, 2, 3))])
def test_prototypes_start_uniform_or_normal(size, shape):
    torch.manual_seed(0)
    layer = PrototypeLayer(6, 4, size)
    assert layer.prototypes.shape == shape
    assert (layer.num_prototypes, layer.prototype_dim, layer.prototype_size) == (6, 4, size)
    assert layer.prototypes.min() >= 0
    assert layer.prototypes.max() < 1
    assert PrototypeLayer(6, 4, size, metric="cosine").prototypes.min() < 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_pool_agrees_with_the_distance_map(size, metric):
    torch.manual_seed(0)
    layer = PrototypeLayer(5, 4, size, metric=metric)
    features = torch.rand(3, 4, 4, 5)
    pool = layer(features)
    distances = layer.distance_map(features)
    assert distances.shape == (3, 5, 4 - size[0] + 1, 5 - size[1] + 1)
    value, patch = distances.flatten(2).min(dim=2)
    torch.testing.assert_close(pool.min_distance, value)
    assert torch.equal(pool.patch, patch)
    torch.testing.assert_close(pool.activation, layer.activate(value))
    nearest = layer.min_distance(features)
    assert torch.equal(nearest.value, pool.min_distance)
    assert torch.equal(nearest.patch, pool.patch)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(layer.distance_map(features, some), distances[:, some])


@pytest.mark.parametrize(
    ("activation", "metric", "expected"),
    [
        ("log", "sqeuclidean", math.log(1.5 / 0.5001)),
        ("linear", "sqeuclidean", -0.5),
        ("exp", "sqeuclidean", math.exp(-0.5)),
        ("exp_root", "sqeuclidean", math.exp(-(0.5**0.5))),
        ("cosine", "cosine", 0.5),
        (lambda d: 7 - d, "sqeuclidean", 6.5),
    ],
    ids=["log", "linear", "exp", "exp_root", "cosine", "function"],
)
def test_activation_of_a_distance(activation, metric, expected):
    layer = PrototypeLayer(1, 2, activation=activation, metric=metric)
    with torch.no_grad():
        layer.prototypes.copy_(torch.tensor([[1.0, 0.0]]))
    # Distance 0.5 in both metrics: half a unit square, and an angle of 60 degrees.
    patch = [0.5, 0.5] if metric == "sqeuclidean" else [0.5, 3**0.5 / 2]
    pool = layer(torch.tensor(patch).reshape(1, 2, 1, 1))
    assert pool.activation.item() == pytest.approx(expected, abs=1e-6)
    assert layer.activate(torch.full((2, 2), 0.5)).flatten().tolist() == pytest.approx([expected] * 4, abs=1e-6)


@pytest.mark.parametrize("activation", ["log", lambda d: 1 / (1 + d)], ids=["log", "function"])
def test_activation_is_the_mean_over_the_nearest_patches(activation):
    torch.manual_seed(0)
    layer = PrototypeLayer(5, 4, top_k=3, activation=activation)
    features = torch.rand(2, 4, 3, 3)
    pool = layer(features)
    distances = layer.distance_map(features).flatten(2)
    value, patch = distances.min(dim=2)
    torch.testing.assert_close(pool.min_distance, value)
    assert torch.equal(pool.patch, patch)
    nearest = distances.sort(dim=-1).values[..., :3]
    torch.testing.assert_close(pool.activation, layer.activate(nearest).mean(-1))
    pool.activation.sum().backward()
    assert layer.prototypes.grad.abs().sum() > 0
    assert "top_k=3" in repr(layer)


def test_epsilon_reaches_both_activations():
    layer = PrototypeLayer(1, 2, epsilon=0.01)
    pool = layer(layer.prototypes.detach().reshape(1, 2, 1, 1))
    assert pool.activation.item() == pytest.approx(math.log(100), abs=1e-5)
    assert layer.activate(torch.zeros(1)).item() == pytest.approx(math.log(100), abs=1e-5)


def test_dropping_prototypes_keeps_the_others():
    layer = PrototypeLayer(4, 3)
    layer.prototypes.requires_grad_(False)
    before = layer.prototypes.clone()
    layer.keep_prototypes(torch.tensor([3, 1]))
    assert torch.equal(layer.prototypes, before[[3, 1]])
    assert isinstance(layer.prototypes, torch.nn.Parameter)
    assert not layer.prototypes.requires_grad
    assert layer.num_prototypes == 2


def test_layer_compiles_to_one_graph():
    layer = PrototypeLayer(5, 4)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 4, 3, 3), (3, 4, 2, 5)):
        features = torch.rand(shape)
        expected, got = layer(features), compiled(features)
        for field in ("activation", "min_distance", "patch"):
            torch.testing.assert_close(getattr(got, field), getattr(expected, field))
        got.activation.sum().backward()
    assert layer.prototypes.grad is not None


def test_print_shows_the_settings():
    assert repr(PrototypeLayer(6, 4, (2, 1), activation="exp")) == (
        "PrototypeLayer(num_prototypes=6, prototype_dim=4, prototype_size=(2, 1), "
        "activation='exp', metric='sqeuclidean')"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_prototypes": 0}, "num_prototypes: must be at least 1; got 0. Give a positive number."),
        ({"prototype_dim": 0}, "prototype_dim: must be at least 1; got 0. Give a positive number."),
        ({"prototype_size": (0, 1)}, r"prototype_size: must be two numbers of at least 1; got \(0, 1\). Give"),
        ({"metric": "l1"}, "metric: must be one of sqeuclidean, cosine, dot; got 'l1'. Check the spelling."),
        ({"activation": "logg"}, "activation: must be one of log, linear, exp, cosine, exp_root or .*; got 'logg'"),
        ({"activation": "cosine"}, "activation: must .*'cosine'.*; got .*'sqeuclidean'"),
        ({"epsilon": 0.0}, "epsilon: must be .*; got 0.0"),
        ({"top_k": 0}, "top_k: must be from 1 to 8; got 0. Give a number in this range."),
        ({"top_k": 9}, "top_k: must be from 1 to 8; got 9. Give a number in this range."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrototypeLayer(**{"num_prototypes": 2, "prototype_dim": 3} | arguments)


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_the_score_of_a_projection_with_its_bias(size, top_k):
    torch.manual_seed(0)
    layer = PrototypeLayer(5, 4, size, metric="dot", activation="linear", bias=True, top_k=top_k)
    assert layer.bias.tolist() == [0.0] * 5
    assert set(layer.state_dict()) == {"prototypes", "bias"}
    assert "bias=True" in repr(layer)
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(-20, 20, 5))
    features = torch.randn(3, 4, 4, 5)
    cells = layer.prototypes if size != (1, 1) else layer.prototypes[..., None, None]
    scores = torch.nn.functional.conv2d(features, cells, layer.bias).flatten(2)
    pool = layer(features)
    torch.testing.assert_close(pool.activation, scores.topk(top_k).values.mean(2))
    torch.testing.assert_close(pool.min_distance, -scores.amax(2))
    torch.testing.assert_close(layer.activate(layer.distance_map(features)).flatten(2), scores)
    torch.testing.assert_close(layer.mean_distance(features), -scores.mean(2))
    some = torch.tensor([4, 1])
    torch.testing.assert_close(layer.min_distance(features, some).value, -scores.amax(2)[:, some])
    torch.testing.assert_close(layer.nearest_distances(features, 2, some)[0], -scores.topk(2).values[:, some])
    torch.testing.assert_close(layer.distance_map(features, some).flatten(2), -scores[:, some])
    patch = torch.randint(0, scores.shape[2], (3, 2, 6))
    torch.testing.assert_close(layer.distance_at(features, patch, some), -scores[:, some].gather(2, patch))
    pool.activation.sum().backward()
    assert layer.bias.grad.tolist() == [3.0] * 5
    layer.keep_prototypes(some)
    torch.testing.assert_close(layer(features).min_distance, -scores.amax(2)[:, some])
    assert layer.bias.tolist() == [20.0, -10.0]


def test_layers_of_today_have_no_bias():
    layer = PrototypeLayer(5, 4)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["prototypes"]
    assert "bias" not in repr(layer)
