"""Sufficient frames: the smallest box around a patch whose content alone keeps a prototype's similarity to that patch.

The claim "this part looks like that part" is tested on pixels: all pixels outside of the box are replaced, and the net
is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.backbones.fusing import fused_layers
from protokern.explain.shrinking import Lines, Seeker, Sides, is_inside
from protokern.explain.similarity import similarity_at
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.results.places import Box, SufficientFrame

SHARE = 0.9
GREY = 0.5
_NOT_FINITE = "images: must give finite similarities; got NaN or inf. Check the images and the weights."
_BATCH = 4  # larger batches are slower per image on a CPU, because the largest maps are then new memory in every layer
_BLUR = 0.05  # standard deviation as a share of each side of the image: removes outlines, keeps colours


class FrameTarget(NamedTuple):
    """What a frame is searched for.

    Attributes:
        image: index among the images that are passed with the target.
        prototype: index of the prototype.
        patch: (row, column) in the grid of patches: usually the patch nearest to the prototype.
    """

    image: int
    prototype: int
    patch: tuple[int, int]


def sufficient_frame(
    model: PrototypeModel,
    image: Tensor,
    prototype: int,
    patch: tuple[int, int],
    *,
    other: Tensor | None = None,
    share: float = SHARE,
) -> SufficientFrame:
    """Find the sufficient frame of one prototype at one patch of one image, see `sufficient_frames`.

    Args:
        model: any prototype model.
        image: (C, Y, X), as its loader gives it.
        prototype: its index.
        patch: (row, column) in the grid of patches.
        other: (C, Y, X), another image with which the frame is checked.
        share: of the similarity that must be kept, above 0 and at most 1.
    """
    if image.ndim != 3:
        raise ValueError(f"image: must have shape (C, Y, X); got {tuple(image.shape)}. Give one image, as images[0].")
    (frame,) = sufficient_frames(
        model,
        image[None],
        [FrameTarget(0, prototype, patch)],
        others=None if other is None else other[None],
        share=share,
    )
    return frame


def sufficient_frames(
    model: PrototypeModel,
    images: Tensor,
    targets: Sequence[FrameTarget],
    *,
    others: Tensor | None = None,
    share: float = SHARE,
) -> list[SufficientFrame]:
    """Find for some prototypes the smallest box around a patch whose content alone keeps `share` of the similarity.

    The pixels outside of a box are replaced by grey (0.5), the net is run, and the similarity at the same patch is
    compared with that in the whole image. First the patch's cells grow on all sides to the smallest size that keeps
    enough; then each side moves inwards as far as possible. Both use bisection, in steps of a cell or of a part of a
    cell, such that the image has at least 14 steps in each direction. The frame is the smallest tested box that keeps
    enough. If larger boxes never keep less, no side of it can move further; that no smaller box of another shape is
    enough is not proved. The frame is then measured twice more, with a strong blur of the image and with another image
    instead of grey.

    Works in evaluation mode and restores the model's modes. The same call gives the same frames.

    Args:
        model: any prototype model.
        images: (B, C, Y, X), as their loader gives them, with values in [0, 1].
        targets: prototypes and patches; the frames of one image share their tests.
        others: (B, C, Y, X), for each image another image with which its frames are checked.
        share: of the similarity that must be kept, above 0 and at most 1.

    Returns:
        The frames, in the order of `targets`.

    Raises:
        ValueError: an argument is out of range, or a similarity is not finite.
    """
    _check(model, images, targets, others, share)
    if not targets:
        return []
    if not bool(images.isfinite().all()):
        raise ValueError(_NOT_FINITE)
    images = images.to(model.device, model.dtype)
    others = None if others is None else others.to(model.device, model.dtype)
    with evaluating(model), torch.inference_mode(), fused_layers(model.backbone):
        patches = _Patches(model, images, targets)
        return _measured(patches, others, _found(patches, share))


class _Patches:
    """The patches of some targets, and their similarities in variants of the images.

    Attributes:
        images: (B, C, Y, X).
        targets: what frames are searched for.
        lines: possible positions of the sides of a frame.
        cells: the area that the patch of each target covers, on these lines.
        similarity: of each target in its whole image.
        passes: number of images that went through the net for each target.
    """

    def __init__(self, model: PrototypeModel, images: Tensor, targets: Sequence[FrameTarget]) -> None:
        self.images, self.targets = images, targets
        self._model = model
        used = sorted({target.image for target in targets})
        features = model.features(images[used[:_BATCH]])
        rows, columns = features.shape[2:]
        height, width = model.prototype_layer.prototype_size
        grid = rows - height + 1, columns - width + 1
        self.lines = Lines.of_grid((rows, columns), (images.shape[2], images.shape[3]))
        self.cells: list[Sides] = []
        for row, column in (target.patch for target in targets):
            if not (0 <= row < grid[0] and 0 <= column < grid[1]):
                raise ValueError(
                    f"patch: must be in the grid of {grid[0]} x {grid[1]} patches; got {(row, column)}. "
                    "Give one that the model found in an image of this size."
                )
            self.cells.append(self.lines.around(Box(row, column, row + height, column + width), (rows, columns)))
        flat = [row * grid[1] + column for row, column in (target.patch for target in targets)]
        self._patches = torch.tensor(flat, device=images.device)
        self._prototypes = torch.tensor([target.prototype for target in targets], device=images.device)
        whole = [*self._of_features(features), *self.of(images[image] for image in used[_BATCH:])]
        of_image = dict(zip(used, whole, strict=True))
        self.similarity = [of_image[target.image][t] for t, target in enumerate(targets)]
        self.passes = [0] * len(targets)
        for image in used:
            self.passes[next(t for t, target in enumerate(targets) if target.image == image)] += 1
        if not all(map(math.isfinite, self.similarity)):
            raise ValueError(_NOT_FINITE)

    def of(self, variants: Iterable[Tensor]) -> list[list[float]]:
        """The similarity of every target at its patch, for each variant (C, Y, X) of an image."""
        found: list[list[float]] = []
        rest = iter(variants)
        while batch := list(islice(rest, _BATCH)):
            found.extend(self._of_features(self._model.features(torch.stack(batch))))
        return found

    def _of_features(self, features: Tensor) -> list[list[float]]:
        similarities: list[list[float]] = similarity_at(self._model, features, self._prototypes, self._patches).tolist()
        return similarities

    def inside(self, image: int, box: Box, fill: Tensor) -> Tensor:
        """A copy of `fill` (C, Y, X) with the pixels of an image inside a box."""
        y0, x0, y1, x1 = box
        variant = fill.clone()
        variant[:, y0:y1, x0:x1] = self.images[image, :, y0:y1, x0:x1]
        return variant


class _Found(NamedTuple):
    """A box and the share of the similarity that it keeps when all pixels outside are grey."""

    box: Box
    kept: float


_Tested = dict[tuple[int, Sides], list[float]]  # by image and box: the similarity of every target in it


def _found(patches: _Patches, share: float) -> list[_Found | None]:
    """The smallest box of every target; None if the similarity is not positive.

    All searches run side by side: a batch has the next box of each, and a tested box counts for every target of its
    image.
    """
    seekers = {
        t: Seeker(cell, patches.lines.whole, share)
        for t, (cell, similarity) in enumerate(zip(patches.cells, patches.similarity, strict=True))
        if similarity > 0
    }
    grey = torch.full_like(patches.images[0], GREY)
    tested: _Tested = {}
    while True:
        asked: dict[tuple[int, Sides], int] = {}
        for t, seeker in seekers.items():
            while seeker.asked is not None and (kept := _known(patches, t, tested, seeker.asked, share)) is not None:
                seeker.tell(kept)
            if seeker.asked is not None:
                asked.setdefault((patches.targets[t].image, seeker.asked), t)
        if not asked:
            break
        for t in asked.values():
            patches.passes[t] += 1
        variants = (patches.inside(image, patches.lines.box(sides), grey) for image, sides in asked)
        tested.update(zip(asked, patches.of(variants), strict=True))
    return [_smallest(patches, t, tested, share) if t in seekers else None for t in range(len(patches.targets))]


def _known(patches: _Patches, t: int, tested: _Tested, asked: Sides, share: float) -> float | None:
    """The share that a box keeps for a target, if it was tested or contains a box that keeps enough; None: unknown."""
    image, similarity = patches.targets[t].image, patches.similarity[t]
    if (image, asked) in tested:
        return tested[image, asked][t] / similarity
    for (of_image, sides), found in tested.items():
        kept = found[t] / similarity
        if of_image == image and kept >= share and is_inside(patches.cells[t], sides) and is_inside(sides, asked):
            return kept
    return None


def _smallest(patches: _Patches, t: int, tested: _Tested, share: float) -> _Found:
    """The smallest box that keeps enough for a target, of all boxes tested in its image, also for other targets."""
    best = _Found(patches.lines.box(patches.lines.whole), 1.0)
    for (image, sides), found in tested.items():
        box, kept = patches.lines.box(sides), found[t] / patches.similarity[t]
        is_its_own = image == patches.targets[t].image and is_inside(patches.cells[t], sides)
        if is_its_own and kept >= share and box.area < best.box.area:
            best = _Found(box, kept)
    return best


def _measured(patches: _Patches, others: Tensor | None, found: Sequence[_Found | None]) -> list[SufficientFrame]:
    """The frames, with the shares that they keep with the blurred image or another image outside."""
    whole = patches.lines.box(patches.lines.whole)
    partial = {t: one.box for t, one in enumerate(found) if one is not None and one.box != whole}
    blurred = {image: _blur(patches.images[image]) for image in {patches.targets[t].image for t in partial}}
    kept_blur = _kept(patches, partial, blurred.__getitem__)
    kept_other = {} if others is None else _kept(patches, partial, others.__getitem__)
    frames = []
    for t, one in enumerate(found):
        is_whole = one is not None and one.box == whole
        frames.append(
            SufficientFrame(
                box=None if one is None else one.box,
                similarity=patches.similarity[t],
                kept_grey=None if one is None else one.kept,
                kept_blur=1.0 if is_whole else kept_blur.get(t),
                kept_other=1.0 if is_whole and others is not None else kept_other.get(t),
                area=None if one is None else one.box.area / whole.area,
                passes=patches.passes[t],
            )
        )
    return frames


def _kept(patches: _Patches, boxes: dict[int, Box], fill: Callable[[int], Tensor]) -> dict[int, float]:
    """The share of its similarity that every target's box keeps with the fill of its image (C, Y, X) outside."""
    first: dict[tuple[int, Box], int] = {}
    for t, box in boxes.items():
        first.setdefault((patches.targets[t].image, box), t)
    for t in first.values():
        patches.passes[t] += 1
    found = dict(zip(first, patches.of(patches.inside(image, box, fill(image)) for image, box in first), strict=True))
    return {t: found[patches.targets[t].image, box][t] / patches.similarity[t] for t, box in boxes.items()}


