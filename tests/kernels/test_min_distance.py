"""`min_distance` keeps the op contract on every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern import MinDistance, min_distance

from .interpreted import interpreter_runs
from .nearest_contract import NearestContract

pytestmark = interpreter_runs()


class TestMinDistance(NearestContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        return tuple(min_distance(features, prototypes, metric=metric, backend=backend))

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        assert patch is not None
        return (distances.flatten(2).gather(2, patch[..., None])[..., 0],)

    def nearest(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, Tensor]:
        result = min_distance(features, prototypes, metric=metric, backend=backend)
        return result.value, result.patch


def test_three_patches_and_two_prototypes_by_hand(backend: str) -> None:
    features = torch.tensor([[[[0.0, 3.0, 1.0]], [[0.0, 4.0, 1.0]]]]).requires_grad_()  # patches (0, 0), (3, 4), (1, 1)
    prototypes = torch.tensor([[3.0, 3.0], [1.0, 0.0]]).requires_grad_()
    result = min_distance(features, prototypes, backend=backend)
    assert isinstance(result, MinDistance)
    assert result.value.tolist() == [[1.0, 1.0]]
    assert result.patch.tolist() == [[1, 0]]  # (1, 0) is as near to (0, 0) as to (1, 1): the first wins
    (result.value * torch.tensor([[1.0, 10.0]])).sum().backward()
    assert features.grad is not None
    assert prototypes.grad is not None
    # 2 g (x - p): (0, 2) at patch 1; 10 * (-2, 0) at patch 0.
    assert features.grad.tolist() == [[[[-20.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]]]
    assert prototypes.grad.tolist() == [[0.0, -2.0], [20.0, 0.0]]


def test_patches_of_two_cells_by_hand(backend: str) -> None:
    features = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    prototypes = torch.tensor([[[[2.0, 5.0]]]])
    value, patch = min_distance(features, prototypes, backend=backend)
    assert value.tolist() == [[1.0]]  # (2, 4) against (2, 5); (1, 2) is at 10
    assert patch.tolist() == [[1]]


def test_cosine_by_hand(backend: str) -> None:
    features = torch.tensor([[[[0.0, 1.0, -5.0]], [[2.0, 1.0, 0.0]]]])  # (0, 2), (1, 1), (-5, 0)
    value, patch = min_distance(features, torch.tensor([[3.0, 3.0], [-1.0, 0.0]]), metric="cosine", backend=backend)
    torch.testing.assert_close(value, torch.tensor([[0.0, 0.0]]), rtol=0, atol=1e-7)
    assert patch.tolist() == [[1, 2]]
    value, patch = min_distance(
        features[..., :1], torch.tensor([[1.0, 1.0], [0.0, -1.0]]), metric="cosine", backend=backend
    )
    torch.testing.assert_close(value, torch.tensor([[1 - 0.5**0.5, 2.0]]))


def test_gradient_reaches_the_chosen_patch_only(backend: str) -> None:
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    prototypes = torch.randn(1, 3)
    value, patch = min_distance(features, prototypes, backend=backend)
    (grad,) = torch.autograd.grad(value.sum(), features)
    touched = grad.abs().sum(1).flatten(1) > 0  # (B, N)
    assert touched.sum(1).tolist() == [1, 1]
    assert torch.equal(touched.to(torch.int64).argmax(1), patch[:, 0])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_has_the_memory_format_of_the_features(memory_format: torch.memory_format, backend: str) -> None:
    features = torch.randn(2, 6, 4, 5).to(memory_format=memory_format).requires_grad_()
    value, _ = min_distance(features, torch.randn(7, 6), backend=backend)
    (grad,) = torch.autograd.grad(value.sum(), features)
    assert grad.stride() == features.stride()
