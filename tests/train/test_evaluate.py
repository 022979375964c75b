from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from protokern.train.evaluate import evaluate


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


def test_after_batch_is_called_for_every_batch() -> None:
    calls = []
    batches = [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))] * 3
    evaluate(identity, batches, torch.device("cpu"), after_batch=lambda: calls.append(1))
    assert len(calls) == 3
