"""Accuracy, loss and the scores of the classes; every number by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from protokern.evaluate import count_confusion, evaluate
from protokern.models.base import ModelOutput
from protokern.results.scores import score_classes

# 20 of the first class, all found, and one of the second, taken for the first; a third has no images and no answers.
RARE = torch.tensor([[20, 0, 0], [1, 0, 0], [0, 0, 0]])
MIXED = torch.tensor([[6, 2, 0], [1, 3, 0], [2, 1, 5]])


def identity(logits):
    return SimpleNamespace(logits=logits)


def test_accuracy_and_loss_by_hand_over_uneven_batches() -> None:
    batches = [
        (torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 0])),
        (torch.tensor([[0.0, 0.0]]), torch.tensor([1])),
    ]
    result = evaluate(identity, batches, torch.device("cpu"))
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert result.images == 4
    assert result.accuracy == 0.5  # equal logits answer the first class
    assert result.loss == pytest.approx((2 * right + wrong + math.log(2)) / 4)


def test_an_image_without_an_answer_is_wrong_and_its_share_is_told() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1])
    result = evaluate(
        identity,
        [(logits, labels)],
        torch.device("cpu"),
        num_classes=2,
        abstains=lambda output: (output.logits == 0).all(dim=1),
    )
    assert (result.accuracy, result.abstained) == (0.5, 0.5)
    assert result.confusion.tolist() == [[1, 0], [0, 1]]
    assert result.unanswered.tolist() == [1, 1]
    scores = score_classes(result.confusion, result.unanswered)
    assert [one.images for one in scores.classes] == [2, 2]
    assert [one.recall for one in scores.classes] == [0.5, 0.5]
    assert [one.precision for one in scores.classes] == [1, 1]
    assert scores.accuracy == 0.5


def test_after_batch_is_called_for_every_batch() -> None:
    calls = []
    batches = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))] * 3
    evaluate(identity, batches, torch.device("cpu"), after_batch=lambda: calls.append(1))
    assert len(calls) == 3


def test_a_rare_class_that_is_never_the_answer_counts_as_much_as_a_common_one() -> None:
    scores = score_classes(RARE)
    common, rare, empty = scores.classes
    assert (common.precision, common.recall, common.f1) == (20 / 21, 1.0, 40 / 41)
    assert (rare.precision, rare.recall, rare.f1) == (None, 0.0, 0.0)
    assert (empty.precision, empty.recall, empty.f1) == (None, None, None)
    assert scores.accuracy == 20 / 21
    assert scores.balanced_accuracy == 0.5
    assert scores.macro_f1 == pytest.approx(20 / 41)


def test_precision_recall_and_f1_by_hand() -> None:
    scores = score_classes(MIXED)
    assert [one.images for one in scores.classes] == [8, 4, 8]
    assert [one.answers for one in scores.classes] == [9, 6, 5]
    assert [one.precision for one in scores.classes] == [6 / 9, 3 / 6, 5 / 5]
    assert [one.recall for one in scores.classes] == [6 / 8, 3 / 4, 5 / 8]
    assert [one.f1 for one in scores.classes] == pytest.approx([12 / 17, 6 / 10, 10 / 13])
    assert scores.accuracy == 14 / 20
    assert scores.balanced_accuracy == pytest.approx((6 / 8 + 3 / 4 + 5 / 8) / 3)
    assert scores.macro_f1 == pytest.approx((12 / 17 + 6 / 10 + 10 / 13) / 3)


def test_no_images_give_no_number_but_zero() -> None:
    scores = score_classes(torch.zeros(2, 2, dtype=torch.int64))
    assert (scores.accuracy, scores.balanced_accuracy, scores.macro_f1) == (0.0, 0.0, 0.0)


def test_rows_are_true_classes_and_columns_answers() -> None:
    labels, answers = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 0, 1])
    assert count_confusion(labels, answers, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_an_evaluation_counts_over_its_batches() -> None:
    def model(images: torch.Tensor) -> ModelOutput:
        return ModelOutput(images, images, images, images)

    batches = [
        (torch.eye(3), torch.tensor([0, 1, 1])),
        (torch.eye(3)[[2, 0]], torch.tensor([2, 2])),
    ]
    result = evaluate(model, batches, torch.device("cpu"), num_classes=3)
    assert result.confusion is not None
    assert result.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert result.accuracy == 3 / 5
    assert evaluate(model, batches, torch.device("cpu")).confusion is None
