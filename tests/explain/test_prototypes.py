from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.errors import CheckpointError, DataError
from protokern.explain.local import explain_image
from protokern.explain.pictures import to_picture
from protokern.explain.prototypes import write_prototypes
from protokern.push import PushResult
from protokern.runs.prototypes import read_prototypes
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, POOL_SLOTS, SIZE, PushedRun, make_pool_run, make_run


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("pushed"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


def test_every_prototype_has_an_entry_and_three_pictures(pushed: PushedRun) -> None:
    table = json.loads((pushed.folder / "prototypes" / "prototypes.json").read_text())
    assert [entry["index"] for entry in table["prototypes"]] == list(range(6))
    assert [entry["classes"] for entry in table["prototypes"]] == [
        [{"class_index": index // 3, "class_name": CLASSES[index // 3], "weight": 1.0}] for index in range(6)
    ]
    for entry in table["prototypes"]:
        image = int(pushed.push.image[entry["index"]])
        source = entry["source"]
        assert source["name"] == pushed.splits.push.sample_name(image)
        assert source["patch"] == list(divmod(int(pushed.push.patch[entry["index"]]), 4))
        assert source["distance"] == pytest.approx(float(pushed.push.distance[entry["index"]]))
        for name in entry["pictures"].values():
            with Image.open(pushed.folder / "prototypes" / name) as picture:
                assert picture.size == (SIZE, SIZE)
    names = {path.name for path in (pushed.folder / "prototypes").iterdir()}
    pictures = {f"000{j}-{kind}.png" for j in range(6) for kind in ("image", "box", "heat")}
    assert names == {LISTING, "prototypes.json"} | pictures


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_prototypes_of_a_pool_name_all_their_classes_and_unused_ones_have_no_pictures(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    with torch.no_grad():
        pool.model.last_layer.weight.copy_(torch.arange(12.0).view(2, 6))
    written = write_prototypes(pool.folder, pool.model, pool.splits, pool.push)
    table = json.loads((pool.folder / "prototypes" / "prototypes.json").read_text())
    for index, entry in enumerate(table["prototypes"]):
        users = [k for k, slots in enumerate(POOL_SLOTS) if index in slots]
        assert [one["class_name"] for one in entry["classes"]] == [CLASSES[k] for k in users]
        weight = pool.model.prototype_weight[users, index].tolist()
        assert [one["weight"] for one in entry["classes"]] == pytest.approx(weight)
        assert (entry["source"] is None) == (not users)
        assert ("pictures" in entry) == bool(users)
    # prototype 0 is in slot 0 of the first class and in slot 2 of the second, and each class weighs both slots
    assert [one["weight"] for one in table["prototypes"][0]["classes"]] == [0.0 + 5.0, 6.0 + 11.0]
    assert not (pool.folder / "prototypes" / "0004-image.png").exists()
    assert read_prototypes(pool.folder) == written
    assert written.comes_from(pool.push, pool.model)


def test_a_model_that_still_chooses_has_no_prototypes_to_write(pushed: PushedRun, tmp_path: Path) -> None:
    soft = make_pool_run(tmp_path, is_pushed=False)
    with pytest.raises(ValueError, match="model: must have made its choices final"):
        write_prototypes(soft.folder, soft.model, soft.splits, pushed.push)
    assert not (soft.folder / "prototypes").exists()
    assert not [path for path in soft.folder.iterdir() if path.name.startswith(".")]


def test_the_pictures_show_what_an_explanation_of_the_source_shows(pushed: PushedRun) -> None:
    files = read_prototypes(pushed.folder)
    assert files is not None
    for record in files.prototypes:
        assert record.source is not None
        image = pushed.splits.push[record.source.image][0]
        explanation = explain_image(pushed.model, image, top=6, classes=[record.classes[0].class_index])
        evidence = next(one for one in explanation.classes[0].evidence if one.view.prototype == record.index)
        assert evidence.view.patch == record.source.patch
        assert evidence.view.activation_box == record.source.activation_box
        assert evidence.view.patch_box == record.source.patch_box
        assert evidence.view.receptive_field_box == record.source.receptive_field_box
        assert evidence.distance == pytest.approx(0, abs=1e-5)
        assert (files.picture(record.index, "image") == to_picture(image)).all()


def test_reading_gives_back_what_was_written(pushed: PushedRun) -> None:
    written = write_prototypes(pushed.folder, pushed.model, pushed.splits, pushed.push)
    assert read_prototypes(pushed.folder) == written
    assert written.comes_from(pushed.push, pushed.model)
    assert written.field_for(torch.zeros(3, SIZE, SIZE)) == written.receptive_field
    assert written.field_for(torch.zeros(3, SIZE, SIZE + 1)) is None
    assert not [path for path in pushed.folder.iterdir() if path.name.startswith(".")]


def test_another_push_is_noticed(pushed: PushedRun) -> None:
    files = read_prototypes(pushed.folder)
    assert files is not None
    push = pushed.push
    assert push is not None
    assert not files.comes_from(replace(push, patch=push.patch + 1), pushed.model)
    fewer = replace(push, image=push.image[:-1], patch=push.patch[:-1])
    assert not files.comes_from(fewer, pushed.model)


def test_other_weights_of_the_same_push_are_noticed_but_not_another_last_layer(pushed: PushedRun) -> None:
    files = read_prototypes(pushed.folder)
    assert files is not None
    for name in ("last_layer", "prototype_layer", "add_on_layers", "backbone"):
        model = copy.deepcopy(pushed.model)
        with torch.no_grad():
            next(getattr(model, name).parameters()).view(-1)[0] += 1
        assert files.comes_from(pushed.push, model) == (name == "last_layer"), name


def test_a_prototype_without_a_patch_has_no_pictures(pushed: PushedRun, tmp_path: Path) -> None:
    image, patch, distance = pushed.push.image.clone(), pushed.push.patch.clone(), pushed.push.distance.clone()
    image[4], patch[4], distance[4] = -1, -1, torch.inf
    lost = PushResult(image=image, patch=patch, distance=distance, label=pushed.push.label, grid=pushed.push.grid)
    files = write_prototypes(tmp_path, pushed.model, pushed.splits, lost)
    assert files.prototypes[4].source is None
    assert files.comes_from(lost, pushed.model)
    assert read_prototypes(tmp_path) == files
    assert not (tmp_path / "prototypes" / "0004-image.png").exists()
    with pytest.raises(CheckpointError, match=r"0004-image.png: must be a picture of the run; it cannot be read"):
        files.picture(4, "image")


def test_a_push_that_does_not_fit_is_refused(pushed: PushedRun, tmp_path: Path) -> None:
    push = pushed.push
    assert push is not None
    short = replace(push, image=push.image[:-1])
    with pytest.raises(ValueError, match="push_result: must have one entry for each of the 6 prototypes; got 5"):
        write_prototypes(tmp_path, pushed.model, pushed.splits, short)
    far = replace(push, image=push.image + 1000)
    with pytest.raises(DataError, match="data: must hold the images of the push, at least 1"):
        write_prototypes(tmp_path, pushed.model, pushed.splits, far)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_folder_whole(
    pushed: PushedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pushed.folder / "prototypes", tmp_path / "prototypes")
    before = read_prototypes(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CheckpointError, match="prototypes: could not be written"):
        write_prototypes(tmp_path, pushed.model, pushed.splits, pushed.push)
    assert read_prototypes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["prototypes"]


def test_no_folder_and_foreign_formats(tmp_path: Path) -> None:
    assert read_prototypes(tmp_path) is None
    (tmp_path / "prototypes").mkdir()
    with pytest.raises(CheckpointError, match=r"prototypes.json: cannot be read"):
        read_prototypes(tmp_path)
    (tmp_path / "prototypes" / "prototypes.json").write_text('{"format": "else"}')
    with pytest.raises(CheckpointError, match=r"must be of format protokern-prototypes-3; got .*--data DIR' to write"):
        read_prototypes(tmp_path)


def test_the_frame_is_drawn_on_the_box_picture(pushed: PushedRun) -> None:
    files = read_prototypes(pushed.folder)
    assert files is not None
    box = files.prototypes[0].source.patch_box if files.prototypes[0].source else None
    assert box is not None
    image, framed = files.picture(0, "image"), files.picture(0, "box")
    changed = np.argwhere((image != framed).any(axis=-1))
    assert changed.min(axis=0).tolist() >= [box.y0, box.x0]
    assert changed.max(axis=0).tolist() <= [box.y1 - 1, box.x1 - 1]
    assert framed[box.y0, box.x0].tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.pop("grid"),
        lambda table: table.update(receptive_field=None),
        lambda table: table["prototypes"][0].update(classes=3),
        lambda table: table["prototypes"][0].update(stranger=1),
    ],
)
def test_a_broken_table_is_named_in_one_line(
    pushed: PushedRun, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    write_prototypes(pushed.folder, pushed.model, pushed.splits, pushed.push)
    table = json.loads((pushed.folder / "prototypes" / "prototypes.json").read_text())
    change(table)
    (tmp_path / "prototypes").mkdir()
    (tmp_path / "prototypes" / "prototypes.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"prototypes.json: must describe every prototype; it is broken") as error:
        read_prototypes(tmp_path)
    assert "\n" not in str(error.value)


def test_features_that_are_there_are_taken(pushed: PushedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pushed.push is not None
    images = torch.stack([pushed.splits.push[index][0] for index in range(len(pushed.splits.push))])
    with torch.no_grad():
        features = pushed.model.eval().features(images)
    expected = write_prototypes(pushed.folder, pushed.model, pushed.splits, pushed.push).prototypes
    asked: list[int] = []

    def features_of(batch: Sequence[int]) -> torch.Tensor:
        asked.extend(batch)
        return features[list(batch)]

    plain = pushed.model.features
    passed: list[torch.Tensor] = []

    def run(given: torch.Tensor) -> torch.Tensor:
        passed.extend(image for image in given if not image.isnan().any())  # others have holes, to find the field
        found: torch.Tensor = plain(given)
        return found

    monkeypatch.setattr(pushed.model, "features", run)
    found = write_prototypes(pushed.folder, pushed.model, pushed.splits, pushed.push, features=features_of).prototypes
    assert found == expected
    assert asked == sorted(set(pushed.push.image.tolist()))
    assert len(passed) <= 1 < len(asked)
