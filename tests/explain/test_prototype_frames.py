"""The sufficient frames of a run's prototypes: found once, stored, drawn, and true to the pixels."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from protokern.cli.main import main
from protokern.explain import collect, images, prototype_frames
from protokern.explain.collect import build_report
from protokern.explain.prototype_frames import choose_framed, other_image
from protokern.explain.prototypes import write_prototypes
from protokern.models.base import vectors_of
from protokern.runs.checkpoints import find_checkpoint, read_checkpoint, save_checkpoint
from protokern.runs.open import open_run
from protokern.runs.prototypes import read_prototypes
from tests.cli.pushed_run import CLASSES, SIZE, PushedRun, make_pool_run, make_run
from tests.report.test_page import read_page


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("frames"))
    build_report(run.folder, run.splits)
    return run


def table_of(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "prototypes" / "prototypes.json").read_text())
    return table


def _matches(page: dict[str, Any]) -> list[dict[str, Any]]:
    items = [page["item"]] if "item" in page else page["explanations"]["items"]
    return [match for item in items for match in item["first"]["reasons"] + item["first"]["no_reasons"]]


def test_the_report_stores_frames_that_keep_what_they_say(reported: PushedRun) -> None:
    """Grey is filled in and the net is run by hand; the other image is one of the other class."""
    for entry in table_of(reported.folder)["prototypes"]:
        source = entry["source"]
        frame = source["sufficient"]
        image = reported.splits.push[source["image"]][0]
        y0, x0, y1, x1 = frame["box"]
        row, column = source["patch"]

        def similarity(one: torch.Tensor, index: int = entry["index"], row: int = row, column: int = column) -> float:
            with torch.no_grad():
                vector = reported.model.features(one[None])[0, :, row, column]
                distance = (vector - vectors_of(reported.model)[index]).square().sum()
            return float(torch.log((distance + 1) / (distance + 1e-4)))

        following = [*range(entry["index"] + 1, 6), *range(entry["index"])]
        own = entry["classes"][0]["class_index"]
        other = next(i for i in following if i // 3 != own)
        others = reported.splits.push[table_of(reported.folder)["prototypes"][other]["source"]["image"]][0]
        for fill, kept in ((torch.full_like(image, 0.5), frame["kept_grey"]), (others, frame["kept_other"])):
            variant = fill.clone()
            variant[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
            # At a prototype's own patch the logarithm is steep: a rounding of the net moves it by some thousandths.
            assert similarity(variant) / similarity(image) == pytest.approx(kept, rel=0.01)
        assert frame["kept_grey"] >= 0.9
        assert frame["area"] == pytest.approx((y1 - y0) * (x1 - x0) / SIZE**2)


def test_what_is_stored_is_not_sought_again(reported: PushedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = table_of(reported.folder)
    monkeypatch.setattr(prototype_frames, "sufficient_frames", lambda *_, **__: pytest.fail("was sought again"))
    build_report(reported.folder, reported.splits)
    assert table_of(reported.folder) == stored
    html = (reported.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert html.count("frame alone keeps") >= 6
    sheets = read_page(html)["sheets"]
    boxes = [row[0][3] for sheet in sheets for _, rows in sheet["near"] for row in rows]
    assert boxes
    assert {(y1 - y0, x1 - x0) for y0, x0, y1, x1 in boxes} == {(8, 8)}, "nearest patches are marked, a cell each"
    assert main(["prototypes", str(reported.folder), "--out", str(reported.folder.parent / "grid")]) == 0


def test_files_of_an_older_version_still_load_and_get_their_frames(reported: PushedRun, tmp_path: Path) -> None:
    shutil.copytree(reported.folder, tmp_path / "run")
    path = tmp_path / "run" / "prototypes" / "prototypes.json"
    table = table_of(reported.folder) | {"format": "protokern-prototypes-2"}
    del table["weights"]
    for entry in table["prototypes"]:
        del entry["source"]["sufficient"]
    path.write_text(json.dumps(table))
    (path.parent / ".protokern.jsonl").unlink(missing_ok=True)
    files = read_prototypes(tmp_path / "run")
    assert files is not None
    assert all(record.source.sufficient is None for record in files.prototypes if record.source is not None)
    # Without the data: the pictures in the folder are the images.
    out = tmp_path / "out"
    photo = reported.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(tmp_path / "run"), str(photo), "--out", str(out)]) == 0
    stored = table_of(reported.folder)["prototypes"]
    for one in json.loads((out / "0.json").read_text())["classes"]:
        for entry in one["prototypes"]:
            expected = stored[entry["prototype"]]["source"]["sufficient"]
            assert entry["source_frame"]["box"] == expected["box"]
            assert entry["source_frame"]["kept_grey"] == pytest.approx(expected["kept_grey"], abs=0.01)


def test_frames_of_older_weights_are_noticed(reported: PushedRun, tmp_path: Path) -> None:
    """The same push, but the net went on learning: page and table have the frames of the weights of now."""
    shutil.copytree(reported.folder, tmp_path / "run")
    before = table_of(tmp_path / "run")
    model = copy.deepcopy(reported.model)
    with torch.no_grad():
        vectors_of(model).mul_(0.9)
    state = read_checkpoint(find_checkpoint(tmp_path / "run")).state
    save_checkpoint(tmp_path / "run", "push-1", model, state)
    # Without the data nothing can be said of the new weights.
    photo = reported.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "out")]) == 0
    for one in json.loads((tmp_path / "out" / "0.json").read_text())["classes"]:
        assert all(entry["source_frame"] is None for entry in one["prototypes"])
    build_report(tmp_path / "run", reported.splits)
    after = table_of(tmp_path / "run")
    assert after["weights"] != before["weights"]
    for old, new in zip(before["prototypes"], after["prototypes"], strict=True):
        assert new["source"]["patch"] == old["source"]["patch"]
        assert new["source"]["sufficient"]["similarity"] != old["source"]["sufficient"]["similarity"]


def test_frames_of_unknown_weights_are_sought_again(reported: PushedRun, tmp_path: Path) -> None:
    shutil.copytree(reported.folder, tmp_path / "run")
    path = tmp_path / "run" / "prototypes" / "prototypes.json"
    known = table_of(reported.folder)
    unknown = {key: value for key, value in known.items() if key != "weights"}
    unknown["prototypes"][0]["source"] |= {"sufficient": known["prototypes"][0]["source"]["sufficient"] | {"area": 0.5}}
    path.write_text(json.dumps(unknown))
    (path.parent / ".protokern-outputs.jsonl").unlink()
    build_report(tmp_path / "run", reported.splits)
    assert table_of(tmp_path / "run") == table_of(reported.folder)


def test_a_table_that_was_changed_by_hand_is_left_alone_and_the_page_says_so(
    reported: PushedRun, tmp_path: Path
) -> None:
    shutil.copytree(reported.folder, tmp_path / "run")
    path = tmp_path / "run" / "prototypes" / "prototypes.json"
    table = table_of(reported.folder)
    table["prototypes"][0]["source"]["sufficient"] = None
    path.write_text(json.dumps(table))
    page = build_report(tmp_path / "run", reported.splits)
    assert json.loads(path.read_text()) == table
    assert "The frames of the prototypes could not be stored" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("frame", ["grid", "paper"])
def test_other_frames_cost_nothing_and_draw_the_other_boxes(
    reported: PushedRun, tmp_path: Path, frame: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protokern.explain.framing.sufficient_frames", lambda *_, **__: pytest.fail("was sought"))
    photo = reported.data / "test" / CLASSES[0] / "0.png"
    monkeypatch.setattr(prototype_frames, "sufficient_frames", lambda *_, **__: pytest.fail("was sought"))
    verbs: tuple[tuple[str, list[str]], ...] = (
        ("explain", [str(photo)]),
        ("prototypes", []),
        ("neighbours", ["--k", "1"]),
        ("report", []),
    )
    for verb, arguments in verbs:
        out = [] if verb == "report" else ["--out", str(tmp_path)]
        assert main([verb, str(reported.folder), *arguments, *out, "--frame", frame]) == 0
    entry = json.loads((tmp_path / "0.json").read_text())["classes"][0]["prototypes"][0]
    for path in (tmp_path / "0.html", reported.folder / "report" / "index.html"):
        html = path.read_text(encoding="utf-8")
        assert "frame alone keeps" not in html
        shown = [match["here"] for match in _matches(read_page(html))]
        assert all(len(view) == 5 for view in shown)  # without a mark of the patch
    drawn = [match["here"][3] for match in _matches(read_page((tmp_path / "0.html").read_text(encoding="utf-8")))]
    assert entry["patch_box" if frame == "grid" else "activation_box"] in drawn
    assert entry["sufficient_frame"] is None


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_prototypes_that_are_no_patches_have_no_frames(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    build_report(pool.folder, pool.splits)
    for entry in table_of(pool.folder)["prototypes"]:
        assert (entry["source"] is None) == (entry["index"] in (4, 5))
        assert entry["source"] is None or entry["source"]["sufficient"]["kept_grey"] >= 0.9


def test_the_image_to_check_with_is_of_another_class(reported: PushedRun) -> None:
    run = open_run(str(reported.folder), data=None, changes=(), device=torch.device("cpu"))
    files = read_prototypes(reported.folder)
    assert files is not None
    for label, prototype in ((0, 3), (1, 0)):
        source = files.prototypes[prototype].source
        assert source is not None
        expected = reported.splits.push[source.image][0]
        for splits in (None, reported.splits):
            other = other_image(run, files, label, splits)
            assert other is not None
            torch.testing.assert_close(other, expected)
    assert other_image(run, None, 0) is None
    write_prototypes(reported.folder, reported.model, reported.splits, reported.push)  # others start from here


def test_a_page_of_many_prototypes_says_which_frames_were_not_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect, "MOST_FRAMED", 2)
    monkeypatch.setattr(collect, "EXPLAINED_EACH", 1)
    monkeypatch.setattr(images, "SHOWN_MATCHES", 1)
    run = make_run(tmp_path)
    assert main(["report", str(run.folder)]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    page = read_page(path.read_text(encoding="utf-8"))
    cells = {entry["index"]: entry["source"]["patch"] for entry in table_of(run.folder)["prototypes"]}
    framed = {entry["index"] for entry in table_of(run.folder)["prototypes"] if entry["source"]["sufficient"]}
    shown = {int(match["link"].removeprefix("#prototype-")) for match in _matches(page)}
    assert shown <= framed
    assert len(framed) == max(2, len(shown)) < 6
    for sheet in page["sheets"]:
        is_framed = sheet["index"] in framed
        assert ("unsought" in sheet) != is_framed
        assert ("'protokern report RUN --all-frames' seeks the frames of all." in sheet["proof"]) != is_framed
        if not is_framed:
            (row, column), side = cells[sheet["index"]], SIZE // 4
            assert sheet["view"][3] == [row * side, column * side, (row + 1) * side, (column + 1) * side]
    assert main(["report", str(run.folder), "--all-frames"]) == 0
    assert all(entry["source"]["sufficient"] for entry in table_of(run.folder)["prototypes"])
    assert not any("unsought" in sheet for sheet in read_page(path.read_text(encoding="utf-8"))["sheets"])


def test_frames_go_to_what_is_shown_and_then_to_every_class_in_turn(reported: PushedRun) -> None:
    """Prototypes 0 to 2 are of the first class, 3 to 5 of the second."""
    files = read_prototypes(reported.folder)
    assert files is not None
    assert choose_framed(files, (), 1) == [0]
    assert choose_framed(files, (), 3) == [0, 1, 3]
    assert choose_framed(files, (4, 5), 4) == [0, 3, 4, 5]
    assert choose_framed(files, (1, 4, 5), 2) == [1, 4, 5]
    assert choose_framed(files, (4,), 100) == [0, 1, 2, 3, 4, 5]
