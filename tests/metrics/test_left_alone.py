"""What is left of a match alone: by hand, against a slow program, and for nets whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from protokern.metrics import Context, measure, similarity_left
from protokern.metrics.left_alone import replaced
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model
from tests.metrics import plain

CELL = 4


def one_cell_net(backbone: nn.Module | None = None) -> ProtoPNet:
    """Cells of 4 x 4 pixels whose features depend on nothing else; or another backbone with cells of that size."""
    torch.manual_seed(2)
    model = ProtoPNet(
        backbone or nn.Conv2d(3, 6, CELL, stride=CELL), 2, prototypes_per_class=3, prototype_dim=5, image_size=24
    )
    return model.eval()


def images(count: int, size: tuple[int, int] = (24, 24)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(5))


def whole_image(image: torch.Tensor, prototype: int, patch: tuple[int, int]) -> tuple[int, int, int, int]:
    return 0, 0, image.shape[1], image.shape[2]


@pytest.mark.parametrize("fill", ["grey", "blur"])
@pytest.mark.parametrize("size", [(24, 24), (16, 28), (28, 16)], ids=str)
def test_a_net_that_sees_one_cell_keeps_everything(size: tuple[int, int], fill: str) -> None:
    loader = [(images(5, size), torch.tensor([0, 0, 1, 1, 1]))]
    (result,) = measure(one_cell_net(), loader, 5, only=["left_alone"], context=Context(fill=fill))
    shares = [one.value for name, one in result.estimates.items() if name.endswith(" cells")]
    assert shares == pytest.approx([1.0] * 3, abs=1e-6)


def test_a_net_that_sees_all_keeps_all_of_the_whole_image_alone() -> None:
    class _Mean(nn.Module):
        """Every cell is the mean of the image."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 6, 6)

    loader = [(0.2 * images(4), torch.tensor([0, 0, 1, 1]))]  # darker than the grey
    context = Context(frames={"whole": whole_image})
    (result,) = measure(one_cell_net(_Mean()), loader, 4, only=["left_alone"], context=context)
    cells = [result.estimates[f"{side} x {side} cells"].value for side in (1, 3, 5)]
    assert all(abs(one - 1) > 1e-4 for one in cells)
    assert result.estimates["whole frame"].value == pytest.approx(1.0, abs=1e-6)
    assert result.estimates["area of the whole frame, median"].value == 1.0


def test_a_case_by_hand() -> None:
    """A feature that is the sum over the image's 2 x 2 pixels, exp(-d) and the prototype at that sum."""
    backbone = nn.Conv2d(1, 1, 2, bias=False)
    model = ProtoPNet(
        backbone, 2, prototypes_per_class=1, prototype_dim=1, in_channels=1, image_size=2, add_on_layers="linear",
        activation="exp",
    )  # fmt: skip
    model.add_on_layers = nn.Sequential()
    nn.init.ones_(backbone.weight)
    with torch.no_grad():
        model.prototype_layer.prototypes.fill_(3.0)
    image = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])  # a sum of 3: similarity 1
    boxes = [(0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 2, 2)]  # sums 2.5, 3, 3
    similarity, left = similarity_left(model, image, 0, (0, 0), boxes)
    assert similarity == pytest.approx(1.0)
    assert left == pytest.approx([math.exp(-0.25), 1.0, 1.0])


def test_over_a_data_set_against_a_slow_program() -> None:
    model = small_model()
    epsilon = model.prototype_layer.epsilon
    batch, labels = images(6, (32, 32)), torch.tensor([0, 1, 2, 3, 0, 1])

    def frame(image: torch.Tensor, prototype: int, patch: tuple[int, int]) -> tuple[int, int, int, int]:
        return patch[0] * 4, prototype, 32, 32

    (result,) = measure(model, [(batch, labels)], 6, only=["left_alone"], context=Context(frames={"drawn": frame}))
    wanted: dict[str, list[float]] = {"1": [], "3": [], "5": [], "frame": [], "area": [], "match": []}
    for image, label in zip(batch, labels.tolist(), strict=True):
        with torch.no_grad():
            features = model.features(image[None])[0].double()  # (D, 8, 8)
        own = range(3 * label, 3 * label + 3)
        prototypes = model.prototype_layer.prototypes.detach()
        distance = {
            (j, row, column): float(((features[:, row, column] - prototypes[j].double()) ** 2).sum())
            for j in own
            for row in range(8)
            for column in range(8)
        }
        j, row, column = min(distance, key=lambda place: (distance[place], place))
        boxes = {
            str(2 * n + 1): (
                max(0, row - n) * 4, max(0, column - n) * 4, min(8, row + n + 1) * 4, min(8, column + n + 1) * 4
            )
            for n in range(3)
        }  # fmt: skip
        boxes["frame"] = (row * 4, j, 32, 32)
        for name, box in boxes.items():
            wanted[name].append(
                plain.similarity_left(
                    model.features, prototypes[j], image, (row, column), box,
                    lambda d: math.log((d + 1) / (d + epsilon)),
                )
            )  # fmt: skip
        least = distance[j, row, column]
        wanted["match"].append(math.log((least + 1) / (least + epsilon)))
        wanted["area"].append((32 - row * 4) * (32 - j) / 32**2)
    for name in ("1", "3", "5"):
        assert result.estimates[f"{name} x {name} cells"].value == pytest.approx(np.mean(wanted[name]), rel=1e-3)
    assert result.estimates["drawn frame"].value == pytest.approx(np.mean(wanted["frame"]), rel=1e-3)
    assert result.estimates["area of the drawn frame, median"].value == pytest.approx(np.median(wanted["area"]))
    match = result.estimates["similarity of the match"]
    assert match.value == pytest.approx(np.mean(wanted["match"]), rel=1e-3)
    assert (match.unit, match.images) == ("number", 6)


