"""Fills outlines into a picture and, in step, into a picture of part labels; then shades the bird."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from protokern.data.birds.shapes import LABEL_OF, Drawing, Group, Shape
from protokern.data.birds.species import Colour


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the bird is: bird coordinates turned by `tilt` degrees, mirrored or not, scaled and moved, in pixels."""

    tilt: float
    mirrored: bool
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) from bird coordinates to pixels (x, y)."""
        angle = np.deg2rad(self.tilt)
        cos, sin = np.cos(angle), np.sin(angle)
        x = points[:, 0] * cos - points[:, 1] * sin
        y = points[:, 0] * sin + points[:, 1] * cos
        side = -self.scale if self.mirrored else self.scale
        return np.stack([x * side + self.x, y * self.scale + self.y], axis=1)


class Canvas:
    """A picture and its labels at a multiple of the final size; `finer` pixels a final pixel along each axis."""

    def __init__(self, backdrop: Image.Image, finer: int) -> None:
        self.finer = finer
        fine_size = (backdrop.width * finer, backdrop.height * finer)
        self.image = backdrop.resize(fine_size, Image.Resampling.BILINEAR)
        self.labels = Image.new("L", fine_size)
        self._layer = _Layer(self.image, self.labels, 0, 0)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fill an outline, (N, 2) in final pixels, that is no part of the bird."""
        self._layer.fill(points * self.finer, colour, None)

    def draw(self, drawing: Drawing, pose: Pose, tint: tuple[float, float, float]) -> None:
        """Draw the bird; `tint` multiplies its colours, near 1."""
        shapes = list(_shapes(drawing))
        placed = pose.place(np.concatenate([shape.outline for shape in shapes])) * self.finer
        ends = np.cumsum([len(shape.outline) for shape in shapes])
        outlines = iter(np.split(placed, ends[:-1]))
        for layer in drawing.layers:
            if isinstance(layer, Group):
                ground = next(outlines)
                self._draw_group(layer, ground, [next(outlines) for _ in layer.inside], tint)
            else:
                self._layer.fill(next(outlines), _tinted(layer.colour, tint), layer.part)

    def _draw_group(
        self, group: Group, ground: np.ndarray, inside: list[np.ndarray], tint: tuple[float, float, float]
    ) -> None:
        left, top = np.floor(ground.min(axis=0)).astype(int).tolist()
        right, bottom = np.ceil(ground.max(axis=0)).astype(int).tolist()
        size = (right - left + 1, bottom - top + 1)
        part = LABEL_OF[group.ground.part]
        layer = _Layer(
            Image.new("RGB", size, _tinted(group.ground.colour, tint)), Image.new("L", size, part), left, top
        )
        for shape, outline in zip(group.inside, inside, strict=True):
            layer.fill(outline, _tinted(shape.colour, tint), shape.part)
        mask = Image.new("1", size)
        ImageDraw.Draw(mask).polygon((ground - (left, top)).ravel().tolist(), fill=1)
        self.image.paste(layer.image, (left, top), mask)
        self.labels.paste(layer.labels, (left, top), mask)

    def coverage(self, part: str | None = None) -> np.ndarray:
        """(Y, X) float32 in [0, 1]: how much of each final pixel is covered by the part, or by the whole bird."""
        table = [0] + [255] * 255 if part is None else [255 * (label == LABEL_OF[part]) for label in range(256)]
        covered = self.labels.point(table).reduce(self.finer)
        return np.asarray(covered).astype(np.float32) / np.float32(255)

    def finish(self, light_from_left: bool) -> np.ndarray:
        """The picture at its final size, (Y, X, 3) float32 in [0, 255], with the bird shaded from above."""
        pixels = np.asarray(self.image.reduce(self.finer)).astype(np.float32)
        bird, wing = self.coverage(), self.coverage("wing")
        radius = 0.035 * min(bird.shape)
        light = _relief(bird, radius, light_from_left) * np.float32(0.55)
        light += _relief(wing, radius * 0.6, light_from_left) * np.float32(0.22)
        return pixels * (1 + light * bird)[..., None]


@dataclass(frozen=True, slots=True)
class _Layer:
    image: Image.Image
    labels: Image.Image
    left: int
    top: int

    def fill(self, outline: np.ndarray, colour: Colour, part: str | None) -> None:
        corners = (outline - (self.left, self.top)).ravel().tolist()
        ImageDraw.Draw(self.image).polygon(corners, fill=colour)
        if part is None:
            ImageDraw.Draw(self.labels).polygon(corners, fill=0)
        elif part:
            ImageDraw.Draw(self.labels).polygon(corners, fill=LABEL_OF[part])


def _shapes(drawing: Drawing) -> Iterator[Shape]:
    for layer in drawing.layers:
        if isinstance(layer, Group):
            yield layer.ground
            yield from layer.inside
        else:
            yield layer


def _tinted(colour: Colour, tint: tuple[float, float, float]) -> Colour:
    red, green, blue = (min(255, round(value * factor)) for value, factor in zip(colour, tint, strict=True))
    return red, green, blue


def _relief(coverage: np.ndarray, radius: float, light_from_left: bool) -> np.ndarray:
    """(Y, X) in about [-1, 1]: as if the covered area bulged; bright where its edge faces the light."""
    soft = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    height = np.asarray(soft).astype(np.float32) / np.float32(255)
    step = max(1, round(radius))
    across = step if light_from_left else -step
    # Light comes from above and from one side: compare a step away from the light with a step towards it.
    return np.roll(height, (-step, -across // 2), (0, 1)) - np.roll(height, (step, across // 2), (0, 1))
