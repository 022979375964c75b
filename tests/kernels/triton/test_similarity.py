"""The similarities in Triton's language are those of the table in torch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from protokern.kernels.min_distance import triton_launch
from protokern.kernels.similarity import ACTIVATIONS, activate, slope, triton_slope, triton_value

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
value_in_kernel, slope_in_kernel = triton_value(), triton_slope()


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


@triton.jit
def both_kernel(distance_ptr, epsilon_ptr, value_ptr, slope_ptr, count, ACTIVATION: tl.constexpr, SIZE: tl.constexpr):
    """Value and slope of `count` distances."""
    i = tl.arange(0, SIZE)
    distance = tl.load(distance_ptr + i, mask=i < count, other=1.0)
    epsilon = tl.load(epsilon_ptr)
    tl.store(value_ptr + i, value_in_kernel(distance, epsilon, ACTIVATION), mask=i < count)
    tl.store(slope_ptr + i, slope_in_kernel(distance, epsilon, ACTIVATION), mask=i < count)


def both(distance: Tensor, activation: str, epsilon: float) -> tuple[Tensor, Tensor]:
    value, derivative = torch.empty_like(distance), torch.empty_like(distance)
    constant = torch.full((1,), epsilon, dtype=distance.dtype)
    both_kernel[(1,)](distance, constant, value, derivative, len(distance), ACTIVATION=activation, SIZE=16)
    return value, derivative


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-12, 0.5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_slope_of_any_distance(activation: str, epsilon: float, dtype: torch.dtype) -> None:
    distance = torch.tensor([0, 1e-24, 1e-8, 0.01, 1, 9, 900, 1e6, 1e12], dtype=dtype)
    value, derivative = both(distance, activation, epsilon)
    rtol, atol = (1e-6, 1e-7) if dtype == torch.float32 else (1e-12, 1e-13)
    torch.testing.assert_close(value, activate(distance, activation, epsilon), rtol=rtol, atol=atol)
    torch.testing.assert_close(derivative, slope(distance, activation, epsilon), rtol=rtol, atol=atol)


def test_an_unknown_name_is_never_another_similarity() -> None:
    with pytest.raises(Exception, match="an activation without a value"):
        both(torch.ones(3), "none", 1e-4)


def test_similarity_of_what_is_not_finite() -> None:
    prototypes = torch.tensor([[1e30, 0.0], [torch.nan, 0.0], [0.0, 1.0]])
    found, value, _ = triton_launch.prototype_pool(
        torch.zeros(1, 2, 1, 1), prototypes, "sqeuclidean", "log", 1e-4, "fp32"
    )
    assert value[0].isinf().tolist() == [True, False, False]
    assert value[0].isnan().tolist() == [False, True, False]
    assert found[0, 0] == 0
    assert found[0, 1].isnan()
    torch.testing.assert_close(found[0, 2], activate(torch.tensor(1.0), "log", 1e-4))
