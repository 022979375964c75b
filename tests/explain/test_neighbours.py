from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from protokern.explain import explain_image
from protokern.explain.neighbours import find_neighbours, share_of_own, view_neighbours
from protokern.push import PushResult, push_prototypes
from protokern.results.places import Box
from protokern.results.prototypes import GlobalExplanation, SplitNeighbours
from tests.explain.small_models import small_model, small_pool


def dataset_of(count: int, *, channels: int = 3, num_classes: int = 4, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.rand(count, channels, 16, 24, generator=generator), torch.arange(count).remainder(num_classes)
    )


def loader_of(dataset: TensorDataset, batch_size: int = 5) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(dataset, batch_size=batch_size)


def plain_neighbours(model, dataset, j: int, k: int, own: tuple[int, int] | None) -> list[tuple[float, int, int]]:
    """(distance, image, patch) of prototype j by loops over everything, without its own patch."""
    found = []
    for i, (image, _) in enumerate(dataset):
        with torch.no_grad():
            features = model.features(image[None])[0].flatten(1)  # (D, N)
            distance = (features - model.prototype_layer.prototypes[j][:, None]).square().sum(dim=0)
        found.append((float(distance.min()), i, int(distance.argmin())))
    return [entry for entry in sorted(found) if entry[1:] != own][:k]


def test_the_nearest_patches_of_both_splits_without_the_prototypes_own_patch() -> None:
    model, train, test = small_model(), dataset_of(9), dataset_of(7, seed=1)
    push = push_prototypes(model, loader_of(train))
    found = find_neighbours(model, loader_of(train), loader_of(test), k=3, push=push)
    is_own = model.class_identity > 0
    for split, dataset in ((found.train, train), (found.test, test)):
        assert split.image.shape == (12, 3)
        assert split.grid == (4, 6)
        for j in range(12):
            own = (int(push.image[j]), int(push.patch[j])) if split is found.train else None
            expected = plain_neighbours(model, dataset, j, 3, own)
            assert split.distance[j].tolist() == pytest.approx([entry[0] for entry in expected], rel=1e-4)
            assert split.image[j].tolist() == [entry[1] for entry in expected]
            assert split.patch[j].tolist() == [entry[2] for entry in expected]
            assert split.label[j].tolist() == [entry[1] % 4 for entry in expected]
            similarity = model.prototype_layer.activate(split.distance[j])
            assert split.similarity[j].tolist() == similarity.tolist()
            share = sum(bool(is_own[j, k]) for k in split.label[j]) / 3
            assert float(split.agreement[j]) == pytest.approx(share)
    assert (found.train.image != push.image[:, None]).all()
    wanted = (found.train.agreement > 0.5) & (found.test.agreement > 0.5)
    assert torch.equal(found.belong_together, wanted)


def test_without_a_push_a_prototype_is_its_own_first_neighbour() -> None:
    model, train, test = small_model(), dataset_of(9), dataset_of(7, seed=1)
    push = push_prototypes(model, loader_of(train))
    found = find_neighbours(model, loader_of(train), loader_of(test), k=3)
    assert torch.equal(found.train.image[:, 0], push.image)
    assert found.train.image.shape == (12, 3)
    assert found.train.distance[:, 0].max() < 1e-9


def test_prototypes_belong_together_with_their_neighbours_if_most_are_of_their_classes_in_both_splits() -> None:
    def split(*labels: list[int]) -> SplitNeighbours:
        label = torch.tensor(labels)
        is_own = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]]) > 0
        zeros = torch.zeros(label.shape)
        return SplitNeighbours(
            distance=zeros,
            similarity=zeros,
            image=label,
            patch=label,
            label=label,
            agreement=share_of_own(label, is_own),
            grid=(1, 1),
        )

    train, test = split([0, 0, 0, 1], [2, 1, 0, 0], [0, 1, 2, 0]), split([0, 0, 2, 1], [1, 1, 1, 1], [0, 0, 0, 0])
    assert train.agreement.tolist() == [0.75, 0.5, 0]
    assert test.agreement.tolist() == [0.5, 1, 0]
    assert GlobalExplanation(train=train, test=train).belong_together.tolist() == [True, False, False]
    assert GlobalExplanation(train=train, test=test).belong_together.tolist() == [False, False, False]


def test_fewer_images_than_neighbours_leave_entries_empty() -> None:
    model, train, test = small_model(), dataset_of(4), dataset_of(2, seed=1)
    push = push_prototypes(model, loader_of(train))
    found = find_neighbours(model, loader_of(train), loader_of(test), k=5, push=push)
    assert (found.train.image[:, :3] >= 0).all()
    assert (found.train.image[:, 3:] == -1).all()
    assert (found.test.label[:, 2:] == -1).all()
    assert found.test.similarity[:, 2:].isnan().all()
    assert found.test.agreement.max() <= 1
    single = TensorDataset(train.tensors[0][:1], train.tensors[1][:1])
    alone = push_prototypes(small_model(num_classes=1), loader_of(single))
    one = find_neighbours(small_model(num_classes=1), loader_of(single), loader_of(single), k=2, push=alone)
    assert one.test.agreement.tolist() == [1, 1, 1]
    assert one.train.agreement.isnan().all()
    assert not one.belong_together.any()


