"""What is around the bird: a backdrop, a little out of focus, and a branch, a stone or the ground to stand on.

Drawn from the image's own random numbers and from nothing else: surroundings say nothing about the species.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from protokern.data.birds.painter import Canvas
from protokern.data.birds.shapes import Point, closed_curve, darker, disc, feather, lighter, mix, stroke
from protokern.data.birds.species import Colour

Size = tuple[int, int]  # (rows, columns)


def noise(rng: np.random.Generator, size: Size, rows: int, columns: int) -> np.ndarray:
    """Smooth random field (Y, X) float32 in [0, 1], with about rows x columns hills."""
    cells = Image.fromarray((rng.random((rows + 1, columns + 1)) * 256).astype(np.uint8))
    smooth = cells.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth).astype(np.float32) / np.float32(255)


def pick(rng: np.random.Generator, choices: tuple[Colour, ...]) -> Colour:
    """One of the colours, a little lighter or darker."""
    colour = choices[int(rng.random() * len(choices))]
    factor = 0.88 + 0.24 * rng.random()
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


def around(rng: np.random.Generator, reach: float) -> float:
    """A number between -`reach` and `reach`, all equally likely."""
    return reach * (2 * rng.random() - 1)


def blend(first: Colour, second: Colour, share: np.ndarray) -> np.ndarray:
    """(Y, X, 3) float32: from `first` where the (Y, X) share is 0 to `second` where it is 1."""
    start, end = np.array(first, dtype=np.float32), np.array(second, dtype=np.float32)
    return start + (end - start) * share[..., None]


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _down(size: Size) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32)[:, None], size)


def _sky(rng: np.random.Generator, size: Size) -> Image.Image:
    top = pick(rng, ((92, 152, 214), (120, 172, 222), (150, 166, 186), (206, 160, 150), (98, 128, 178)))
    bottom = mix(top, (250, 240, 226), 0.55 + 0.3 * rng.random())
    pixels = blend(top, bottom, _down(size))
    clouds = 0.6 * noise(rng, size, 3, 3) + 0.4 * noise(rng, size, 7, 6)
    amount = (clouds - np.float32(0.45 + 0.15 * rng.random())) * 3
    pixels += (np.float32(248) - pixels) * amount.clip(0, 0.85)[..., None]
    return _image(pixels)


def _leaves(rng: np.random.Generator, size: Size) -> Image.Image:
    dark = pick(rng, ((38, 74, 40), (52, 84, 38), (72, 88, 46), (46, 70, 56)))
    light = pick(rng, ((126, 172, 80), (160, 186, 92), (112, 156, 104), (196, 178, 84)))
    image = _image(blend(dark, light, 0.5 * noise(rng, size, 4, 4) + 0.35 * noise(rng, size, 10, 10)))
    for sharp in (False, True):
        draw = ImageDraw.Draw(image)
        for _ in range(10):
            x, y, angle, share = rng.random(4)
            length = (0.07 + 0.09 * rng.random()) * min(size)
            _leaf(draw, (x * size[1], y * size[0]), length, angle * 6.2832, mix(dark, light, share))
        image = image.filter(ImageFilter.GaussianBlur((0.008 if sharp else 0.03) * min(size)))
    return image


def _leaf(draw: ImageDraw.ImageDraw, centre: tuple[float, float], length: float, angle: float, colour: Colour) -> None:
    cos, sin = float(np.cos(angle)) * length, float(np.sin(angle)) * length
    x, y = centre
    corners = []
    for along, across in ((-1, 0), (-0.45, 0.36), (0.2, 0.38), (1, 0), (0.2, -0.38), (-0.45, -0.36)):
        corners.append((x + along * cos - across * sin, y + along * sin + across * cos))
    draw.polygon(corners, fill=colour)


def _wood(rng: np.random.Generator, size: Size) -> Image.Image:
    dark = pick(rng, ((44, 50, 42), (58, 52, 44), (40, 54, 52)))
    light = pick(rng, ((124, 140, 98), (150, 142, 112), (128, 146, 138)))
    image = _image(blend(dark, light, 0.75 * noise(rng, size, 3, 5) + 0.2 * noise(rng, size, 9, 9)))
    draw = ImageDraw.Draw(image)
    for _ in range(3 + int(rng.random() * 4)):
        x, width, lean, share = rng.random(4)
        left, half = x * size[1], (0.02 + 0.05 * width) * size[1]
        slant = (lean - 0.5) * 0.2 * size[1]
        bark = mix(dark, pick(rng, ((96, 76, 60), (128, 116, 104), (70, 58, 50))), 0.4 + 0.6 * share)
        draw.polygon(
            [
                (left - half, size[0]),
                (left - half * 0.7 + slant, 0),
                (left + half * 0.7 + slant, 0),
                (left + half, size[0]),
            ],
            fill=bark,
        )
    return image.filter(ImageFilter.GaussianBlur(0.02 * min(size)))


def _water(rng: np.random.Generator, size: Size) -> Image.Image:
    deep = pick(rng, ((44, 92, 122), (58, 110, 118), (78, 104, 128), (66, 88, 78)))
    light = mix(deep, (220, 234, 240), 0.55)
    ripples = 0.5 * noise(rng, size, 16, 3) + 0.5 * noise(rng, size, 28, 6)
    pixels = blend(deep, light, (ripples * (0.6 + 0.5 * _down(size))).clip(0, 1))
    pixels += ((ripples > 0.72) * np.float32(34))[..., None]
    return _image(pixels).filter(ImageFilter.GaussianBlur(0.006 * min(size)))


def _sand(rng: np.random.Generator, size: Size) -> Image.Image:
    sand = pick(rng, ((214, 190, 146), (196, 172, 136), (224, 206, 172), (178, 150, 118)))
    pixels = blend(
        mix(sand, (70, 54, 40), 0.35), sand, 0.4 + 0.4 * noise(rng, size, 14, 4) + 0.2 * noise(rng, size, 30, 30)
    )
    if rng.random() < 0.5:
        horizon = 0.2 + 0.3 * rng.random()
        far = pick(rng, ((150, 190, 216), (188, 204, 212), (96, 140, 160)))
        above = ((np.float32(horizon) - _down(size)) * 14 + 0.5).clip(0, 1)
        pixels += (np.array(far, dtype=np.float32) - pixels) * above[..., None]
    return _image(pixels).filter(ImageFilter.GaussianBlur(0.005 * min(size)))


def _meadow(rng: np.random.Generator, size: Size) -> Image.Image:
    grass = pick(rng, ((104, 142, 62), (132, 150, 76), (86, 128, 76), (166, 156, 88)))
    pixels = blend(
        mix(grass, (30, 44, 24), 0.5),
        mix(grass, (232, 236, 180), 0.3),
        0.6 * noise(rng, size, 5, 4) + 0.3 * noise(rng, size, 9, 22),
    )
    image = _image(pixels)
    draw = ImageDraw.Draw(image)
    flower = pick(rng, ((238, 214, 76), (232, 232, 236), (206, 92, 120), (140, 110, 190)))
    for _ in range(int(rng.random() * 14)):
        x, y, r = rng.random(3)
        radius = (0.012 + 0.02 * r) * min(size)
        cx, cy = x * size[1], (0.3 + 0.7 * y) * size[0]
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=flower)
    return image.filter(ImageFilter.GaussianBlur(0.014 * min(size)))


def _rock(rng: np.random.Generator, size: Size) -> Image.Image:
    stone = pick(rng, ((142, 138, 132), (120, 116, 118), (164, 150, 134), (104, 108, 104)))
    grain = 0.45 * noise(rng, size, 3, 4) + 0.35 * noise(rng, size, 9, 8) + 0.2 * noise(rng, size, 26, 26)
    return _image(blend(mix(stone, (36, 34, 36), 0.55), mix(stone, (246, 242, 236), 0.4), grain))


BACKDROPS: tuple[Callable[[np.random.Generator, Size], Image.Image], ...] = (
    _sky,
    _leaves,
    _wood,
    _water,
    _sand,
    _meadow,
    _rock,
)


def draw_backdrop(rng: np.random.Generator, size: Size) -> Image.Image:
    """One of the backdrops, in RGB, all equally likely."""
    return BACKDROPS[int(rng.random() * len(BACKDROPS))](rng, size)


def draw_perch(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    """Draw a perch through the point `foot`, in pixels; `unit` is the bird's length in pixels."""
    kind = rng.random()
    if kind < 0.6:
        _branch(canvas, rng, foot, unit, size)
    elif kind < 0.8:
        _stone(canvas, rng, foot, unit, size)
    else:
        _ground(canvas, rng, foot, unit, size)


def _branch(canvas: Canvas, rng: np.random.Generator, foot: Point, unit: float, size: Size) -> None:
    rows, columns = size
    bark = pick(rng, ((104, 80, 60), (132, 112, 92), (84, 70, 60), (122, 94, 64)))
    leaf = pick(rng, ((96, 140, 62), (126, 158, 74), (72, 118, 72), (178, 142, 62)))
    slope, bow, width = around(rng, 0.22), around(rng, 0.04) * rows, unit * (0.07 + 0.06 * rng.random())

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
        canvas.fill(feather(base, tip, reach * 0.5, bend=around(rng, 0.1) * reach, blunt=0.1), darker(leaf, 0.2))
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
    slope = around(rng, 0.08)
    x, y = foot
    lift = unit * (0.06 + 0.25 * rng.random())
    edge = [
        (at * columns, y - lift + slope * (at * columns - x) + around(rng, 0.01) * rows)
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
