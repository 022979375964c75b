"""The JSON files of `explain` and `neighbours`. Boxes are y0, x0, y1, x1 in pixels, half-open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from protokern.results.explanations import ClassExplanation, Evidence, Explanation
from protokern.results.places import SufficientFrame
from protokern.results.prototypes import GlobalExplanation, Neighbour, Prototype, SplitNeighbours


def explanation_table(explanation: Explanation) -> dict[str, Any]:
    """An explanation without its pictures."""
    names = explanation.class_names
    table: dict[str, Any] = {
        "image": explanation.name,
        "predicted": explanation.predicted_class,
        "logits": {name: float(logit) for name, logit in zip(names, explanation.logits, strict=True)},
        "classes": [_class_table(one, names) for one in explanation.classes],
    }
    if explanation.classes and explanation.classes[0].score is not None:
        table["abstains"] = explanation.abstains
        if explanation.faint is not None:
            table["faint"] = {
                "smallest": explanation.faint.smallest,
                "prototypes": [{"prototype": j, "similarity": value} for j, value in explanation.faint.prototypes],
            }
    end = explanation.end
    if end is not None:
        classes = {names[k]: probability for k, probability in end.classes}
        table["end"] = {"leaf": end.leaf, "classes": classes, "share": end.share, "agrees": end.agrees}
    return table


def _class_table(one: ClassExplanation, names: Sequence[str]) -> dict[str, Any]:
    return {
        "class": one.class_name,
        "logit": one.logit,
        **({} if one.score is None else {"score": one.score, "bias": one.bias}),
        "probability": one.probability,
        "prototypes": [_evidence_table(evidence, names) for evidence in one.evidence],
        "other_points": one.other_points,
        "num_other": one.num_other,
    }


def _evidence_table(evidence: Evidence, names: Sequence[str]) -> dict[str, Any]:
    view, source = evidence.view, evidence.prototype.source
    decision = {} if evidence.is_present is None else {"is_present": evidence.is_present}
    return {
        **decision,
        "prototype": view.prototype,
        "prototype_classes": [names[k] for k in evidence.prototype_classes],
        "slots": evidence.slots,
        "similarity": evidence.similarity,
        "distance": evidence.distance,
        "weight": evidence.weight,
        "points": evidence.points,
        "is_reason": evidence.is_reason,
        "patch": view.patch,
        "activation_box": view.activation_box,
        "patch_box": view.patch_box,
        "receptive_field_box": view.receptive_field_box,
        "sufficient_frame": _frame_table(view.sufficient),
        "source": None if source is None else source.name,
        "source_frame": None if source is None else _frame_table(source.sufficient),
    }


def _frame_table(frame: SufficientFrame | None) -> dict[str, Any] | None:
    return None if frame is None else asdict(frame)


def neighbours_table(prototype: Prototype, found: GlobalExplanation) -> dict[str, Any]:
    """A prototype and its neighbours."""
    assert prototype.neighbours is not None
    return {
        "prototype": prototype.index,
        "classes": [one.class_name for one in prototype.classes],
        "source": prototype.source_name,
        "belongs_together": bool(found.belong_together[prototype.index]),
        "train": _split_table(found.train, prototype.index, prototype.neighbours.train),
        "test": _split_table(found.test, prototype.index, prototype.neighbours.test),
    }


def _split_table(split: SplitNeighbours, index: int, neighbours: Sequence[Neighbour]) -> dict[str, Any]:
    agreement = float(split.agreement[index])
    return {
        "agreement": None if agreement != agreement else agreement,
        "neighbours": [
            {
                "image": neighbour.name,
                "class": neighbour.class_name,
                "similarity": neighbour.similarity,
                "distance": neighbour.distance,
                "patch": divmod(int(split.patch[index, rank]), split.grid[1]),
                "patch_box": neighbour.patch_box,
                "receptive_field_box": neighbour.picture.receptive_field_box,
            }
            for rank, neighbour in enumerate(neighbours)
        ],
    }
