"""Sufficient frames keep what they say, by a program of its own that fills, runs the net and compares."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from protokern.data import SyntheticBirds
from protokern.explain import Box, FrameTarget, sufficient_frame, sufficient_frames
from protokern.models import ProtoPNet
from protokern.models.base import PrototypeModel, vectors_of
from protokern.nn import PrototypeLayer
from tests.explain.small_models import small_model, small_pool


def own_model(backbone: nn.Module, size: tuple[int, int], in_channels: int = 3) -> ProtoPNet:
    """One prototype, whose similarity to a patch is the one feature there, from 0 to 1."""
    model = ProtoPNet(
        backbone,
        2,
        prototypes_per_class=1,
        prototype_dim=1,
        add_on_layers="linear",
        activation=lambda distance: 1 - distance.sqrt(),
        in_channels=in_channels,
        image_size=size,
    )
    for name, value in (
        ("prototype_layer.prototypes", 1.0),
        ("add_on_layers.0.weight", 1.0),
        ("add_on_layers.0.bias", 0),
    ):
        nn.init.constant_(model.get_parameter(name), value)
    return model.eval()


class RedWindow(nn.Module):
    """How much red more than green there is in the pixels of a cell of 8 x 8 and of the eight cells around it."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d((images[:, :1] - images[:, 1:2]).relu(), 24, 8, padding=8)


