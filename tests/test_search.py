"""The streaming search against a plain-loop reference, and everything that can go wrong with a loader."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from protokern.models import ProtoPNet
from protokern.search import find_nearest_patches


def bare_model(prototypes: Tensor, num_classes: int) -> ProtoPNet:
    """A model whose features are its images."""
    depth, size = prototypes.shape[1], tuple(prototypes.shape[2:]) or (1, 1)
    per_class = len(prototypes) // num_classes
    model = ProtoPNet(nn.Identity(), num_classes, per_class, depth, size, in_channels=depth, image_size=8)
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(prototypes)
    return model


def loader_of(images: Tensor, labels: Tensor, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def plain_search(prototypes, images, labels, owners, k, own_class):
    """For every prototype the sorted list of (distance, image, patch), by loops over everything."""
    if prototypes.ndim == 2:
        prototypes = prototypes[:, :, None, None]
    height, width = prototypes.shape[2:]
    columns = images.shape[3] - width + 1
    found = []
    for p, prototype in enumerate(prototypes):
        entries = []
        for i, image in enumerate(images):
            if own_class and labels[i] != owners[p]:
                continue
            of_image = [
                (
                    float((image[:, row : row + height, col : col + width] - prototype).square().sum()),
                    row * columns + col,
                )
                for row in range(images.shape[2] - height + 1)
                for col in range(columns)
            ]
            distance, patch = min(of_image)
            entries.append((distance, i, patch))
        entries = sorted(entries)[:k]
        found.append(entries + [(float("inf"), -1, -1)] * (k - len(entries)))
    return found


@settings(max_examples=60)
@given(data=st.data())
def test_search_equals_the_plain_loops_for_any_batch_size(data):
    draw = data.draw
    classes, per_class, count = (draw(st.integers(1, high)) for high in (3, 2, 7))
    k, batch_size = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    size = draw(st.sampled_from([(), (1, 2), (2, 2)]))
    own_class = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Whole numbers from 0 to 2: distances are exact and ties are common.
    images = torch.randint(0, 3, (count, 2, 3, 2), generator=generator).float()
    prototypes = torch.randint(0, 3, (classes * per_class, 2, *size), generator=generator).float()
    labels = torch.randint(0, classes, (count,), generator=generator)
    model = bare_model(prototypes, classes)
    loader = loader_of(images, labels, batch_size)
    nearest = find_nearest_patches(model, loader, k, own_class=own_class, vectors=True)

    owners = [p // per_class for p in range(len(prototypes))]
    expected = plain_search(prototypes, images, labels.tolist(), owners, k, own_class)
    got = torch.stack([nearest.distance.double(), nearest.image, nearest.patch], dim=-1).tolist()
    assert got == [[list(entry) for entry in entries] for entries in expected]
    height, width = size or (1, 1)
    assert nearest.grid == (3 - height + 1, 2 - width + 1)
    for p, entries in enumerate(expected):
        for rank, (_, image, patch) in enumerate(entries):
            vector = torch.zeros(2, height, width)
            if image >= 0:
                row, col = divmod(patch, nearest.grid[1])
                vector = images[image, :, row : row + height, col : col + width]
            assert torch.equal(nearest.vector[p, rank], vector)
            assert nearest.label[p, rank] == (labels[image] if image >= 0 else -1)


def test_vectors_come_only_when_asked_for():
    model = bare_model(torch.zeros(1, 2), 1)
    loader = loader_of(torch.rand(2, 2, 3, 3), torch.zeros(2, dtype=torch.int64), 2)
    assert find_nearest_patches(model, loader).vector is None


def test_cosine_search_takes_the_smallest_angle():
    model = bare_model(torch.tensor([[1.0, 0.0]]), 1)
    model.prototype_layer.metric = "cosine"
    images = torch.tensor([[0.1, 0.1], [90.0, 1.0]]).reshape(2, 2, 1, 1)
    nearest = find_nearest_patches(model, loader_of(images, torch.tensor([0, 0]), 1), 2)
    assert nearest.image.tolist() == [[1, 0]]
    assert nearest.distance[0, 1].item() == pytest.approx(1 - 0.5**0.5)


def small_net() -> ProtoPNet:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    return ProtoPNet(backbone, 2, 2, 4)


def test_search_leaves_the_model_as_it_was():
    model = small_net()
    model.backbone[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loader = loader_of(torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1]), 2)
    first = find_nearest_patches(model, loader, 2)
    assert torch.equal(find_nearest_patches(model, loader, 2).distance, first.distance)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_modes_come_back_when_the_loader_fails():
    model = small_net()

    def broken():
        yield torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        find_nearest_patches(model, broken())
    assert all(module.training for module in model.modules())


def test_labels_of_any_whole_number_type_are_taken():
    model = bare_model(torch.zeros(2, 2), 2)
    images = torch.rand(3, 2, 2, 2)
    batches = [(images, torch.tensor([1, 0, 1], dtype=torch.int32))]
    assert find_nearest_patches(model, batches, 3, own_class=True).label.tolist() == [[0, -1, -1], [1, 1, -1]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_name_their_image(value):
    model = bare_model(torch.zeros(2, 2), 2)
    images = torch.rand(5, 2, 2, 2)
    images[3, 0, 1, 1] = value
    with pytest.raises(ValueError, match="model: must give finite distances; got NaN or inf, first at image 3 of the"):
        find_nearest_patches(model, loader_of(images, torch.tensor([0, 1, 0, 1, 0]), 2), own_class=True)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "loader: must yield at least one image; got none. Check the data set."),
        (
            [(torch.rand(2, 2, 2, 2), torch.tensor([0]))],
            r"loader: must yield one label per image, shape \(2,\); got \(1",
        ),
        ([(torch.rand(2, 2, 2, 2), torch.tensor([0, 2]))], "loader: must yield labels of 0 .. 1; got 0 .. 2. Use the"),
        ([(torch.rand(2, 2, 2, 2), torch.tensor([-1, 0]))], "loader: must yield labels of 0 .. 1; got -1 .. 0."),
        (
            [(torch.rand(1, 2, 2, size), torch.tensor([0])) for size in (2, 3)],
            r"loader: must yield images of one size; got feature grids \(2, 2\) and \(2, 3\). Resize the images.",
        ),
    ],
    ids=["empty", "label-shape", "label-high", "label-low", "sizes"],
)
def test_wrong_loaders(batches, message):
    with pytest.raises(ValueError, match=message):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), batches)


def test_shuffling_loaders_are_refused():
    data = TensorDataset(torch.rand(2, 2, 2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"loader: must keep the data set's order; got one with shuffle=True."):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), DataLoader(data, shuffle=True))


def test_k_must_be_positive():
    with pytest.raises(ValueError, match=r"k: must be at least 1; got 0. Give the number of images per prototype."):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), [], 0)
