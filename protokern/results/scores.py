"""Scores of the classes of a data set: precision, recall, F1, and their means."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The scores of a class.

    Attributes:
        images: number of images of the class.
        answers: number of images with this class as the answer, right or wrong.
        correct: number of images of the class with this class as the answer.
    """

    images: int
    answers: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Precision: the share of the answers that are right; None if the class was never the answer."""
        return self.correct / self.answers if self.answers else None

    @property
    def recall(self) -> float | None:
        """Recall: the share of the images that were found; None if there are none."""
        return self.correct / self.images if self.images else None

    @property
    def f1(self) -> float | None:
        """F1: 2 correct / (images + answers), the harmonic mean of precision and recall; None without both."""
        both = self.images + self.answers
        return 2 * self.correct / both if both else None


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of all classes; `classes` in the order of the logits."""

    classes: tuple[ClassScore, ...]

    @property
    def accuracy(self) -> float:
        """Share of all images with the right answer; 0 without images."""
        return sum(one.correct for one in self.classes) / max(1, sum(one.images for one in self.classes))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images; 0 without images."""
        return _mean([one.recall for one in self.classes])

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images or were an answer; 0 without images."""
        return _mean([one.f1 for one in self.classes])


def score_classes(confusion: Tensor, unanswered: Tensor | None = None) -> Scores:
    """The scores of a confusion matrix (K, K), row = true class, column = answer.

    `unanswered` (K,) are images of each class that got no answer; they count as images that were not found.
    """
    of_class = confusion.sum(1) if unanswered is None else confusion.sum(1) + unanswered
    images, answers, correct = (one.tolist() for one in (of_class, confusion.sum(0), confusion.diagonal()))
    return Scores(tuple(ClassScore(*counts) for counts in zip(images, answers, correct, strict=True)))


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
