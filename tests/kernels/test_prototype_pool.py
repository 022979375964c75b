"""`prototype_pool` keeps the op contract on every backend, for every activation, with gradients through both."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protokern import PrototypePool, min_distance, prototype_pool

from . import oracle
from .cases import SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .interpreted import CASES_OF_SLOW_KERNELS, interpreter_leaves_out, interpreter_runs
from .nearest_contract import NearestContract

pytestmark = interpreter_runs(case=CASES_OF_SLOW_KERNELS, of_features=())

ACTIVATIONS = ["log", "linear", "exp", "cosine", "exp_root"]


@interpreter_leaves_out("the kernel of min_distance")
class TestPrototypePool(NearestContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        settings = {"activation": oracle.SIMILARITY[metric], "epsilon": 0.1, "metric": metric, "backend": backend}
        return tuple(prototype_pool(features, prototypes, **settings))

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        assert patch is not None
        value = distances.flatten(2).gather(2, patch[..., None])[..., 0]
        return oracle.activation(value, oracle.SIMILARITY[metric], 0.1), value

    def nearest(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, Tensor]:
        activation = oracle.SIMILARITY[metric]
        result = prototype_pool(features, prototypes, activation=activation, metric=metric, backend=backend)
        return result.min_distance, result.patch


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES, Case(3, 20, 6, 6, 75)], ids=str)
def test_every_activation_with_gradients_through_both_outputs(
    case: Case, activation: str, dtype: torch.dtype, backend: str
) -> None:
    metric = "cosine" if activation == "cosine" else "sqeuclidean"
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(dtype))
    similarity, value, patch = prototype_pool(
        features, prototypes, activation=activation, epsilon=1e-2, metric=metric, backend=backend
    )
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    wanted_value = oracle.distance_map(x, p, metric).flatten(2).gather(2, patch[..., None])[..., 0]
    wanted = oracle.activation(wanted_value, activation, 1e-2)
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(similarity.double(), wanted, rtol=rtol, atol=10 * atol)
    torch.testing.assert_close(value.double(), wanted_value, rtol=rtol, atol=atol)
    weights = torch.randn_like(similarity), torch.randn_like(value)
    rtol, atol = gradient_tolerance(dtype)
    for used in ((0,), (1,), (0, 1)):
        outputs, truth = (similarity, value), (wanted, wanted_value)
        grads = torch.autograd.grad(
            [outputs[i] for i in used], (features, prototypes), [weights[i] for i in used], retain_graph=True
        )
        wanted_grads = torch.autograd.grad(
            [truth[i] for i in used], (x, p), [weights[i].double() for i in used], retain_graph=True
        )
        for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
            scale = max(1.0, wanted_grad.abs().max().item())
            torch.testing.assert_close(grad.double(), wanted_grad, rtol=rtol, atol=atol * scale)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_log_similarity_of_an_exact_copy(offset: float, backend: str) -> None:
    features = torch.rand(5, 128, 7, 7) + offset
    prototypes = features[:, :, 3, 4].clone()
    result = prototype_pool(features, prototypes, backend=backend)
    own = result.activation.diagonal()
    assert torch.equal(result.min_distance.diagonal(), torch.zeros(5))
    torch.testing.assert_close(own, torch.full((5,), math.log(1e4)), rtol=0, atol=1e-4)
    torch.testing.assert_close(own, torch.full((5,), 9.2103), rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation", ["log", "linear", "exp", "exp_root"])
def test_named_activations_by_hand(activation: str, backend: str) -> None:
    features = torch.tensor([[[[0.0, 2.0]]]])
    similarity = prototype_pool(
        features, torch.tensor([[3.0]]), activation=activation, epsilon=0.5, backend=backend
    ).activation
    wanted = {"log": math.log(2 / 1.5), "linear": -1.0, "exp": math.exp(-1), "exp_root": math.exp(-1)}[activation]
    torch.testing.assert_close(similarity, torch.tensor([[wanted]]))


def test_log_of_a_large_distance_keeps_its_digits(backend: str) -> None:
    features = torch.full((1, 1, 1, 1), 1e4)
    similarity = prototype_pool(features, torch.zeros(1, 1), backend=backend).activation
    assert similarity.item() == pytest.approx(math.log1p((1 - 1e-4) / (1e8 + 1e-4)), rel=1e-5)


def test_non_finite_inputs_give_nan_similarities(backend: str) -> None:
    features, prototypes = SMALL.inputs()
    features[1, 0, 0, 0] = torch.inf
    for activation in ("log", "linear", "exp", "exp_root"):
        similarity = prototype_pool(features, prototypes, activation=activation, backend=backend).activation
        assert similarity[1].isnan().all()
        assert similarity[0].isfinite().all()


def test_callable_activation_is_applied_to_the_distances(backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    result = prototype_pool(features, prototypes, activation=lambda distance: 1 / (1 + distance), backend=backend)
    assert isinstance(result, PrototypePool)
    value, patch = min_distance(features, prototypes, backend=backend)
    assert torch.equal(result.activation, 1 / (1 + value))
    assert torch.equal(result.min_distance, value)
    assert torch.equal(result.patch, patch)
    wanted = torch.autograd.grad((1 / (1 + value)).sum() + value.sum(), (features, prototypes))
    got = torch.autograd.grad(result.activation.sum() + result.min_distance.sum(), (features, prototypes))
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (lambda distance: distance.sum(1), r"activation: must return the shape it was given, \(2, 7\); got \(2,\)\."),
        (lambda distance: 3.0, r"activation: must return a torch\.Tensor; got float\."),
        ("focal", r"activation: must be one of log, linear, exp, cosine, exp_root or a callable; got 'focal'\."),
        ("cosine", r"activation: must not be 'cosine' unless metric is 'cosine'; got metric 'sqeuclidean'\."),
        (None, r"activation: must be one of log, linear, exp, cosine, exp_root or a callable; got None\."),
    ],
)
def test_wrong_activation(activation: object, message: str) -> None:
    features, prototypes = SMALL.inputs()
    with pytest.raises(ValueError, match=message):
        prototype_pool(features, prototypes, activation=activation)


@pytest.mark.parametrize("epsilon", [0.0, -1e-4, math.nan, math.inf, True, "1e-4"])
def test_wrong_epsilon(epsilon: object) -> None:
    features, prototypes = SMALL.inputs()
    with pytest.raises(ValueError, match=r"epsilon: must be a finite number above 0; got "):
        prototype_pool(features, prototypes, epsilon=epsilon)
