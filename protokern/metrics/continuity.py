"""Continuity and output completeness: how much an explanation changes by a slight change of its image."""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from protokern.metrics.changes import NUMBERS, WORDS, Change, change, explained, strongest
from protokern.metrics.context import Context, LeftOutError, Region, Seen, draw
from protokern.metrics.noise import noise_for
from protokern.metrics.object_maps import pixels_on
from protokern.metrics.results import MeasureResult, estimate
from protokern.models.base import PrototypeModel

CONTINUITY, COMPLETENESS = "continuity", "completeness"
GAIN, HUE = 1.125, 0.05
GRAIN = 5**0.5 / 255  # standard deviation of the noise, of the range of the pixels
JPEG_QUALITY = 90
NOISE = 0.05  # of the image that ImageNet's standard deviation normalises


def slightly_changed(image: Tensor, index: int, seed: int = 0) -> Tensor:
    """An image (C, Y, X) in [0, 1] as it might also have been taken and stored.

    Brightness, contrast and saturation times 1.125, hue plus 0.05 of the circle, noise with a variance of 5 squared
    grey levels, a mean over 3 x 3 pixels, and JPEG of quality 90. Grey images have no saturation and hue; of those with
    other channels than 1 or 3, noise and mean alone.

    Args:
        image: to change.
        index: of the image in the data set, for the noise.
        seed: of the noise.

    Source: Schlinge et al. 2025 (QuanProto, uos-sis/quanproto), `augmentation/enums.py`, pipeline "continuity".
    """
    from torchvision.transforms import functional  # takes a second to import

    channels = image.shape[0]
    changed = image
    if channels in (1, 3):
        changed = functional.adjust_contrast(functional.adjust_brightness(changed, GAIN), GAIN)
    if channels == 3:
        changed = functional.adjust_hue(functional.adjust_saturation(changed, GAIN), HUE)
    changed = changed + noise_for(image, index, std=GRAIN / 0.225, seed=seed)
    changed = avg_pool2d(pad(changed[None], (1, 1, 1, 1), mode="reflect"), 3, stride=1)[0].clamp(0, 1)
    return _as_jpeg(changed) if channels in (1, 3) else changed


def _as_jpeg(image: Tensor) -> Tensor:
    from PIL import Image  # not everyone needs it

    levels = (255 * image).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    stored = io.BytesIO()
    Image.fromarray(levels[..., 0] if image.shape[0] == 1 else levels).save(stored, "JPEG", quality=JPEG_QUALITY)
    with Image.open(stored) as read:
        pixels = torch.from_numpy(np.array(read)).reshape(*levels.shape).permute(2, 0, 1)
    return (pixels.to(image) / 255).contiguous()


class Continuity:
    """A measure over a drawn part of a data set: the prototypes with the highest activations in each image.

    Args:
        name: of the measure.
        model: to measure.
        context: further inputs.
        num_images: in the data set.
        changed: from an image and its index to the changed image; None: there is none.
        settings: how it changes images.
    """

    needs_images = True

    def __init__(
        self,
        name: str,
        model: PrototypeModel,
        context: Context,
        num_images: int,
        changed: Callable[[Tensor, int], Tensor | None],
        settings: Mapping[str, str | int],
    ) -> None:
        self._name, self._model, self._context, self._changed = name, model, context, changed
        self._settings = dict(settings)
        self._chosen = draw(num_images, context)
        self._columns = {field: array("d") for field in Change._fields}
        self._without = 0

    def see(self, seen: Seen) -> None:
        drawn = [(row, index) for row, index in enumerate(seen.index.tolist()) if index in self._chosen]
        versions = [(row, self._changed(seen.images[row], index)) for row, index in drawn]
        rows = [row for row, one in versions if one is not None]
        self._without += len(drawn) - len(rows)
        if not rows:
            return
        features = self._model.features(torch.stack([one for _, one in versions if one is not None]))
        output = self._model.head(features)
        layer, size = self._model.prototype_layer, (seen.images.shape[2], seen.images.shape[3])
        for position, row in enumerate(rows):
            shown = strongest(seen.output.activations[row].double().cpu().numpy(), self._context.shown)
            one = change(
                explained(layer, seen.features, seen.output, row, shown),
                explained(layer, features, output, position, shown),
                shown,
                size,
                of_logits=self._context.protocol == "paper",
            )
            for column, value in zip(self._columns.values(), one, strict=True):
                column.append(value)

    def result(self) -> MeasureResult:
        number = len(self._columns["place"])
        if not number:
            return MeasureResult(name=self._name, left_out="no drawn image has a box or a mask")
        return MeasureResult(
            name=self._name,
            estimates={
                WORDS[field]: estimate(values, seed=self._context.seed, unit="number" if field in NUMBERS else "share")
                for field, values in self._columns.items()
            },
            settings={"images": number, "prototypes of each image": self._context.shown, **self._settings},
            skipped={"images without box and mask": self._without} if self._name == COMPLETENESS else {},
        )


def start_continuity(model: PrototypeModel, context: Context, num_images: int) -> Continuity:
    """Continuity: images as they might also have been taken and stored."""
    return Continuity(
        CONTINUITY,
        model,
        context,
        num_images,
        lambda image, index: slightly_changed(image, index, context.seed),
        {"seed of the noise": context.seed},
    )


def start_completeness(model: PrototypeModel, context: Context, num_images: int) -> Continuity:
    """Output completeness: noise outside of the object alone, by its mask, or else by its box.

    Raises:
        LeftOutError: nothing is known about objects.
    """
    if context.regions is None:
        raise LeftOutError(context.no_regions)
    regions = context.regions

    def changed(image: Tensor, index: int) -> Tensor | None:
        return with_noise_outside(image, index, regions(index), context.seed)

    settings: dict[str, str | int] = {"seed of the noise": context.seed, "the object is": "its mask, or else its boxes"}
    return Continuity(COMPLETENESS, model, context, num_images, changed, settings)


def with_noise_outside(image: Tensor, index: int, regions: Mapping[str, Region], seed: int = 0) -> Tensor | None:
    """An image (C, Y, X) with normal noise outside of its object; None if the place of the object is unknown.

    Args:
        image: in [0, 1].
        index: of the image in the data set.
        regions: of the image; the mask if there is one, else all boxes together.
        seed: of the noise.
    """
    if not regions:
        return None
    known = [regions["mask"]] if "mask" in regions else list(regions.values())
    size = (image.shape[1], image.shape[2])
    on = np.logical_or.reduce([pixels_on(region, size) for region in known])
    outside = torch.from_numpy(~on).to(image)
    return image + outside * noise_for(image, index, std=NOISE, seed=seed)
