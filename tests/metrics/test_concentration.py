"""Who carries the answer: by hand, and against a slow program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.metrics import Context, concentration_of, measure, shares_of_largest
from tests.explain.small_models import small_model, small_pool
from tests.metrics import plain


def test_a_case_by_hand() -> None:
    """Differences of weights 4, 1, -1, 0, 3; so contributions 4, 2, 1, 0, 3 of 10; points 2, 0, -1, 5, 1.5."""
    activations = np.array([1.0, 2.0, 1.0, 5.0, 1.0])
    weight = np.array([[2.0, 0.0, -1.0, 1.0, 1.5], [-2.0, -1.0, 0.0, 1.0, -1.5]])
    found = concentration_of(activations, weight, 0, 1, shown=2)
    assert found.shown == pytest.approx(0.7)  # 4 + 3
    assert found.needed == 3  # 4 + 3 + 2 = 9 of 10
    assert found.positive == pytest.approx(8.5 / 9.5)


def test_equal_contributions_need_just_their_share() -> None:
    for number in (5, 10, 35, 70):
        weight = np.stack([np.full(number, 0.1), np.zeros(number)])
        assert concentration_of(np.full(number, 0.7), weight, 0, 1).needed == number * 8 // 10


def test_nothing_is_no_number() -> None:
    found = concentration_of(np.zeros(3), np.ones((2, 3)), 0, 1)
    assert all(math.isnan(value) for value in found)
    same = concentration_of(np.ones(3), np.ones((2, 3)), 0, 1)  # points, but no margin
    assert math.isnan(same.shown)
    assert same.positive == 1


@pytest.mark.parametrize("make", [small_model, small_pool], ids=["protopnet", "protopool"])
def test_over_a_data_set_against_a_slow_program(make) -> None:
    model = make()
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = torch.zeros(7, dtype=torch.int64)
    loader = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    settings = Context(shown=3, needed=0.6)
    (result,) = measure(model, loader, 7, only=["concentration"], context=settings)
    wanted = []
    with torch.no_grad():
        for image in images:
            output = model(image[None])
            order = sorted(range(4), key=lambda k: -float(output.logits[0, k]))
            weight = model.prototype_weight.detach()
            wanted.append(plain.concentration(output.activations[0], weight, order[0], order[1], 3, 0.6))
    shown, needed, positive = (sum(column) / 7 for column in zip(*wanted, strict=True))
    names = ["share of the largest 3", "prototypes for 60%", "positive share of the points"]
    assert list(result.estimates) == [*(f"share of the largest {k}" for k in (1, 2, 3, 4, 5)), *names[1:]]
    assert [result.estimates[name].value for name in names] == pytest.approx([shown, needed, positive], rel=1e-5)
    assert result.estimates[names[1]].unit == "number"
    assert all(one.images == 7 for one in result.estimates.values())


def test_the_shares_of_one_to_five() -> None:
    """The contributions of the case by hand are 4, 3, 2, 1 and 0 of 10."""
    activations = np.array([1.0, 2.0, 1.0, 5.0, 1.0])
    weight = np.array([[2.0, 0.0, -1.0, 1.0, 1.5], [-2.0, -1.0, 0.0, 1.0, -1.5]])
    assert shares_of_largest(activations, weight, 0, 1) == pytest.approx([0.4, 0.7, 0.9, 1.0, 1.0])
    assert np.isnan(shares_of_largest(np.zeros(5), weight, 0, 1)).all()


def test_the_shares_over_a_data_set_are_those_of_a_slow_program() -> None:
    model = small_model()
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    (result,) = measure(model, [(images, torch.zeros(5, dtype=torch.int64))], 5, only=["concentration"])
    weight = model.prototype_weight.detach()
    for shown in (1, 2, 3, 4, 5):
        wanted = []
        for image in images:
            with torch.no_grad():
                output = model(image[None])
            order = sorted(range(4), key=lambda k: -float(output.logits[0, k]))
            wanted.append(plain.concentration(output.activations[0], weight, order[0], order[1], shown, 0.8)[0])
        assert result.estimates[f"share of the largest {shown}"].value == pytest.approx(np.mean(wanted), rel=1e-5)