class MarkedPart(nn.Module):
    """Every cell of 8 x 8 sees the whole image, and of that the pixels that the last channel marks."""

    def forward(self, images: Tensor) -> Tensor:
        amount = 2 * (images[:, -1:] - 0.5).relu().mean(dim=(2, 3), keepdim=True)
        return amount.expand(-1, -1, images.shape[2] // 8, images.shape[3] // 8)


class FourBorders(nn.Module):
    """The darkest of the four borders: every one of them is needed."""

    def forward(self, images: Tensor) -> Tensor:
        lines = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
        least = torch.stack([2 * line.mean(dim=(1, 2)) - 1 for line in lines]).amin(dim=0)
        return least[:, None, None, None].expand(-1, 1, 4, 4)


class Shorter(nn.Module):
    """Brings the length of features below 1, where it is a weight."""

    def forward(self, features: Tensor) -> Tensor:
        return features / 4


def similarity_of(model: PrototypeModel, image: Tensor, prototype: int, patch: tuple[int, int]) -> float:
    """Slow and on its own: squared distance of one vector, or block of vectors, to one prototype."""
    with torch.no_grad():
        features = model.add_on_layers(model.backbone(image[None]))[0]
        vector = vectors_of(model)[prototype]
        height, width = vector.shape[1:] if vector.ndim == 3 else (1, 1)
        block = features[:, patch[0] : patch[0] + height, patch[1] : patch[1] + width]
        distance = (block - vector.reshape(block.shape)).square().sum()
        activation = model.prototype_layer.activation
        if callable(activation):
            return float(activation(distance))
        assert activation == "log"
        return float(torch.log((distance + 1) / (distance + 1e-4)))


def kept_by(
    model: PrototypeModel, image: Tensor, prototype: int, patch: tuple[int, int], box: Box, fill: Tensor
) -> float:
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[box.y0 : box.y1, box.x0 : box.x1] = True
    variant = torch.where(inside, image, fill)
    return similarity_of(model, variant, prototype, patch) / similarity_of(model, image, prototype, patch)


def grey(image: Tensor) -> Tensor:
    return torch.full_like(image, 0.5)


def blurred(image: Tensor) -> Tensor:
    """SciPy's Gaussian of a twentieth of each side."""
    values = image.numpy()
    for axis in (1, 2):
        sigma = values.shape[axis] / 20
        radius = int(np.ceil(3 * sigma))
        values = gaussian_filter1d(values, sigma, axis=axis, mode="mirror", radius=radius)
    return torch.from_numpy(values)


def nearest_patch(model: PrototypeModel, image: Tensor, prototype: int) -> tuple[int, int]:
    with torch.no_grad():
        patch = int(model(image[None]).patches[0, prototype])
        columns = model.features(image[None]).shape[3] - model.prototype_layer.prototype_size[1] + 1
    return divmod(patch, columns)


def holds(outer: Box, inner: Box) -> bool:
    return outer.y0 <= inner.y0 and outer.x0 <= inner.x0 and outer.y1 >= inner.y1 and outer.x1 >= inner.x1


def all_boxes(cell: Box, rows: list[int], columns: list[int]) -> list[Box]:
    """Every box on these lines that holds the cell, the smallest first."""
    boxes = [
        Box(y0, x0, y1, x1)
        for y0, y1 in itertools.product([y for y in rows if y <= cell.y0], [y for y in rows if y >= cell.y1])
        for x0, x1 in itertools.product([x for x in columns if x <= cell.x0], [x for x in columns if x >= cell.x1])
    ]
    return sorted(boxes, key=lambda box: (box.y1 - box.y0) * (box.x1 - box.x0))


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_a_net_whose_cells_see_their_own_pixels_needs_the_cell_alone(size: tuple[int, int]) -> None:
    model = ProtoPNet(
        nn.Conv2d(3, 6, 8, stride=8),
        2,
        prototypes_per_class=2,
        prototype_dim=5,
        add_on_layers="linear",
        image_size=size,
    ).eval()
    image = torch.rand(3, *size)
    for patch in ((0, 0), (2, 3), (3, 1)):
        frame = sufficient_frame(model, image, 1, patch, other=torch.rand(3, *size))
        row, column = patch
        assert frame.box == Box(8 * row, 8 * column, 8 * row + 8, 8 * column + 8)
        for kept in (frame.kept_grey, frame.kept_blur, frame.kept_other):
            assert kept == pytest.approx(1, abs=1e-5)
        assert frame.area == 64 / (size[0] * size[1])
        assert not frame.is_whole


@pytest.mark.parametrize(
    ("size", "part", "patch"),
    [
        ((32, 32), Box(6, 4, 20, 16), (1, 1)),
        ((32, 64), Box(14, 36, 22, 52), (2, 5)),
        ((64, 32), Box(40, 8, 52, 26), (5, 2)),
    ],
    ids=["square", "landscape", "portrait"],
)
def test_the_frame_is_the_part_that_the_similarity_comes_from(
    size: tuple[int, int], part: Box, patch: tuple[int, int]
) -> None:
    """Red pixels are the part; with all of it asked for, nothing less than the box around it will do."""
    model = own_model(RedWindow(), size)
    image = 0.2 + 0.2 * torch.rand(3, *size)
    image[0] = image[1]
    image[0, part.y0 : part.y1, part.x0 : part.x1] = 0.9
    row, column = patch
    cell = Box(8 * row, 8 * column, 8 * row + 8, 8 * column + 8)
    around = Box(min(part.y0, cell.y0), min(part.x0, cell.x0), max(part.y1, cell.y1), max(part.x1, cell.x1))
    assert sufficient_frame(model, image, 0, patch, share=0.999).box == around
    smaller = sufficient_frame(model, image, 0, patch, share=0.6).box
    assert holds(around, smaller)
    assert holds(smaller, cell)
    assert smaller.area < around.area
    assert 0.6 <= kept_by(model, image, 0, patch, smaller, grey(image)) < 0.999


@pytest.mark.parametrize("part", ["beak", "tail", "wing"])
def test_a_part_of_a_bird_is_framed_where_it_is(part: str) -> None:
    """A net that looks at one part of a synthetic bird, which a fourth channel marks, wherever its patch is."""
    birds = SyntheticBirds("test", num_classes=3, images_per_class=1, image_size=64)
    model = own_model(MarkedPart(), (64, 64), in_channels=4)
    for index in range(len(birds)):
        mask = torch.from_numpy(birds.annotations(index).masks[part])
        image = torch.cat([birds[index][0], mask[None].float()])
        ys, xs = mask.nonzero(as_tuple=True)
        patch = int(ys.float().mean()) // 8, int(xs.float().mean()) // 8
        frame = sufficient_frame(model, image, 0, patch)
        assert frame.box is not None
        y0, x0, y1, x1 = frame.box
        assert mask[y0:y1, x0:x1].sum() >= 0.9 * mask.sum()
        cell = Box(8 * patch[0], 8 * patch[1], 8 * patch[0] + 8, 8 * patch[1] + 8)
        part_box = Box(int(ys.min()) - 4, int(xs.min()) - 4, int(ys.max()) + 5, int(xs.max()) + 5)  # a step more
        around = Box(*np.minimum(part_box[:2], cell[:2]).tolist(), *np.maximum(part_box[2:], cell[2:]).tolist())
        assert holds(around, frame.box)


MODELS: dict[str, Callable[[], PrototypeModel]] = {
    "one-cell": small_model,
    "two-by-three": lambda: small_model(prototype_size=(2, 3)),
    "pool": small_pool,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)], ids=["square", "landscape", "portrait"])
