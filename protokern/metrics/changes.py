"""How much an explanation changes when its image does: the seven numbers of continuity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.maps import high_pixels, similarity_maps, upsampled
from protokern.models.base import ModelOutput
from protokern.nn import PatchLayer


class Explained(NamedTuple):
    """What an image's explanation is made of.

    Attributes:
        activations: (P,).
        logits: (K,).
        maps: (n, H', W'), similarities of the n prototypes that are compared.
    """

    activations: np.ndarray
    logits: np.ndarray
    maps: np.ndarray


class Change(NamedTuple):
    """How far two explanations of an image differ; 0 where they do not. The first five are means over n prototypes.

    Attributes:
        area: VLC, 1 - intersection over union of the highest twentieths of the maps, in [0, 1].
        place: PLC, how far the map's maximum moved, down plus across, as a share of the sides, in [0, 2].
        highest: PSC, change of the map's maximum over that before; NaN for a prototype whose maximum is not above 0.
        rank: PRC, by how many ranks the prototype moved among all activations.
        map: PAC, 1 - sum of the smaller over sum of the larger values of the two maps, each sorted, in [0, 1].
        classes: CAC, the same of the classes' scores.
        answer: CRC, the rank that the first class of before has now, 0 for the first.
    """

    area: float
    place: float
    highest: float
    rank: float
    map: float
    classes: float
    answer: float


WORDS = {
    "area": "area of the highest twentieth (VLC)",
    "place": "place of the maximum (PLC)",
    "highest": "highest similarity (PSC)",
    "rank": "rank of the prototype (PRC)",
    "map": "values of the map (PAC)",
    "classes": "scores of the classes (CAC)",
    "answer": "rank of the answer (CRC)",
}
NUMBERS = frozenset({"rank", "answer"})  # the others are shares


def strongest(activations: np.ndarray, number: int) -> np.ndarray:
    """The prototypes with the highest of some activations (P,), the highest first."""
    order: np.ndarray = np.argsort(-activations, kind="stable")[:number]
    return order


def explained(layer: PatchLayer, features: Tensor, output: ModelOutput, row: int, prototypes: np.ndarray) -> Explained:
    """The explanation of an image of a batch by some prototypes (n,).

    Args:
        layer: of the model.
        features: (B, D, H, W).
        output: of the model for them.
        row: which image.
        prototypes: (n,), their indices.
    """
    return Explained(
        output.activations[row].double().cpu().numpy(),
        output.logits[row].double().cpu().numpy(),
        similarity_maps(layer, features[row], prototypes).double().cpu().numpy(),
    )


def change(
    before: Explained, after: Explained, prototypes: np.ndarray, size: tuple[int, int], *, of_logits: bool = False
) -> Change:
    """How far the explanations before and after a change of an image differ.

    Args:
        before: of the image.
        after: of the changed image.
        prototypes: (n,), whose maps they have.
        size: (Y, X) of the image, to which maps are upsampled.
        of_logits: compare logits, as the paper does, and not the probabilities of the classes.

    Source: Schlinge et al. 2025 (QuanProto, uos-sis/quanproto), `metrics/continuity.py` and
        `metrics/output_completeness.py`.
    """
    large = [upsampled(torch.from_numpy(one.maps), size).numpy() for one in (before, after)]
    high = [high_pixels(one) for one in large]
    both, either = (combine(*high).sum(axis=(1, 2)) for combine in (np.logical_and, np.logical_or))
    peaks = [np.stack(divmod(one.reshape(len(one), -1).argmax(axis=1), size[1])) for one in large]
    moved = (np.abs(peaks[0] - peaks[1]) / np.array(size)[:, None]).sum(axis=0)
    most = [one.max(axis=(1, 2)) for one in (before.maps, after.maps)]
    with np.errstate(invalid="ignore", divide="ignore"):
        highest = np.where(most[0] > 0, np.abs(most[1] - most[0]) / most[0], np.nan)
    ranks = [np.argsort(np.argsort(-one.activations, kind="stable"))[prototypes] for one in (before, after)]
    pairs = zip(before.maps, after.maps, strict=True)
    scores = [one.logits if of_logits else _probabilities(one.logits) for one in (before, after)]
    order = np.argsort(-after.logits, kind="stable")
    return Change(
        area=float((1 - both / either).mean()),
        place=float(moved.mean()),
        highest=_mean_of_known(highest),
        rank=float(np.abs(ranks[0] - ranks[1]).mean()),
        map=_mean_of_known(np.array([_difference(one.ravel(), other.ravel()) for one, other in pairs])),
        classes=_difference(*scores),
        answer=float(np.flatnonzero(order == before.logits.argmax())[0]),
    )


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """1 - sum of the smaller over sum of the larger of two sorted lists, of what is above 0; NaN if nothing is."""
    first, second = (np.sort(values.clip(min=0)) for values in (one, other))
    larger = np.maximum(first, second).sum()
    return float(1 - np.minimum(first, second).sum() / larger) if larger > 0 else float("nan")


def _probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    probabilities: np.ndarray = powers / powers.sum()
    return probabilities


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
