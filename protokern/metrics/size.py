"""Size: how much there is to read in an explanation, and in the model."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

from protokern.kernels.metric import METRIC_TABLE
from protokern.metrics.context import Context, Seen
from protokern.metrics.results import MeasureResult, count, estimate
from protokern.models.base import PrototypeModel
from protokern.nn import PrototypeLayer

NAME = "size"
SMALL = 1e-3  # a weight up to here counts as none
ACTIVE = 0.1  # of the highest activation in the image
DECIMALS = 8  # to which vectors are compared


class WeightCounts(NamedTuple):
    """What the weights of the last layer say about size.

    Attributes:
        used: prototypes that have a weight above 1e-3, by absolute value, in some class: the global size.
        sparse: share of all weights that are at most 1e-3 by absolute value, in [0, 1].
        negative_per_positive: negative weights for each positive one, of those above 1e-3; NaN without positive ones.
    """

    used: int
    sparse: float
    negative_per_positive: float


def weight_counts(weight: np.ndarray) -> WeightCounts:
    """The counts of a model's weights (K, P).

    Source: Schlinge et al. 2025 (QuanProto, uos-sis/quanproto), compactness.
    """
    counts = np.abs(weight) > SMALL
    positive = int((counts & (weight > 0)).sum())
    return WeightCounts(
        used=int(counts.any(axis=0).sum()),
        sparse=float(1 - counts.mean()),
        negative_per_positive=int((counts & (weight < 0)).sum()) / positive if positive else float("nan"),
    )


def local_size(activations: np.ndarray) -> float:
    """How many of an image's activations (P,) exceed a tenth of the highest; NaN if that is not above 0.

    Source: Schlinge et al. 2025 (QuanProto, uos-sis/quanproto), local explanation size.
    """
    highest = activations.max()
    return float((activations > ACTIVE * highest).sum()) if highest > 0 else float("nan")


def sparsity_of(prototypes: np.ndarray, num_classes: int, grid: tuple[int, int], *, is_unit: bool) -> float:
    """ProtoPNeXt's sparsity, in (0, 1]: 1 for one prototype a class whose cells are all the same.

    Args:
        prototypes: (P, D) or (P, D, h, w).
        num_classes: K.
        grid: (H', W') of the map of similarities.
        is_unit: vectors are compared after division by their lengths, as the cosine does.

    Source: Willard et al. 2024 (ProtoPNeXt), the released `get_prototype_complexity` of a layer that knows its classes:
        K (1 + 1 / H'W') / (different prototypes + different cells / H'W'), compared to eight decimals.
    """
    vectors = prototypes.reshape(len(prototypes), prototypes.shape[1], -1)  # (P, D, hw)
    cells = vectors.transpose(0, 2, 1).reshape(-1, vectors.shape[1])
    area = grid[0] * grid[1]
    different = [_number_of_different(rows, is_unit=is_unit) for rows in (vectors.reshape(len(vectors), -1), cells)]
    return num_classes * (1 + 1 / area) / (different[0] + different[1] / area)


def _number_of_different(rows: np.ndarray, *, is_unit: bool) -> int:
    if is_unit:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(rows.dtype).tiny)
    return len(np.unique(np.round(rows, DECIMALS) + 0.0, axis=0))  # -0 is 0


class Size:
    """The measure over a data set."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        self._model, self._seed = model, context.seed
        self._sizes, self._decisions = array("d"), array("d")
        self._grid: tuple[int, int] | None = None

    def see(self, seen: Seen) -> None:
        height, width = self._model.prototype_layer.prototype_size
        self._grid = (seen.cells[0] - height + 1, seen.cells[1] - width + 1)
        self._sizes.extend(local_size(row) for row in seen.output.activations.double().cpu().numpy())
        if self._model.reasons == "path":
            paths = (self._model.decision_path(seen.output, image) for image in range(len(seen.labels)))
            self._decisions.extend(len(path) for path in paths)

    def result(self) -> MeasureResult:
        layer = self._model.prototype_layer
        estimates = {
            "prototypes": count(self._model.num_prototypes),
            "active prototypes in an image": estimate(self._sizes, seed=self._seed, unit="number"),
        }
        if self._model.reasons == "points":
            weights = weight_counts(self._model.prototype_weight.detach().double().cpu().numpy())
            estimates |= {
                "prototypes with a weight": count(weights.used),
                "share of weights near 0": count(weights.sparse, unit="share"),
                "negative weights for each positive": count(weights.negative_per_positive),
            }
        else:
            estimates |= {
                "leaves": count(len(self._model.leaf_probabilities())),
                "decisions on the path": estimate(self._decisions, seed=self._seed, unit="number"),
                "shortest path": count(min(self._decisions, default=float("nan"))),
                "longest path": count(max(self._decisions, default=float("nan"))),
            }
        if self._grid is not None and isinstance(layer, PrototypeLayer):
            estimates["sparsity of ProtoPNeXt"] = count(
                sparsity_of(
                    layer.prototypes.detach().cpu().numpy(),
                    self._model.num_classes,
                    self._grid,
                    is_unit=METRIC_TABLE[layer.metric].is_unit,
                ),
                unit="share",
            )
        return MeasureResult(
            name=NAME,
            estimates=estimates,
            skipped={"images whose highest activation is not above 0": int(np.isnan(self._sizes).sum())},
        )
