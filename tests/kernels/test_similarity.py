"""Every similarity on every backend: its value and its slope, against the formulas of oracle.py."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

from protokern.kernels import dispatch, mean_activation, native_library, prototype_pool
from protokern.kernels.metric import METRIC_TABLE
from protokern.kernels.similarity import ACTIVATIONS, SIMILARITIES, activate, slope

from . import oracle
from .cases import TOLERANCE, gradient_tolerance
from .interpreted import interpreter_runs

pytestmark = interpreter_runs()

EPSILON = 1e-3
# The others are refused.
MEANINGFUL = [(activation, name) for name, metric in METRIC_TABLE.items() for activation in metric.activations]


def distances(dtype: torch.dtype) -> Tensor:
    return torch.tensor([0, 1e-12, 1e-4, 0.1, 0.5, 1, 1.5, 2], dtype=dtype)


def inputs(metric: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One image of one patch and prototypes near and far from it, so that every op sees the same distances."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 6, 1, 1, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.01, 0.1, 0.5, 1, 2], dtype=torch.float64)[:, None]
    away = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    p = x.flatten() + scale * away if metric == "sqeuclidean" else x.flatten() * scale + away * 0.3
    return x.to(dtype), p.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", ["prototype_pool", "mean_activation"])
@pytest.mark.parametrize(("activation", "metric"), MEANINGFUL)
def test_value_and_slope(activation: str, metric: str, op: str, dtype: torch.dtype, backend: str) -> None:
    x, p = (tensor.requires_grad_() for tensor in inputs(metric, dtype))
    settings = {"activation": activation, "epsilon": EPSILON, "metric": metric, "backend": backend}
    found = prototype_pool(x, p, **settings).activation if op == "prototype_pool" else mean_activation(x, p, **settings)
    weight = torch.linspace(1, 2, p.shape[0], dtype=torch.float64)
    gradients = torch.autograd.grad((found * weight).sum(), (x, p))

    true_x, true_p = (tensor.detach().double().requires_grad_() for tensor in (x, p))
    wanted = oracle.activation(oracle.distance_map(true_x, true_p, metric)[..., 0, 0], activation, EPSILON)
    wanted_gradients = torch.autograd.grad((wanted * weight).sum(), (true_x, true_p))
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=atol)
    # Where a slope is steep, its gradient is the small rest of large terms.
    rtol, atol = gradient_tolerance(dtype)
    for gradient, true in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), true, rtol=rtol, atol=atol * float(true.abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_table_has_the_formula_and_its_derivative(activation: str, dtype: torch.dtype) -> None:
    d = distances(dtype)
    exact = d.double().requires_grad_()
    value = oracle.activation(exact, activation, EPSILON)
    (derivative,) = torch.autograd.grad(value.sum(), exact)
    # A half type is rounded at every step, of which there are at most four.
    rtol = max(TOLERANCE[dtype][0], 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(activate(d, activation, EPSILON).double(), value.detach(), rtol=rtol, atol=rtol)
    fits = derivative.abs() < torch.finfo(dtype).max  # beyond the range of the type a slope is infinite
    assert fits[2:].all()
    found = slope(d, activation, EPSILON).double()
    torch.testing.assert_close(found[fits], derivative[fits], rtol=rtol, atol=rtol)


def test_every_similarity_decreases() -> None:
    for name, row in SIMILARITIES.items():
        values = row.value(distances(torch.float64), EPSILON).tolist()
        assert all(before > after for before, after in itertools.pairwise(values)), name


def test_an_unknown_name_is_never_another_similarity() -> None:
    for function in (activate, slope):
        with pytest.raises(KeyError):
            function(distances(torch.float32), "none", EPSILON)


def test_the_compiled_library_has_the_same_names() -> None:
    if not native_library.is_available():
        pytest.skip("the C++ library is not built")
    x, p = inputs("cosine", torch.float32)
    implementation = dispatch.implementation("mean_activation", "native")
    for name in ACTIVATIONS:
        implementation(x, p, "cosine", name, EPSILON, "fp32")
    with pytest.raises(RuntimeError, match="activation: must be") as error:
        implementation(x, p, "cosine", "none", EPSILON, "fp32")
    assert tuple(re.findall(r"'(\w+)'", str(error.value).partition("; got")[0])) == ACTIVATIONS
