"""From what a model computed to what a page shows: the only place where explanations and reports meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from protokern.cli.prototype_files import class_weights
from protokern.explain.boxes import cell_box
from protokern.explain.framing import drawn_box, frame_explanation
from protokern.explain.local import ClassExplanation, Explanation, PatchView, explain_image
from protokern.explain.pictures import make_visible, overlay_heat, to_picture
from protokern.models.base import PrototypeModel
from protokern.report.data import (
    ClassPoints,
    ClassSlots,
    ExplainedImage,
    FrameProof,
    LazyPicture,
    Match,
    PrototypeCard,
    SeenPicture,
)
from protokern.results.places import ReceptiveField, SufficientFrame
from protokern.runs.prototypes import PictureKind, PrototypeFiles

SHOWN_MATCHES = 4


def prototype_cards(
    model: PrototypeModel, classes: Sequence[str], files: PrototypeFiles | None, frame: str = "grid"
) -> tuple[PrototypeCard, ...]:
    """Every prototype of a model with its pictures, if there are any, to be read when they are drawn.

    Weights are the model's of now. While a model still chooses, its prototypes have no classes.

    Args:
        model: of a run.
        classes: class names.
        files: the prototypes of the run; None: they have no pictures.
        frame: which box is drawn as the frame, see `drawn_box`.
    """
    weights = class_weights(model, classes) if model.is_hard else [()] * model.num_prototypes
    cards = []
    for index, of_prototype in enumerate(weights):
        source = None if files is None else files.prototypes[index].source
        picture = None
        if files is not None and source is not None:
            picture = SeenPicture(
                image=_lazy(files, index, "image"),
                heat=_lazy(files, index, "heat"),
                box=drawn_box(source, frame),
                receptive_field_box=source.receptive_field_box,
                cell=cell_box(files.grid, source.patch, files.image_size) if frame == "sufficient" else None,
                proof=prove(source.sufficient) if frame == "sufficient" else None,
            )
        card = PrototypeCard(
            index=index,
            classes=of_prototype,
            picture=picture,
            source_name=None if source is None else source.name,
            distance=None if source is None else source.distance,
        )
        cards.append(card)
    return tuple(cards)


def _lazy(files: PrototypeFiles, index: int, kind: PictureKind) -> LazyPicture:
    return LazyPicture(load=partial(files.picture, index, kind), shape=(*files.image_size, 3), key=(kind, index))


def class_slots(model: PrototypeModel, classes: Sequence[str]) -> tuple[ClassSlots, ...]:
    """What every class has in its slots; nothing for a model without slots, or one that still chooses."""
    if model.slots is None or not model.is_hard:
        return ()
    return tuple(
        ClassSlots(class_name=name, prototypes=tuple(index if index >= 0 else None for index in row))
        for name, row in zip(classes, model.slots.tolist(), strict=True)
    )


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


def see(picture: np.ndarray, view: PatchView, heat_map: str, frame: str) -> SeenPicture:
    """A picture with what a prototype made of it.

    Args:
        picture: (Y, X, 3) uint8.
        view: where the prototype looks in it.
        heat_map: how the view's was made, see `explain_image`.
        frame: which box is drawn as the frame, see `drawn_box`.
    """
    return SeenPicture(
        image=picture,
        heat=overlay_heat(picture, view.heat_map if heat_map == "upsample" else make_visible(view.heat_map)),
        box=drawn_box(view, frame),
        receptive_field_box=view.receptive_field_box,
        cell=view.cell if frame == "sufficient" else None,
        proof=prove(view.sufficient) if frame == "sufficient" else None,
    )


def prove(found: SufficientFrame | None) -> FrameProof | None:
    """What a page says of a sufficient frame."""
    if found is None:
        return None
    return FrameProof(found.kept_grey, found.kept_blur, found.kept_other, found.area)
