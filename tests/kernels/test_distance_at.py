"""`distance_at` keeps the op contract on every backend, at patches that are not the nearest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern import distance_at

from . import oracle
from .cases import SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .contract import METRICS, OpContract
from .interpreted import interpreter_runs
from .weighted import weights_of, wide

pytestmark = interpreter_runs()


class TestDistanceAt(OpContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        patch = self.patch(features, prototypes)
        return distance_at(features, prototypes, patch, metric=metric, backend=backend), patch

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
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
            r"patch: must have shape \(2, 7\) or \(2, 7, m\), one index per .* or m of them; got \(2, 6\)\.",
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
def test_several_patches_of_a_pair(case: Case, metric: str, weighted: bool, dtype: torch.dtype, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(dtype))
    weight = weights_of(case, wide(dtype), zeros=False).requires_grad_() if weighted else None
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    whole = oracle.distance_map(x, p, metric)
    w = None
    if weight is not None:
        w = weight.detach().double().requires_grad_()
        whole = oracle.weigh(whole, w, metric)
    whole = whole.flatten(2)
    patch = torch.randint(0, whole.shape[2], (case.batch, case.prototypes, 4))
    patch[..., 1:2] = patch[..., :1]  # the same one again
    found = distance_at(features, prototypes, patch, metric=metric, backend=backend, patch_weight=weight)
    assert found.shape == patch.shape
    wanted = whole.gather(2, patch)
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=atol)
    options = {"metric": metric, "backend": backend, "patch_weight": weight}
    assert torch.equal(found[..., 0], distance_at(features, prototypes, patch[..., 0], **options))
    slopes = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    leaves = [features, prototypes] if weight is None else [features, prototypes, weight]
    truths = [x, p] if w is None else [x, p, w]
    grads = torch.autograd.grad(found, leaves, slopes)
    wanted_grads = torch.autograd.grad(wanted, truths, slopes.double())
    for grad, truth, leaf in zip(grads, wanted_grads, leaves, strict=True):
        assert grad.dtype == leaf.dtype
        rtol, atol = gradient_tolerance(leaf.dtype)
        scale = max(1.0, float(truth.abs().max()))
        torch.testing.assert_close(grad.double(), truth, rtol=rtol, atol=4 * atol * scale)  # several to a patch


@pytest.mark.parametrize("layout", ["transposed", "expanded"])
def test_several_patches_of_any_strides(layout: str, backend: str) -> None:
    features, prototypes = SMALL.inputs()
    patch = torch.randint(0, 12, (2, 7, 3))
    strided = patch.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "expanded":
        strided = patch[:, :, :1].expand(2, 7, 3)
        patch = strided.contiguous()
    assert not strided.is_contiguous()
    plain, other = (distance_at(features, prototypes, index, backend=backend) for index in (patch, strided))
    assert torch.equal(plain, other)


def test_no_patch_of_a_pair(backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    found = distance_at(features, prototypes, torch.empty((2, 7, 0), dtype=torch.int64), backend=backend)
    assert found.shape == (2, 7, 0)
    grads = torch.autograd.grad(found.sum(), (features, prototypes))
    for grad, source in zip(grads, (features, prototypes), strict=True):
        assert torch.equal(grad, torch.zeros_like(source))
