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
from protokern.results.places import Box, ReceptiveField, SufficientFrame

EXPLAINED_CLASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchView:
    """Where in one image a prototype looks.

    Attributes:
        prototype: its index.
        patch: (row, column) of the nearest patch in the grid of patches.
        heat_map: (Y, X) float32, the activation at every patch, bicubically upsampled to the image; or what
            `show_gradient` put in its place. The boxes are those of the upsampled map in any case.
        activation_box: around the highest twentieth of the upsampled map's pixels, as in the paper.
        patch_box: around the cell of the nearest patch and those of them that are connected with it; for people.
        receptive_field_box: all pixels that the nearest patch can depend on; never smaller than what the patch saw.
        cell: where the upsampled map shows the nearest patch.
        sufficient: the smallest box found whose content alone keeps the similarity; None where nobody looked, see
            `frame_explanation`.
    """

    prototype: int
    patch: tuple[int, int]
    heat_map: np.ndarray
    activation_box: Box
    patch_box: Box
    receptive_field_box: Box
    cell: Box
    sufficient: SufficientFrame | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one prototype says about one class: similarity x weight = points.

    Attributes:
        view: where it looked; shared by all classes it speaks for.
        prototype_classes: the classes that the prototype belongs to, ascending: one, several that share it, or none;
            the class it speaks for here need not be one of them.
        slots: the slots of the explained class that it sits in, ascending; empty for models without slots, and for
            prototypes that no slot of the class holds.
        distance: of the nearest patch, in the model's metric.
        similarity: what it contributes before weights: the activation at that distance, for ProtoPool the focal
            similarity.
        weight: of the prototype for the class; with slots, the sum over the slots of all classes that hold it.
        points: similarity x weight, its share of the logit.
        is_reason: whether it is a reason for the class: one of its own prototypes, with points above zero. The others
            speak against the class, or for it although they stand for another one.
    """

    view: PatchView
    prototype_classes: tuple[int, ...]
    slots: tuple[int, ...]
    distance: float
    similarity: float
    weight: float
    points: float
    is_reason: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassExplanation:
    """How a class came to its logit.

    Attributes:
        class_index: which class.
        logit: as the model gave it.
        evidence: the prototypes with the most points for or against the class, by falling absolute value, but at least
            half of them reasons where there are so many; those without points, such as with a weight of zero, are left
            out.
        other_points: sum of all prototypes that `evidence` leaves out; `logit` = sum of points in `evidence` + this.
        num_other: how many those are.
    """

    class_index: int
    logit: float
    evidence: tuple[Evidence, ...]
    other_points: float
    num_other: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an image got its logits.

    Attributes:
        logits: (K,) float32, the model's.
        points: (P, K) float64: similarity x weight of every prototype for every class; columns sum to the logits.
        classes: the classes explained in detail, as asked for or by falling logit.
        receptive_field: of the model for images of this size; can be handed to the next explanation.
    """

    logits: np.ndarray
    points: np.ndarray
    classes: tuple[ClassExplanation, ...]
    receptive_field: ReceptiveField

    @property
    def predicted(self) -> int:
        """The class of the highest logit; the first of them on a tie."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> np.ndarray:
        """(K,) float64: softmax of the logits."""
        exponentials = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return exponentials / exponentials.sum()


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
