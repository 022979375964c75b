"""One picture: a backdrop, something to stand on, and a bird of the wanted species in a random pose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from protokern.data.birds.anatomy import FOOT, Individual, draw_bird
from protokern.data.birds.painter import Canvas, Pose
from protokern.data.birds.shapes import Drawing, Group
from protokern.data.birds.species import Species
from protokern.data.birds.surroundings import around, draw_backdrop, draw_perch


@dataclass(frozen=True, slots=True)
class Scene:
    """A painted picture; `canvas` still has the labels at the finer size."""

    pixels: np.ndarray  # (Y, X, 3) uint8
    canvas: Canvas
    drawing: Drawing
    pose: Pose


def paint_scene(species: Species, rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Paint a bird; the same generator state and size give the same bits.

    Args:
        species: what the bird looks like.
        rng: everything else about the picture is drawn from it.
        size: rows and columns, pixels.
    """
    individual = Individual(tail_angle=around(rng, 7), wing_angle=around(rng, 5), head_angle=around(rng, 7))
    drawing = draw_bird(species, individual)
    pose = _draw_pose(drawing, rng, size)
    canvas = Canvas(draw_backdrop(rng, size), finer=_finer(size))
    foot_x, foot_y = pose.place(np.array([FOOT]))[0].tolist()
    draw_perch(canvas, rng, (foot_x, foot_y + 0.01 * pose.scale), pose.scale, size)
    warmth = around(rng, 0.05)
    brightness = 1 + around(rng, 0.08)
    canvas.draw(drawing, pose, (brightness * (1 + warmth), brightness, brightness * (1 - warmth)))
    pixels = canvas.finish(light_from_left=rng.random() < 0.5)
    return Scene(_photograph(pixels, rng), canvas, drawing, pose)


def _finer(size: tuple[int, int]) -> int:
    """Samples for each pixel along an axis; more than two do not show on large pictures."""
    return 4 if min(size) <= 96 else 3 if min(size) <= 160 else 2


def _draw_pose(drawing: Drawing, rng: np.random.Generator, size: tuple[int, int]) -> Pose:
    """Random tilt, side, scale and place, such that the whole bird is in the picture."""
    rows, columns = size
    pose = Pose(tilt=around(rng, 12), mirrored=rng.random() < 0.5)
    outlines = [layer.ground.outline if isinstance(layer, Group) else layer.outline for layer in drawing.layers]
    placed = pose.place(np.concatenate(outlines))
    (left, top), (right, bottom) = placed.min(axis=0).tolist(), placed.max(axis=0).tolist()
    share = 0.86 + 0.09 * rng.random()
    scale = share * min(columns / (right - left), rows / (bottom - top))
    scale = min(scale, (0.60 + 0.18 * rng.random()) * min(size))
    slack_x, slack_y = columns - scale * (right - left), rows - scale * (bottom - top)
    x = slack_x * (0.2 + 0.6 * rng.random()) - scale * left
    y = slack_y * (0.2 + 0.6 * rng.random()) - scale * top
    return replace(pose, scale=scale, x=x, y=y)


def _photograph(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast and grain: (Y, X, 3) float32 to uint8."""
    contrast = np.float32(1 + around(rng, 0.1))
    exposure = np.float32(around(rng, 10))
    grain = (rng.random(pixels.shape[:2], dtype=np.float32) - np.float32(0.5)) * np.float32(6)
    seen = (pixels - 128) * contrast + (128 + exposure) + grain[..., None]
    return seen.clip(0, 255).astype(np.uint8)