def test_frames_keep_what_they_say(name: str, size: tuple[int, int]) -> None:
    model = MODELS[name]()
    images, others = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    targets = [FrameTarget(image, p, nearest_patch(model, images[image], p)) for p in (0, 2, 5) for image in (0, 1)]
    frames = sufficient_frames(model, images, targets, others=others)
    height, width = model.prototype_layer.prototype_size
    for (image, prototype, patch), frame in zip(targets, frames, strict=True):
        full = images[image]
        y0, x0 = patch[0] * 4, patch[1] * 4
        assert holds(frame.box, Box(y0, x0, y0 + 4 * height, x0 + 4 * width))
        fills = {"grey": grey(full), "blur": blurred(full), "other": others[image]}
        # float32 activations; the net rounds otherwise in other batches.
        assert frame.similarity == pytest.approx(similarity_of(model, full, prototype, patch), rel=1e-4)
        for fill, told in zip(fills.values(), (frame.kept_grey, frame.kept_blur, frame.kept_other), strict=True):
            assert told == pytest.approx(kept_by(model, full, prototype, patch, frame.box, fill), abs=1e-4)
        assert frame.kept_grey >= 0.9
        assert frame.area == (frame.box.height * frame.box.width) / (size[0] * size[1])


def test_no_side_can_be_moved_and_no_other_box_is_much_smaller() -> None:
    """A net that adds up what its pixels count for, in one or two blobs; all boxes are tried by sums alone."""
    model = own_model(MarkedPart(), (64, 64), in_channels=1)
    rng = np.random.default_rng(5)
    ys, xs = np.mgrid[:64, :64]
    ratios = []
    for number in range(12):
        counts = np.zeros((64, 64))
        for y, x, height, width in rng.uniform((8, 8, 3, 3), (56, 56, 12, 12), (1 + number % 2, 4)):
            counts += np.exp(-0.5 * ((ys - y) / height) ** 2 - 0.5 * ((xs - x) / width) ** 2)
        image = torch.from_numpy(0.5 + 0.25 * counts)[None].float()
        row, column = rng.integers(0, 8, 2).tolist()
        box = sufficient_frame(model, image, 0, (row, column)).box
        cell = Box(8 * row, 8 * column, 8 * row + 8, 8 * column + 8)
        sums = np.pad(counts, ((1, 0), (1, 0))).cumsum(0).cumsum(1) / counts.sum()

        def enough(one: Box, sums: np.ndarray = sums) -> bool:
            return sums[one.y1, one.x1] - sums[one.y0, one.x1] - sums[one.y1, one.x0] + sums[one.y0, one.x0] >= 0.9

        assert enough(box)
        for side in range(4):
            moved = list(box)
            moved[side] += 4 if side < 2 else -4
            assert not (holds(Box(*moved), cell) and enough(Box(*moved)))
        steps = list(range(0, 65, 4))
        smallest = next(one for one in all_boxes(cell, steps, steps) if enough(one))
        ratios.append(box.area / smallest.area)
    assert min(ratios) >= 1
    assert np.median(ratios) <= 1.05
    assert max(ratios) <= 1.1


