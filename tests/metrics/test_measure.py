"""The pass over the data, the registry, and the intervals."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from protokern.data.regions import MaskRegion
from protokern.metrics import MEASURES, Context, estimate, measure
from tests.explain.small_models import small_model, small_pool

LABELS = torch.tensor([0, 1, 2, 3, 0])


def pictures() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_an_interval_by_hand() -> None:
    """Of values 0 and 1, n each, the resampled means are binomial: a 95 % interval of 0.5 +- 1.96 sqrt(0.25 / N)."""
    values = np.repeat([0.0, 1.0], 200)
    found = estimate(values)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * math.sqrt(0.25 / 400), abs=0.006)
    assert found.high == pytest.approx(0.5 + 1.96 * math.sqrt(0.25 / 400), abs=0.006)
    assert found.images == 400


def test_intervals_are_the_same_bits_for_a_seed_and_others_for_another_one() -> None:
    values = np.random.default_rng(3).random(50)
    assert estimate(values, seed=4) == estimate(values.tolist(), seed=4)
    assert estimate(values, seed=4) != estimate(values, seed=5)


def test_unknown_values_are_left_out_and_few_images_have_no_interval() -> None:
    some = estimate([0.25, math.nan, 0.75])
    assert (some.value, some.images) == (0.5, 2)
    assert (some.low, some.high) == (0.25, 0.75)
    one = estimate([math.nan, 0.25])
    assert (one.value, one.low, one.high, one.images) == (0.25, None, None, 1)
    none = estimate([math.nan])
    assert math.isnan(none.value)
    assert (none.low, none.high, none.images) == (None, None, 0)


def test_a_median_is_not_a_mean() -> None:
    assert estimate([0.0, 0.0, 0.9], statistic="median").value == 0
    assert estimate([0.0, 0.0, 0.9]).value == pytest.approx(0.3)


def test_many_images_are_resampled_in_parts() -> None:
    values = np.random.default_rng(0).random(1 << 13)
    found = estimate(values)
    error = values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_all_measures_in_the_order_of_the_registry_whatever_the_batches() -> None:
    model = small_model()
    dataset = TensorDataset(pictures(), LABELS)
    results = [measure(model, DataLoader(dataset, batch_size=size), 5) for size in (1, 2, 5)]
    assert [one.name for one in results[0]] == [name for name, row in MEASURES.items() if row.by_default]
    assert results[0][0].left_out is not None  # no annotations
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert (one.settings, one.skipped) == (other.settings, other.skipped)
            for name, number in one.estimates.items():
                assert other.estimates[name].value == pytest.approx(number.value, rel=1e-4)


def test_batches_may_come_in_any_order_with_the_index_of_every_image() -> None:
    model = small_model()
    order = torch.tensor([3, 0, 4, 1, 2])
    images = pictures()
    plain = measure(model, [(images, LABELS)], 5, only=["left_alone"], context=Context(subset=2))
    mixed = measure(model, [(images[order], LABELS[order], order)], 5, only=["left_alone"], context=Context(subset=2))
    for name, number in plain[0].estimates.items():
        assert mixed[0].estimates[name].value == pytest.approx(number.value, rel=1e-5)


def test_the_model_is_measured_in_evaluation_mode_and_left_in_its_own() -> None:
    model = small_model()
    loader = [(pictures(), LABELS)]
    before = measure(model, loader, 5)
    model.train()
    after = measure(model, loader, 5)
    assert model.training
    assert [one.estimates for one in before] == [one.estimates for one in after]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_duplicates_alone_look_at_no_image() -> None:
    def loader():
        raise AssertionError("nobody needs images")
        yield

    (result,) = measure(small_model(), loader(), 5, only=["duplicates"])
    assert result.name == "duplicates"


def test_a_batch_is_forgotten_when_the_next_one_comes() -> None:
    """Memory does not grow with the data set: of all images, those of the last two batches are left at most."""
    left: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def loader():
        nonlocal most
        for start in range(12):
            most = max(most, sum(one() is not None for one in left))
            images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(start))
            left.append(weakref.ref(images))
            yield images, torch.tensor([0, 1])
            del images

    region = MaskRegion(np.ones((4, 4), dtype=bool))
    results = measure(small_model(), loader(), 24, context=Context(regions=lambda _: {"mask": region}))
    assert most <= 2
    assert results[0].estimates["mask, own class"].images == results[2].estimates["1 x 1 cells"].images == 24


@pytest.mark.parametrize("number", [4, 6])
def test_a_wrong_number_of_images_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"^num_images: must be the number .* yields, 5; got {number}"):
        measure(small_model(), [(pictures(), LABELS)], number)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shown": 0}, "shown: must be at least 1; got 0."),
        ({"subset": -1}, "subset: must be at least 1; got -1."),
        ({"needed": 0.0}, "needed: must be above 0 and at most 1; got 0.0."),
        ({"fill": "black"}, "fill: must be one of grey, blur, other; got 'black'."),
        ({"protocol": "papers"}, "protocol: must be one of default, paper; got 'papers'."),
        ({"part_area": 0.0}, "part_area: must be above 0 and at most 1; got 0.0."),
        ({"seed": -1}, "seed: must be at least 0; got -1."),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        Context(**settings)


def test_unknown_measures_and_soft_choices() -> None:
    with pytest.raises(
        ValueError, match=r"^only: must be some of on_object, .*; got 'on_objet'\. Check the spelling\."
    ):
        measure(small_model(), [], 0, only=["on_objet"])
    with pytest.raises(ValueError, match=r"^only: must be some of .*; got none\."):
        measure(small_model(), [], 0, only=[])
    with pytest.raises(ValueError, match=r"^model: must have made its choices final to be measured"):
        measure(small_pool(is_hard=False), [], 0)
