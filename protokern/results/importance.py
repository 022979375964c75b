"""How much each visible property matters to every prototype: scores, and how those of two sets of images compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImportance:
    """What every modification of one image takes from the similarity to every prototype.

    Similarities are activations of the nearest patch; for ProtoPool that is the similarity before the image's average
    is taken off.

    Attributes:
        names: (M) of the modifications.
        delta: (M, P) float64, similarity of the original less that of the modified image, at the original's nearest
            patch. Positive: the property mattered.
        similarity: (P,) float64, of the original.
        distance: (P,) float64, of the original.
        modified_distance: (M, P) float64, at the original's nearest patch.
        patch: (P,) int64, that patch, row * W' + column.
    """

    names: tuple[str, ...]
    delta: np.ndarray
    similarity: np.ndarray
    distance: np.ndarray
    modified_distance: np.ndarray
    patch: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceBatch:
    """The local importance of B images: what `LocalImportance` has, with the images as the first axis.

    Attributes:
        first: position of the first image among all that were given.
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
    """The mean over many images of what modifications take from the similarity to every prototype.

    Attributes:
        names: (M) of the modifications.
        score: (M, P) float64, sum of delta x weight over the sum of weights; an image's weight is its similarity.
        low, high: (M, P) float64, ends of the 95 % bootstrap interval; NaN for fewer than two images.
        similarity: (P,) float64, mean similarity of the images, not weighted.
        num_images: over how many.
    """

    names: tuple[str, ...]
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    similarity: np.ndarray
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """The global scores of all prototypes for one modification, over one set of images.

    Attributes:
        mean: over the prototypes.
        std: sample standard deviation over the prototypes; None for a single one.
        shapiro_p: p-value of Shapiro and Wilk's test, small where the scores are not normally distributed; None where
            the test has none: fewer than 3 or more than 5,000 prototypes, or all scores alike.
    """

    mean: float
    std: float | None
    shapiro_p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scores over training images against scores over test images, for one modification.

    Attributes:
        name: of the modification.
        train: over the training images.
        test: over the test images.
        welch_t: Welch's t of the two means, positive where the training images give more; None for a single prototype,
            or where neither set has any spread.
        welch_p: its two-sided p-value; small where the means differ. None likewise.
        first_for: for how many prototypes this modification has the highest score over the training images.
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
        modification: which property: "hue", "shape", or another change's name.
        score: of a prototype, its weighted mean over the training images; of a match, the loss in that image.
        low: lower end of the 95 % bootstrap interval of a prototype's score; None for a match.
        high: its upper end, None likewise.
        test_score: the prototype's score over the test images; None where there is none.
    """

    modification: str
    score: float
    low: float | None = None
    high: float | None = None
    test_score: float | None = None
