"""Which box is drawn as the frame of a match, and explanations whose frames were tested."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

import numpy as np
from torch import Tensor

from protokern.explain.pictures import make_visible, overlay_heat
from protokern.explain.sufficient import FrameTarget, sufficient_frames
from protokern.models.base import PrototypeModel
from protokern.results.explanations import Explanation
from protokern.results.places import Box, FrameProof, PatchView, SeenPicture, SufficientFrame

FRAMES = ("sufficient", "grid", "paper")


class Boxes(Protocol):
    """The boxes of a prototype in an image."""

    @property
    def activation_box(self) -> Box: ...
    @property
    def patch_box(self) -> Box: ...
    @property
    def sufficient(self) -> SufficientFrame | None: ...


def drawn_box(boxes: Boxes, frame: str) -> Box:
    """The box to draw as the frame.

    Args:
        boxes: of a prototype in an image.
        frame: "sufficient": the sufficient frame, or the patch box where there is none; "grid": the patch box;
            "paper": the activation box.
    """
    if frame == "paper":
        return boxes.activation_box
    found = boxes.sufficient.box if frame == "sufficient" and boxes.sufficient is not None else None
    return boxes.patch_box if found is None else found


def frame_explanation(
    model: PrototypeModel,
    image: Tensor,
    explanation: Explanation,
    *,
    classes: Collection[int] | None = None,
    other: Tensor | None = None,
) -> Explanation:
    """An explanation whose views have their sufficient frames.

    Args:
        model: that explained the image.
        image: (C, Y, X), the explained one.
        explanation: of it.
        classes: those of the explained classes whose evidence is framed; None: all.
        other: (C, Y, X), another image that the frames are checked with.
    """
    chosen = [one for one in explanation.classes if classes is None or one.class_index in classes]
    views = {evidence.view.prototype: evidence.view for one in chosen for evidence in one.evidence}
    targets = [FrameTarget(0, prototype, view.patch) for prototype, view in views.items()]
    frames = sufficient_frames(model, image[None], targets, others=None if other is None else other[None])
    framed = {
        prototype: replace(view, sufficient=frame)
        for (prototype, view), frame in zip(views.items(), frames, strict=True)
    }
    return replace(
        explanation,
        classes=tuple(
            replace(
                one,
                evidence=tuple(
                    replace(evidence, view=framed.get(evidence.view.prototype, evidence.view))
                    for evidence in one.evidence
                ),
            )
            for one in explanation.classes
        ),
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
