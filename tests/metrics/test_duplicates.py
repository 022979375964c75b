"""Pairs that say the same: by hand, and against a slow program."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protokern.metrics import Context, find_duplicates, measure
from protokern.metrics.duplicates import overlap
from protokern.push import PushResult
from tests.explain.small_models import small_model
from tests.metrics import plain


def test_overlap_by_hand() -> None:
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert overlap((0, 0, 4, 4), (0, 2, 4, 6)) == pytest.approx(8 / 24)
    assert overlap((0, 0, 4, 4), (4, 0, 8, 4)) == 0  # they touch
    assert overlap((0, 0, 4, 4), (5, 5, 6, 6)) == 0


def test_a_case_by_hand() -> None:
    """0 and 1: one vector from two images; 1 and 2: one patch; 3: overlaps 0 by 12 of 20; 4: touches it by a half."""
    vectors = np.array([[1.0, 0.0], [1.0, -0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 3.0], [1.0, 1.0]])
    sources = [(0, 0), (1, 5), (1, 5), (0, 1), (0, 2), None]
    boxes = [(0, 0, 4, 4), (0, 0, 4, 4), (0, 0, 4, 4), (0, 1, 4, 5), (0, 0, 4, 2), None]
    pairs = find_duplicates(vectors, sources, boxes)
    assert [(one.first, one.second) for one in pairs] == [(0, 1), (0, 3), (1, 2)]
    assert [(one.same_vector, one.same_patch) for one in pairs] == [(True, False), (False, False), (False, True)]
    assert [one.overlap for one in pairs] == pytest.approx([0, 12 / 20, 1])


def test_against_a_slow_program() -> None:
    rng = np.random.default_rng(1)
    number = 40
    vectors = rng.integers(2, size=(number, 3, 2)).astype(np.float32)
    sources = [None if rng.random() < 0.1 else (int(rng.integers(6)), int(rng.integers(4))) for _ in range(number)]
    boxes = []
    for source in sources:
        y, x = rng.integers(5, size=2).tolist()
        boxes.append(None if source is None else (y, x, y + int(rng.integers(2, 6)), x + int(rng.integers(2, 6))))
    found = find_duplicates(vectors, sources, boxes)
    wanted = plain.duplicates(vectors, sources, boxes)
    assert [tuple(pair)[:4] for pair in found] == [pair[:4] for pair in wanted]
    assert [pair.overlap for pair in found] == pytest.approx([pair[4] for pair in wanted])
    assert len(wanted) > 20


def push_of(patches: list[int], images: list[int], columns: int) -> PushResult:
    return PushResult(
        image=torch.tensor(images),
        patch=torch.tensor(patches),
        distance=torch.zeros(len(images)),
        label=torch.zeros(len(images), dtype=torch.int64),
        grid=(columns, columns),
    )


def test_of_a_model_by_its_push() -> None:
    """Prototypes of 2 x 2 cells: neighbours share 2 of 6 cells, which is less than a half."""
    model = small_model(prototype_size=(2, 2), num_classes=2)
    with torch.no_grad():
        model.prototype_layer.prototypes[4] = model.prototype_layer.prototypes[1]
    push = push_of([0, 1, 0, 0, 3, -1], [0, 0, 0, 1, 2, -1], columns=7)
    (result,) = measure(model, [], 0, only=["duplicates"], context=Context(push=push))
    assert {name: one.value for name, one in result.estimates.items()} == {
        "pairs": 2,
        "prototypes that repeat an earlier one": 2,
        "pairs with the same vector": 1,
        "pairs of the same source patch": 1,
        "pairs that overlap by more than one half": 1,
    }
    assert [(row["first"], row["second"]) for row in result.table] == [(0, 2), (1, 4)]
    assert result.settings["boxes that are compared"] == "cells of the source patches"
    frames = [(0, 0, 8, 8), (0, 1, 8, 9), (0, 0, 2, 2), (0, 0, 8, 8), (0, 0, 8, 8), None]
    (result,) = measure(model, [], 0, only=["duplicates"], context=Context(push=push, source_boxes=frames))
    assert [(row["first"], row["second"]) for row in result.table] == [(0, 1), (0, 2), (1, 4)]
    assert result.settings["boxes that are compared"] == "drawn frames"


def test_without_a_push_only_vectors_are_compared_and_that_is_said() -> None:
    (result,) = measure(small_model(), [], 0, only=["duplicates"])
    assert result.estimates["pairs"].value == 0
    assert "pairs of the same source patch" not in result.estimates
    assert "no push" in str(result.settings["boxes that are compared"])
