"""How much there is to read: by hand, and against slow programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.metrics import local_size, measure, sparsity_of, weight_counts
from tests.explain.small_models import small_model, small_pool
from tests.metrics import plain


def test_weights_by_hand() -> None:
    """Three prototypes, of which one has no weight that counts; 1e-3 itself does not."""
    found = weight_counts(np.array([[1.0, 1e-3, -0.5], [-0.2, 0.0, 0.4]]))
    assert found == (2, pytest.approx(2 / 6), 1.0)
    assert math.isnan(weight_counts(np.array([[0.0, -1.0]])).negative_per_positive)


def test_local_size_by_hand() -> None:
    assert local_size(np.array([2.0, 0.2, 0.21, -5.0])) == 2  # a tenth of the highest is not above it
    assert math.isnan(local_size(np.array([-1.0, -2.0])))


def test_sparsity_by_hand() -> None:
    """Two classes, a map of 2 x 2: at best 2 * (1 + 1 / 4) = 2.5."""
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert sparsity_of(vectors, 2, (2, 2), is_unit=False) == 1
    four = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 1.0 + 1e-10]])  # the last is the second one again
    assert sparsity_of(four, 2, (2, 2), is_unit=False) == pytest.approx(2.5 / (3 + 3 / 4))
    assert sparsity_of(four, 2, (2, 2), is_unit=True) == 1
    wide = np.zeros((2, 1, 1, 2))  # prototypes of two cells
    wide[1, 0, 0] = 1.0, 2.0
    assert sparsity_of(wide, 2, (2, 2), is_unit=False) == pytest.approx(2.5 / (2 + 3 / 4))


@pytest.mark.parametrize("size", [(1, 1), (2, 1)], ids=str)
def test_over_a_data_set_against_slow_programs(size: tuple[int, int]) -> None:
    model = small_model(prototype_size=size)
    with torch.no_grad():
        model.prototype_layer.prototypes[3] = model.prototype_layer.prototypes[0]
        model.last_layer.weight[:, 5] = 1e-4
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loader = [(images[:4], torch.zeros(4, dtype=torch.int64)), (images[4:], torch.ones(2, dtype=torch.int64))]
    (result,) = measure(model, loader, 6, only=["size"])
    weights = plain.weight_counts(model.prototype_weight.tolist())
    sizes = []
    with torch.no_grad():
        for image in images:
            activations = model(image[None]).activations[0].tolist()
            sizes.append(sum(one > max(activations) / 10 for one in activations))
    values = {name: number.value for name, number in result.estimates.items()}
    assert values == {
        "prototypes": 12,
        "prototypes with a weight": weights[0],
        "active prototypes in an image": pytest.approx(np.mean(sizes)),
        "share of weights near 0": pytest.approx(weights[1]),
        "negative weights for each positive": pytest.approx(weights[2]),
        "sparsity of ProtoPNeXt": pytest.approx(
            plain.sparsity(model.prototype_layer.prototypes.detach(), 4, (9 - size[0]) * (9 - size[1]))
        ),
    }
    assert weights[0] == 11


def test_unused_prototypes_of_a_pool_have_no_weight() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (result,) = measure(small_pool(), [(images, torch.tensor([0, 1]))], 2, only=["size"])
    assert result.estimates["prototypes"].value == 7
    assert result.estimates["prototypes with a weight"].value == 6  # the last belongs to no class
