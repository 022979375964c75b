"""Slow programs for the measures, from their definitions; they share no code with the package."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn


def on_object(inside, patches, distances, cells, size) -> tuple[float, float, float]:
    """(own, best, chance) with `inside(y, x)` for exact shares of the image's sides."""

    def centre_is_in(row: int, column: int) -> bool:
        return inside(Fraction(2 * row + size[0], 2 * cells[0]), Fraction(2 * column + size[1], 2 * cells[1]))

    rows, columns = cells[0] - size[0] + 1, cells[1] - size[1] + 1
    every = [centre_is_in(row, column) for row in range(rows) for column in range(columns)]
    hits = [every[patch] for patch in patches]
    best = min(range(len(distances)), key=lambda position: (distances[position], position))
    return sum(hits) / len(hits), float(hits[best]), sum(every) / len(every)


def concentration(activations, weight, first, second, shown, needed) -> tuple[float, float, float]:
    moved = sorted(
        (
            abs(float(a) * (float(one) - float(other)))
            for a, one, other in zip(activations, weight[first], weight[second], strict=True)
        ),
        reverse=True,
    )
    points = [float(a) * float(w) for a, w in zip(activations, weight[first], strict=True)]
    number, total = 0, 0.0
    while total < needed * sum(moved) - 1e-9:
        total += moved[number]
        number += 1
    positive = sum(point for point in points if point > 0) / sum(abs(point) for point in points)
    return sum(moved[:shown]) / sum(moved), float(number), positive


def similarity_left(net: nn.Module, prototype: Tensor, image: Tensor, patch: tuple[int, int], box, activate) -> float:
    """What is left of the similarity at a patch of one cell, pixel by pixel and image by image."""
    kept = torch.full_like(image, 0.5)
    y0, x0, y1, x1 = box
    for y in range(y0, y1):
        for x in range(x0, x1):
            kept[:, y, x] = image[:, y, x]
    found = []
    with torch.no_grad():
        for one in (image, kept):
            vector = net(one[None])[0, :, patch[0], patch[1]].double()
            found.append(activate(float(((vector - prototype.double()) ** 2).sum())))
    return found[1] / found[0]


def duplicates(vectors, sources, boxes) -> list[tuple[int, int, bool, bool, float]]:
    """All pairs, two by two, with boxes as sets of pixels."""

    def pixels(box) -> set[tuple[int, int]]:
        return {(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])}

    found = []
    for j in range(len(vectors)):
        for i in range(j):
            same_vector = vectors[i].tolist() == vectors[j].tolist()
            has_sources = sources[i] is not None and sources[j] is not None
            same_patch = has_sources and sources[i] == sources[j]
            share = 0.0
            if has_sources and sources[i][0] == sources[j][0]:
                one, other = pixels(boxes[i]), pixels(boxes[j])
                share = len(one & other) / len(one | other)
            if same_vector or same_patch or share > 0.5:
                found.append((i, j, same_vector, same_patch, share))
    return sorted(found)


def weight_counts(weight) -> tuple[int, float, float]:
    classes, prototypes = range(len(weight)), range(len(weight[0]))
    used = sum(any(abs(float(weight[k][j])) > 1e-3 for k in classes) for j in prototypes)
    cells = [float(weight[k][j]) for k in classes for j in prototypes]
    positive = sum(one > 1e-3 for one in cells)
    return used, sum(abs(one) <= 1e-3 for one in cells) / len(cells), sum(one < -1e-3 for one in cells) / positive


def sparsity(prototypes, num_classes: int, area: int) -> float:
    """For squared distances: vectors as tuples of rounded numbers in sets."""
    whole, cells = set(), set()
    for one in prototypes:
        columns = one.reshape(one.shape[0], -1).T.tolist()
        rounded = [tuple(round(value, 8) for value in column) for column in columns]
        whole.add(tuple(rounded))
        cells.update(rounded)
    return num_classes * (1 + 1 / area) / (len(whole) + len(cells) / area)


