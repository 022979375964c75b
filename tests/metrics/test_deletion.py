"""Deletion and insertion: by hand, against a slow program, and where the answer cannot change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protokern.metrics import Context, measure
from protokern.metrics.deletion import moved, versions
from tests.explain.small_models import small_model, small_pool
from tests.metrics import plain
from tests.metrics.marked import random_images


def test_an_image_without_its_boxes_and_with_nothing_else() -> None:
    image, rest = torch.arange(12.0).reshape(1, 3, 4), torch.full((1, 3, 4), -1.0)
    without, alone = versions(image, rest, [(0, 0, 1, 2), (1, 1, 3, 2)])
    assert without[0].tolist() == [[-1, -1, 2, 3], [4, -1, 6, 7], [8, -1, 10, 11]]
    assert alone[0].tolist() == [[0, 1, -1, -1], [-1, 5, -1, -1], [-1, 9, -1, -1]]


def test_random_places_keep_the_size_and_stay_inside() -> None:
    boxes = [(0, 0, 3, 2), (1, 1, 2, 7), (0, 0, 8, 8)]
    seen = set()
    for index in range(1000):
        places = moved(boxes, (8, 8), (0, index))
        assert [(b[2] - b[0], b[3] - b[1]) for b in places] == [(3, 2), (1, 6), (8, 8)]
        assert all(b[0] >= 0 and b[2] <= 8 and b[1] >= 0 and b[3] <= 8 for b in places)
        seen.add(places[0][:2])
    assert len(seen) == 6 * 7  # every place there is
    assert moved(boxes, (8, 8), (0, 1)) == moved(boxes, (8, 8), (0, 1))


@pytest.mark.parametrize("make", [small_model, small_pool], ids=["protopnet", "protopool"])
@pytest.mark.parametrize("with_frames", [True, False])
def test_against_a_slow_program(make, with_frames: bool) -> None:
    model, number = make(), 6
    images, labels = random_images(number)

    def frame(image: torch.Tensor, prototype: int, patch: tuple[int, int]) -> tuple[int, int, int, int]:
        return 4 * patch[0], 0, 4 * patch[0] + 4, 8 + prototype

    frames = {"grid": frame} if with_frames else {}
    context = Context(subset=4, shown=2, seed=5, frames=frames)
    loader = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    (result,) = measure(model, loader, number, only=["deletion"], context=context)
    wanted: dict[str, list[float]] = {}
    for index in np.random.default_rng(5).permutation(number)[:4].tolist():
        image = images[index]
        with torch.no_grad():
            output = model(image[None])
        logits = output.logits[0].tolist()
        answer = max(range(4), key=lambda k: logits[k])
        weight = model.prototype_weight.detach()[answer]
        points = [float(a) * float(weight[j]) for j, a in enumerate(output.activations[0])]
        boxes = []
        for j in sorted(range(len(points)), key=lambda j: -points[j])[:2]:
            row, column = divmod(int(output.patches[0, j]), 8)
            cell = (4 * row, 4 * column, 4 * row + 4, 4 * column + 4)
            boxes.append((4 * row, 0, 4 * row + 4, 8 + j) if with_frames else cell)
        rng = np.random.default_rng([5, index])
        elsewhere = []
        for y0, x0, y1, x1 in boxes:
            top = int(rng.integers(32 - (y1 - y0) + 1))
            left = int(rng.integers(32 - (x1 - x0) + 1))
            elsewhere.append((top, left, top + y1 - y0, left + x1 - x0))
        grey = torch.full_like(image, 0.5)
        for where, some in (("", boxes), (", at random places", elsewhere)):
            for what, chosen in (("strongest frame", some[:1]), ("2 frames", some)):
                pair = plain.without_and_with(image, grey, chosen)
                for kind, changed in zip(("without", "with nothing but"), pair, strict=True):
                    with torch.no_grad():
                        confidence = model(changed[None]).logits[0].double().softmax(dim=0)[answer]
                    wanted.setdefault(f"{kind} the {what}{where}", []).append(float(confidence))
        with torch.no_grad():
            wanted.setdefault("confidence before", []).append(float(output.logits[0].double().softmax(dim=0)[answer]))
    for name, values in wanted.items():
        assert result.estimates[name].value == pytest.approx(np.mean(values), rel=1e-4)
    assert len(wanted) == 9 == len(result.estimates) - 1
    assert result.passes == 4 * 8


def test_nothing_changes_in_an_image_that_is_the_grey_already() -> None:
    loader = [(torch.full((3, 3, 32, 32), 0.5), torch.tensor([0, 1, 2]))]
    (result,) = measure(small_model(), loader, 3, only=["deletion"])
    before = result.estimates["confidence before"].value
    same = [number.value for name, number in result.estimates.items() if "the" in name and "area" not in name]
    assert same == pytest.approx([before] * 8, rel=1e-5)


def test_another_image_needs_another_image() -> None:
    (result,) = measure(small_model(), [random_images(4)], 4, only=["deletion"], context=Context(fill="other"))
    assert result.left_out == "the rest cannot become another image, because there is none to take"
