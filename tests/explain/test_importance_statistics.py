"""Means, spreads, Welch's and Shapiro and Wilk's test of global scores, against their formulas."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from protokern.explain.importance_statistics import compare_importance
from protokern.results.importance import GlobalImportance


def scores(values: list[list[float]], names: tuple[str, ...] = ("hue", "shape")) -> GlobalImportance:
    score = np.array(values)
    return GlobalImportance(
        names=names, score=score, low=score, high=score, similarity=np.ones(score.shape[1]), num_images=3
    )


def test_means_spreads_and_welchs_t() -> None:
    train, test = [1.0, 2.0, 4.0, 9.0], [2.0, 2.5, 3.0, 4.5]
    hue, shape = compare_importance(scores([train, [3, 3, 3, 3.5]]), scores([test, [3, 3, 3, 3.5]]))
    assert (hue.name, shape.name) == ("hue", "shape")
    assert hue.train.mean == pytest.approx(4)
    assert hue.train.std == pytest.approx(math.sqrt(38 / 3))
    variances = [np.var(values, ddof=1) / 4 for values in (train, test)]
    assert hue.welch_t == pytest.approx((4 - 3) / math.sqrt(sum(variances)))
    assert shape.welch_t == 0
    assert shape.welch_p == 1
    assert (hue.first_for, shape.first_for) == (2, 2)


def test_scores_far_apart_differ_and_skewed_ones_are_not_normal() -> None:
    random = np.random.default_rng(0)
    train = scores([random.normal(0, 1, 60).tolist(), random.exponential(1, 60).tolist()])
    test = scores([random.normal(2, 1, 60).tolist(), random.exponential(1, 60).tolist()])
    hue, shape = compare_importance(train, test)
    assert hue.welch_p is not None
    assert hue.welch_p < 1e-6
    assert hue.train.shapiro_p is not None
    assert hue.train.shapiro_p > 0.05
    assert shape.train.shapiro_p is not None
    assert shape.train.shapiro_p < 0.01


def test_what_cannot_be_tested_has_no_p_value_and_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (alone,) = compare_importance(scores([[1.0]], ("hue",)), scores([[2.0]], ("hue",)))
        (alike,) = compare_importance(scores([[0.0] * 5], ("hue",)), scores([[0.0] * 5], ("hue",)))
        (many,) = compare_importance(scores([[*range(5001)]], ("hue",)), scores([[*range(5001)]], ("hue",)))
    assert (alone.train.std, alone.train.shapiro_p, alone.welch_t, alone.welch_p) == (None, None, None, None)
    assert (alike.train.std, alike.train.shapiro_p, alike.welch_p) == (0, None, None)
    assert many.train.shapiro_p is None


def test_results_of_two_models_are_refused() -> None:
    with pytest.raises(ValueError, match="test: must be of the modifications and prototypes of train"):
        compare_importance(scores([[1.0]], ("hue",)), scores([[1.0]], ("shape",)))
