"""Why a model classified one image as it did: points per prototype, and where each prototype looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from protokern.explain.heat_maps import check_heat_map
from protokern.explain.paths import follow_path
from protokern.explain.pictures import to_picture
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.scores import add_scores
from protokern.explain.shown import Explanation
from protokern.explain.sight import Sight
from protokern.explain.views import see, view_patches, with_heat_map
from protokern.models.base import Decision, ModelOutput, PrototypeModel
from protokern.nn import evaluating
from protokern.results.explanations import ClassExplanation, Evidence, softmax
from protokern.results.places import PatchView, ReceptiveField, SeenPicture
from protokern.results.prototypes import ClassWeight, Prototype

EXPLAINED_CLASSES = 3


def explain_image(
    model: PrototypeModel,
    image: Tensor,
    *,
    top: int = 10,
    classes: Sequence[int] | None = None,
    also: Sequence[int] = (),
    receptive_field: ReceptiveField | None = None,
    heat_map: str = "upsample",
) -> Explanation:
    """Explain the classification of one image: the points of the prototypes, and where the prototypes looked.

    Works in evaluation mode and restores the model's modes. Maps are computed only for what is shown.

    Args:
        model: any prototype model whose choices are final, see `PrototypeModel.is_hard`.
        image: (C, Y, X) as its loader gives it, of any size and channel count that the backbone takes.
        top: maximum number of prototypes shown per class, at least 1; the others are summed up.
        classes: classes to explain in detail; None: the three with the highest logits.
        also: without `classes`, classes that take the last of the three places, such as the right class.
        receptive_field: from an earlier explanation of an image of this size; None: computed here.
        heat_map: "upsample": the activation at every patch, as in the paper; another of HEAT_MAPS: the pixels that
            the similarity depends on, within the receptive field.

    Returns:
        Explanation; the points of all prototypes for a class sum to its logit, to the rounding of float32, or to its
        score, from which a model makes the logit. For a model whose reasons are a path, the evidence of the answer is
        all decisions from the root to the leaf, whatever `top` says.

    Raises:
        ValueError: the image is not (C, Y, X) or gives features that are not finite; `top` or a class is out of range;
            the choices of the model are soft, so that prototypes have no weights yet; see `check_heat_map`.
        MissingPackageError: the package of `heat_map` is not installed.

    Source: Chen et al. 2019, section 2.4 and local_analysis.py of cfchen-duke/ProtoPNet.
    """
    _check(model, image, top, {"classes": classes or (), "also": also}, heat_map)
    picture = to_picture(image)
    image = image.to(model.device, model.dtype)
    with evaluating(model):
        features = model.features(image[None])  # (1, D, H, W)
        receptive_field = receptive_field or find_receptive_field(model.features, image)
        output = model.head(features)
        logits = output.logits[0].float().cpu().numpy()
        every = _AllPoints.of_first_image(model, output)
        classes = _highest(logits, also) if classes is None else classes
        path = model.decision_path(output, 0) if model.reasons == "path" else None
        shown = {k: _shown(k, every, path, top, is_answer=k == int(logits.argmax())) for k in classes}
        needed = sorted({j for prototypes in shown.values() for j in prototypes})
        views = view_patches(model, features[0], output.patches[0], needed, image.shape[1:], receptive_field)
    views = with_heat_map(model, image, views, heat_map)
    seen = {
        j: (view, see(picture, view, heat_map), _prototype(j, every)) for j, view in zip(needed, views, strict=True)
    }
    explained = tuple(_explain_class(k, logits, every, shown[k], seen) for k in classes)
    explanation = add_scores(_explanation(model, logits, every, explained, receptive_field, picture), model, output)
    if path is not None:
        return follow_path(explanation, path, model.end_of_path(output, 0))
    sight = every.seen_in(model, image, picture, features[0], output, receptive_field, heat_map)
    return replace(explanation, sight=sight)


def _explanation(
    model: PrototypeModel,
    logits: np.ndarray,
    every: _AllPoints,
    classes: tuple[ClassExplanation, ...],
    receptive_field: ReceptiveField,
    picture: np.ndarray,
) -> Explanation:
    return Explanation(
        logits=logits,
        points=every.points,
        classes=classes,
        receptive_field=receptive_field,
        image=picture,
        class_names=tuple(map(_name, range(len(logits)))),
        is_focal=model.is_focal,
        is_salient=model.prototype_layer.norm_as_weight,
        is_projected=model.prototype_layer.is_projected,
    )


@dataclass(frozen=True, slots=True)
class _AllPoints:
    """Of all prototypes: distance (P,), similarity (P,), weight (K, P), points (P, K), is_own (P, K), slots (K, S)."""

    distance: np.ndarray
    similarity: np.ndarray
    weight: np.ndarray
    points: np.ndarray
    is_own: np.ndarray
    slots: np.ndarray | None

    @classmethod
    def of_first_image(cls, model: PrototypeModel, output: ModelOutput) -> Self:
        similarity = output.activations[0].double().cpu().numpy()
        if model.reasons == "path":
            weight = np.ones((model.num_classes, len(similarity)))
            influence = [model.influence(output, k)[0].double().cpu().numpy() for k in range(model.num_classes)]
            points = np.stack(influence, axis=1)
        else:
            weight = model.prototype_weight.detach().double().cpu().numpy()
            points = similarity[:, None] * weight.T
        return cls(
            distance=output.min_distances[0].double().cpu().numpy(),
            similarity=similarity,
            weight=weight,
            points=points,
            is_own=model.class_identity.cpu().numpy() > 0,
            slots=None if model.slots is None else model.slots.cpu().numpy(),
        )

    def seen_in(
        self,
        model: PrototypeModel,
        image: Tensor,
        picture: np.ndarray,
        features: Tensor,
        output: ModelOutput,
        receptive_field: ReceptiveField,
        heat_map: str,
    ) -> Sight:
        return Sight(
            model=model,
            image=image,
            picture=picture,
            features=features,
            patches=output.patches[0],
            receptive_field=receptive_field,
            heat_map=heat_map,
            distance=self.distance,
            similarity=self.similarity,
            weight=self.weight,
            cards=tuple(_prototype(j, self) for j in range(len(self.similarity))),
        )

    def slots_with(self, j: int, k: int) -> tuple[int, ...]:
        """The slots of class k that hold prototype j."""
        return () if self.slots is None else tuple(np.flatnonzero(self.slots[k] == j).tolist())


def _highest(logits: np.ndarray, also: Sequence[int]) -> list[int]:
    """The three classes with the highest logits; classes of `also` that are not among them take the last places."""
    first = [int(k) for k in np.argsort(-logits, kind="stable")[:EXPLAINED_CLASSES]]
    missing = [k for k in also if k not in first]
    return [*first[: max(0, len(first) - len(missing))], *missing]


def _name(k: int) -> str:
    return f"class {k}"


def _prototype(j: int, every: _AllPoints) -> Prototype:
    own = np.flatnonzero(every.is_own[j]).tolist()
    return Prototype(index=j, classes=tuple(ClassWeight(k, _name(k), float(every.weight[k, j])) for k in own))


def _shown(k: int, every: _AllPoints, path: Sequence[Decision] | None, top: int, *, is_answer: bool) -> Sequence[int]:
    """The prototypes that are shown for class k: those with the most points, or all on the path to the answer."""
    if path is None:
        return _most_points(every.points[:, k], every.is_own[:, k], top)
    return [step.prototype for step in path] if is_answer else []


def _most_points(points: np.ndarray, is_own: np.ndarray, top: int) -> list[int]:
    """The prototypes with the most points (P,) for or against, at most `top`; one without points only if all have none.

    If there are enough, at least half of them belong to the class, `is_own` (P,), and speak for it.
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
    k: int,
    logits: np.ndarray,
    every: _AllPoints,
    shown: Sequence[int],
    seen: Mapping[int, tuple[PatchView, SeenPicture, Prototype]],
) -> ClassExplanation:
    points = every.points[:, k]
    evidence = tuple(
        Evidence(
            view=seen[j][0],
            picture=seen[j][1],
            prototype=seen[j][2],
            prototype_classes=tuple(np.flatnonzero(every.is_own[j]).tolist()),
            slots=every.slots_with(j, k),
            distance=float(every.distance[j]),
            similarity=float(every.similarity[j]),
            weight=float(every.weight[k, j]),
            points=float(points[j]),
            is_reason=bool(every.is_own[j, k] and points[j] > 0),
        )
        for j in shown
    )
    others = np.delete(np.arange(len(points)), shown)
    is_own = every.is_own[others, k]
    return ClassExplanation(
        class_index=k,
        class_name=_name(k),
        logit=float(logits[k]),
        probability=float(softmax(logits)[k]),
        evidence=evidence,
        other_points=float(points[others].sum()),
        num_other=len(others),
        own_points=float(points[others[is_own]].sum()),
        num_own=int(is_own.sum()),
        foreign_points=float(points[others[~is_own]].sum()),
        num_foreign=int((~is_own).sum()),
        num_unused=int((~every.is_own[others].any(axis=1)).sum()),
        num_speaking=int(np.count_nonzero(points)),
    )


def _check(model: PrototypeModel, image: Tensor, top: int, classes: Mapping[str, Sequence[int]], heat_map: str) -> None:
    check_heat_map(heat_map, model)
    if image.ndim != 3:
        raise ValueError(
            f"image: must have shape (C, Y, X); got {tuple(image.shape)}. Explain one image at a time, as images[0]."
        )
    if top < 1:
        raise ValueError(f"top: must be at least 1; got {top}.")
    for argument, chosen in classes.items():
        outside = [k for k in chosen if not 0 <= k < model.num_classes]
        if outside:
            raise ValueError(f"{argument}: must be from 0 to {model.num_classes - 1}; got {outside[0]}.")
