"""TesNet's losses against the released formulas, written out plainly here, and against cases computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.losses import (
    Labels,
    LossCoefficients,
    class_bases,
    orthonormality_cost,
    subspace_separation_cost,
    tesnet_loss,
)


def released_orthonormality(prototypes: Tensor, classes: int) -> Tensor:
    """The sum over the classes of the entrywise norm of B B^T - I."""
    bases = prototypes.reshape(classes, -1, prototypes.shape[1])
    gram = torch.matmul(bases, bases.transpose(1, 2))
    difference = gram - torch.eye(bases.shape[1]).to(prototypes)
    return torch.norm(difference, p=1, dim=[1, 2]).sum()


def released_separation(prototypes: Tensor, classes: int) -> Tensor:
    """Half of the sum over all ordered pairs of classes of the distance of B^T B, over the root of 2."""
    bases = prototypes.reshape(classes, -1, prototypes.shape[1])
    operators = torch.matmul(bases.transpose(1, 2), bases)  # (K, D, D)
    pairs = operators[:, None] - operators[None] + 1e-10  # (K, K, D, D), what takes the memory
    return 0.5 * torch.linalg.vector_norm(pairs, dim=(2, 3)).sum() / math.sqrt(2)


def identity(classes: int, size: int) -> Tensor:
    return torch.eye(classes).repeat_interleave(size, dim=0)


def start(classes: int, size: int, depth: int) -> Tensor:
    """Prototypes of many lengths: at length 1 the diagonal of B B^T - I is at the kink of its norm."""
    torch.manual_seed(0)
    return (F.normalize(torch.rand(classes * size, depth), dim=1) * torch.rand(classes * size, 1)).requires_grad_()


# The third has more channels than the Gram matrix of its concepts has rows.
@pytest.mark.parametrize(("classes", "size", "depth"), [(20, 10, 16), (3, 2, 4), (3, 2, 50), (2, 1, 3)])
def test_terms_are_the_released_ones_in_value_and_gradient(classes, size, depth):
    prototypes = start(classes, size, depth)
    wide = prototypes.detach().double().requires_grad_()
    for ours, theirs in (
        (orthonormality_cost, released_orthonormality),
        (subspace_separation_cost, released_separation),
    ):
        got = ours(class_bases(prototypes, identity(classes, size), size))
        wanted = theirs(wide, classes)
        assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(got, prototypes)
        (wanted_gradient,) = torch.autograd.grad(wanted, wide)
        torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=1e-4, atol=1e-4)


def test_terms_by_hand():
    # Class 0 spans the first two axes, class 1 the last two; then the second concept of class 1 is its first one.
    bases = torch.eye(4).reshape(2, 2, 4)
    assert orthonormality_cost(bases).item() == 0
    # |P_0 - P_1|_F is the root of 4; there are two ordered pairs.
    assert subspace_separation_cost(bases).item() == pytest.approx(0.5 * 2 * 2 / math.sqrt(2))
    bases = bases.clone()
    bases[1, 1] = bases[1, 0]
    assert orthonormality_cost(bases).item() == 2


def test_classes_with_the_same_concepts_have_no_distance_and_a_finite_gradient():
    torch.manual_seed(0)
    one = F.normalize(torch.randn(1, 3, 8), dim=2)
    bases = one.repeat(2, 1, 1).requires_grad_()
    cost = subspace_separation_cost(bases)
    cost.backward()
    assert cost.item() == 0
    assert bases.grad.tolist() == torch.zeros_like(bases).tolist()


def test_classes_that_hardly_differ_keep_the_precision_of_their_distance():
    torch.manual_seed(0)
    base = F.normalize(torch.randn(1, 4, 8, dtype=torch.float64), dim=2)
    bases = base + 1e-3 * torch.randn(5, 4, 8, dtype=torch.float64)
    wanted = released_separation(bases.reshape(20, 8), 5)
    assert subspace_separation_cost(bases.float()).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_order_of_prototypes_is_that_of_their_classes_and_places_may_stay_empty():
    prototypes = torch.arange(1, 9.0).reshape(4, 2).requires_grad_()
    label = torch.tensor([1, 0, 1, 2])
    bases = class_bases(prototypes, F.one_hot(label).float(), 2)
    assert bases.tolist() == [[[3, 4], [0, 0]], [[1, 2], [5, 6]], [[7, 8], [0, 0]]]
    bases.sum().backward()
    assert prototypes.grad.tolist() == [[1, 1]] * 4


def test_empty_places_add_nothing():
    torch.manual_seed(0)
    rows = torch.randn(3, 5)  # one concept in class 0, two in class 1
    bases = class_bases(rows, torch.tensor([[1.0, 0], [0, 1], [0, 1]]), 2)
    first, second = rows[:1], rows[1:]
    orthonormality = (first @ first.T - 1).abs().sum() + (second @ second.T - torch.eye(2)).abs().sum()
    assert orthonormality_cost(bases).item() == pytest.approx(orthonormality.item(), rel=1e-6)
    separation = torch.linalg.norm(first.T @ first - second.T @ second) / math.sqrt(2)
    assert subspace_separation_cost(bases).item() == pytest.approx(separation.item(), rel=1e-6)


def test_the_parts_of_large_prototypes_are_one_vector():
    torch.manual_seed(0)
    prototypes = torch.rand(4, 3, 2, 1)
    assert class_bases(prototypes, identity(2, 2), 2).tolist() == prototypes.reshape(2, 2, 6).tolist()


def test_the_loss_reads_the_cosines_for_clusters_and_the_prototypes_for_bases():
    torch.manual_seed(0)
    prototypes = start(2, 2, 4)
    output = SimpleNamespace(
        logits=torch.tensor([[1.0, 0], [0, 2]]),
        min_distances=torch.full((2, 4), -9.0),
        cosine_distances=torch.tensor([[0.5, 0.25, 1.5, 1.75], [0.75, 1.0, 0.25, 0.5]]),
    )
    weight = torch.tensor([[1.0, 1, -0.5, -0.25], [-0.5, -0.5, 1, 1]])
    total, terms = tesnet_loss(
        output,
        Labels(torch.tensor([0, 1])),
        identity(2, 2),
        weight,
        class_bases(prototypes, identity(2, 2), 2),
        LossCoefficients(),
        max_distance=4,
    )
    cross_entropy = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    released = {
        "cross_entropy": cross_entropy,
        "cluster": ((0.25 - 1) + (0.25 - 1)) / 2,  # of -cos, which is the cosine distance less 1
        "separation": ((1.5 - 1) + (0.75 - 1)) / 2,
        "l1": 1.75,
        "orthonormality": released_orthonormality(prototypes, 2).item(),
        "subspace_separation": released_separation(prototypes, 2).item(),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(released, rel=1e-5)
    factors = {"cross_entropy": 1, "cluster": 0.8, "separation": -0.08, "l1": 1e-4}
    factors |= {"orthonormality": 1e-4, "subspace_separation": -1e-7}
    assert total.item() == pytest.approx(sum(factors[name] * value for name, value in released.items()), rel=1e-5)
