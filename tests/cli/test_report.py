from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from protokern.cli.main import main
from protokern.evaluate import Predictions
from protokern.explain.collect import build_report, choose_images, class_slots, collect_report, read_progress
from protokern.explain.importance import local_importance
from protokern.results.importance import GlobalImportance, Reason
from protokern.runs.data import open_data
from protokern.runs.importance import write_importance
from protokern.runs.log import EpochRecord, Notice, StageRecord, append_record
from protokern.runs.open import open_run
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, POOL_SLOTS, SIZE, PushedRun, choose, make_pool_run, make_run
from tests.report.test_page import read_page


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("report"))


def test_the_verb_writes_the_page_and_says_where(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pushed.folder)]) == 0
    page = pushed.folder / "report" / "index.html"
    *warnings, last = capsys.readouterr().out.splitlines()
    assert last == str(page)
    assert all(line.startswith("warning: ") for line in warnings)
    html = page.read_text(encoding="utf-8")
    assert len(read_page(html)["sheets"]) == 6
    assert "\\u003cb\\u003eacross" in html
    assert "<b>across" not in html
    assert (pushed.folder / "prototypes" / "prototypes.json").exists()


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


@pytest.mark.parametrize("verb", ["push", "prune"])
@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_after_a_push_or_pruning_the_choices_are_final(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    soft = make_pool_run(tmp_path, is_pushed=False)
    assert main([verb, str(soft.folder)]) == 0
    assert "the choices are final" in capsys.readouterr().out
    assert main(["report", str(soft.folder)]) == 0
    html = (soft.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "The pool" in html
    assert "still choose" not in html


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


def test_data_that_moved_are_left_out_and_data_that_are_named_must_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    assert main(["report", str(run.folder)]) == 0
    run.data.rename(tmp_path / "elsewhere")
    assert main(["report", str(run.folder)]) == 0
    html = (run.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Made without test images" in html
    assert len(read_page(html)["sheets"]) == 6
    assert read_page(html)["pictures"]
    capsys.readouterr()
    assert main(["report", str(run.folder), "--data", str(run.data)]) == 2
    assert "which does not exist" in capsys.readouterr().err
    assert main(["report", str(run.folder), "--data", str(tmp_path / "elsewhere")]) == 0


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


def test_other_classes_are_refused(pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(pushed.data, tmp_path / "photos")
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "down").rename(tmp_path / "photos" / split / "up")
    assert main(["report", str(pushed.folder), "--data", str(tmp_path / "photos")]) == 2
    assert "must have the 2 classes that the model was trained on" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


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


def test_progress_keeps_the_stages_that_led_to_the_weights(tmp_path: Path) -> None:
    assert read_progress(tmp_path, 1) == ((), ())
    epoch = EpochRecord(
        stage="joint",
        epoch=1,
        seconds=1.0,
        images=8,
        loss=2.0,
        terms={"cross_entropy": 1.0, "cluster": 0.5, "separation": 0.5, "l1": 0.0},
        accuracy=0.5,
        val_accuracy=0.25,
        val_loss=1.5,
        learning_rates={"prototypes": 0.1},
    )
    append_record(tmp_path / "log.jsonl", epoch)
    append_record(tmp_path / "log.jsonl", Notice(text="hello"))
    for number in (0, 1):
        record = StageRecord(
            stage="push",
            epoch=number,
            num_prototypes=6,
            val_accuracy=0.5,
            val_loss=1.0,
            test_accuracy=0.75,
            details={},
        )
        append_record(tmp_path / "log.jsonl", record)
    epochs, stages = read_progress(tmp_path, 1)
    assert [(point.epoch, point.val_loss) for point in epochs] == [(1, 1.5)]
    assert [(result.epoch, result.test_accuracy) for result in stages] == [(1, 0.75)]


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
        for neighbours, share in ((near.train, near.agreement_train), (near.test, near.agreement_test)):
            assert share == np.mean([one.class_name == card.classes[0].class_name for one in neighbours])
            assert neighbours[0].distance <= neighbours[1].distance
            for one in neighbours:
                assert one.class_name in one.name
                assert np.asarray(one.picture.image).shape == (SIZE, SIZE, 3)
    assert all(card.neighbours is None for card in collect_report(opened, run.splits, num_neighbours=0).prototypes)


def test_pictures_go_beside_the_page_when_asked(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pushed.folder, folder)
    assert main(["report", str(folder), "--pictures", "beside", "--neighbours", "1"]) == 0
    assert len(list((folder / "report" / "pictures").glob("*.jpg"))) > 6
    assert main(["report", str(folder)]) == 0
    assert sorted(path.name for path in (folder / "report").iterdir()) == [LISTING, "index.html"]
    for wrong in ("-1", "few"):
        assert main(["report", str(folder), "--neighbours", wrong]) == 2
        assert f"must be a whole number from 0 on; got '{wrong}'" in capsys.readouterr().err
    monkeypatch.setattr("protokern.report.page.LARGEST_PAGE", 1000)
    assert main(["report", str(folder), "--pictures", "inside"]) == 2
    assert "pictures: must be 'auto' or 'beside'" in capsys.readouterr().err


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


def test_a_pruned_run_leaves_older_scores_out_and_keeps_neighbours_right(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run)
    assert main(["prune", str(run.folder), "--set", "prune.k=2", "--set", "prune.threshold=2"]) == 0
    opened = open_run(str(run.folder), data=None, changes=(), device=run.model.device)
    assert 0 < opened.model.num_prototypes < 6
    data = collect_report(opened, run.splits, num_neighbours=1)
    assert opened.push is not None
    assert any("before the last push or pruning" in note for note in data.notes)
    for card in data.prototypes:
        assert not card.reasons
        assert card.neighbours is not None
        own = run.splits.push.sample_name(int(opened.push.image[card.index]))
        assert card.source_name == own
        assert card.neighbours.train[0].name != own
