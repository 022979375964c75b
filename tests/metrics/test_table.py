"""All measures in one call, and the table they make."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from protokern.data import SyntheticBirds
from protokern.data.birds.dataset import BirdTruth
from protokern.explain.framing import FRAME_MAKERS
from protokern.metrics import MEASURES, Context, MeasureResult, MetricTable, estimate, evaluate, measure
from protokern.metrics.files import passes_of_random
from protokern.metrics.random_prototypes import measure_random
from tests.explain.small_models import small_model


def data() -> TensorDataset:
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.tensor([0, 1, 2, 3, 0]))


def test_evaluate_is_measure_over_a_data_set() -> None:
    model, images = small_model(), data()
    table = evaluate(model, images, ["concentration", "size"], batch_size=2)
    wanted = measure(model, [images[:]], 5, only=["concentration", "size"])
    assert [one.name for one in table.results] == ["concentration", "size"]
    for one, other in zip(table.results, wanted, strict=True):
        for name, number in other.estimates.items():
            assert table[one.name].estimates[name].value == pytest.approx(number.value, rel=1e-5)
    with pytest.raises(KeyError, match="purities"):
        _ = table["purities"]


def test_annotations_are_used_and_missing_ones_said() -> None:
    birds = SyntheticBirds("test", num_classes=4, images_per_class=1, image_size=32)
    assert evaluate(small_model(), birds, ["on_object"])["on_object"].left_out == "no annotations were given"
    known = evaluate(small_model(), birds, ["on_object"], BirdTruth(birds))["on_object"]
    assert known.estimates["mask, own class"].images == 4


def test_another_image_of_the_data_set_takes_the_place_of_the_rest() -> None:
    result = evaluate(small_model(), data(), ["left_alone"], context=Context(fill="other"))["left_alone"]
    assert result.settings["the rest is"] == "another image, drawn for each"
    assert result.estimates["1 x 1 cells"].images == 5


def test_a_wrong_batch_size_and_a_wrong_name() -> None:
    with pytest.raises(ValueError, match=r"^batch_size: must be at least 1; got 0\. Give a positive number\."):
        evaluate(small_model(), data(), batch_size=0)
    with pytest.raises(ValueError, match=r"^only: must be some of on_object, "):
        evaluate(small_model(), data(), ["sizes"])


def table_by_hand() -> MetricTable:
    one = MeasureResult(
        name="size",
        estimates={"a": estimate([0.5, 0.5]), "b": estimate([math.nan], over="prototypes")},
        prototypes={"share": [0.25, math.nan], "part": ["beak", ""]},
        classes={"right": [1.0, 0.0, 0.5]},
        passes=7,
        unchanged=2,
        shared=5,
    )
    return MetricTable((one, MeasureResult(name="on_object", left_out="no boxes")), {"images": 2})


def test_the_json_by_hand() -> None:
    assert json.loads(table_by_hand().to_json()) == {
        "format": "protokern-measures-1",
        "images": 2,
        "passes": {"unchanged": 7, "changed": 5},
        "measures": {
            "size": {
                "numbers": {
                    "a": {"value": 0.5, "low": 0.5, "high": 0.5, "unit": "share", "images": 2, "prototypes": 0},
                    "b": {"value": None, "low": None, "high": None, "unit": "share", "images": 0, "prototypes": 0},
                },
                "settings": {},
                "skipped": {},
                "passes": 7,
                "unchanged": 2,
                "shared": 5,
                "by_prototype": {"share": [0.25, None], "part": ["beak", ""]},
                "by_class": {"right": [1.0, 0.0, 0.5]},
            },
            "on_object": {"left_out": "no boxes"},
        },
    }


def test_the_csv_by_hand() -> None:
    table = table_by_hand()
    assert table.to_csv() == (
        "measure,number,value,low,high,unit,images,prototypes\nsize,a,0.5,0.5,0.5,share,2,0\nsize,b,,,,share,0,0\n"
    )
    assert list(csv.reader(io.StringIO(table.prototypes_csv()))) == [
        ["prototype", "size: share", "size: part"], ["0", "0.25", "beak"], ["1", "", ""]
    ]  # fmt: skip
    assert table.classes_csv() == "class,size: right\n0,1.0\n1,0.0\n2,0.5\n"
    assert MetricTable(()).prototypes_csv() is None


def test_the_images_that_go_through_the_net_are_counted_for_each_measure() -> None:
    """left_alone takes each of its three images, and three versions of it; others take none."""
    seen = []
    model = small_model()
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    table = evaluate(model, data(), ["concentration", "left_alone", "duplicates"], context=Context(subset=3))
    assert [one.passes for one in table.results] == [0, 12, 0]
    assert sum(seen) == 5 + 12
    assert [(one.unchanged, one.shared) for one in table.results] == [(0, 5), (3, 5), (0, 0)]
    assert table.passes == {"unchanged": 5 + 3, "changed": 9}


def test_all_measures_need_few_passes_over_unchanged_images() -> None:
    """Every image that the net gets is looked at."""
    birds = SyntheticBirds("test", num_classes=4, images_per_class=3, image_size=32)
    images = torch.stack([birds[index][0] for index in range(12)])
    model = small_model()
    given: list[torch.Tensor] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if module is backbone:  # and no copy with other weights
            given.extend(inputs[0].clone())
        else:
            others.append(len(inputs[0]))

    others: list[int] = []
    backbone = model.backbone
    backbone.register_forward_pre_hook(lambda module, inputs: note(module, inputs))
    context = Context(subset=2, frames={name: make(model) for name, make in FRAME_MAKERS.items()})
    table = evaluate(model, birds, None, BirdTruth(birds), context=context)
    loader = DataLoader(birds, 8)
    random = measure_random(model, loader, 12, birds, context=context, most_images=4)
    is_bare = [any(torch.equal(one, own) for own in images) for one in given]
    unchanged = table.passes["unchanged"] + passes_of_random(random)["unchanged"]
    assert unchanged == sum(is_bare)
    assert table.passes["changed"] + passes_of_random(random)["changed"] == is_bare.count(False) + sum(others)
    assert table["stability"].passes == 2
    assert table["stability"].unchanged == table["randomisation"].unchanged == 0
    # All images twice, those of the patches, and for each drawn one: left_alone and its two frames, four frames of
    # deletion, perturbation, and with random prototypes left_alone and its frame.
    assert unchanged == 2 * 12 + 4 + 2 * (3 + 4 + 1 + 2)
    assert unchanged <= 6 * 12


def test_all_measures_say_what_they_ask() -> None:
    assert all(one.question.endswith("?") for one in MEASURES.values())
