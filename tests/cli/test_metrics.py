"""`protokern metrics`: numbers on the screen, as JSON and as CSV; what is missing is said; mistakes are one line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.cli.main import main
from protokern.config import config_to_dict, parse_config
from protokern.data import SyntheticBirds
from protokern.explain import explain_image
from protokern.explain.prototypes import write_prototypes
from protokern.metrics import MEASURES, Context, MeasureResult, similarity_left
from protokern.metrics.context import Seen
from protokern.metrics.files import read_measures
from protokern.metrics.registry import Details, Measure
from protokern.models.build import build_model
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, PushedRun, make_pool_run, make_run
from tests.data.published_data import write_cars, write_cub, write_pets

BY_DEFAULT = [name for name in MEASURES if name != "misalignment"]
FILES = ["duplicates.csv", "measures-classes.csv", "measures-prototypes.csv", "measures.csv", "measures.json"]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    """A run whose test images have boxes: of class 0 around the upper half, of class 1 around the left half."""
    made = make_run(tmp_path_factory.mktemp("metrics"))
    write_prototypes(made.folder, made.model, made.splits, made.push)
    ends = {CLASSES[0]: "0,0,40,20", CLASSES[1]: "0,0,20,40"}
    lines = [f"test/{name}/{number}.png,half,{ends[name]}" for name in CLASSES for number in range(4)]
    (made.data / "boxes.csv").write_text("\n".join(["path,label,xmin,ymin,xmax,ymax", *lines]) + "\n")
    lines = [f"test/{name}/{number}.png,middle,20,{18 + number}" for name in CLASSES for number in range(4)]
    (made.data / "parts.csv").write_text("\n".join(["path,part,x,y", *lines]) + "\n")
    return made


def patches_of(made: PushedRun) -> list[tuple[int, list[int], list[float]]]:
    """(label, patch and distance of every prototype) of the test images."""
    test: Any = made.splits.test
    with torch.no_grad():
        outputs = [(label, made.model(image[None])) for image, label in test]
    return [(label, out.patches[0].tolist(), out.min_distances[0].tolist()) for label, out in outputs]


def test_all_measures_in_files_and_on_the_screen(
    marked: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["metrics", str(marked.folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == sorted([LISTING, *FILES])
    table = json.loads((out / "measures.json").read_text())
    assert (table["format"], table["split"], table["images"]) == ("protokern-measures-1", "test", 8)
    assert list(table["measures"]) == BY_DEFAULT
    random = table["random_prototypes"]["accuracy"]["numbers"]["right answers"]["value"]
    assert re.search(rf"right answers .* random prototypes: {random:.1%}\n", printed)
    stored = read_measures(out)
    assert stored is not None
    assert stored.is_of(marked.model)

    columns = rows = marked.push.grid[0]
    hits, best, chance = [], [], []
    for label, patches, distances in patches_of(marked):
        half = [
            place % columns < columns / 2 if label else place < rows * columns / 2 for place in range(rows * columns)
        ]
        own = range(3 * label, 3 * label + 3)
        hits.append(np.mean([half[patches[j]] for j in own]))
        best.append(half[patches[min(own, key=lambda j: distances[j])]])
        chance.append(np.mean(half))
    numbers = table["measures"]["on_object"]["numbers"]
    found = [numbers[f"box half, {what}"]["value"] for what in ("own class", "best alone", "by chance")]
    assert found == pytest.approx([np.mean(hits), np.mean(best), np.mean(chance)])
    assert f"{np.mean(hits):.1%}" in printed

    with (out / "measures.csv").open() as file:
        lines = list(csv.DictReader(file))
    of_table = {
        (measure, name): number["value"]
        for measure, entry in table["measures"].items()
        for name, number in entry["numbers"].items()
    }
    assert {(line["measure"], line["number"]): float(line["value"]) for line in lines} == of_table
    for line in lines:
        if line["images"] != "0" or line["prototypes"] != "0":
            assert float(line["low"]) <= float(line["value"]) <= float(line["high"])
    facts = table["measures"]["left_alone"]["settings"]
    assert facts["images drawn"] == 8
    assert "(images drawn: 8; seed of the draw: 0; the rest is: grey, 0.5)" in printed
    assert "stability: Does a prototype match at the same place under noise that nobody sees? (8 images more" in printed
    assert "-0.0%" not in printed
    unchanged, changed = (table["passes"][kind] + table["random_passes"][kind] for kind in ("unchanged", "changed"))
    passes = f"{unchanged} images went through the net as they are ({unchanged / 8:.1f} times the 8 that were measured)"
    assert f"{passes}, and {changed:,} changed ones\n" in printed
    with (out / "duplicates.csv").open() as file:
        pairs = [(int(line["first"]), int(line["second"])) for line in csv.DictReader(file)]
    assert pairs == [(pair["first"], pair["second"]) for pair in table["measures"]["duplicates"]["pairs"]]
    assert len(pairs) == table["measures"]["duplicates"]["numbers"]["pairs"]["value"]


def test_the_frames_are_those_of_the_explanations(marked: PushedRun, tmp_path: Path) -> None:
    assert main(["metrics", str(marked.folder), "--only", "left_alone", "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "measures.json").read_text())["measures"]["left_alone"]["numbers"]
    kept = []
    test: Any = marked.splits.test
    for (image, label), (_, _, distances) in zip(test, patches_of(marked), strict=True):
        best = min(range(3 * label, 3 * label + 3), key=lambda j: distances[j])
        views = [
            evidence.view
            for one in explain_image(marked.model, image, classes=[label], top=6).classes
            for evidence in one.evidence
            if evidence.view.prototype == best
        ]
        kept += similarity_left(marked.model, image, best, views[0].patch, [views[0].patch_box])[1]
    assert numbers["grid frame"]["value"] == pytest.approx(np.mean(kept), rel=1e-3)
    enough = numbers["sufficient frame"]
    assert enough["images"] == 8
    assert enough["low"] >= 0.9 - 1e-5  # it was searched for so
    assert 0 < numbers["area of the sufficient frame, median"]["value"] <= 1


def test_the_same_call_gives_the_same_numbers_and_replaces_its_own_files(marked: PushedRun) -> None:
    contents = []
    for _ in range(2):
        assert (
            main(["metrics", str(marked.folder), "--images", "3", "--frames", "grid", "--fill", "blur", "--seed", "4"])
            == 0
        )
        contents.append([(marked.folder / name).read_bytes() for name in FILES])
    assert contents[0] == contents[1]
    facts = json.loads(contents[0][-1])["measures"]["left_alone"]["settings"]
    assert (facts["images drawn"], facts["seed of the draw"], facts["the rest is"]) == (3, 4, "blurred")
    assert "sufficient" not in contents[0][-2].decode()


def test_the_files_are_of_the_last_call(marked: PushedRun, tmp_path: Path) -> None:
    command = ["metrics", str(marked.folder), "--out", str(tmp_path), "--only"]
    assert main([*command, "duplicates"]) == 0
    assert (tmp_path / "duplicates.csv").exists()
    assert main([*command, "concentration"]) == 0
    assert not (tmp_path / "duplicates.csv").exists()
    assert list(json.loads((tmp_path / "measures.json").read_text())["measures"]) == ["concentration"]


class WidestRows:
    """A made-up measure with rows of details."""

    needs_images = False

    def __init__(self, context: Context) -> None:
        self._has_regions = context.regions is not None

    def see(self, seen: Seen) -> None:
        pass

    def result(self) -> MeasureResult:
        rows = ({"width": 3, "row": 1}, {"row": 2, "width": 4})
        return MeasureResult(name="widest", settings={"has regions": int(self._has_regions)}, table=rows)


@pytest.mark.parametrize("needs_regions", [True, False])
def test_a_new_measure_is_a_row_of_the_registry(
    marked: PushedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_regions: bool
) -> None:
    row = Measure(
        start=lambda model, context, num_images: WidestRows(context),
        needs_regions=needs_regions,
        details=Details("rows", ("row", "width")),
    )
    monkeypatch.setitem(MEASURES, "widest", row)
    command = ["metrics", str(marked.folder), "--out", str(tmp_path), "--only"]
    assert main([*command, "widest"]) == 0
    assert (tmp_path / "widest.csv").read_text() == "row,width\n1,3\n2,4\n"
    entry = json.loads((tmp_path / "measures.json").read_text())["measures"]["widest"]
    assert entry["rows"] == [{"row": 1, "width": 3}, {"row": 2, "width": 4}]
    assert entry["settings"]["has regions"] == needs_regions
    assert main([*command, "concentration"]) == 0
    assert not (tmp_path / "widest.csv").exists()


def test_the_list_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MEASURES)
    assert lines[0].endswith("on its surroundings? Uses boxes or masks.")


def test_the_training_images_are_measured_if_asked(marked: PushedRun, tmp_path: Path) -> None:
    command = ["metrics", str(marked.folder), "--out", str(tmp_path), "--only", "accuracy", "on_object"]
    assert main([*command, "--split", "train"]) == 0
    table = json.loads((tmp_path / "measures.json").read_text())
    assert (table["split"], table["images"]) == ("train", len(marked.splits.push))
    assert table["measures"]["accuracy"]["numbers"]["right answers"]["images"] == len(marked.splits.push)
    assert table["measures"]["on_object"]["left_out"] == "no image of this data set has a box or a mask"
    classes = (tmp_path / "measures-classes.csv").read_text().splitlines()
    assert classes[0] == "class,accuracy: right answers,accuracy: images"
    assert len(classes) == 3


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_run(tmp_path)
    assert main(["metrics", str(made.folder), "--only", "on_object", "duplicates"]) == 0
    printed = capsys.readouterr().out
    assert f"on_object: no boxes.csv and no masks/ beside the images of {made.data}; left out" in printed
    table = json.loads((made.folder / "measures.json").read_text())
    assert list(table["measures"]) == ["on_object", "duplicates"]
    assert table["measures"]["on_object"]["left_out"].startswith("no boxes.csv and no masks/")
    assert main(["metrics", str(made.folder), "--only", "purity"]) == 0
    no_parts = f"purity: it needs part centres, and there is no parts.csv beside the images of {made.data}; left out"
    assert no_parts in capsys.readouterr().out
    (made.data / "boxes.csv").write_text("path,label,xmin,ymin,xmax,ymax\n")
    assert main(["metrics", str(made.folder), "--only", "on_object"]) == 0
    assert "on_object: no image of this data set has a box or a mask; left out" in capsys.readouterr().out


def test_a_run_before_its_push_has_no_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_run(tmp_path, is_pushed=False)
    assert main(["metrics", str(made.folder), "--only", "duplicates", "--out", str(tmp_path / "out")]) == 0
    assert "there was no push, so no prototype has a source" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_pool_is_measured_once_its_choices_are_final(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final, soft = make_pool_run(tmp_path / "final"), make_pool_run(tmp_path / "soft", is_pushed=False)
    assert main(["metrics", str(final.folder), "--images", "2"]) == 0
    assert main(["metrics", str(soft.folder)]) == 2
    assert "must have final choices to be measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "on_objet"],
            f"--only: must be some of {', '.join(MEASURES)}; got 'on_ob",
        ),
        (["--images", "0"], "--images: must be at least 1; got 0."),
        (["--part-area", "2"], "--part-area: must be above 0 and at most 1; got 2.0."),
        (["--split", "val"], "invalid choice: 'val'"),
        (["--seed", "-1"], "--seed: must be at least 0; got -1."),
        (["--data", "/nowhere"], "/nowhere, which does not exist"),
        (["--fill", "black"], "invalid choice: 'black'"),
    ],
)
def test_mistakes_are_one_line(
    marked: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["metrics", str(marked.folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_wrong_line_of_a_table_stops_with_its_number(
    marked: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(marked.data, tmp_path / "data")
    with (data / "boxes.csv").open("a") as file:
        file.write("test/down/77.png,half,0,0,4,4\n")
    command = ["metrics", str(marked.folder), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "boxes.csv, line 10: path must be an image below" in error
    assert len(error.splitlines()) == 1
    assert main([*command, "--only", "concentration"]) == 0  # which needs no table


def test_nothing_of_others_is_replaced(marked: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "measures.csv").write_text("mine")
    assert main(["metrics", str(marked.folder), "--out", str(out)]) == 2
    assert "measures.csv, which 'protokern metrics' did not write" in capsys.readouterr().err
    assert (out / "measures.csv").read_text() == "mine"
    assert main(["metrics", str(marked.folder), "--out", str(marked.data / "out")]) == 2
    assert "must be outside of the data folder" in capsys.readouterr().err


def test_a_run_that_may_only_be_read_is_measured(
    marked: PushedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and Path(path) != marked.folder)
    assert main(["metrics", str(marked.folder), "--only", "duplicates"]) == 0
    assert "The numbers were not written, only printed: " in capsys.readouterr().out


def test_synthetic_birds_know_where_they_are(tmp_path: Path) -> None:
    table = {
        "model": {"backbone": "tiny", "weights": "none", "prototypes_per_class": 1, "prototype_dim": 8},
        "data": {"image_size": 32, "birds_classes": 2, "birds_train": 3, "birds_val": 2, "birds_test": 3},
    }
    config, run = parse_config(table), tmp_path / "birds"
    model = build_model(config.model, 2, 32).eval()
    classes = tuple(SyntheticBirds("test", num_classes=2, images_per_class=1, image_size=32).classes)
    run.mkdir()
    state = CheckpointState(config=config_to_dict(config), classes=classes, stage="joint", epoch=1, push=None)
    save_checkpoint(run, "joint-1", model, state)
    assert main(["metrics", str(run), "--only", "on_object"]) == 0
    numbers = json.loads((run / "measures.json").read_text())["measures"]["on_object"]["numbers"]
    assert [name for name in numbers if name.endswith("own class")] == ["mask, own class", "box bird, own class"]
    assert all(number["images"] == 6 for number in numbers.values())
    assert 0 < numbers["mask, by chance"]["value"] < numbers["box bird, by chance"]["value"] < 1


def test_parts_beside_the_images_are_read(marked: PushedRun, tmp_path: Path) -> None:
    """The box of the whole image has the part of every image: all prototypes show it."""
    command = ["metrics", str(marked.folder), "--out", str(tmp_path), "--only", "consistency", "purity", "stability"]
    assert main([*command, "--part-area", "1"]) == 0
    table = json.loads((tmp_path / "measures.json").read_text())["measures"]
    patches, columns = patches_of(marked), marked.push.grid[1]
    near = [
        abs((patches[i][1][j] // columns + 0.5) / columns - (18 + i % 4) / 40) <= 0.5
        and abs((patches[i][1][j] % columns + 0.5) / columns - 0.5) <= 0.5
        for j in range(6)
        for i in range(8)
        if patches[i][0] == j // 3
    ]
    shares = [np.mean(near[4 * j : 4 * j + 4]) for j in range(6)]
    assert table["consistency"]["by_prototype"]["share with the best part"] == pytest.approx(shares)
    assert table["consistency"]["by_prototype"]["best part"] == ["middle"] * 6
    assert table["purity"]["numbers"]["mean purity"]["prototypes"] == 6
    assert table["stability"]["passes"] == 8
    with (tmp_path / "measures-prototypes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["consistency: best part"] for row in rows] == ["middle"] * 6


def test_masks_beside_the_images_are_read(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    for name in CLASSES:
        (made.data / "masks" / "test" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (40, 40), 128).save(made.data / "masks" / "test" / name / f"{number}.png")
    assert main(["metrics", str(made.folder), "--only", "on_object"]) == 0
    table = json.loads((made.folder / "measures.json").read_text())["measures"]["on_object"]
    assert table["numbers"]["mask, own class"]["value"] == 1
    assert table["settings"]["border of a mask"] == "counts as the object"


def test_the_program_of_the_page_runs(
    marked: PushedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(marked.data.parent)  # which has photos/
    exec(
        compile(program, "metrics.md", "exec"),
        {"splits": marked.splits, "model": marked.model, "push_result": marked.push},
    )
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in BY_DEFAULT)
    assert "on_object box half, own class 0." in printed


@pytest.mark.parametrize(
    ("write", "asked", "missing"),
    [
        (write_cub, ["on_object", "consistency", "purity"], {}),
        (write_pets, ["on_object", "purity"], {"purity": "there is no parts.csv beside the images of "}),
        (write_cars, ["on_object", "purity"], {"purity": "there is no parts.csv beside the images of "}),
    ],
    ids=["CUB", "Pets", "Cars"],
)
def test_published_data_are_measured_with_their_own_annotations(
    tmp_path: Path, write: Callable[[Path], Path], asked: list[str], missing: dict[str, str]
) -> None:
    made = make_run(tmp_path, write=write)
    assert main(["metrics", str(made.folder), "--only", *asked, "--images", "2"]) == 0
    measures = json.loads((made.folder / "measures.json").read_text())["measures"]
    assert {name for name, entry in measures.items() if "left_out" in entry} == missing.keys()
    for name, words in missing.items():
        assert words in measures[name]["left_out"]
    (own,) = [
        one
        for name, one in measures["on_object"]["numbers"].items()
        if name in ("mask, own class", "box car, own class")
    ]
    assert own["images"] == 4