def test_where_norms_weigh_the_patches_the_weighted_similarity_is_kept() -> None:
    model = small_model()
    layer = PrototypeLayer(12, 5, metric="cosine", activation="cosine", norm_as_weight=True)
    model.prototype_layer = layer
    model.add_on_layers.append(Shorter())
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        features = model.features(image[None])[0]

    def weighted(one: Tensor) -> float:
        with torch.no_grad():
            vector = model.add_on_layers(model.backbone(one[None]))[0, :, 3, 4]
        cosine = torch.nn.functional.cosine_similarity(vector, layer.prototypes.detach()[2], dim=0)
        return float(vector.norm().clamp(max=1) * cosine)

    layer.prototypes.data[2] = features[:, 3, 4]
    frame = sufficient_frame(model, image, 2, (3, 4))
    assert frame.similarity == pytest.approx(weighted(image), rel=1e-4)
    box = frame.box
    variant = torch.full_like(image, 0.5)
    variant[:, box.y0 : box.y1, box.x0 : box.x1] = image[:, box.y0 : box.y1, box.x0 : box.x1]
    assert frame.kept_grey == pytest.approx(weighted(variant) / weighted(image), abs=1e-4)


def test_where_all_of_the_image_is_needed_the_frame_is_the_image() -> None:
    model = own_model(FourBorders(), (32, 32))
    frame = sufficient_frame(model, torch.full((3, 32, 32), 0.9), 0, (1, 2), other=torch.rand(3, 32, 32))
    assert frame.box == Box(0, 0, 32, 32)
    assert frame.is_whole
    assert (frame.area, frame.kept_grey, frame.kept_blur, frame.kept_other) == (1, 1, 1, 1)


def test_a_similarity_that_is_not_positive_has_no_frame() -> None:
    model = small_model()
    model.prototype_layer.activation = "linear"  # minus the distance
    frame = sufficient_frame(model, torch.rand(3, 32, 32), 1, (2, 2), other=torch.rand(3, 32, 32))
    assert frame.similarity < 0
    assert (frame.box, frame.area, frame.kept_grey, frame.kept_blur, frame.kept_other) == (None,) * 5
    assert not frame.is_whole


def test_the_same_frames_come_again_alone_and_among_others_and_modes_stay() -> None:
    model = small_model()
    model.train()
    images = torch.rand(3, 3, 32, 32)
    targets = [FrameTarget(image, p, (3, 4)) for image in (0, 1, 2) for p in (0, 4, 7)]
    frames = sufficient_frames(model, images, targets)
    assert model.training
    assert frames == sufficient_frames(model, images, targets)
    assert sum(frame.passes for frame in frames) <= 9 * 20
    assert all(frame.kept_other is None for frame in frames)
    for target, frame in zip(targets, frames, strict=True):
        alone = sufficient_frame(model, images[target.image], target.prototype, target.patch)
        assert frame.box.area <= alone.box.area, "boxes that others asked for may be smaller"


def test_nothing_asked_for_is_nothing_done() -> None:
    assert sufficient_frames(small_model(), torch.rand(0, 3, 32, 32), []) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prototype": 12}, "targets: prototypes must be from 0 to 11; got 12"),
        ({"patch": (8, 0)}, r"patch: must be in the grid of 8 x 8 patches; got \(8, 0\)"),
        ({"share": 0.0}, "share: must be above 0 and at most 1; got 0.0"),
        ({"image": torch.rand(1, 3, 32, 32)}, r"image: must have shape \(C, Y, X\); got \(1, 3, 32, 32\)"),
        ({"other": torch.rand(3, 32, 30)}, r"others: must have the shape of images, \(1, 3, 32, 32\)"),
        ({"image": torch.full((3, 32, 32), torch.nan)}, "images: must give finite similarities; got NaN or inf"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"image": torch.rand(3, 32, 32), "prototype": 0, "patch": (0, 0)} | arguments
    with pytest.raises(ValueError, match=message):
        sufficient_frame(small_model(), **given)


def test_bad_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="targets: images must be from 0 to 1; got 2"):
        sufficient_frames(small_model(), torch.rand(2, 3, 32, 32), [FrameTarget(2, 0, (0, 0))])
    with pytest.raises(ValueError, match=r"images: must have shape \(B, C, Y, X\); got \(3, 32, 32\)"):
        sufficient_frames(small_model(), torch.rand(3, 32, 32), [])
