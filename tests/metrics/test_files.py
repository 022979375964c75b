"""Measures that were stored are read as they were, and are known to be of a model or not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from protokern.backbones import build_backbone
from protokern.errors import CheckpointError
from protokern.metrics.files import facts_of, file_names, read_measures, write_measures
from protokern.metrics.results import Estimate, MeasureResult
from protokern.models import ProtoPNet
from protokern.storage.outputs import claim_outputs

PAIR = {"first": 0, "second": 2, "same_vector": True, "same_patch": False, "overlap": 0.75}
RESULTS = (
    MeasureResult(
        name="stability",
        estimates={"same patch": Estimate(value=0.75, low=0.5, high=1.0, images=8)},
        settings={"images": 8},
        skipped={"images whose class has no prototype": 1},
        prototypes={"same patch": [0.5, math.nan, 1.0], "best part": ["beak", "", "eye"]},
        classes={"right answers": [1.0, 0.5]},
        passes=8,
    ),
    MeasureResult(
        name="duplicates", estimates={"pairs": Estimate(value=1, low=None, high=None, images=0)}, table=(PAIR,)
    ),
    MeasureResult(name="purity", left_out="it needs part centres"),
    MeasureResult(name="size", estimates={"sizes": Estimate(value=math.nan, low=None, high=None, images=0)}),
)


def net() -> ProtoPNet:
    torch.manual_seed(3)
    return ProtoPNet(build_backbone("tiny"), 2, prototypes_per_class=3, prototype_dim=6, image_size=32)


def write(folder: Path, model: ProtoPNet) -> Path:
    random = (MeasureResult(name="stability", estimates={"same patch": Estimate(value=0.25, low=0, high=1, images=8)}),)
    outputs = claim_outputs(folder, file_names(), by="metrics", argument="--out")
    write_measures(outputs, {"split": "train", **facts_of(model, random)}, RESULTS)
    return folder / "measures.json"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, net())
    stored = read_measures(tmp_path)
    assert stored is not None
    assert stored.split == "train"
    assert repr(stored.results) == repr(RESULTS)  # NaN is not equal to itself
    assert [(one.name, one.estimates["same patch"].value) for one in stored.random] == [("stability", 0.25)]


def test_a_folder_without_measures_has_none(tmp_path: Path) -> None:
    assert read_measures(tmp_path) is None


@pytest.mark.parametrize("part", ["backbone", "add_on_layers", "prototype_layer", "last_layer"])
def test_other_weights_are_known(tmp_path: Path, part: str) -> None:
    model = net()
    write(tmp_path, model)
    stored = read_measures(tmp_path)
    assert stored is not None
    assert stored.is_of(net())
    with torch.no_grad():
        next(getattr(model, part).parameters()).flatten()[0] += 1
    assert not stored.is_of(model)


def test_a_file_of_before_is_read_and_is_of_no_model(tmp_path: Path) -> None:
    path = write(tmp_path, net())
    table = json.loads(path.read_text())
    del table["weights"], table["random_prototypes"]
    path.write_text(json.dumps(table))
    stored = read_measures(tmp_path)
    assert stored is not None
    assert not stored.is_of(net())
    assert stored.random == ()


@pytest.mark.parametrize("change", ['{"format": "protokern-measures-1"}', '{"format": "protokern-measures-9"}', "{"])
def test_a_broken_file_is_one_line(tmp_path: Path, change: str) -> None:
    path = write(tmp_path, net())
    path.write_text(change)
    with pytest.raises(CheckpointError, match=r"measures\.json") as caught:
        read_measures(tmp_path)
    assert "\n" not in str(caught.value)
    remedy = "Update protokern." if change.endswith('-9"}') else "Run 'protokern metrics RUN' to write it again."
    assert str(caught.value).endswith(remedy)
