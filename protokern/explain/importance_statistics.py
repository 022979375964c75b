"""Do the scores over training and test images agree? Means, spreads and the tests of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from protokern.results.importance import Comparison, GlobalImportance, ScoreSummary

_LEAST_FOR_SHAPIRO, _MOST_FOR_SHAPIRO = 3, 5000


def compare_importance(train: GlobalImportance, test: GlobalImportance) -> tuple[Comparison, ...]:
    """Compare the scores of one model over two sets of images, modification by modification.

    Raises:
        ValueError: modifications or prototypes of the two differ.
        MissingPackageError: SciPy is not installed.

    Source: prototype_activation.py of M-Nauta/Explaining_Prototypes, which prints these numbers.
    """
    if train.names != test.names or train.score.shape != test.score.shape:
        raise ValueError(
            f"test: must be of the modifications and prototypes of train, {train.names} and {train.score.shape[1]}; "
            f"got {test.names} and {test.score.shape[1]}. Give two results of one model."
        )
    from scipy import stats  # takes a fifth of a second to import

    first = np.bincount(train.score.argmax(axis=0), minlength=len(train.names))
    return tuple(
        _compare(stats, name, train.score[row], test.score[row], int(first[row]))
        for row, name in enumerate(train.names)
    )


def _compare(stats: Any, name: str, train: np.ndarray, test: np.ndarray, first_for: int) -> Comparison:
    t, p = None, None
    if len(train) > 1 and (np.ptp(train) > 0 or np.ptp(test) > 0):
        result = stats.ttest_ind(train, test, equal_var=False)
        t, p = float(result.statistic), float(result.pvalue)
    return Comparison(
        name=name,
        train=_summarise(stats, train),
        test=_summarise(stats, test),
        welch_t=t,
        welch_p=p,
        first_for=first_for,
    )


def _summarise(stats: Any, scores: np.ndarray) -> ScoreSummary:
    can_test = _LEAST_FOR_SHAPIRO <= len(scores) <= _MOST_FOR_SHAPIRO and np.ptp(scores) > 0
    return ScoreSummary(
        mean=float(scores.mean()),
        std=float(scores.std(ddof=1)) if len(scores) > 1 else None,
        shapiro_p=float(stats.shapiro(scores).pvalue) if can_test else None,
    )
