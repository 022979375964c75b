"""Warnings about a run: what speaks against trusting it, how often, and what to do."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace

import torch

from protokern.data import Splits, data_warnings
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.results.progress import Progress, show_nothing
from protokern.results.scores import Scores
from protokern.runs.open import OpenRun

_LISTED = 3


def look_at(splits: Splits, progress: Progress = show_nothing) -> Splits:
    """The same data with their warnings, which are computed unless they are already there."""
    if splits.warnings is not None:
        return splits
    return replace(splits, warnings=data_warnings(splits, progress=progress))


def run_warnings(run: OpenRun, splits: Splits | None, scores: Scores | None, images: str = "test") -> tuple[str, ...]:
    """All warnings: of the answers, of the prototypes and weights, of the data.

    Args:
        run: whose model it is.
        splits: the data; None: no warnings about the data.
        scores: of the answers to a split; None: no warnings about the answers.
        images: the name of that split: "test", "validation" or "training".
    """
    answers = () if scores is None else answer_warnings(scores, run.classes, images)
    data = () if splits is None else look_at(splits).warnings or ()
    return (*answers, *model_warnings(run.model, run.push, run.classes), *data)


def model_warnings(model: PrototypeModel, push: PushResult | None, classes: Sequence[str]) -> tuple[str, ...]:
    """Warnings about the prototypes and the weights of a model whose choices are final.

    They are about prototypes that are copies of others; prototypes that weigh more for or against another class than
    for their own; prototypes that speak against their own class.

    Args:
        model: any model; there are no warnings if its choices are soft, or its reasons a path.
        push: where its prototypes come from; None: unknown, so only equal vectors count as copies.
        classes: names.
    """
    if not model.is_hard or model.reasons == "path":  # a tree may ask the same question in two places
        return ()
    copies = copied_prototypes(model, push)
    found = [] if not copies else [_say_copies(copies, model.num_prototypes)]
    return (*found, *_weight_warnings(model, classes))


def copied_prototypes(model: PrototypeModel, push: PushResult | None) -> dict[int, int]:
    """The prototypes that are copies, each with the first one that it is a copy of.

    Copies are the same patch of the same image, or have equal vectors. The first of several equal prototypes is no
    copy, and prototypes of different classes are not copies of each other. Channels are no copies of each other.
    """
    if model.prototype_layer.vectors is None:
        return {}
    vectors = model.prototype_layer.vectors.detach().cpu().flatten(1).contiguous().numpy()
    own = (model.class_identity.cpu() > 0).numpy()
    first: dict[tuple[str, object, bytes], int] = {}
    copies: dict[int, int] = {}
    for index in range(len(vectors)):
        marks: list[tuple[str, object]] = [("vector", vectors[index].tobytes())]
        if push is not None and int(push.image[index]) >= 0:
            marks.append(("patch", (int(push.image[index]), int(push.patch[index]))))
        keys = [(*mark, own[index].tobytes()) for mark in marks]
        known = [first[key] for key in keys if key in first]
        if known:
            copies[index] = min(known)
        for key in keys:
            first.setdefault(key, copies.get(index, index))
    return copies


def _say_copies(copies: dict[int, int], count: int) -> str:
    told = _listed([f"{index} is {of} again" for index, of in copies.items()])
    return (
        f"{len(copies)} of {count} prototypes {_do(copies, 'are copies', 'is a copy')} of another one, the same patch "
        f"of the same image: {told}. There are {count - len(copies)} distinct ones, and each counts as often as it is "
        "there. Give more training images or a smaller model.prototypes_per_class, or drop the copies with "
        "'protokern prune RUN --drop'."
    )


def _weight_warnings(model: PrototypeModel, classes: Sequence[str]) -> list[str]:
    weight = model.prototype_weight.detach().cpu()  # (K, P)
    is_own = (model.class_identity.cpu() > 0).T  # (K, P)
    has_class = is_own.any(dim=0)
    own = weight.masked_fill(~is_own, -torch.inf).amax(dim=0)  # (P,)
    other, of_class = weight.masked_fill(is_own, 0.0).abs().max(dim=0)
    found = []
    louder = (has_class & (other > own.abs())).nonzero().flatten()
    if len(louder):
        worst = int(louder[other[louder].argmax()])
        target = int(of_class[worst])
        found.append(
            f"{len(louder)} of {model.num_prototypes} prototypes {_do(louder, 'weigh', 'weighs')} more for or against "
            f"another class than for {_do(louder, 'their', 'its')} own: most of all prototype {worst}, with "
            f"{float(weight[target, worst]):.2f} for {classes[target]} and {float(own[worst]):.2f} for its own. "
            "Answers are then made of what speaks against other classes. Lower train.last_layer_bound, raise train.l1, "
            "or give more training images."
        )
    contrary = (has_class & (own <= 0)).nonzero().flatten().tolist()
    if contrary:
        found.append(
            f"{len(contrary)} of {model.num_prototypes} prototypes {_do(contrary, 'do', 'does')} not speak for "
            f"{_do(contrary, 'their', 'its')} own class, with a weight of 0 or below: "
            f"{_listed(list(map(str, contrary)))}. Drop them with 'protokern prune RUN --drop', or raise "
            "train.last_layer_ridge."
        )
    return found


def answer_warnings(scores: Scores, classes: Sequence[str], images: str = "test") -> tuple[str, ...]:
    """Warnings about the answers to a split: classes that are never the answer, or never the right one.

    Args:
        scores: of the answers.
        classes: names.
        images: the name of the split: "test", "validation" or "training".
    """
    found = []
    pairs = list(zip(scores.classes, classes, strict=True))
    never = [
        f"{name} ({one.images} image{_do(range(one.images), 's', '')})"
        for one, name in pairs
        if one.images and not one.answers
    ]
    if never:
        found.append(
            f"{len(never)} of {len(classes)} classes {_do(never, 'are', 'is')} never the answer to a {images} image: "
            f"{_listed(never)}. Give more training images of {_do(never, 'them', 'it')}; where a class is rare, the "
            "accuracy hides it."
        )
    missed = [
        f"{name} ({one.images} image{_do(range(one.images), 's', '')})"
        for one, name in pairs
        if one.images and one.answers and not one.correct
    ]
    if missed:
        found.append(
            f"Of {len(missed)} of {len(classes)} classes no {images} image gets the right answer: {_listed(missed)}. "
            "The confusion matrix says what they are taken for."
        )
    return tuple(found)


def _do(some: Sized, many: str, one: str) -> str:
    return one if len(some) == 1 else many


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
