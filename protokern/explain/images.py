"""From what a model computed to what a page shows: the only place where explanations and reports meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from protokern.explain.framing import frame_explanation, see
from protokern.explain.local import explain_image
from protokern.explain.pictures import to_picture
from protokern.models.base import PrototypeModel
from protokern.results.explanations import ClassExplanation, ClassPoints, ExplainedImage, Explanation, Match
from protokern.results.places import ReceptiveField
from protokern.results.prototypes import PrototypeCard

SHOWN_MATCHES = 4


def explain_for_people(
    model: PrototypeModel,
    image: Tensor,
    name: str,
    classes: Sequence[str],
    cards: Sequence[PrototypeCard],
    *,
    true_class: int | None = None,
    receptive_field: ReceptiveField | None = None,
    heat_map: str = "upsample",
    frame: str = "grid",
    other: Callable[[int], Tensor | None] = lambda class_index: None,
) -> tuple[ExplainedImage, Explanation]:
    """Explain an image: its answer and one other class in full, the third by its total.

    The other class is the right one where the answer is wrong, else the runner-up.

    Args:
        model: any prototype model whose choices are final.
        image: (C, Y, X).
        name: of the image.
        classes: class names.
        cards: of all prototypes of the model.
        true_class: index of the right class, if known.
        receptive_field: of the model for this image size, if known.
        heat_map: how the heat maps of the image are made, see `explain_image`.
        frame: which box is drawn as the frame, see `drawn_box`.
        other: gives for the answer another image (C, Y, X) that its sufficient frames are checked with, if there is
            one.
    """
    explanation = _explain_with(model, image, true_class, receptive_field, heat_map)
    ranked = [one.class_index for one in explanation.classes]
    rival = true_class if true_class not in (None, explanation.predicted) else ranked[1]
    in_full = (explanation.predicted, rival)
    if frame == "sufficient":
        another = other(explanation.predicted)
        explanation = frame_explanation(model, image, explanation, classes=in_full, other=another)
    picture = to_picture(image)
    points = tuple(
        _class_points(
            one,
            explanation,
            picture,
            cards,
            name=classes[one.class_index],
            in_full=one.class_index in in_full,
            heat_map=heat_map,
            frame=frame,
        )
        for one in explanation.classes
    )
    item = ExplainedImage(
        name=name,
        image=picture,
        classes=points,
        true_class=None if true_class is None else classes[true_class],
        is_focal=model.is_focal,
        is_salient=model.prototype_layer.norm_as_weight,
    )
    return item, explanation


def _explain_with(
    model: PrototypeModel, image: Tensor, true_class: int | None, field: ReceptiveField | None, heat_map: str
) -> Explanation:
    """The explanation of the first three classes; the right one takes the last place if it is not among them."""
    explanation = explain_image(model, image, top=SHOWN_MATCHES, receptive_field=field, heat_map=heat_map)
    ranked = [one.class_index for one in explanation.classes]
    if true_class is not None and true_class not in ranked:
        explanation = explain_image(
            model,
            image,
            top=SHOWN_MATCHES,
            classes=[*ranked[:2], true_class],
            receptive_field=explanation.receptive_field,
            heat_map=heat_map,
        )
    return explanation


def with_cards(item: ExplainedImage, cards: Sequence[PrototypeCard]) -> ExplainedImage:
    """An explained image whose matches show these cards of the prototypes, by index."""
    classes = (
        replace(one, matches=tuple(replace(match, prototype=cards[match.prototype.index]) for match in one.matches))
        for one in item.classes
    )
    return replace(item, classes=tuple(classes))


def _class_points(
    one: ClassExplanation,
    explanation: Explanation,
    picture: np.ndarray,
    cards: Sequence[PrototypeCard],
    *,
    name: str,
    in_full: bool,
    heat_map: str,
    frame: str,
) -> ClassPoints:
    matches = tuple(
        Match(
            picture=see(picture, evidence.view, heat_map, frame),
            prototype=cards[evidence.view.prototype],
            similarity=evidence.similarity,
            weight=evidence.weight,
            points=evidence.points,
            is_reason=evidence.is_reason,
            slots=evidence.slots,
        )
        for evidence in sorted(one.evidence if in_full else (), key=lambda evidence: not evidence.is_reason)
    )
    shown = {match.prototype.index for match in matches}
    points = explanation.points[:, one.class_index]
    others = [card for card in cards if card.index not in shown]
    own = [card.index for card in others if card.is_of(one.class_index)]
    foreign = [card.index for card in others if not card.is_of(one.class_index)]
    return ClassPoints(
        class_index=one.class_index,
        class_name=name,
        total=one.logit,
        probability=float(explanation.probabilities[one.class_index]),
        matches=matches,
        own_points=float(points[own].sum()),
        num_own=len(own),
        foreign_points=float(points[foreign].sum()),
        num_foreign=len(foreign),
        num_unused=sum(not card.classes for card in others),
        num_speaking=int(np.count_nonzero(points)),
    )
