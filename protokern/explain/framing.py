"""Which box is drawn as the frame of a match, and explanations whose frames were tested."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from protokern.explain.boxes import cell_box, patch_box
from protokern.explain.pictures import upsample
from protokern.explain.shown import Explanation
from protokern.explain.sufficient import FrameTarget, sufficient_frame, sufficient_frames
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.results.explanations import Evidence
from protokern.results.places import Box, SufficientFrame

FRAMES = ("sufficient", "grid", "paper")
# From an image (C, Y, X), a prototype and its patch (row, column) to the frame around the match; None: no frame.
FrameOf = Callable[[Tensor, int, tuple[int, int]], Box | None]


def check_frame(frame: str) -> None:
    """Raise a ValueError unless `frame` is one of FRAMES."""
    if frame not in FRAMES:
        raise ValueError(f"frame: must be one of {', '.join(FRAMES)}; got {frame!r}. Choose one of them.")


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
        frame: "sufficient": the sufficient frame, or the patch box if there is none; "grid": the patch box;
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
    """Add sufficient frames to the views of an explanation and their pictures.

    Args:
        model: the model that explained the image.
        image: (C, Y, X), the explained image.
        explanation: of `image`.
        classes: the explained classes whose evidence is framed; None: all.
        other: (C, Y, X), another image with which the frames are checked.
    """
    chosen = [one for one in explanation.classes if classes is None or one.class_index in classes]
    # What a decision finds absent is drawn without a frame.
    views = {
        evidence.view.prototype: evidence.view
        for one in chosen
        for evidence in one.evidence
        if evidence.is_present is not False
    }
    targets = [FrameTarget(0, prototype, view.patch) for prototype, view in views.items()]
    frames = sufficient_frames(model, image[None], targets, others=None if other is None else other[None])
    found = dict(zip(views, frames, strict=True))

    def framed(evidence: Evidence) -> Evidence:
        index = evidence.view.prototype
        if index not in found:
            return evidence
        return show_frame(replace(evidence, view=replace(evidence.view, sufficient=found[index])), "sufficient")

    return replace(
        explanation,
        classes=tuple(replace(one, evidence=tuple(map(framed, one.evidence))) for one in explanation.classes),
    )


def show_frame(evidence: Evidence, frame: str) -> Evidence:
    """The same evidence with `frame` drawn in its picture; see `drawn_box`."""
    view, is_tested = evidence.view, frame == "sufficient"
    picture = replace(
        evidence.picture,
        box=drawn_box(view, frame),
        cell=view.cell if is_tested else None,
        proof=view.sufficient if is_tested else None,
    )
    return replace(evidence, picture=picture)


def grid_frame(model: PrototypeModel) -> FrameOf:
    """The patch's cell and the pixels connected with it in the highest twentieth of the upsampled map, as a box."""

    def frame(image: Tensor, prototype: int, patch: tuple[int, int]) -> Box:
        layer = model.prototype_layer
        with evaluating(model):
            index = image.new_tensor([prototype]).long()
            distance = layer.distance_map(model.features(image[None]), index)[0]  # (1, H', W')
            size = (image.shape[1], image.shape[2])
            heat_map = upsample(layer.activate(distance), size).cpu().numpy()[0]
        return patch_box(heat_map, cell_box((distance.shape[1], distance.shape[2]), patch, size))

    return frame


def smallest_frame(model: PrototypeModel) -> FrameOf:
    """The smallest box found whose content alone keeps nine tenths of the similarity."""
    return lambda image, prototype, patch: sufficient_frame(model, image, prototype, patch).box


# By their names on the command line.
FRAME_MAKERS: dict[str, Callable[[PrototypeModel], FrameOf]] = {"grid": grid_frame, "sufficient": smallest_frame}
