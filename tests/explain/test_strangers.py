"""Thresholds of scores per class, against the rule written out for lists."""

from __future__ import annotations

import math

import pytest
import torch

from protokern.explain import class_thresholds
from protokern.explain.strangers import believed


def by_the_rule(rows: list[list[float]], share: float) -> list[float]:
    """Percentiles by class, the mean for the others, then down by a thousandth until enough are kept."""
    largest: dict[int, list[float]] = {}
    for row in rows:
        largest.setdefault(row.index(max(row)), []).append(max(row))
    found = {}
    for k, values in largest.items():
        place = (1 - share) * (len(values) - 1)
        low, values = math.floor(place), sorted(values)
        high = min(low + 1, len(values) - 1)
        found[k] = values[low] + (place - low) * (values[high] - values[low])
    mean = sum(found.values()) / len(found)
    limits = [found.get(k, mean) for k in range(len(rows[0]))]
    kept = sum(max(row) > limits[row.index(max(row))] for row in rows) / len(rows)
    while kept < share:
        limits = [0.999 * limit for limit in limits]
        kept = sum(max(row) >= limits[row.index(max(row))] for row in rows) / len(rows)
    return limits


@pytest.mark.parametrize(("count", "share"), [(200, 0.95), (37, 0.95), (9, 0.95), (50, 0.8), (1, 0.95)])
def test_thresholds_are_those_of_the_rule(count: int, share: float) -> None:
    torch.manual_seed(count)
    scores = 5 * torch.rand(count, 6).double() ** 2
    scores[:, 4] = 0  # never the answer
    thresholds = class_thresholds(scores, share)
    assert thresholds.tolist() == pytest.approx(by_the_rule(scores.tolist(), share), rel=1e-9)
    kept = believed(scores, torch.zeros(count, dtype=torch.bool), thresholds)
    assert float(kept.double().mean()) >= share


def test_a_class_without_answers_gets_the_mean() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0]] * 30 + [[0.0, 4.0, 0.0]] * 30)
    thresholds = class_thresholds(scores)
    assert float(thresholds[2]) == pytest.approx(float(thresholds[:2].mean()))
    assert thresholds.tolist() == pytest.approx([0.999 * 2, 0.999 * 4, 0.999 * 3])


def test_logits_below_zero_have_thresholds_too() -> None:
    torch.manual_seed(0)
    scores = torch.randn(40, 3) - 6
    thresholds = class_thresholds(scores)
    assert float(believed(scores, torch.zeros(40, dtype=torch.bool), thresholds).double().mean()) >= 0.95
    assert (thresholds < 0).all()


def test_an_image_without_an_answer_is_never_believed() -> None:
    scores = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.2]])
    abstains = torch.tensor([True, False, False])
    assert believed(scores, abstains, torch.tensor([0.0, 0.5])).tolist() == [False, True, False]


@pytest.mark.parametrize("scores", [torch.zeros(0, 3), torch.full((2, 3), torch.nan), torch.zeros(3)])
def test_scores_are_checked(scores: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"scores: must be finite and \(N, K\), of at least one image"):
        class_thresholds(scores)


def test_the_share_is_checked() -> None:
    with pytest.raises(ValueError, match="share: must be between 0 and 1; got 95"):
        class_thresholds(torch.rand(3, 3), 95)
