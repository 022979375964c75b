from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from protokern.cli import neighbours
from protokern.cli.main import main
from protokern.explain import find_neighbours
from protokern.explain.prototypes import write_prototypes
from protokern.inputs.loaders import ordered_loader
from protokern.results.prototypes import Prototype
from protokern.runs.prototypes import read_prototypes
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, POOL_SLOTS, PushedRun, make_pool_run, make_run


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("neighbours"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


def test_a_table_and_a_figure_for_every_prototype(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["neighbours", str(pushed.folder), "--out", str(out), "--k", "2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        LISTING,
        "neighbours.json",
        *(f"prototype-{j:04d}.png" for j in range(6)),
    ]
    table = json.loads((out / "neighbours.json").read_text(encoding="utf-8"))
    train, test = (ordered_loader(dataset, 4, workers=0) for dataset in (pushed.splits.push, pushed.splits.test))
    found = find_neighbours(pushed.model, train, test, 2, push=pushed.push)
    text = capsys.readouterr().out
    assert f"{int(found.belong_together.sum())} of 6 prototypes belong together with their nearest patches" in text
    assert [entry["prototype"] for entry in table["prototypes"]] == list(range(6))
    for j, entry in enumerate(table["prototypes"]):
        assert entry["classes"] == [CLASSES[j // 3]]
        assert entry["belongs_together"] == bool(found.belong_together[j])
        for name, split, data in (
            ("train", found.train, pushed.splits.push),
            ("test", found.test, pushed.splits.test),
        ):
            assert entry[name]["agreement"] == float(split.agreement[j])
            for rank, one in enumerate(entry[name]["neighbours"]):
                assert one["image"] == data.sample_name(int(split.image[j, rank]))
                assert one["class"] == CLASSES[int(split.label[j, rank])]
                # the command's convolutions have another memory format, and round otherwise
                assert one["distance"] == pytest.approx(float(split.distance[j, rank]), rel=1e-3)
                assert one["similarity"] == pytest.approx(float(split.similarity[j, rank]), rel=1e-3)
                assert one["patch"] == list(divmod(int(split.patch[j, rank]), split.grid[1]))
                assert len(one["patch_box"]) == len(one["receptive_field_box"]) == 4


def test_some_prototypes_as_svg(pushed: PushedRun, tmp_path: Path) -> None:
    flags = ["--only", "4", "1", "--format", "svg", "--k", "1"]
    assert main(["neighbours", str(pushed.folder), "--out", str(tmp_path), *flags]) == 0
    names = [LISTING, "neighbours.json", "prototype-0001.svg", "prototype-0004.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    text = (tmp_path / "prototype-0004.svg").read_text(encoding="utf-8")
    assert ">Prototype 4, down</text>" in text
    assert text.count("<image") == 4


def test_the_own_frame_is_tested_and_the_nearest_patches_are_marked(
    pushed: PushedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Prototype] = {}
    tables = {}
    for frame in ("sufficient", "grid"):
        monkeypatch.setattr(neighbours, "write_neighbours", lambda card, path, frame=frame: drawn.update({frame: card}))
        flags = ["--only", "2", "--k", "2", *(["--frame", frame] if frame == "grid" else [])]
        assert main(["neighbours", str(pushed.folder), "--out", str(tmp_path / frame), *flags]) == 0
        tables[frame] = json.loads((tmp_path / frame / "neighbours.json").read_text())
    assert tables["sufficient"] == tables["grid"]
    files = read_prototypes(pushed.folder)
    assert files is not None
    source = files.prototypes[2].source
    assert source is not None
    found = drawn["sufficient"].picture
    assert found is not None
    assert found.proof is not None
    assert found.proof.kept_grey is not None
    assert found.proof.kept_grey >= 0.9
    assert drawn["grid"].picture is not None
    assert (drawn["grid"].picture.proof, drawn["grid"].picture.box) == (None, source.patch_box)
    for marked, framed in zip(drawn["sufficient"].neighbours.train, drawn["grid"].neighbours.train, strict=True):
        y0, x0, y1, x1 = marked.picture.box
        assert (y1 - y0, x1 - x0) == (8, 8), "a cell"
        assert framed.picture.box == framed.patch_box == marked.patch_box


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_shared_prototype_agrees_with_all_its_classes(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    assert main(["neighbours", str(pool.folder), "--out", str(tmp_path / "out"), "--only", "0", "4", "--k", "1"]) == 0
    shared, unused = json.loads((tmp_path / "out" / "neighbours.json").read_text())["prototypes"]
    assert shared["classes"] == [CLASSES[k] for k in range(2) if 0 in POOL_SLOTS[k]]
    assert shared["train"]["agreement"] == shared["test"]["agreement"] == 1
    assert shared["belongs_together"]
    assert unused["classes"] == []
    assert not unused["belongs_together"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "6"], "--only: must be prototypes of 0 .. 5; got 6."),
        (["--k", "0"], "--k: must be at least 1; got 0."),
        (["--data", "/nowhere"], "/nowhere, which does not exist"),
    ],
)
def test_mistakes_are_one_line(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["neighbours", str(pushed.folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["neighbours", "prototypes"])
def test_a_run_without_a_push_has_vectors_and_no_patches(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, is_pushed=False)
    assert main([verb, str(run.folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "joint-2: must be from after a push" in error
    assert "its prototypes are not yet patches of images" in error
    assert len(error.splitlines()) == 1


def test_prototypes_are_drawn_in_a_grid(pushed: PushedRun, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    command = ["prototypes", str(pushed.folder), "--out", str(out)]
    assert main([*command, "--format", "svg", "--class", "down"]) == 0
    text = (out / "prototypes.svg").read_text(encoding="utf-8")
    assert [f">prototype {j}</text>" in text for j in range(6)] == [False] * 3 + [True] * 3
    assert main([*command, "--only", "0", "5", "1", "--picture", "heat", "--columns", "1", "--rows", "2"]) == 0
    names = [LISTING, "prototypes-2.png", "prototypes.png", "prototypes.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    with Image.open(out / "prototypes.png") as one, Image.open(out / "prototypes-2.png") as two:
        assert one.width == two.width
        assert one.height > two.height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "6"], "--only: must be prototypes of 0 .. 5; got 6."),
        (["--class", "dwon"], "--class: must be classes of the run; got 'dwon'. Did you mean 'down'?"),
        (["--rows", "0"], "--rows: must be at least 1; got 0."),
        (["--only", "0", "--class", "down"], "--only, --class: must leave at least one prototype"),
    ],
)
def test_a_grid_of_nothing_is_one_line(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["prototypes", str(pushed.folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_image_of_a_prototype_is_known_by_its_name_in_other_data(pushed: PushedRun, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(pushed.data, grown)
    shutil.copytree(grown / "test", grown / "val")  # so that nothing is held out
    for name in CLASSES:  # sorted before all others, so that the positions of the push are those of other images
        shutil.copy(grown / "train" / name / "0.png", grown / "train" / name / "!.png")
    command = ["neighbours", str(pushed.folder), "--data", str(grown), "--out", str(tmp_path / "out"), "--k", "16"]
    assert main(command) == 0
    table = json.loads((tmp_path / "out" / "neighbours.json").read_text(encoding="utf-8"))
    for entry in table["prototypes"]:
        names = [one["image"] for one in entry["train"]["neighbours"]]
        assert len(names) == 13  # of 14
        assert entry["source"] not in names


def test_data_without_the_images_of_the_push_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    small = tmp_path / "small"
    shutil.copytree(run.data, small)
    for name in CLASSES:
        for photo in sorted((small / "train" / name).iterdir())[2:]:
            photo.unlink()
    for command in (["report"], ["neighbours", "--out", str(tmp_path / "out")]):
        assert main([command[0], str(run.folder), "--data", str(small), *command[1:]]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert "data: must hold the images of the push, at least " in error
    for split in ("train", "test"):
        shutil.copytree(run.data / split, small / split, dirs_exist_ok=True)
        (small / split / CLASSES[1]).rename(small / split / "other")
    assert main(["report", str(run.folder), "--data", str(small)]) == 2
    assert "classes that the model was trained on" in capsys.readouterr().err
    assert not (run.folder / "prototypes").exists()


def test_the_grid_refuses_data_of_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    for split in ("train", "test"):
        (run.data / split / CLASSES[1]).rename(run.data / split / "other")
    assert main(["prototypes", str(run.folder), "--out", str(tmp_path / "out")]) == 2
    assert "classes that the model was trained on" in capsys.readouterr().err
    assert not (run.folder / "prototypes").exists()