def calibration_error(confidence, is_right) -> float:
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [i for i, one in enumerate(confidence) if low < one <= high or (number == 0 and one == 0)]
        if inside:
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            right = sum(bool(is_right[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(mean - right)
    return total


def cubic(values, length: int) -> list[float]:
    """A row of numbers stretched to `length` by cubic convolution with a = -0.75, its ends repeated."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    stretched = []
    for position in range(length):
        at = (position + 0.5) * len(values) / length - 0.5
        low = int(at // 1)
        stretched.append(
            sum(float(values[min(max(i, 0), len(values) - 1)]) * kernel(at - i) for i in range(low - 1, low + 3))
        )
    return stretched


def upsampled(grid, size: tuple[int, int]) -> list[list[float]]:
    wide = [cubic(row, size[1]) for row in grid]
    columns = [cubic([row[x] for row in wide], size[0]) for x in range(size[1])]
    return [[column[y] for column in columns] for y in range(size[0])]


def peak(grid, size: tuple[int, int]) -> tuple[int, int]:
    large = upsampled(grid, size)
    return max(((y, x) for y in range(size[0]) for x in range(size[1])), key=lambda at: (large[at[0]][at[1]], at))


def parts_in_box(parts, y: float, x: float, half: float) -> set[str]:
    return {part.name for part in parts if y - half <= part.y <= y + half and x - half <= part.x <= x + half}


def consistent(found, shown) -> tuple[bool, float]:
    """For one prototype: `found` the names in its box, `shown` those in the image, image by image."""
    names = set().union(*shown)
    shares = [sum(n in one for one in found) / sum(n in one for one in shown) for n in names]
    return max(shares) >= 0.8, max(shares)


def percentile(values, share: float) -> float:
    ranked = sorted(values)
    at = (len(ranked) - 1) * share
    low = int(at)
    return ranked[low] + (at - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])


def map_shares(heat, on) -> dict[str, float]:
    """Pixel by pixel, of one map and one object."""
    pixels = [(float(heat[y][x]), bool(on[y][x])) for y in range(len(heat)) for x in range(len(heat[0]))]
    values = [value for value, _ in pixels]
    low, high = min(values), max(values)
    energy = [((value - low) / (high - low), inside) for value, inside in pixels]
    cut = sorted(values)[int(len(values) * 0.9)]
    tenth = [inside for value, inside in pixels if value > cut]
    top = percentile(values, 0.95)
    twentieth = [inside for value, inside in pixels if value >= top]
    within = [value for value, inside in pixels if inside and value > 0]
    without = [value for value, inside in pixels if not inside and value > 0]
    size, hits = sum(inside for _, inside in pixels), sum(twentieth)
    inside_mean = sum(within) / len(within) if within else 0.0
    outside_mean = sum(without) / len(without) if without else 0.0
    return {
        "energy": sum(value for value, inside in energy if inside) / sum(value for value, _ in energy),
        "pointing": sum(tenth) / len(tenth),
        "outside_inside": outside_mean / inside_mean if within else float("nan"),
        "inside_outside": (inside_mean - outside_mean) / high,
        "object_overlap": hits / size,
        "background_overlap": 1 - hits / len(twentieth),
        "iou": hits / (size + len(twentieth) - hits),
    }


def without_and_with(image, rest, boxes):
    """Two copies of an image, pixel by pixel: without some boxes, and with nothing but them."""
    first, second = image.clone(), image.clone()
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            inside = any(y0 <= y < y1 and x0 <= x < x1 for y0, x0, y1, x1 in boxes)
            (first if inside else second)[:, y, x] = rest[:, y, x]
    return first, second


def waves(image, low_box: tuple[int, int, int, int]):
    """Rows and then columns of an image rolled one by one; the box is (y0, x0, y1, x1), its ends included."""
    height, width = image.shape[1:]
    y0, x0, y1, x1 = low_box
    periods = 5 / max(1, x1 - x0, y1 - y0)
    rolled = image.clone()
    for y in range(height):
        shift = int(7 * width / 224 * math.sin(2 * math.pi * y * periods))
        rolled[:, y] = torch.roll(rolled[:, y], shift, dims=1)
    for x in range(width):
        shift = int(7 * height / 224 * math.sin(2 * math.pi * x * periods))
        rolled[:, :, x] = torch.roll(rolled[:, :, x], shift, dims=1)
    return rolled


def box_difference(one, other) -> float:
    """1 - smaller over larger of two lists of numbers, each sorted, what is below 0 as 0."""
    pairs = list(zip(sorted(max(v, 0) for v in one), sorted(max(v, 0) for v in other), strict=True))
    return 1 - sum(min(pair) for pair in pairs) / sum(max(pair) for pair in pairs)


def change(before, after, prototypes, size: tuple[int, int]) -> dict[str, float]:
    """`before` and `after` are (activations, logits, maps), all lists; the maps are those of `prototypes`."""
    sums = dict.fromkeys(("area", "place", "highest", "rank", "map"), 0.0)
    for number, prototype in enumerate(prototypes):
        high, peaks = [], []
        for _, _, maps in (before, after):
            large = upsampled(maps[number], size)
            pixels = [(y, x) for y in range(size[0]) for x in range(size[1])]
            top = percentile([large[y][x] for y, x in pixels], 0.95)
            high.append({(y, x) for y, x in pixels if large[y][x] >= top})
            peaks.append(max(pixels, key=lambda at: large[at[0]][at[1]]))
        sums["area"] += 1 - len(high[0] & high[1]) / len(high[0] | high[1])
        sums["place"] += abs(peaks[0][0] - peaks[1][0]) / size[0] + abs(peaks[0][1] - peaks[1][1]) / size[1]
        flat = [[value for row in maps[number] for value in row] for _, _, maps in (before, after)]
        sums["highest"] += abs(max(flat[1]) - max(flat[0])) / max(flat[0])
        ranks = [sum(value > one[prototype] for value in one) for one, _, _ in (before, after)]
        sums["rank"] += abs(ranks[0] - ranks[1])
        sums["map"] += box_difference(*flat)
    answer = max(range(len(before[1])), key=lambda k: before[1][k])
    powers = [[math.exp(v) for v in logits] for _, logits, _ in (before, after)]
    return {name: total / len(prototypes) for name, total in sums.items()} | {
        "classes": box_difference(*([v / sum(one) for v in one] for one in powers)),
        "answer": sum(v > after[1][answer] for v in after[1]),
    }


def rank_correlation(one, other) -> float:
    """Spearman's: Pearson's of the ranks, where equal values share the mean of their ranks."""
    ranks = [
        [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values] for values in (one, other)
    ]
    means = [sum(some) / len(some) for some in ranks]
    pairs = [(a - means[0], b - means[1]) for a, b in zip(*ranks, strict=True)]
    return sum(a * b for a, b in pairs) / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
