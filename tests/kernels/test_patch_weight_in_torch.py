"""Ops with weights inside torch: what is refused, opcheck, torch.compile, autocast, export."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from protokern import distance_at, distance_map, min_distance, prototype_pool, topk_pool

from .cases import SMALL, SMALL_PATCHES, Case
from .weighted import OPS, grid_of, weights_of

REGISTERED = torch.ops.protokern


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": ([[1.0]], TypeError, r"patch_weight: must be a torch\.Tensor or None; got list\."),
    "another grid": (
        torch.ones(2, 3, 4),
        ValueError,
        r"patch_weight: must have shape \(2, 4, 3\), one weight per image and patch of the grid; got \(2, 3, 4\)\.",
    ),
    "flat": (torch.ones(2, 12), ValueError, r"patch_weight: must have shape \(2, 4, 3\), .*; got \(2, 12\)\."),
    "one image": (torch.ones(1, 4, 3), ValueError, r"patch_weight: must have shape \(2, 4, 3\), .*; got \(1, 4, 3\)\."),
    "whole numbers": (
        torch.ones(2, 4, 3, dtype=torch.int64),
        ValueError,
        r"patch_weight: must be torch\.bool or torch\.float32 to match features; got torch\.int64\. Convert it\.",
    ),
    "a wider type": (
        torch.ones(2, 4, 3, dtype=torch.float64),
        ValueError,
        r"patch_weight: must be torch\.bool or torch\.float32 .*; got torch\.float64\. Convert it\.",
    ),
    "a half type": (torch.ones(2, 4, 3).half(), ValueError, r"patch_weight: must be .*; got torch\.float16\."),
    "sparse": (
        torch.ones(2, 4, 3).to_sparse(),
        ValueError,
        r"patch_weight: must be a dense tensor; got layout torch\.sparse_coo\. Call to_dense\(\) on it\.",
    ),
    "another device": (
        torch.ones(2, 4, 3, device="meta"),
        ValueError,
        r"patch_weight: must be on the device of features, cpu; got meta\. Move it\.",
    ),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights(kind: str, op: str) -> None:
    weight, error, message = WRONG[kind]
    with pytest.raises(error, match=message) as caught:
        OPS[op](*SMALL.inputs(), patch_weight=weight)
    assert re.match(r"^patch_weight: must .+; got .+\.$", str(caught.value))


def test_half_features_take_weights_in_their_type_or_in_float32() -> None:
    features, prototypes = SMALL.inputs(torch.bfloat16)
    message = r"patch_weight: must be torch\.bool or torch\.float32 or torch\.bfloat16 .*; got torch\.float16\."
    with pytest.raises(ValueError, match=message):
        min_distance(features, prototypes, patch_weight=torch.ones(2, 4, 3).half())


# opcheck itself looks at the gradient of copies that are not leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("case", "metric"), [(SMALL, "sqeuclidean"), (SMALL_PATCHES, "cosine")], ids=str)
def test_opcheck(case: Case, metric: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
    weight = weights_of(case, zeros=False).requires_grad_()
    value, patch = min_distance(features.detach(), prototypes.detach(), metric=metric)
    plain = features.detach(), prototypes.detach()
    calls = {
        "min_distance": (features, prototypes, metric, None, "auto", weight),
        "prototype_pool": (features, prototypes, metric, "log", 1e-4, "fp32", "auto", weight),
        "topk_distance": (features, prototypes, 2, metric, "fp32", "auto", weight),
        "distance_map": (features, prototypes, metric, "auto", weight),
        "distance_at": (features, prototypes, patch, metric, "auto", weight),
        "min_distance_weight_backward": (value, *plain, patch, weight.detach(), metric, "auto"),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(REGISTERED, name).default, arguments)


def every_op(features: Tensor, prototypes: Tensor, weight: Tensor) -> Tensor:
    """A loss that passes through all ops with weights."""
    pooled = prototype_pool(features, prototypes, patch_weight=weight)
    nearest = min_distance(features, prototypes, metric="cosine", patch_weight=weight)
    some = distance_map(features, prototypes, metric="cosine", patch_weight=weight)
    there = distance_at(features, prototypes, nearest.patch, patch_weight=weight)
    few = topk_pool(features, prototypes, 3, patch_weight=weight)
    return pooled.activation.sum() + nearest.value.sum() + some.sum() + there.sum() + few.activation.sum()


def test_compile_of_the_whole_graph_with_dynamic_shapes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(every_op, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for case in (Case(3, 5, 4, 6, 7, (2, 1)), Case(4, 6, 5, 7, 11, (2, 1))):
        results = []
        for function in (every_op, compiled):
            features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
            weight = weights_of(case, zeros=False).requires_grad_()
            loss = function(features, prototypes, weight)
            results.append((loss, *torch.autograd.grad(loss, (features, prototypes, weight))))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
        compilations.append(counter.frame_count)
    assert compilations == compilations[:1] * 2  # the first case compiles, and the graph serves the other


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("of_weight", [torch.bfloat16, torch.float32])
def test_autocast_takes_weights_of_either_type(of_weight: torch.dtype, op: str) -> None:
    features, prototypes = SMALL.inputs()
    weight = weights_of(SMALL, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = OPS[op](features.bfloat16(), prototypes, patch_weight=weight.to(of_weight))
    wanted = OPS[op](features.bfloat16().float(), prototypes, patch_weight=weight.float())
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


def test_export_for_any_number_of_images() -> None:
    class Layer(torch.nn.Module):
        def __init__(self, prototypes: Tensor) -> None:
            super().__init__()
            self.prototypes = torch.nn.Parameter(prototypes)

        def forward(self, features: Tensor, weight: Tensor) -> Tensor:
            return prototype_pool(features, self.prototypes, patch_weight=weight).activation

    case, many = Case(3, 5, 4, 6, 7), Case(9, 5, 4, 6, 7)
    features, prototypes = case.inputs()
    images = torch.export.Dim("images", min=1, max=64)
    exported = torch.export.export(
        Layer(prototypes), (features, weights_of(case)), dynamic_shapes=({0: images}, {0: images})
    )
    more = many.inputs(seed=1)[0]
    wanted = prototype_pool(more, prototypes, patch_weight=weights_of(many)).activation
    torch.testing.assert_close(exported.module()(more, weights_of(many)), wanted)


def test_meta_tensors_give_shapes_and_types() -> None:
    features, prototypes = (tensor.to("meta") for tensor in SMALL_PATCHES.inputs(torch.bfloat16))
    weight = torch.ones(grid_of(SMALL_PATCHES), device="meta")
    result = prototype_pool(features, prototypes, patch_weight=weight)
    assert [tensor.shape for tensor in result] == [(2, 6)] * 3
    assert [tensor.dtype for tensor in result] == [torch.float32, torch.float32, torch.int64]
