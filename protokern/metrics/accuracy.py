"""Accuracy: are the answers right, and does the model know how often?"""

from __future__ import annotations

from array import array

import numpy as np
import torch

from protokern.metrics.context import Context, Seen
from protokern.metrics.results import Estimate, Means, MeasureResult, estimate, interval
from protokern.models.base import PrototypeModel
from protokern.models.prototree import ProtoTree, Routing

NAME = "accuracy"
BINS = 15
# What a tree would answer by one leaf instead of the mixture of all.
ROUTINGS: dict[Routing, str] = {"greedy": "the path", "most_likely": "the likeliest leaf"}


def calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, in [0, 1]; NaN without images.

    The images are sorted into 15 bins of equal width by their confidence; a bin holds its upper end, not its lower one.
    The error is the mean over the images of the gap of their bin.

    Args:
        confidence: (N,), the probability of the answer, in [0, 1].
        is_right: (N,) bool.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    if len(confidence) == 0:
        return float("nan")
    return float(_errors(_bin(confidence), is_right - confidence, np.arange(len(confidence))[None])[0])


def _bin(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _errors(bins: np.ndarray, gaps: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The error of each resample (R, N), (R,)."""
    at, gap = bins[drawn], gaps[drawn]
    total = sum(np.abs(np.where(at == number, gap, 0.0).sum(axis=1)) for number in range(BINS))
    errors: np.ndarray = np.asarray(total) / drawn.shape[1]
    return errors


class Accuracy:
    """The measure over a data set."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        self._seed, self._num_classes, self._abstains = context.seed, model.num_classes, model.abstains
        self._right, self._confidence, self._labels = array("d"), array("d"), array("q")
        self._tree = model if isinstance(model, ProtoTree) else None
        self._routed = {name: array("d") for name in _names_of_routings()} if self._tree is not None else {}

    def see(self, seen: Seen) -> None:
        logits = seen.output.logits.double().cpu()
        confidence, answer = torch.softmax(logits, dim=1).max(dim=1)
        is_answer = ~self._abstains(seen.output).cpu()
        self._right.extend(((answer == seen.labels) & is_answer).double().tolist())
        self._confidence.extend(confidence.tolist())
        self._labels.extend(seen.labels.tolist())
        if self._tree is None:
            return
        of_leaf = self._tree.leaf_probabilities().argmax(dim=1).cpu()  # (L,)
        for routing, where in ROUTINGS.items():
            routed = of_leaf[self._tree.route(seen.output, routing).cpu()]
            self._routed[f"right by {where}"].extend((routed == seen.labels).double().tolist())
            self._routed[f"{where} agrees"].extend((routed == answer).double().tolist())

    def result(self) -> MeasureResult:
        right, confidence = np.asarray(self._right), np.asarray(self._confidence)
        by_class = Means(self._num_classes)
        for label, value in zip(self._labels, self._right, strict=True):
            by_class.add(label, value)
        bins, gaps = _bin(confidence), right - confidence
        low, high = interval(len(right), lambda drawn: _errors(bins, gaps, drawn), seed=self._seed)
        error = Estimate(value=calibration_error(confidence, right), low=low, high=high, images=len(right))
        images = np.bincount(np.asarray(self._labels, dtype=np.int64), minlength=self._num_classes)
        return MeasureResult(
            name=NAME,
            estimates={
                "right answers": estimate(right, seed=self._seed),
                "mean confidence": estimate(confidence, seed=self._seed),
                "calibration error": error,
                **{name: estimate(values, seed=self._seed) for name, values in self._routed.items()},
            },
            settings={"bins of the confidence": BINS},
            classes={"right answers": by_class.values(), "images": images.astype(np.float64).tolist()},
        )


def _names_of_routings() -> list[str]:
    return [name for where in ROUTINGS.values() for name in (f"right by {where}", f"{where} agrees")]