def test_views_are_those_of_an_explanation_and_every_image_is_passed_once() -> None:
    model, train, test = small_model(), dataset_of(9), dataset_of(7, seed=1)
    found = find_neighbours(model, loader_of(train), loader_of(test), k=3)
    passed = []
    model.backbone.register_forward_hook(lambda _module, images, _output: passed.append(len(images[0])))
    field = explain_image(model, test[0][0]).receptive_field
    passed.clear()
    seen = {}
    for one in view_neighbours(model, test, found.test, receptive_field=field, batch_size=2):
        assert torch.is_grad_enabled()
        seen[one.view.prototype, one.rank] = one
    assert sum(passed) == len(found.test.image.unique())
    assert max(passed) <= 2
    assert set(seen) == {(j, rank) for j in range(12) for rank in range(3)}
    for (j, rank), one in seen.items():
        image = int(found.test.image[j, rank])
        assert one.image == image
        assert torch.equal(one.pixels, test[image][0])
        views = {
            evidence.view.prototype: evidence.view
            for evidence in explain_image(model, one.pixels, top=12, receptive_field=field).classes[0].evidence
        }
        assert one.view.patch == views[j].patch == divmod(int(found.test.patch[j, rank]), 6)
        np.testing.assert_allclose(one.view.heat_map, views[j].heat_map, atol=1e-5)
        assert one.view.patch_box == views[j].patch_box


@pytest.mark.parametrize("heat_map", ["upsample", "gradient"])
def test_views_of_a_few_prototypes_of_several_cells_in_images_of_five_channels(heat_map: str) -> None:
    model = small_model(in_channels=5, prototype_size=(2, 3))
    train, test = dataset_of(6, channels=5), dataset_of(3, channels=5, seed=1)
    found = find_neighbours(model, loader_of(train), loader_of(test), k=2)
    views = list(view_neighbours(model, train, found.train, prototypes=[3, 7], heat_map=heat_map))
    assert sorted((one.view.prototype, one.rank) for one in views) == [(3, 0), (3, 1), (7, 0), (7, 1)]
    assert [one.image for one in views] == sorted(one.image for one in views)
    for one in views:
        row, column = one.view.patch
        assert one.view.receptive_field_box == Box(
            max(0, 4 * row - 3), max(0, 4 * column - 3), min(16, 4 * row + 8), min(24, 4 * column + 12)
        )
        y0, x0, y1, x1 = one.view.receptive_field_box
        outside = one.view.heat_map.copy()
        outside[y0:y1, x0:x1] = 0
        assert outside.any() == (heat_map == "upsample" and (y1 - y0, x1 - x0) != (16, 24))


def test_missing_neighbours_have_no_views() -> None:
    model, few = small_model(), dataset_of(2)
    found = find_neighbours(model, loader_of(few), loader_of(few), k=5)
    assert len(list(view_neighbours(model, few, found.test, prototypes=[0]))) == 2


def test_a_shared_prototype_agrees_with_all_its_classes() -> None:
    model, train = small_pool(), dataset_of(9)
    found = find_neighbours(model, loader_of(train), loader_of(train), k=4)
    assert not found.belong_together[6]
    for j, classes in {0: {0, 1, 2}, 4: {1, 3}, 6: set()}.items():
        share = sum(label in classes for label in found.test.label[j].tolist()) / 4
        assert float(found.test.agreement[j]) == share


def test_bad_arguments_are_refused() -> None:
    model, train = small_model(), dataset_of(4)
    with pytest.raises(ValueError, match="k: must be at least 1; got 0"):
        find_neighbours(model, loader_of(train), loader_of(train), k=0)
    nowhere = torch.full((3,), -1)
    push = PushResult(image=nowhere, patch=nowhere, distance=nowhere, label=nowhere, grid=(4, 6))
    with pytest.raises(ValueError, match="push: must have one entry for each of the 12 prototypes; got 3"):
        find_neighbours(model, loader_of(train), loader_of(train), push=push)
    with pytest.raises(ValueError, match="model: must have made its choices final"):
        find_neighbours(small_pool(is_hard=False), loader_of(train), loader_of(train))
    found = find_neighbours(model, loader_of(train), loader_of(train), k=1)
    with pytest.raises(ValueError, match="heat_map: must be one of"):
        view_neighbours(model, train, found.test, heat_map="lime")
    with pytest.raises(ValueError, match="prototypes: must be from 0 to 11; got 12"):
        view_neighbours(model, train, found.test, prototypes=[12])
