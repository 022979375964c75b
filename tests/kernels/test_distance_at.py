"""`distance_at` keeps the op contract on every backend, at patches that are not the nearest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern import distance_at

from .cases import SMALL
from .contract import METRICS, OpContract
from .interpreted import interpreter_runs

pytestmark = interpreter_runs()


class TestDistanceAt(OpContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        patch = self.patch(features, prototypes)
        return distance_at(features, prototypes, patch, metric=metric, backend=backend), patch

    def expected(self, distances: Tensor, patch: Tensor | None) -> tuple[Tensor, ...]:
        assert patch is not None
        return (distances.flatten(2).gather(2, patch[..., None])[..., 0],)

    @staticmethod
    def patch(features: Tensor, prototypes: Tensor) -> Tensor:
        height, width = prototypes.shape[2:] if prototypes.dim() == 4 else (1, 1)
        num_patches = (features.shape[2] - height + 1) * (features.shape[3] - width + 1)
        # Some patch of its own for every pair, whatever its distance: where the largest components happen to stand.
        largest = features.detach().flatten(1).argmax(1)[:, None] + prototypes.detach().flatten(1).argmax(1)
        return largest % num_patches


@pytest.mark.parametrize("metric", METRICS)
def test_nan_at_a_non_finite_patch_and_nowhere_else(metric: str, backend: str) -> None:
    features, prototypes = SMALL.inputs()
    features[0, 2, 1, 1] = torch.nan
    prototypes[3, 1] = torch.inf
    patch = torch.full((2, 7), 4)
    patch[0, 5] = 6
    value = distance_at(features, prototypes, patch, metric=metric, backend=backend)
    bad = torch.zeros(2, 7, dtype=torch.bool)
    bad[0] = True
    bad[0, 5] = False
    bad[:, 3] = True
    assert torch.equal(value.isnan(), bad)


@pytest.mark.parametrize("layout", ["transposed", "expanded"])
def test_patch_of_any_strides(layout: str, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    patch = torch.randint(0, 12, (2, 7)) if layout == "transposed" else torch.tensor([[3]]).expand(2, 7)
    strided = patch.mT.contiguous().mT if layout == "transposed" else patch
    assert not strided.is_contiguous()
    results = []
    for index in (patch.contiguous(), strided):
        value = distance_at(features, prototypes, index, backend=backend)
        results.append((value, *torch.autograd.grad(value.sum(), (features, prototypes))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("patch", "error", "message"),
    [
        ([[0]], TypeError, r"patch: must be a torch\.Tensor; got list\."),
        (torch.zeros(2, 7), ValueError, r"patch: must be int64; got torch\.float32\."),
        (
            torch.zeros(2, 6, dtype=torch.int64),
            ValueError,
            r"patch: must have shape \(2, 7\), one index per image and prototype; got \(2, 6\)\.",
        ),
        (torch.full((2, 7), 12), ValueError, r"patch: must be in \[0, 12\); got values from 12 to 12\."),
        (torch.full((2, 7), -1), ValueError, r"patch: must be in \[0, 12\); got values from -1 to -1\."),
        (torch.zeros(2, 7, dtype=torch.int64, device="meta"), ValueError, r"patch: must be on cpu; got meta\."),
    ],
)
def test_wrong_patch(patch: Tensor, error: type[Exception], message: str, backend: str) -> None:
    features, prototypes = SMALL.inputs()
    with pytest.raises(error, match=message):
        distance_at(features, prototypes, patch, backend=backend)
