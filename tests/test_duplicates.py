"""Prototypes that are there twice: cases by hand."""

from __future__ import annotations

import pytest
import torch

from protokern.duplicates import find_copies, same_vector

ONE_CLASS = torch.ones(1, 4, dtype=torch.bool)
DIFFERENT = torch.eye(4)


def test_the_same_vector_up_to_rounding_is_a_copy_and_the_one_that_is_missed_stays() -> None:
    vectors = torch.tensor([[1.0, 2], [5, 5], [1 + 1e-6, 2], [1, 2.1]])
    need = torch.tensor([0.3, 0.1, 0.5, 0.9])
    assert find_copies(vectors, ONE_CLASS, need) == {0: 2}
    assert find_copies(vectors, ONE_CLASS, torch.zeros(4)) == {2: 0}, "of equal ones the first stays"
    assert same_vector(vectors[0], vectors[2])
    assert not same_vector(vectors[0], vectors[3])


def test_prototypes_of_different_classes_are_no_copies() -> None:
    vectors = torch.ones(4, 2)
    is_own = torch.tensor([[True, True, False, True], [False, False, True, True]])
    assert find_copies(vectors, is_own, torch.zeros(4)) == {1: 0}


def test_the_same_source_patch_is_a_copy() -> None:
    image, patch = torch.tensor([3, 3, 2, -1]), torch.tensor([5, 5, 5, -1])
    assert find_copies(DIFFERENT, ONE_CLASS, torch.zeros(4), image, patch, (4, 4)) == {1: 0}
    nowhere = torch.full((4,), -1)
    assert find_copies(DIFFERENT, ONE_CLASS, torch.zeros(4), nowhere, nowhere, (4, 4)) == {}


@pytest.mark.parametrize(
    ("second", "is_copy"),
    [
        (1 * 10 + 2, True),
        (2 * 10 + 1, False),
        (2 * 10 + 2, False),
    ],
)
def test_source_patches_that_overlap_by_more_than_half_are_copies(second, is_copy) -> None:
    """Prototypes of 2 x 4 cells: beside each other they share 6 of 10 cells, above each other 4 of 12."""
    vectors = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    image, patch = torch.tensor([0, 0]), torch.tensor([1 * 10 + 1, second])
    copies = find_copies(vectors, torch.ones(1, 2, dtype=torch.bool), torch.zeros(2), image, patch, (10, 10))
    assert copies == ({1: 0} if is_copy else {})


def test_what_is_a_copy_of_a_copy_alone_stays() -> None:
    """In a row 0, 1, 2 each overlaps with the next: without 1 the ends are no copies."""
    vectors = torch.rand(3, 2, 1, 4, generator=torch.Generator().manual_seed(0))
    image, patch = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 2])
    all_own = torch.ones(1, 3, dtype=torch.bool)
    assert find_copies(vectors, all_own, torch.tensor([2.0, 0, 1]), image, patch, (1, 9)) == {1: 0}
    assert find_copies(vectors, all_own, torch.tensor([1.0, 2, 0]), image, patch, (1, 9)) == {0: 1, 2: 1}
