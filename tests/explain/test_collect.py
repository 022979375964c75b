"""What a report is collected from: a run, its log, its data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from protokern.evaluate import Predictions
from protokern.explain import neighbours
from protokern.explain.collect import build_report, choose_images, class_slots, collect_report
from protokern.explain.importance import local_importance
from protokern.results.importance import GlobalImportance, Reason
from protokern.runs.data import open_data
from protokern.runs.importance import write_importance
from protokern.runs.open import open_run
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, POOL_SLOTS, SIZE, PushedRun, choose, make_pool_run, make_run
from tests.report.test_page import read_page


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("report"))


def test_points_on_the_page_add_up_to_the_models_logits(pushed: PushedRun) -> None:
    run = open_run(str(pushed.folder), data=None, changes=(), device=pushed.model.class_identity.device)
    data = collect_report(run, open_data(run.config))
    assert data.confusion is not None
    assert data.confusion.num_images == 8
    assert data.explanations
    for item in data.explanations:
        index = next(i for i in range(8) if pushed.splits.test.sample_name(i) == item.name)
        image, label = pushed.splits.test[index]
        logits = pushed.model(image[None]).logits[0].tolist()
        assert item.true_class == CLASSES[label]
        assert item.predicted_class == CLASSES[int(np.argmax(logits))]
        for one in item.classes:
            shown = sum(match.points for match in one.matches)
            assert one.total == pytest.approx(logits[one.class_index], abs=1e-5)
            assert shown + one.own_points + one.foreign_points == pytest.approx(one.total, abs=1e-5)
            assert len(one.matches) + one.num_own + one.num_foreign == 6
            assert len(one.matches) == 4  # of two classes both are shown in full
    assert sum(item.is_wrong for item in data.explanations) == np.count_nonzero(
        data.confusion.counts.sum(axis=1) - np.diag(data.confusion.counts)
    )


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_the_page_of_a_pool_shows_every_prototype_once_and_its_points_add_up(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path)
    html = build_report(pool.folder, pool.splits).read_text(encoding="utf-8")
    assert len(read_page(html)["sheets"]) == 6
    assert html.count("Used by no class, no patch of an image.") == 2
    assert "The pool" in html
    assert "<b>across" not in html
    run = open_run(str(pool.folder), data=None, changes=(), device=pool.model.device)
    data = collect_report(run, pool.splits)
    assert [one.prototypes for one in data.slots] == list(POOL_SLOTS)
    assert not data.still_chooses
    assert data.is_focal
    for item in data.explanations:
        assert item.is_focal
        index = next(i for i in range(8) if pool.splits.test.sample_name(i) == item.name)
        logits = pool.model(pool.splits.test[index][0][None]).logits[0].tolist()
        for one in item.classes:
            shown = sum(match.points for match in one.matches)
            assert shown + one.own_points + one.foreign_points == pytest.approx(logits[one.class_index], abs=1e-5)
            assert len(one.matches) + one.num_own + one.num_foreign == 6
            own = {match.prototype.index for match in one.matches if match.slots}
            assert own <= {*POOL_SLOTS[one.class_index]}
            assert len(own) + one.num_own == 3


def test_empty_slots_after_pruning_are_none(tmp_path: Path) -> None:
    pool = make_pool_run(tmp_path, is_pushed=False)
    choose(pool.model)
    pool.model.keep_prototypes([0, 2, 3])
    slots = class_slots(pool.model, CLASSES)
    assert [one.prototypes for one in slots] == [(0, None, 1), (1, 2, 0)]
    assert [one.class_name for one in slots] == list(CLASSES)


def test_a_run_that_still_chooses_has_a_page_that_says_so(tmp_path: Path) -> None:
    soft = make_pool_run(tmp_path, is_pushed=False)
    html = build_report(soft.folder, soft.splits).read_text(encoding="utf-8")
    assert "The classes of this run still choose their prototypes" in html
    assert "Not chosen yet" in html
    assert len(read_page(html)["sheets"]) == 6
    assert "sed by no class" not in html
    assert "The pool" not in html
    assert "What it mistakes for what" in html


def test_without_data_the_page_says_what_it_lacks(pushed: PushedRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pushed.folder, folder)
    shutil.rmtree(folder / "prototypes", ignore_errors=True)
    html = build_report(folder, None).read_text(encoding="utf-8")
    assert "Made without test images" in html
    assert "The pictures of the prototypes are missing" in html
    assert read_page(html)["pictures"] == []


def test_a_run_without_a_push_shows_no_pictures_of_prototypes(tmp_path: Path) -> None:
    run = make_run(tmp_path, is_pushed=False)
    html = build_report(run.folder, run.splits).read_text(encoding="utf-8")
    assert "has had no push yet" in html
    assert "not patches of images yet" in html
    assert not (run.folder / "prototypes").exists()
    assert "This prototype is not a patch of an image." in html


def test_pictures_of_an_older_push_are_written_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    build_report(run.folder, run.splits)
    path = run.folder / "prototypes" / "prototypes.json"
    table = json.loads(path.read_text())
    table["prototypes"][0]["source"]["image"] += 1
    path.write_text(json.dumps(table))
    (path.parent / LISTING).unlink()  # or it would be a file that somebody changed
    build_report(run.folder, run.splits)
    assert json.loads(path.read_text())["prototypes"][0]["source"]["image"] == int(run.push.image[0])


def test_images_are_chosen_by_rule() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 2])
    answers = np.array([1, 0, 1, 1, 0, 2, 2])
    assert choose_images(Predictions(labels, answers), 3) == [1, 0, 2, 5, 4]
    many = np.repeat(np.arange(20), 2)
    wrong = many.copy()
    wrong[1::2] = (wrong[1::2] + 1) % 20
    chosen = choose_images(Predictions(many, wrong), 20)
    assert [many[i] for i in chosen if wrong[i] == many[i]] == [0, 4, 8, 11, 15, 19]
    assert [many[i] for i in chosen if wrong[i] != many[i]] == [0, 1, 2, 3, 4, 5]


def test_the_page_shows_the_patches_nearest_to_each_prototype(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    data = collect_report(opened, run.splits, num_neighbours=2)
    assert run.push is not None
    for card in data.prototypes:
        near = card.neighbours
        assert near is not None
        assert (len(near.train), len(near.test)) == (2, 2)
        own = run.splits.push.sample_name(int(run.push.image[card.index]))
        assert own not in [one.name for one in near.train]
        for shown, share in ((near.train, near.agreement_train), (near.test, near.agreement_test)):
            assert share == np.mean([one.class_name == card.classes[0].class_name for one in shown])
            assert shown[0].distance <= shown[1].distance
            for one in shown:
                assert one.class_name in one.name
                assert np.asarray(one.picture.image).shape == (SIZE, SIZE, 3)
    assert all(card.neighbours is None for card in collect_report(opened, run.splits, num_neighbours=0).prototypes)


def test_the_page_marks_the_cells_of_near_patches_without_heat_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    mapped = collect_report(opened, run.splits, num_neighbours=2, frame="grid").prototypes
    monkeypatch.setattr(neighbours, "view_patches", None)
    plain = collect_report(opened, run.splits, num_neighbours=2).prototypes
    assert run.push is not None
    rows, columns = run.push.grid
    for one, other in zip(plain, mapped, strict=True):
        assert one.neighbours is not None
        assert other.neighbours is not None
        cells, around = (near.train + near.test for near in (one.neighbours, other.neighbours))
        assert len(cells) == 4
        for near, same in zip(cells, around, strict=True):
            y0, x0, y1, x1 = near.picture.box
            assert (y0 * rows % SIZE, x0 * columns % SIZE) == (0, 0)
            assert ((y1 - y0) * rows, (x1 - x0) * columns) == (SIZE, SIZE)
            assert same.patch_box is not None
            top, left, bottom, right = same.patch_box
            assert top <= y0 < y1 <= bottom
            assert left <= x0 < x1 <= right
            assert near.patch_box is None
            assert near.picture.receptive_field_box == same.picture.receptive_field_box
            assert (near.name, near.similarity, near.distance) == (same.name, same.similarity, same.distance)


def measure(run: PushedRun) -> None:
    """Scores as `protokern importance` writes them, without the passes over the data."""
    assert run.push is not None
    shape = (2, len(run.push.image))
    scores = GlobalImportance(
        names=("hue", "texture"),
        score=np.stack([np.full(shape[1], 0.5), np.zeros(shape[1])]),
        low=np.full(shape, 0.25),
        high=np.full(shape, 0.75),
        similarity=np.ones(shape[1]),
        num_images=8,
    )
    write_importance(run.folder / "importance", scores, scores, (), run.push, {})


def test_reasons_are_those_of_the_same_push(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    assert all(not card.reasons for card in collect_report(opened, run.splits, num_neighbours=0).prototypes)
    measure(run)
    data = collect_report(opened, run.splits, num_neighbours=0)
    for card in data.prototypes:
        assert card.reasons == (Reason("hue", 0.5, 0.25, 0.75, 0.5), Reason("texture", 0.0, 0.25, 0.75, 0.0))
        assert card.mean_similarity == 1.0
    item = data.explanations[0]
    index = next(i for i in range(8) if run.splits.test.sample_name(i) == item.name)
    expected = local_importance(run.model, run.splits.test.display_image(index))
    for match in item.classes[0].matches:
        assert [one.modification for one in match.reasons] == ["hue", "texture"]
        hue = expected.delta[expected.names.index("hue"), match.prototype.index]
        assert match.reasons[0].score == pytest.approx(hue, abs=1e-5)
    path = run.folder / "importance" / "importance.json"
    table = json.loads(path.read_text())
    table["push"]["image"][0] += 1
    path.write_text(json.dumps(table))
    stale = collect_report(opened, run.splits, num_neighbours=0)
    assert all(not card.reasons for card in stale.prototypes)
    assert any("measured before the last push" in note for note in stale.notes)


def test_a_missing_package_leaves_its_reason_out_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    measure(run)
    monkeypatch.setitem(sys.modules, "cv2", None)
    html = build_report(run.folder, run.splits).read_text(encoding="utf-8")
    assert "The reasons in single images leave out texture: opencv-python-headless: must be installed" in html
    assert "because of colour (hue)" in html


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_reasons_in_an_image_of_a_pool_are_parts_of_the_similarity_at_the_place(tmp_path: Path) -> None:
    run = make_pool_run(tmp_path)
    measure(run)
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    item = collect_report(opened, run.splits, num_neighbours=0).explanations[0]
    index = next(i for i in range(8) if run.splits.test.sample_name(i) == item.name)
    expected = local_importance(run.model, run.splits.test.display_image(index))
    for match in item.classes[0].matches:
        assert match.place_similarity == pytest.approx(expected.similarity[match.prototype.index], abs=1e-4)
        assert match.place_similarity > match.similarity
