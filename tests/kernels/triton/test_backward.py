"""The Triton gradient beyond the battery: crowds on one patch, splits of the images, patches without a prototype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.kernels.metric import METRICS
from protokern.kernels.min_distance import reference, triton_backward

from .. import oracle
from ..cases import Case

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


def assert_is_reference(
    features: Tensor, prototypes: Tensor, patch: Tensor, metric: str, needs: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, Tensor]:
    grad_value = torch.randn(patch.shape)
    inputs = (grad_value, features, prototypes, patch, metric, *needs)
    found = triton_backward.min_distance_backward(*inputs)
    wanted = reference.min_distance_backward(*inputs)
    for grad, of_reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(grad, of_reference, rtol=1e-5, atol=1e-5)
        assert grad.stride() == of_reference.stride()
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(2, 70, 4, 5, 37), Case(2, 9, 5, 4, 21, (2, 3))], ids=str)
def test_all_prototypes_on_one_patch_and_none_on_the_others(case: Case, metric: str) -> None:
    features, prototypes = case.inputs()
    patch = torch.full((case.batch, case.prototypes), 5)
    grad_features, _ = assert_is_reference(features, prototypes, patch, metric)
    if case.patch is None:
        untouched = torch.arange(20) != 5
        assert torch.equal(grad_features.flatten(2)[:, :, untouched], torch.zeros(2, 70, 19))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("patch_size", [None, (2, 2)])
def test_many_images_are_summed_in_parts(patch_size: tuple[int, int] | None, metric: str) -> None:
    features, prototypes = Case(21, 5, 3, 3, 4, patch_size).inputs()
    patch = torch.randint(0, 9 if patch_size is None else 4, (21, 4))
    assert_is_reference(features, prototypes, patch, metric)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_one_gradient_alone(needs: tuple[bool, bool]) -> None:
    features, prototypes = Case(2, 5, 4, 3, 7).inputs()
    patch = torch.randint(0, 12, (2, 7))
    found = assert_is_reference(features, prototypes, patch, "sqeuclidean", needs)
    assert [grad.numel() > 0 for grad in found] == list(needs)


@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
def test_copies_get_no_gradient_beside_prototypes_that_do(metric: str) -> None:
    features, prototypes = Case(1, 33, 3, 3, 6).inputs()
    patch = torch.tensor([[4, 4, 4, 2, 2, 7]])
    prototypes[[1, 3]] = features[0].flatten(1).T[[4, 2]]
    grad_features, grad_prototypes = assert_is_reference(features, prototypes, patch, metric)
    assert torch.equal(grad_prototypes[[1, 3]], torch.zeros(2, 33))
    alone = triton_backward.min_distance_backward(
        torch.ones(1, 2), features, prototypes[[1, 3]], patch[:, [1, 3]], metric, True, True
    )
    assert grad_features.abs().sum() > 0
    for grad in alone:
        assert torch.equal(grad, torch.zeros_like(grad))


def test_bfloat16_gradients_are_rounded_once() -> None:
    features, prototypes = Case(3, 18, 4, 5, 26).inputs(torch.bfloat16)
    patch = torch.randint(0, 20, (3, 26))
    grad_value = torch.randn(3, 26)
    inputs = (patch, "sqeuclidean", True, True)
    found = triton_backward.min_distance_backward(grad_value, features, prototypes, *inputs)
    wide = triton_backward.min_distance_backward(grad_value, features.float(), prototypes.float(), *inputs)
    for grad, of_wide in zip(found, wide, strict=True):
        assert torch.equal(grad, of_wide.bfloat16())
