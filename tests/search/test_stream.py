"""What a search leaves alone, and everything that can go wrong with a loader. Its answers: test_shards.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from protokern.models import ProtoPNet
from protokern.search import find_nearest_patches
from tests.search.plain import bare_model, loader_of


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
    return ProtoPNet(backbone, 2, prototypes_per_class=2, prototype_dim=4)


def test_search_leaves_the_model_as_it_was():
    model = small_net()
    model.backbone.get_submodule("1").eval()
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


def test_thousands_of_images_keep_their_labels():
    values = torch.randperm(5000).float()
    labels = torch.randint(0, 7, (5000,))
    model = bare_model(torch.arange(7.0)[:, None] * 800, 7)
    nearest = find_nearest_patches(model, loader_of(values[:, None, None, None], labels, 900))
    assert values[nearest.image[:, 0]].tolist() == [0, 800, 1600, 2400, 3200, 4000, 4800]
    assert torch.equal(nearest.label, labels[nearest.image])


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
        (
            [(torch.rand(2, 2, 2, 2), torch.tensor([0.0, 0.7]))],
            r"loader: must yield labels that are whole numbers; got torch.float32. Yield class indices.",
        ),
        (
            [(torch.rand(2, 2, 2, 2), [0, 1])],
            r"loader: must yield \(images, labels\) or \(images, labels, index\), all tensors; got Tensor, list. Coll",
        ),
        ([(torch.rand(2, 2, 2, 2), torch.tensor([0, 1]), ("a", "b"))], "all tensors; got Tensor, Tensor, tuple. Coll"),
        ([(torch.rand(2, 2, 2, 2),)], "all tensors; got Tensor. Collate"),
        ([torch.rand(2, 2, 2, 2)], "all tensors; got a Tensor in place of them. Collate"),
    ],
    ids=["empty", "label-shape", "label-high", "label-low", "sizes", "label-kind", "list", "names", "alone", "bare"],
)
def test_wrong_loaders(batches, message):
    with pytest.raises(ValueError, match=message):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), batches)


def test_loaders_that_change_the_order_are_refused():
    data = TensorDataset(torch.rand(2, 2, 2, 2), torch.tensor([0, 1]))
    model = bare_model(torch.zeros(2, 2), 2)
    message = (
        r"loader: must keep the data set's order; got one with a {}. Use shuffle=False, or yield \(images, labels, i"
    )
    with pytest.raises(ValueError, match=message.format("RandomSampler")):
        find_nearest_patches(model, DataLoader(data, shuffle=True))
    shard: DistributedSampler[Any] = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    with pytest.raises(ValueError, match=message.format("DistributedSampler")):
        find_nearest_patches(model, DataLoader(data, sampler=shard))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            [(torch.rand(2, 2, 2, 2), torch.tensor([0, 1]), torch.tensor([4]))],
            r"loader: must yield one whole number per image as its index, shape \(2,\); got \(1,\) of torch.int64.",
        ),
        (
            [(torch.rand(1, 2, 2, 2), torch.tensor([0]), torch.tensor([0.5]))],
            r"loader: must yield one whole number per image as its index, shape \(1,\); got \(1,\) of torch.float32.",
        ),
        (
            [(torch.rand(1, 2, 2, 2), torch.tensor([0]), torch.tensor([-1]))],
            r"loader: must yield indices of at least 0; got -1. Count images from 0.",
        ),
        (
            [(torch.rand(1, 2, 2, 2), torch.tensor([0]), torch.tensor([3]))] * 2,
            r"loader: must yield every image once; got image 3 twice. Check the order or the shards.",
        ),
        (
            [
                (torch.rand(1, 2, 2, 2), torch.tensor([0]), torch.tensor([3])),
                (torch.rand(1, 2, 2, 2), torch.tensor([0])),
            ],
            r"loader: must yield an image index with every batch or with none; got both. Choose one.",
        ),
    ],
    ids=["shape", "kind", "negative", "twice", "mixed"],
)
def test_wrong_indices(batches, message):
    with pytest.raises(ValueError, match=message):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), batches)


def test_arguments_out_of_range():
    model, batch = bare_model(torch.zeros(2, 2), 2), (torch.rand(1, 2, 2, 2), torch.tensor([0]), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"first_image: must be 0 for batches with an image index; got 2. Leave it o"):
        find_nearest_patches(model, [batch], first_image=2)
    with pytest.raises(ValueError, match=r"first_image: must be at least 0; got -1. Count images from 0."):
        find_nearest_patches(model, [batch], first_image=-1)
    with pytest.raises(ValueError, match=r"patches: must be 'best' or 'all'; got 'some'. Say how many of an image"):
        find_nearest_patches(model, [batch], patches="some")


def test_k_must_be_positive():
    with pytest.raises(ValueError, match=r"k: must be at least 1; got 0. Give the number of entries per prototype."):
        find_nearest_patches(bare_model(torch.zeros(2, 2), 2), [], 0)
