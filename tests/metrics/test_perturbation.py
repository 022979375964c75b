"""What a match loses by changes on it and elsewhere: by hand, against slow programs, and where the truth is known."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from torch import nn

from protokern.metrics import measure
from protokern.metrics.perturbation import attribution, perturbations, waves
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model
from tests.metrics import plain
from tests.metrics.marked import random_images

NAMES = ["brightness", "contrast", "saturation", "hue", "blur", "waves"]


def bump(row: int, column: int, cells: int, side: int) -> torch.Tensor:
    at = [[float((y, x) == (row, column)) for x in range(cells)] for y in range(cells)]
    return torch.tensor(plain.upsampled(at, (side, side))).clamp(0, 1)


def changed_slowly(image: torch.Tensor, where: torch.Tensor) -> dict[str, torch.Tensor]:
    """The six changes of an image (3, 32, 32) by their formulas."""
    grey = (0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None]
    hue = image.clone()
    for y in range(32):
        for x in range(32):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            hue[:, y, x] = torch.tensor(colorsys.hsv_to_rgb((h + 0.2) % 1, s, v))
    # Of 32 pixels one on each side, with a standard deviation of 2 * 32 / 224, mirrored at the border.
    side = math.exp(-0.5 * (224 / 64) ** 2)
    kernel = [side / (1 + 2 * side), 1 / (1 + 2 * side), side / (1 + 2 * side)]
    wide = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="reflect")[0]
    blur = sum(kernel[i] * kernel[j] * wide[:, i : i + 32, j : j + 32] for i in range(3) for j in range(3))
    ys, xs = np.nonzero(where.numpy() > 0.3)
    box = (int(ys.min()), int(xs.min()), int(ys.max()), int(xs.max()))
    return {
        "brightness": 0.3 * image,
        "contrast": 0.2 * image + 0.8 * grey.mean(),
        "saturation": 0.3 * image + 0.7 * grey,
        "hue": hue,
        "blur": blur,
        "waves": plain.waves(image, box),
    }


def test_a_match_is_1_at_its_patch_and_0_far_from_it() -> None:
    found = attribution((8, 8), (2, 5), (32, 32))
    assert torch.allclose(found, bump(2, 5, 8, 32).float(), atol=1e-6)
    assert float(found.max()) == pytest.approx(float(found[8:12, 20:24].max()))
    assert float(found[20:, :12].abs().max()) == 0


def test_changes_against_slow_programs() -> None:
    image, where = random_images(1)[0][0], attribution((8, 8), (2, 5), (32, 32))
    wanted = changed_slowly(image, where)
    changes = perturbations(3)
    assert list(changes) == NAMES
    for name, change in changes.items():
        assert torch.allclose(change(image, where), wanted[name], atol=2e-4), name


@pytest.mark.parametrize("size", [(224, 224), (20, 50), (50, 20)], ids=str)
def test_waves_against_a_slow_program(size: tuple[int, int]) -> None:
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    where = torch.zeros(size)
    where[3:12, 5:9] = 1.0
    assert torch.equal(waves(image, where), plain.waves(image, (3, 5, 11, 8)))


def test_grey_images_have_no_colours_to_change() -> None:
    assert list(perturbations(1)) == ["brightness", "contrast", "blur", "waves"]
    assert list(perturbations(5)) == ["blur", "waves"]


def test_over_a_data_set_against_a_slow_program() -> None:
    model, number = small_model(), 4
    images, labels = random_images(number)
    (result,) = measure(model, [(images[:3], labels[:3]), (images[3:], labels[3:])], number, only=["perturbation"])
    layer = model.prototype_layer
    on: dict[str, list[float]] = {}
    off: dict[str, list[float]] = {}
    most = {}

    def similarity(picture: torch.Tensor, j: int) -> torch.Tensor:
        with torch.no_grad():
            features = model.features(picture[None].float())[0].double()
        distance = ((features - layer.prototypes.detach()[j].double()[:, None, None]) ** 2).sum(dim=0)
        return ((distance + 1) / (distance + layer.epsilon)).log()

    for image, label in zip(images, labels.tolist(), strict=True):
        maps = {j: similarity(image, j) for j in range(3 * label, 3 * label + 3)}
        j = max(maps, key=lambda one: (float(maps[one].max()), -one))
        row, column = divmod(int(maps[j].argmax()), 8)
        whole, where = float(maps[j][row, column]), bump(row, column, 8, 32)
        drops = []
        for name, changed in changed_slowly(image, where).items():
            drops.append((whole - float(similarity(where * changed + (1 - where) * image, j)[row, column])) / whole)
            rest = (whole - float(similarity((1 - where) * changed + where * image, j)[row, column])) / whole
            on.setdefault(name, []).append(drops[-1])
            off.setdefault(name, []).append(rest)
        most[j] = max(drops)
    for name in NAMES:
        assert result.estimates[f"{name}, on the match"].value == pytest.approx(np.mean(on[name]), abs=2e-3)
        assert result.estimates[f"{name}, elsewhere"].value == pytest.approx(np.mean(off[name]), abs=2e-3)
    for j, drop in most.items():
        assert result.prototypes["largest drop on the match"][j] == pytest.approx(drop, abs=2e-3)
    lost = result.estimates["prototypes that lose more than a tenth"]
    assert (lost.value, lost.prototypes) == (np.mean([drop > 0.1 for drop in most.values()]), 4)
    assert result.passes == 4 * 13


def test_a_net_that_sees_one_cell_loses_on_the_match_and_one_that_ignores_the_image_loses_nothing() -> None:
    class _Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 6, 8, 8)

    for backbone, is_blind in ((nn.Conv2d(3, 6, 4, stride=4), False), (_Fixed(), True)):
        torch.manual_seed(3)
        model = ProtoPNet(backbone, 2, prototypes_per_class=2, prototype_dim=5, image_size=32).eval()
        images, labels = random_images(6)
        (result,) = measure(model, [(images, labels % 2)], 6, only=["perturbation"])
        on, off = (
            np.mean([abs(n.value) for name, n in result.estimates.items() if name.endswith(place)])
            for place in ("on the match", "elsewhere")
        )
        assert (on == off == 0) if is_blind else on > 3 * off


def test_a_linear_similarity_has_no_share() -> None:
    model = small_model()
    model.prototype_layer.activation = "linear"
    (result,) = measure(model, [], 0, only=["perturbation"])
    assert "negative distance" in result.left_out
