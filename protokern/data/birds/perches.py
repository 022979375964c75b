"""What the bird stands on: a branch, a stone or the ground. Drawn from random numbers alone, like the backdrop."""

from __future__ import annotations

import numpy as np

from protokern.data.birds.backdrops import Size, pick
from protokern.data.birds.curves import Point, closed_curve, disc, feather, stroke
from protokern.data.birds.painter import Canvas
from protokern.data.birds.shapes import darker, lighter, mix


def draw_perch(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    """Draw a perch through the point `foot`, in pixels; `unit` is the bird's length in pixels."""
    kind = rng.random()
    if kind < 0.6:
        _branch(canvas, rng, foot, unit, size)
    elif kind < 0.8:
        _stone(canvas, rng, foot, unit, size)
    else:
        _ground(canvas, rng, foot, unit, size)


def _around(rng: np.random.Generator, reach: float) -> float:
    return reach * (2 * rng.random() - 1)


def _branch(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    rows, columns = size
    bark = pick(rng, ((104, 80, 60), (132, 112, 92), (84, 70, 60), (122, 94, 64)))
    leaf = pick(rng, ((96, 140, 62), (126, 158, 74), (72, 118, 72), (178, 142, 62)))
    slope, bow, width = _around(rng, 0.22), _around(rng, 0.04) * rows, unit * (0.07 + 0.06 * rng.random())

    def along(x: float, lift: float) -> Point:
        bend = bow * ((x - foot[0]) / columns) ** 2 * 4
        return x, foot[1] + width * (0.42 - lift) + slope * (x - foot[0]) + bend

    def strip(lift: float, start: float, end: float) -> np.ndarray:
        points = tuple(along(x * columns, lift) for x in (-0.1, 0.2, 0.5, 0.8, 1.1))
        return stroke(points, width * start, width * end)

    for _ in range(int(rng.random() * 5)):
        x, side, turn, length = rng.random(4)
        base = along(x * columns, 0.0)
        up = -1 if side < 0.5 else 1
        reach = unit * (0.16 + 0.12 * length)
        tip = (base[0] + (turn - 0.5) * 1.6 * reach, base[1] + up * reach)
        canvas.fill(feather(base, tip, reach * 0.5, bend=_around(rng, 0.1) * reach, blunt=0.1), darker(leaf, 0.2))
        middle = ((base[0] + tip[0]) / 2, (base[1] + tip[1]) / 2)
        canvas.fill(feather(middle, tip, reach * 0.2, blunt=0.0), lighter(leaf, 0.12))
    canvas.fill(strip(0.0, 1.15, 0.85), darker(bark, 0.35))
    canvas.fill(strip(0.14, 0.75, 0.5), bark)
    canvas.fill(strip(0.3, 0.2, 0.12), lighter(bark, 0.25))


def _stone(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    stone = pick(rng, ((128, 124, 120), (150, 140, 126), (104, 102, 106), (134, 120, 108)))
    half = unit * (0.42 + 0.3 * rng.random())
    depth = max(size[0] - foot[1], half) * 1.2
    left, right = 0.8 + 0.4 * rng.random(), 0.8 + 0.4 * rng.random()
    edge = (
        (-1.5 * left, depth),
        (-1.05 * left, 0.34 * half),
        (-0.55 * left, 0.07 * half),
        (0.0, -0.015 * half),
        (0.55 * right, 0.06 * half),
        (1.0 * right, 0.30 * half),
        (1.5 * right, depth),
    )
    x, y = foot
    canvas.fill(closed_curve(tuple((x + half * dx, y + dy) for dx, dy in edge)), darker(stone, 0.3))
    top = (*edge[1:-1], (0.7 * right, 0.42 * half), (0.1, 0.34 * half), (-0.6 * left, 0.46 * half))
    canvas.fill(closed_curve(tuple((x + half * 0.96 * dx, y + dy) for dx, dy in top)), lighter(stone, 0.08))
    for _ in range(14):
        across, down, grain = rng.random(3)
        centre = (x + half * 1.1 * (2 * across - 1), y + (0.35 + 0.9 * down) * half)
        speck = disc(centre, unit * (0.02 + 0.05 * grain), unit * (0.01 + 0.025 * grain), 8)
        canvas.fill(speck, mix(darker(stone, 0.36), stone, grain * 0.6))


def _ground(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    rows, columns = size
    earth = pick(rng, ((150, 124, 92), (112, 128, 74), (176, 156, 122), (120, 104, 88)))
    slope = _around(rng, 0.08)
    x, y = foot
    lift = unit * (0.06 + 0.25 * rng.random())
    edge = [
        (at * columns, y - lift + slope * (at * columns - x) + _around(rng, 0.01) * rows)
        for at in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    canvas.fill(np.array([*edge, (columns, rows), (0, rows)]), earth)
    for _ in range(26):
        across, down, grain = rng.random(3)
        centre = (across * columns, y + unit * (0.05 - 0.2 * grain) + down * down * (rows - y))
        blade = unit * (0.02 + 0.05 * grain)
        canvas.fill(disc(centre, blade, blade * 0.35, 8), mix(darker(earth, 0.25), lighter(earth, 0.25), grain))
    shadow = tuple(
        (x + unit * dx, y + unit * dy) for dx, dy in ((-0.42, 0.05), (0.0, 0.02), (0.36, 0.045), (0.0, 0.085))
    )
    canvas.fill(closed_curve(shadow), darker(earth, 0.4))
