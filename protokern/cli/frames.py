"""The frames that explanations draw around a match, as measures ask for them: one image, one prototype, one patch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from protokern.explain.boxes import cell_box, patch_box
from protokern.explain.pictures import upsample
from protokern.explain.sufficient import sufficient_frame
from protokern.metrics.context import FrameOf
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.results.places import Box


def grid_frame(model: PrototypeModel) -> FrameOf:
    """Around the patch's cell and what is connected with it of the highest twentieth of the upsampled map."""

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


# By what the flags call them.
FRAMES: dict[str, Callable[[PrototypeModel], FrameOf]] = {"grid": grid_frame, "sufficient": smallest_frame}
