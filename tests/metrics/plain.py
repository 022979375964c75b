"""Slow programs for the measures, from their definitions; they share no code with the package."""

from __future__ import annotations

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
