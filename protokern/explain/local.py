"""Why a model classified one image as it did: points per prototype, and where each of them looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from protokern.explain.boxes import cell_box, find_boxes
from protokern.explain.heat_maps import check_heat_map, gradient_heat_map
from protokern.explain.pictures import upsample
from protokern.explain.receptive_field import find_receptive_field
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.nn import evaluating
from protokern.results.explanations import ClassExplanation, Evidence, Explanation
from protokern.results.places import PatchView, ReceptiveField

EXPLAINED_CLASSES = 3


def explain_image(
    model: PrototypeModel,
    image: Tensor,
    *,
    top: int = 10,
    classes: Sequence[int] | None = None,
    receptive_field: ReceptiveField | None = None,
    heat_map: str = "upsample",
) -> Explanation:
    """Explain the classification of one image: which prototypes spoke, how loudly, and where they looked.

    Works in evaluation mode and leaves the model's modes as they were. Activation maps are made for the prototypes that
    are shown, not for all.

    Args:
        model: any prototype model whose choices are final, see `PrototypeModel.is_hard`.
        image: (C, Y, X), of any size and channel count that the backbone takes, as its loader gives them.
        top: prototypes shown per class at most, at least 1; the others are summed up.
        classes: classes to explain in detail; None: the three with the highest logits.
        receptive_field: from an earlier explanation of an image of this size; None: found here.
        heat_map: "upsample": the activation at every patch, as in the paper; "gradient" or "smoothgrad": the pixels
            that change the similarity, within the receptive field, see `gradient_heat_map`.

    Returns:
        Explanation; the points of all prototypes for a class sum to its logit, to the rounding of float32.

    Raises:
        ValueError: the image is not (C, Y, X) or gives features that are not finite; `top` or a class is out of range;
            the choices of the model are soft, so that no prototype has a weight of its own; `heat_map` is unknown.
        MissingPackageError: `heat_map` needs captum, and it is not installed.

    Source: Chen et al. 2019, section 2.4 and local_analysis.py of cfchen-duke/ProtoPNet.
    """
    _check(model, image, top, classes)
    check_heat_map(heat_map)
    image = image.to(model.device, model.dtype)
    with evaluating(model):
        features = model.features(image[None])  # (1, D, H, W)
        if receptive_field is None:
            receptive_field = find_receptive_field(model.features, image)
        output = model.head(features)
        logits = output.logits[0].float().cpu().numpy()
        spoken = _Spoken.of_first_image(model, output)
        if classes is None:
            classes = [int(k) for k in np.argsort(-logits, kind="stable")[:EXPLAINED_CLASSES]]
        shown = {k: _loudest(spoken.points[:, k], spoken.is_own[:, k], top) for k in classes}
        needed = sorted({j for prototypes in shown.values() for j in prototypes})
        views = view_patches(model, features[0], output.patches[0], needed, image.shape[1:], receptive_field)
    if heat_map != "upsample":
        views = [show_gradient(model, image, view, heat_map) for view in views]
    by_prototype = dict(zip(needed, views, strict=True))
    return Explanation(
        logits=logits,
        points=spoken.points,
        classes=tuple(_explain_class(k, float(logits[k]), spoken, shown[k], by_prototype) for k in classes),
        receptive_field=receptive_field,
    )


@dataclass(frozen=True, slots=True)
class _Spoken:
    """What all prototypes said: distance (P,), similarity (P,), weight (K, P), is_own (P, K), slots (K, S)."""

    distance: np.ndarray
    similarity: np.ndarray
    weight: np.ndarray
    is_own: np.ndarray
    slots: np.ndarray | None

    @classmethod
    def of_first_image(cls, model: PrototypeModel, output: ModelOutput) -> Self:
        return cls(
            distance=output.min_distances[0].double().cpu().numpy(),
            similarity=output.activations[0].double().cpu().numpy(),
            weight=model.prototype_weight.detach().double().cpu().numpy(),
            is_own=model.class_identity.cpu().numpy() > 0,
            slots=None if model.slots is None else model.slots.cpu().numpy(),
        )

    @property
    def points(self) -> np.ndarray:
        """(P, K) float64."""
        points: np.ndarray = self.similarity[:, None] * self.weight.T
        return points

    def slots_with(self, j: int, k: int) -> tuple[int, ...]:
        """The slots of class k that hold prototype j."""
        return () if self.slots is None else tuple(np.flatnonzero(self.slots[k] == j).tolist())


def _loudest(points: np.ndarray, is_own: np.ndarray, top: int) -> list[int]:
    """The prototypes with most points (P,) for or against, at most `top`; one that has none only if all have none.

    At least half of them are of the class, `is_own` (P,), and speak for it, where there are so many.
    """
    by_size: list[int] = np.argsort(-np.abs(points), kind="stable").tolist()
    count = max(1, min(top, int(np.count_nonzero(points))))
    reasons = [j for j in by_size if is_own[j] and points[j] > 0]
    kept = set(reasons[: (count + 1) // 2])
    for j in by_size:
        if len(kept) < count:
            kept.add(j)
    return [j for j in by_size if j in kept]


def _explain_class(
    k: int, logit: float, spoken: _Spoken, shown: Sequence[int], views: Mapping[int, PatchView]
) -> ClassExplanation:
    points = spoken.points[:, k]
    evidence = tuple(
        Evidence(
            view=views[j],
            prototype_classes=tuple(np.flatnonzero(spoken.is_own[j]).tolist()),
            slots=spoken.slots_with(j, k),
            distance=float(spoken.distance[j]),
            similarity=float(spoken.similarity[j]),
            weight=float(spoken.weight[k, j]),
            points=float(points[j]),
            is_reason=bool(spoken.is_own[j, k] and points[j] > 0),
        )
        for j in shown
    )
    others = np.delete(points, shown)
    return ClassExplanation(
        class_index=k, logit=logit, evidence=evidence, other_points=float(others.sum()), num_other=len(others)
    )


def view_patches(
    model: PrototypeModel,
    features: Tensor,
    patches: Tensor,
    prototypes: Sequence[int],
    image_size: Sequence[int],
    receptive_field: ReceptiveField,
) -> list[PatchView]:
    """Where some prototypes look in one image, given its features.

    Args:
        model: in evaluation mode.
        features: (D, H, W) of the image.
        patches: (P,) int64: the patch of every prototype of the model, row * W' + column.
        prototypes: indices of the prototypes to view.
        image_size: (Y, X), pixels.
        receptive_field: of the model for this image size.
    """
    if not prototypes:
        return []
    layer = model.prototype_layer
    index = torch.tensor(list(prototypes), dtype=torch.int64, device=features.device)
    distance = layer.distance_map(features[None], index)[0]  # (P', H', W')
    height, width = image_size
    heat_maps = upsample(layer.activate(distance), (height, width)).cpu().numpy()  # (P', Y, X)
    grid = (distance.shape[1], distance.shape[2])
    patch_size = (features.shape[1] - grid[0] + 1, features.shape[2] - grid[1] + 1)
    views = []
    for j, patch, heat_map in zip(prototypes, patches[index.to(patches.device)].tolist(), heat_maps, strict=True):
        row, column = divmod(patch, grid[1])
        cell = cell_box(grid, (row, column), (height, width))
        activation, around_patch = find_boxes(heat_map, cell)
        views.append(
            PatchView(
                prototype=j,
                patch=(row, column),
                heat_map=heat_map,
                activation_box=activation,
                patch_box=around_patch,
                receptive_field_box=receptive_field.box(row, column, patch_size),
                cell=cell,
            )
        )
    return views


def show_gradient(model: PrototypeModel, image: Tensor, view: PatchView, method: str) -> PatchView:
    """A view with a heat map by "gradient" or "smoothgrad" in place of the upsampled one; the boxes stay.

    Raises:
        ValueError: unknown method.
        MissingPackageError: captum is not installed.
    """
    whole = gradient_heat_map(model, image, view.prototype, view.patch, method=method)
    y0, x0, y1, x1 = view.receptive_field_box
    inside = np.zeros_like(whole)  # some convolutions on CUDA leave rounding errors outside
    inside[y0:y1, x0:x1] = whole[y0:y1, x0:x1]
    return replace(view, heat_map=inside)


def _check(model: PrototypeModel, image: Tensor, top: int, classes: Sequence[int] | None) -> None:
    if image.ndim != 3:
        raise ValueError(
            f"image: must have shape (C, Y, X); got {tuple(image.shape)}. Explain one image at a time, as images[0]."
        )
    if top < 1:
        raise ValueError(f"top: must be at least 1; got {top}.")
    outside = [k for k in classes or () if not 0 <= k < model.num_classes]
    if outside:
        raise ValueError(f"classes: must be from 0 to {model.num_classes - 1}; got {outside[0]}.")
