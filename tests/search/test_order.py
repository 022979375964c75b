"""The order of distances of either sign, and the refusal of those that a metric cannot have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.kernels import MinDistance
from protokern.models import ProtoPNet
from protokern.nn import PrototypeLayer
from protokern.push import push_prototypes
from protokern.search import find_nearest_patches
from protokern.search.order import first_positions
from tests.search.plain import bare_model, loader_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_the_smallest_of_either_sign_come_first(k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    distance = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    distance[10:20] = distance[10:20].round()  # ties, and zeros of either sign
    distance[20:] *= 10.0 ** torch.randint(-44, 38, (10, 40), generator=generator)
    distance = distance.to(dtype)
    for row, found in zip(distance.tolist(), first_positions(distance, k).tolist(), strict=True):
        in_order = sorted((number, at) for at, number in enumerate(row))
        assert found == [at for _, at in in_order[:k]]


def test_zeros_of_either_sign_are_equal_and_infinity_is_at_the_ends() -> None:
    row = torch.tensor([[0.0, -0.0, torch.inf, -1e-45, -torch.inf, -0.0, 1e-45]])
    assert first_positions(row, 7).tolist() == [[4, 3, 0, 1, 5, 6, 2]]


def dot_model(prototypes: Tensor, num_classes: int) -> ProtoPNet:
    model = bare_model(prototypes, num_classes)
    model.prototype_layer.metric = "dot"
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("all_patches", [False, True])
def test_a_search_by_projections_finds_the_largest(all_patches: bool, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 5, 3, 3, generator=generator)
    prototypes = torch.randn(6, 5, generator=generator)
    model = dot_model(prototypes, 2)
    loader = loader_of(images, torch.tensor([0, 1] * 4), batch_size)
    found = find_nearest_patches(model, loader, 3, patches="all" if all_patches else "best")
    products = torch.einsum("pd,bdn->pbn", prototypes.double(), images.flatten(2).double())
    candidates = products.flatten(1) if all_patches else products.amax(2)
    torch.testing.assert_close(found.distance.double(), -candidates.topk(3).values, rtol=1e-5, atol=1e-6)
    assert (found.distance < 0).all()
    at = products.gather(1, found.image[:, :, None].expand(-1, -1, 9)).gather(2, found.patch[..., None])[..., 0]
    torch.testing.assert_close(found.distance.double(), -at, rtol=1e-5, atol=1e-6)


def test_a_push_by_projections_takes_the_largest_of_the_own_class() -> None:
    images = torch.tensor([[1.0, 0.0], [3.0, 1.0], [9.0, 9.0], [-1.0, 2.0]]).reshape(4, 2, 1, 1)
    model = dot_model(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2)
    pushed = push_prototypes(model, loader_of(images, torch.tensor([0, 0, 1, 1]), 2))
    assert pushed.image.tolist() == [1, 2]
    assert pushed.distance.tolist() == [-3.0, -9.0]
    assert model.prototype_layer.prototypes.tolist() == [[3.0, 1.0], [9.0, 9.0]]


class Wrong(PrototypeLayer):
    """A layer with another distance than its metric's."""

    def min_distance(self, *args: object, **options: object) -> MinDistance:
        """Half of them negative."""
        value, patch = super().min_distance(*args, **options)  # type: ignore[arg-type]
        return MinDistance(value - 1, patch)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_negative_distances_of_metrics_without_them_are_refused(metric: str) -> None:
    model = bare_model(torch.zeros(2, 2), 2)
    model.prototype_layer = Wrong(2, 2, metric=metric)
    images = torch.full((3, 2, 2, 2), 5.0)
    images[1:] = model.prototype_layer.prototypes.detach()[0, :, None, None]
    message = (
        f"^model: must give distances of at least 0 with metric '{metric}'; got a negative one, first at image "
        r"\d of the loader\. Use the distances of the ops, or metric 'dot'\.$"
    )
    with pytest.raises(ValueError, match=message):
        find_nearest_patches(model, loader_of(images, torch.tensor([0, 1, 0]), 2))


def test_a_projection_beyond_the_type_is_refused() -> None:
    model = dot_model(torch.full((2, 2), 1e30), 2)
    images = torch.zeros(3, 2, 2, 2)
    images[2] = 1e30
    with pytest.raises(ValueError, match="model: must give finite distances; got NaN or inf, first at image 2 of the"):
        find_nearest_patches(model, loader_of(images, torch.tensor([0, 1, 0]), 2))