def _blur(image: Tensor) -> Tensor:
    """An image (C, Y, X) without outlines: blurred by a Gaussian along each axis, mirrored at the borders."""
    for axis in (1, 2):
        side = image.shape[axis]
        radius = min(math.ceil(3 * _BLUR * side), side - 1)
        steps = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        weights = torch.exp(-0.5 * (steps / (_BLUR * side)).square())
        lines = F.pad(image.movedim(axis, -1), (radius, radius), mode="reflect")  # (C, other axis, side + 2 radius)
        blurred = F.conv1d(lines.flatten(0, 1)[:, None], (weights / weights.sum())[None, None])  # (C * other, 1, side)
        image = blurred.reshape(*lines.shape[:2], side).movedim(-1, axis)
    return image


def _check(
    model: PrototypeModel, images: Tensor, targets: Sequence[FrameTarget], others: Tensor | None, share: float
) -> None:
    if images.ndim != 4:
        raise ValueError(f"images: must have shape (B, C, Y, X); got {tuple(images.shape)}. Stack the images.")
    if others is not None and others.shape != images.shape:
        raise ValueError(
            f"others: must have the shape of images, {tuple(images.shape)}; got {tuple(others.shape)}. "
            "Give one other image for each."
        )
    if not 0 < share <= 1:
        raise ValueError(f"share: must be above 0 and at most 1; got {share}. 0.9 keeps nine tenths.")
    for target in targets:
        if not 0 <= target.image < len(images):
            raise ValueError(f"targets: images must be from 0 to {len(images) - 1}; got {target.image}.")
        if not 0 <= target.prototype < model.num_prototypes:
            raise ValueError(
                f"targets: prototypes must be from 0 to {model.num_prototypes - 1}; got {target.prototype}."
            )