def test_the_images_are_drawn_by_the_seed() -> None:
    loader = [(images(8), torch.zeros(8, dtype=torch.int64))]
    seen: list[list[float]] = []

    def remember(image: torch.Tensor, prototype: int, patch: tuple[int, int]) -> tuple[int, int, int, int]:
        seen[-1].append(float(image.sum()))
        return 0, 0, 4, 4

    for seed in (0, 0, 1):
        seen.append([])
        context = Context(frames={"drawn": remember}, subset=3, seed=seed)
        (result,) = measure(one_cell_net(), loader, 8, only=["left_alone"], context=context)
        assert result.settings["images drawn"] == 3
        assert result.settings["seed of the draw"] == seed
    assert seen[0] == seen[1] != seen[2]
    assert all(len(set(one)) == 3 for one in seen)


def test_grey_and_blur_are_what_they_say() -> None:
    image = images(1)[0]
    assert torch.equal(replaced(image, "grey"), torch.full((3, 24, 24), 0.5))
    blurred = replaced(image, "blur")
    assert blurred.shape == image.shape
    assert blurred.std() < image.std() / 2
    assert blurred.mean() == pytest.approx(float(image.mean()), abs=0.05)


def test_another_image_is_seen_around_the_box() -> None:
    """A feature that is the mean of the image: half of it is kept, and half is of the other one."""

    class _Mean(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean(dim=(2, 3), keepdim=True)

    model = ProtoPNet(
        _Mean(), 2, prototypes_per_class=1, prototype_dim=1, in_channels=1, image_size=4, add_on_layers="linear",
        activation="exp",
    )  # fmt: skip
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.fill_(1.0)
    image, other = torch.ones(1, 4, 4), torch.full((1, 4, 4), 3.0)
    _, left = similarity_left(model, image, 0, (0, 0), [(0, 0, 2, 4)], fill="other", other=other)
    assert left == pytest.approx([math.exp(-1.0)])  # a mean of 2
    with pytest.raises(ValueError, match=r"^other: must be an image of shape \(1, 4, 4\); got None\."):
        replaced(image, "other")
    with pytest.raises(ValueError, match=r"^other: must be .*; got \(1, 2, 4\)\."):
        replaced(image, "other", other[:, :2])


def test_the_other_image_is_drawn_and_never_the_same_one() -> None:
    batch = images(4)
    asked: list[int] = []

    def take(index: int) -> torch.Tensor:
        asked.append(index)
        return batch[index]

    loader = [(batch, torch.tensor([0, 0, 1, 1]))]
    drawn = []
    for seed in (0, 0, 1):
        asked.clear()
        measure(one_cell_net(), loader, 4, only=["left_alone"], context=Context(fill="other", image=take, seed=seed))
        drawn.append(tuple(asked))
    assert drawn[0] == drawn[1]
    assert all(one != index for some in drawn for index, one in enumerate(some))
    (result,) = measure(one_cell_net(), loader, 4, only=["left_alone"], context=Context(fill="other"))
    assert result.left_out == "the rest cannot become another image, because there is none to take"


def test_what_is_left_for_each_prototype() -> None:
    model = one_cell_net()
    (result,) = measure(model, [(images(5), torch.tensor([0, 0, 1, 1, 1]))], 5, only=["left_alone"])
    column = result.prototypes["1 x 1 cells"]
    known = [value for value in column if not math.isnan(value)]
    assert len(column) == 6
    assert known == pytest.approx([1.0] * len(known), abs=1e-6)


def test_an_image_without_a_frame_counts_for_the_cells_alone() -> None:
    def some(image: torch.Tensor, prototype: int, patch: tuple[int, int]) -> tuple[int, int, int, int] | None:
        return None if image.any() else (0, 0, 24, 12)

    loader = [(torch.stack([images(1)[0], torch.zeros(3, 24, 24)]), torch.tensor([0, 1]))]
    (result,) = measure(one_cell_net(), loader, 2, only=["left_alone"], context=Context(frames={"some": some}))
    assert result.estimates["1 x 1 cells"].images == 2
    assert result.estimates["some frame"].images == 1
    assert result.estimates["area of the some frame, median"].value == 0.5


def test_a_linear_similarity_has_no_share() -> None:
    model = one_cell_net()
    model.prototype_layer.activation = "linear"
    (result,) = measure(model, [], 0, only=["left_alone"])
    assert result.left_out is not None
    assert "negative distance" in result.left_out


def test_a_similarity_that_is_not_positive_is_told_and_counts_nowhere() -> None:
    torch.manual_seed(0)
    model = ProtoPNet(
        nn.Conv2d(3, 4, CELL, stride=CELL), 2, prototypes_per_class=1, prototype_dim=3, image_size=24,
        metric="cosine", activation="cosine",
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.prototype_layer.prototypes.fill_(-1.0)  # the sigmoid's features are positive
    (result,) = measure(model, [(images(2), torch.tensor([0, 1]))], 2, only=["left_alone"])
    assert result.skipped["images whose best similarity is not above 0"] == 2
    assert all(math.isnan(one.value) for one in result.estimates.values())
