"""The activation in the last step of a kernel is that of kernels/similarity.py."""

from __future__ import annotations

import pytest
import torch

from protokern.kernels.prototype_pool import triton_launch
from protokern.kernels.similarity import activate

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-12, 0.5])
@pytest.mark.parametrize("activation", ["log", "linear", "exp", "cosine"])
def test_similarity_of_any_distance(activation: str, epsilon: float, dtype: torch.dtype) -> None:
    roots = torch.tensor([0, 1e-12, 1e-4, 0.1, 1, 3, 30, 1e3, 1e6, 1e18], dtype=dtype)
    found, value, _ = triton_launch.prototype_pool(
        torch.zeros(1, 1, 1, 2, dtype=dtype), roots[:, None], "sqeuclidean", activation, epsilon, "fp32"
    )
    torch.testing.assert_close(value[0], roots.square(), rtol=1e-6, atol=0)
    rtol, atol = (1e-6, 1e-7) if dtype == torch.float32 else (0, 0)
    torch.testing.assert_close(found, activate(value, activation, epsilon), rtol=rtol, atol=atol)


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
