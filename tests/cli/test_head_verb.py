"""The verbs that change a trained model, with other processes at work on the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from protokern.cli import head_verb
from protokern.cli.main import main
from protokern.models.base import vectors_of
from protokern.runs.checkpoints import CheckpointState, find_checkpoint, read_checkpoint, save_checkpoint
from protokern.runs.log import read_log
from protokern.runs.open import load_model
from protokern.storage.lock import lock_run
from tests.cli.pushed_run import make_pool_run, make_run
from tests.report.test_page import read_page


def test_a_push_starts_from_what_another_process_wrote_just_before(tmp_path, monkeypatch, capsys) -> None:
    made = make_run(tmp_path)
    before = read_checkpoint(find_checkpoint(made.folder)).state

    @contextmanager
    def lock_after_another(folder: Path) -> Iterator[None]:
        made.model.keep_prototypes(torch.tensor([0, 3]))
        state = CheckpointState(config=before.config, classes=before.classes, stage="prune", epoch=before.epoch)
        save_checkpoint(folder, f"prune-{before.epoch}", made.model, state)
        with lock_run(folder):
            yield

    monkeypatch.setattr(head_verb, "lock_run", lock_after_another)
    assert main(["push", str(made.folder)]) == 0
    state = json.loads((find_checkpoint(made.folder) / "state.json").read_text())
    assert (state["stage"], state["num_prototypes"]) == ("push", 2)


def test_without_a_run_there_is_no_lock_file(tmp_path, capsys) -> None:
    tmp_path.joinpath("empty").mkdir()
    for name in ("none", "empty"):
        assert main(["push", str(tmp_path / name)]) == 2
        assert "must be a run folder" in capsys.readouterr().err
    assert list((tmp_path / "empty").iterdir()) == []


def sources(folder: Path) -> list[tuple[int, str, list[int]]]:
    """Number, image and patch of every prototype, as RUN/prototypes has them."""
    table = json.loads((folder / "prototypes" / "prototypes.json").read_text())
    return [(one["index"], one["source"]["name"], one["source"]["patch"]) for one in table["prototypes"]]


def test_prototypes_are_dropped_by_number_everywhere(tmp_path, capsys) -> None:
    """Model, pictures, page and log agree; a second call takes the new numbers."""
    made = make_run(tmp_path)
    assert main(["report", str(made.folder), "--neighbours", "0"]) == 0
    before, weight = sources(made.folder), made.model.last_layer.weight.detach()
    vectors = vectors_of(made.model).detach()
    for flags, kept in ((["--drop", "4", "1"], [0, 2, 3, 5]), (["--keep", "1", "3"], [2, 5])):
        assert main(["prune", str(made.folder), *flags]) == 0
        printed = capsys.readouterr().out
        assert "report/index.html" in printed
        model, _, _ = load_model(made.folder)
        assert torch.equal(vectors_of(model), vectors[kept])
        assert torch.equal(model.last_layer.weight, weight[:, kept])
        assert sources(made.folder) == [(new, *before[old][1:]) for new, old in enumerate(kept)]
        page = read_page((made.folder / "report" / "index.html").read_text(encoding="utf-8"))
        assert [sheet["index"] for sheet in page["sheets"]] == list(range(len(kept)))
    records = [record["text"] for record in read_log(made.folder / "log.jsonl") if record["kind"] == "notice"]
    assert records == [
        "dropped by number: 1, 4. The prototypes that are left are numbered from 0 again.",
        "dropped by number: 0, 2. The prototypes that are left are numbered from 0 again.",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--drop", "6"], "--drop: must be prototypes of 0 .. 5; got 6."),
        (["--keep", "0", "-1"], "--keep: must be prototypes of 0 .. 5; got -1."),
        (["--drop", "2", "2"], "--drop: must name each prototype once; got 2 twice."),
        (["--drop", "3", "4", "5"], "--drop: must leave every class a prototype; got none for class 'down', which has"),
        (["--drop", "0", "--keep", "1"], "argument --keep: not allowed with argument --drop"),
        (["--drop", "first"], "argument --drop: invalid int value: 'first'"),
        (["--drop"], "argument --drop: expected at least one argument"),
    ],
)
def test_wrong_numbers_are_one_line_and_change_nothing(pushed, flags, message, capsys, monkeypatch) -> None:
    monkeypatch.setattr(head_verb, "open_data", lambda _: pytest.fail("no image is read for a wrong number"))
    before = sorted(path.name for path in pushed.rglob("*") if path.name != ".lock")
    assert main(["prune", str(pushed), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in pushed.rglob("*") if path.name != ".lock") == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--per-class", "0"], "--per-class: must be at least 1; got 0."),
        (["--per-class", "2"], "--per-class: must be given with the rule needed; got compat. Add --rule needed."),
        (["--drop", "1", "--per-class", "2"], "--per-class: must be given with a rule; got --drop or --keep."),
        (["--drop", "1", "--rule", "needed"], "argument --rule: not allowed with argument --drop"),
        (["--rule", "mine"], "argument --rule: invalid choice: 'mine'"),
        (["--set", "prune.loss_ratio=0.5"], "prune.loss_ratio: must be a finite number of at least 1; got 0.5."),
        (["--set", "prune.accuracy_loss=2"], "prune.accuracy_loss: must be from 0 to 1; got 2.0."),
    ],
)
def test_wrong_rules_are_one_line_and_change_nothing(pushed, flags, message, capsys, monkeypatch) -> None:
    test_wrong_numbers_are_one_line_and_change_nothing(pushed, flags, message, capsys, monkeypatch)


def test_a_run_is_pruned_to_a_number_for_each_class(tmp_path, capsys) -> None:
    made = make_run(tmp_path)
    assert main(["prune", str(made.folder), "--rule", "needed", "--per-class", "2"]) == 0
    assert "after prune, epoch 2: " in capsys.readouterr().out
    model, config, _ = load_model(made.folder)
    assert model.class_identity.sum(dim=0).tolist() == [2, 2]
    assert (config["prune"]["rule"], config["prune"]["per_class"]) == ("needed", 2)
    assert main(["prune", str(made.folder), "--rule", "needed", "--set", "prune.loss_ratio=9"]) == 0
    assert load_model(made.folder)[0].num_prototypes <= 4


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("pushed")).folder


def test_numbers_of_a_model_that_still_chooses_are_refused(tmp_path, capsys) -> None:
    made = make_pool_run(tmp_path, is_pushed=False)
    assert main(["prune", str(made.folder), "--drop", "1"]) == 2
    assert "--drop, --keep: must be given for a model with final choices" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_the_last_layer_of_a_pool_stays_where_a_shared_prototype_goes(tmp_path) -> None:
    made = make_pool_run(tmp_path)
    assert main(["prune", str(made.folder), "--drop", "2", "4"]) == 0
    model, _, _ = load_model(made.folder)
    assert model.slots.tolist() == [[0, 1, -1], [-1, 2, 0]]
    state = read_checkpoint(find_checkpoint(made.folder)).state
    assert state.push.image.tolist() == made.push.image[[0, 1, 3, 5]].tolist()
