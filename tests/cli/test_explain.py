from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from protokern.cli.main import main
from protokern.data import load_image
from protokern.explain import find_receptive_field
from protokern.explain.prototypes import write_prototypes
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, POOL_SLOTS, SIZE, PushedRun, make_pool_run, make_run
from tests.report.test_page import read_page
from tests.train.tampering import change_table, change_tensors, mend_checksum


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("explain"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


def test_a_page_a_figure_and_a_table_for_every_image(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [pushed.data / "test" / name / "0.png" for name in CLASSES]
    out = tmp_path / "new" / "out"
    assert main(["explain", str(pushed.folder), *map(str, photos), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [LISTING, *(f"{stem}{suffix}" for stem in ("0", "0-2") for suffix in (".html", ".json", ".png"))]
    )
    text = capsys.readouterr().out
    assert text.count("looks like prototype") == 8
    assert text.count("of other classes, together") == 2
    assert "from train/" in text
    for photo, stem in zip(photos, ("0", "0-2"), strict=True):
        table = json.loads((out / f"{stem}.json").read_text())
        logits = pushed.model(load_image(photo, SIZE)[None]).logits[0].tolist()
        assert list(table["logits"].values()) == pytest.approx(logits, abs=1e-5)
        assert table["predicted"] == CLASSES[logits.index(max(logits))]
        for one in table["classes"]:
            points = [entry["points"] for entry in one["prototypes"]]
            assert sum(points) + one["other_points"] == pytest.approx(table["logits"][one["class"]], abs=1e-5)
            for entry in one["prototypes"]:
                assert entry["prototype_classes"] == [CLASSES[entry["prototype"] // 3]]
                assert entry["slots"] == []
                assert entry["similarity"] * entry["weight"] == pytest.approx(entry["points"])
                assert entry["source"].startswith("train/")
        with Image.open(out / f"{stem}.png") as figure:
            figure.load()
        html = (out / f"{stem}.html").read_text(encoding="utf-8")
        assert "<b>across" not in html
        assert "http" not in html.replace("data:image", "")


def test_heat_maps_are_compared_on_wish(pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    out = tmp_path / "out"
    assert main(["explain", str(pushed.folder), str(photo), "--out", str(out), "--compare-heat-maps"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [LISTING, "0.html", "0.json", "0.png", "0-heat-maps.png"]
    )
    assert str(out / "0-heat-maps.png") in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_pool_is_explained_with_the_classes_that_share_a_prototype_and_its_slots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool_run(tmp_path)
    write_prototypes(pool.folder, pool.model, pool.splits, pool.push)
    photo = pool.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(pool.folder), str(photo), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "shared with " in text
    assert "of other classes or none, together" in text
    table = json.loads((tmp_path / "out" / "0.json").read_text())
    logits = pool.model(load_image(photo, SIZE)[None]).logits[0].tolist()
    assert list(table["logits"].values()) == pytest.approx(logits, abs=1e-5)
    for one in table["classes"]:
        points = [entry["points"] for entry in one["prototypes"]]
        assert sum(points) + one["other_points"] == pytest.approx(table["logits"][one["class"]], abs=1e-5)
        slots = POOL_SLOTS[CLASSES.index(one["class"])]
        for entry in one["prototypes"]:
            j = entry["prototype"]
            assert entry["prototype_classes"] == [CLASSES[k] for k in range(2) if j in POOL_SLOTS[k]]
            assert entry["slots"] == [number for number, held in enumerate(slots) if held == j]
            assert (entry["source"] is None) == (j in (4, 5))


def test_a_run_that_still_chooses_cannot_be_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft = make_pool_run(tmp_path, is_pushed=False)
    photo = soft.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(soft.folder), str(photo), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "joint-2: must have final choices to be explained; its classes still choose their prototypes." in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_grey_and_large_photographs_are_explained(pushed: PushedRun, tmp_path: Path) -> None:
    Image.new("L", (300, 50), 128).save(tmp_path / "grey.jpg")
    assert main(["explain", str(pushed.folder), str(tmp_path / "grey.jpg"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "grey.html").exists()


@pytest.mark.parametrize(("heat_map", "suffix"), [("gradient", "pdf"), ("smoothgrad", "svg")])
def test_heat_maps_by_gradients_and_figures_for_papers(
    pushed: PushedRun, tmp_path: Path, heat_map: str, suffix: str
) -> None:
    photo, out = str(pushed.data / "test" / CLASSES[0] / "0.png"), tmp_path / "out"
    flags = ["--heat-map", heat_map, "--format", suffix]
    assert main(["explain", str(pushed.folder), photo, "--out", str(out), *flags]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([LISTING, "0.html", "0.json", f"0.{suffix}"])
    assert json.loads((out / "0.json").read_text())["heat_map"] == heat_map
    plain = tmp_path / "plain"
    assert main(["explain", str(pushed.folder), photo, "--out", str(plain)]) == 0
    assert (plain / "0.html").read_text(encoding="utf-8") != (out / "0.html").read_text(encoding="utf-8")
    one, other = (json.loads((folder / "0.json").read_text()) for folder in (plain, out))
    assert one.pop("heat_map") == "upsample"
    other.pop("heat_map")
    assert one == other


def test_a_heat_map_without_its_package_is_one_line(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    photo, out = str(pushed.data / "test" / CLASSES[0] / "0.png"), tmp_path / "out"
    assert main(["explain", str(pushed.folder), photo, "--out", str(out), "--heat-map", "gradient"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'protokern[explain]'" in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_an_explanation_without_pictures_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, is_pushed=False)
    photo = run.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(run.folder), str(photo), "--out", str(tmp_path / "out")]) == 0
    assert "the run has had no push yet" in capsys.readouterr().out
    assert "This prototype is not a patch of an image." in (tmp_path / "out" / "0.html").read_text(encoding="utf-8")


def test_missing_pictures_name_the_remedy(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pushed.folder, tmp_path / "run", ignore=shutil.ignore_patterns("prototypes"))
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "out")]) == 0
    assert "run 'protokern report RUN --data DIR' once to make them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "empty file"), (b"text", "not an image")]
)
def test_images_that_cannot_be_read_are_named_before_anything_is_written(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    out = tmp_path / "out"
    assert main(["explain", str(pushed.folder), str(photo), str(bad), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "bad.png" in error
    assert reason in error
    assert not out.exists()


def test_an_out_that_is_a_file_is_refused(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(pushed.folder), str(photo), "--out", str(tmp_path / "out")]) == 2
    assert "--out: must be a folder; got the file" in capsys.readouterr().err


def test_images_that_are_not_square_keep_their_sides(tmp_path: Path) -> None:
    run = make_run(tmp_path, size=(24, 40))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    Image.new("LA", (90, 17), (70, 128)).save(tmp_path / "grey.png")
    out = tmp_path / "out"
    command = ["explain", str(run.folder), str(tmp_path / "grey.png"), "--out", str(out), "--heat-map", "gradient"]
    assert main(command) == 0
    table = json.loads((out / "grey.json").read_text())
    field = find_receptive_field(run.model.features, torch.zeros(3, 24, 40))
    y0, x0, y1, x1 = field.box(1, 2)  # of 3 x 5 cells
    assert table["receptive_field_share"] == (y1 - y0) * (x1 - x0) / (24 * 40) < 1
    for entry in table["classes"][0]["prototypes"]:
        assert entry["patch"][0] < 3
        assert entry["patch"][1] < 5
        for name in ("activation_box", "patch_box", "receptive_field_box"):
            y0, x0, y1, x1 = entry[name]
            assert 0 <= y0 < y1 <= 24
            assert 0 <= x0 < x1 <= 40
    assert main(["prototypes", str(run.folder), "--out", str(out), "--only", "0"]) == 0


def change_state(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_table(run / "checkpoints" / "push-2" / "state.json", change)


def take_weights_of_a_pool(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prototypes that no class uses
        pool = make_pool_run(run.parent / "pool")
    weights = run / "checkpoints/push-2/model.safetensors"
    shutil.copy(pool.folder / "checkpoints/push-2/model.safetensors", weights)
    mend_checksum(weights)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (take_weights_of_a_pool, "push-2: the weights do not fit the model: "),
        (
            lambda run: change_state(run, lambda state: state.update(format="protokern-99")),
            "must be of format protokern-checkpoint-2; got 'protokern-99'",
        ),
        (
            lambda run: change_state(run, lambda state: state["config"]["model"].update(name="protoforest")),
            "holds a model 'protoforest', which this version does not have",
        ),
        (
            lambda run: change_state(run, lambda state: state["config"]["model"].update(heads=3)),
            "holds settings of a protopnet that this version does not have: heads. Update protokern.",
        ),
        (lambda run: (run / "prototypes" / "0000-heat.png").write_bytes(b"no"), "0000-heat.png: must be a picture"),
    ],
    ids=["other-weights", "other-format", "unknown-model", "unknown-setting", "broken-picture"],
)
def test_a_checkpoint_that_this_version_cannot_explain_is_one_line(
    pushed: PushedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    shutil.copytree(pushed.folder, tmp_path / "run")
    spoil(tmp_path / "run")
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_what_is_no_reason_is_shown_apart_and_says_so(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last layer as few images once gave it: weights to the other class that drown those to the own one."""
    run = tmp_path / "run"
    shutil.copytree(pushed.folder, run)

    def shout(tensors: dict[str, Any]) -> None:
        weight = tensors["last_layer.weight"]
        weight[0, 3:], weight[1, :3] = -52.0, -40.0

    change_tensors(run / "checkpoints" / "push-2" / "model.safetensors", shout)
    photo = pushed.data / "test" / CLASSES[1] / "0.png"
    assert main(["explain", str(run), str(photo), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if "looks like prototype" in line]
    apart = [": against it, so no reason for it" in line for line in lines]
    assert apart == [False, False, True, True], "reasons first"
    (table,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
    entries = table["classes"][0]["prototypes"]
    assert [entry["is_reason"] for entry in entries] == [False, False, True, True]
    assert all((entry["points"] > 0) == entry["is_reason"] for entry in entries)
    page = next((tmp_path / "out").glob("*.html")).read_text(encoding="utf-8")
    first = read_page(page)["item"]["first"]
    assert [match["role"] for match in first["reasons"]] == ["", ""]
    assert first["counted"][0] == "These count as well, but are no reasons for "
    assert [match["role"] for match in first["no_reasons"]] == ["against it", "against it"]
