"""Right answers and calibration: by hand, against a slow program, and with intervals that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.metrics import calibration_error, measure
from tests.explain.small_models import small_model
from tests.metrics import plain


def test_a_case_by_hand() -> None:
    """Bins of 1/15. Two images in (12/15, 13/15], half of them right; one in the last bin, which is right."""
    confidence = np.array([0.82, 0.86, 0.95])
    is_right = np.array([True, False, True])
    assert calibration_error(confidence, is_right) == pytest.approx((2 * abs(0.5 - 0.84) + 0.05) / 3)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert math.isnan(calibration_error(np.array([]), np.array([], dtype=bool)))


def test_a_confidence_on_a_border_is_in_the_lower_bin() -> None:
    """0.2 is the end of the third bin: with 0.15 it is there, and their gaps cancel; with 0.21 it is not."""
    right = np.array([True, False])
    assert calibration_error(np.array([0.2, 0.15]), right) == pytest.approx(abs(0.5 - 0.175))
    assert calibration_error(np.array([0.2, 0.21]), right) == pytest.approx((0.8 + 0.21) / 2)


def test_against_a_slow_program() -> None:
    rng = np.random.default_rng(5)
    for number in (1, 7, 200):
        confidence, is_right = rng.random(number), rng.random(number) < 0.5
        assert calibration_error(confidence, is_right) == pytest.approx(plain.calibration_error(confidence, is_right))


def test_over_a_data_set() -> None:
    model = small_model()
    images = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    (result,) = measure(model, [(images[:5], labels[:5]), (images[5:], labels[5:])], 9, only=["accuracy"])
    with torch.no_grad():
        probabilities = [model(image[None]).logits[0].double().softmax(dim=0).tolist() for image in images]
    answers = [max(range(4), key=lambda k: one[k]) for one in probabilities]
    hits = [answer == label for answer, label in zip(answers, labels.tolist(), strict=True)]
    confidence = [max(one) for one in probabilities]
    assert result.estimates["right answers"].value == pytest.approx(np.mean(hits))
    assert result.estimates["mean confidence"].value == pytest.approx(np.mean(confidence), rel=1e-5)
    error = result.estimates["calibration error"]
    assert error.value == pytest.approx(plain.calibration_error(confidence, hits), rel=1e-4)
    assert error.low <= error.value <= error.high
    by_class = [np.mean([h for h, label in zip(hits, labels, strict=True) if label == k]) for k in range(3)]
    assert result.classes["right answers"][:3] == pytest.approx(by_class)
    assert math.isnan(result.classes["right answers"][3])
    assert result.classes["images"] == [3, 2, 4, 0]


def test_the_interval_of_the_error_is_that_of_slow_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protokern.metrics.results.RESAMPLES", 50)
    model = small_model()
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(12) % 4
    (result,) = measure(model, [(images, labels)], 12, only=["accuracy"])
    with torch.no_grad():
        best, answers = model(images).logits.double().softmax(dim=1).max(dim=1)
    drawn = np.random.default_rng(0).integers(12, size=(50, 12))
    errors = [plain.calibration_error(best[row].tolist(), (answers == labels)[row].tolist()) for row in drawn]
    error = result.estimates["calibration error"]
    assert (error.low, error.high) == pytest.approx(tuple(np.quantile(errors, [0.025, 0.975])), rel=1e-4)
