"""How much each visible property matters to every prototype: scores, and a comparison of two sets of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImportance:
    """How much every modification of one image reduces the similarity to every prototype.

    Similarities are activations of the nearest patch; for ProtoPool the similarity before the image's average
    is subtracted.

    Attributes:
        names: (M) of the modifications.
        delta: (M, P) float64, similarity of the original minus that of the modified image, at the original's nearest
            patch. Positive: the property mattered.
        similarity: (P,) float64, of the original.
        distance: (P,) float64, of the original.
        modified_distance: (M, P) float64, at the original's nearest patch.
        patch: (P,) int64, the original's nearest patch, row * W' + column.
    """

    names: tuple[str, ...]
    delta: np.ndarray
    similarity: np.ndarray
    distance: np.ndarray
    modified_distance: np.ndarray
    patch: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceBatch:
    """The local importance of B images: the fields of `LocalImportance` with the images as the first axis.

    Attributes:
        first: position of the first image among all images.
        names: (M) of the modifications.
        delta: (B, M, P).
        similarity: (B, P).
        distance: (B, P).
        modified_distance: (B, M, P).
        patch: (B, P).
    """

    first: int
    names: tuple[str, ...]
    delta: np.ndarray
    similarity: np.ndarray
    distance: np.ndarray
    modified_distance: np.ndarray
    patch: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalImportance:
    """How much modifications reduce the similarity to every prototype, as a mean over many images.

    Attributes:
        names: (M) of the modifications.
        score: (M, P) float64, sum of delta x weight over the sum of weights; an image's weight is its similarity.
        low, high: (M, P) float64, ends of the 95 % bootstrap interval; NaN for fewer than two images.
        similarity: (P,) float64, mean similarity of the images, not weighted.
        num_images: number of images.
    """

    names: tuple[str, ...]
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    similarity: np.ndarray
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """The global scores of all prototypes for one modification over one set of images.

    Attributes:
        mean: over the prototypes.
        std: sample standard deviation over the prototypes; None for a single one.
        shapiro_p: p-value of Shapiro and Wilk's test, small where the scores are not normally distributed; None where
            the test is undefined: fewer than 3 or more than 5,000 prototypes, or all scores equal.
    """

    mean: float
    std: float | None
    shapiro_p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scores over training images compared with scores over test images, for one modification.

    Attributes:
        name: of the modification.
        train: over the training images.
        test: over the test images.
        welch_t: Welch's t of the two means, positive if the training images give more; None for a single prototype,
            or if neither set has any spread.
        welch_p: its two-sided p-value; small where the means differ. None if `welch_t` is.
        first_for: number of prototypes for which this modification has the highest score over the training images.
    """

    name: str
    train: ScoreSummary
    test: ScoreSummary
    welch_t: float | None
    welch_p: float | None
    first_for: int


class Reason(NamedTuple):
    """How much one visible property matters to a prototype: the similarity that is lost when it is changed.

    Attributes:
        modification: name of the change: "hue", "shape" or another.
        score: of a prototype, the weighted mean over the training images; of a match, the loss in the image.
        low: lower end of the 95 % bootstrap interval of a prototype's score; None for a match.
        high: upper end of this interval; None for a match.
        test_score: the prototype's score over the test images; None if there is none.
    """

    modification: str
    score: float
    low: float | None = None
    high: float | None = None
    test_score: float | None = None
