"""The cost of being like a forbidden patch, against cases computed by hand."""

from __future__ import annotations

import pytest
import torch

from protokern.losses import forbidden_cost

# Three prototypes of class 0, one of class 1, one that both share; class 2 has none.
IDENTITY = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
SIMILARITY = torch.tensor(
    [
        [1.0, 2.0, -3.0, 9.0, 4.0],
        [5.0, 1.0, -1.0, 8.0, 0.0],
        [7.0, 7.0, 7.0, 6.0, 2.0],
    ]
)


def test_the_most_similar_patch_of_a_class_counts_for_each_of_its_prototypes() -> None:
    of_class_0 = torch.tensor([[True, False, False], [True, False, False], [False, True, False]])
    # Class 0: the largest of the first two rows are 5, 2, -1 and 4; class 1: 6 and 2 in the third row.
    expected = ((5 + 2 - 1 + 4) / 4 + (6 + 2) / 2) / 2
    assert float(forbidden_cost(SIMILARITY, IDENTITY, of_class_0)) == expected


def test_classes_without_a_forbidden_patch_or_without_a_prototype_do_not_count() -> None:
    forbidden = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
    assert float(forbidden_cost(SIMILARITY, IDENTITY, forbidden)) == (9 + 4) / 2


def test_a_patch_may_be_forbidden_to_several_classes() -> None:
    forbidden = torch.tensor([[True, True, False], [False, False, False], [False, False, False]])
    assert float(forbidden_cost(SIMILARITY, IDENTITY, forbidden)) == ((1 + 2 - 3 + 4) / 4 + (9 + 4) / 2) / 2


def test_nothing_to_forget_costs_nothing_and_has_a_gradient() -> None:
    similarity = SIMILARITY.clone().requires_grad_()
    cost = forbidden_cost(similarity, IDENTITY, torch.zeros(3, 3, dtype=torch.bool))
    cost.backward()
    assert float(cost.detach()) == 0
    assert similarity.grad is not None
    assert not similarity.grad.any()


def test_the_gradient_flows_through_the_most_similar_patch_alone() -> None:
    similarity = torch.tensor([[1.0, 2.0], [1.0, 3.0]], requires_grad=True)  # a tie for the first prototype
    forbidden_cost(similarity, torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool)).backward()
    assert similarity.grad is not None
    assert similarity.grad.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_shapes_that_disagree_are_named() -> None:
    forbidden = torch.zeros(3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"similarity: must have shape \(F, P\) = \(3, 5\) to match .*; got \(5, 3\)"):
        forbidden_cost(SIMILARITY.T, IDENTITY, forbidden)
    with pytest.raises(ValueError, match="similarity: must have shape"):
        forbidden_cost(SIMILARITY, IDENTITY[:, :2], forbidden)
