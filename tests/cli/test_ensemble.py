"""Ensembles of finished runs by the commands: their answers, their explanations, their page, and bad folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from protokern.cli.main import main
from protokern.config import config_to_dict
from protokern.explain.prototypes import write_prototypes
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.runs.open import OpenRun, open_run
from tests.cli.pushed_run import PushedRun, make_pool_run, make_run
from tests.report.test_page import read_page


@dataclass
class Members:
    folder: Path
    first: PushedRun
    second: PushedRun


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Two runs on the same photographs, and the folder of their ensemble."""
    root = tmp_path_factory.mktemp("ensemble")
    first = make_run(root / "a")
    with pytest.warns(UserWarning, match="no class uses the prototypes"):
        second = make_pool_run(root / "b")
    opened = open_run(second.folder)
    with torch.no_grad():  # focal similarities are small: as large points as those of the other run
        opened.model.last_layer.weight.mul_(10)
    save_again(second, opened)
    for run in (first, second):
        assert run.push is not None
        write_prototypes(run.folder, run.model, run.splits, run.push)
    folder = root / "both"
    folder.mkdir()
    (folder / "ensemble.toml").write_text('members = ["../a/run", "../b/run"]\n')
    return Members(folder, first, second)


def save_again(run: PushedRun, opened: OpenRun, classes: tuple[str, ...] | None = None) -> None:
    """A newer checkpoint of a run, from what was opened."""
    state = CheckpointState(
        config=config_to_dict(opened.config),
        classes=classes or opened.classes,
        stage="push",
        epoch=0,
        push=run.push,
    )
    save_checkpoint(run.folder, "push-0", opened.model, state, is_numbered=True)


def logits_of(run: OpenRun, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return run.model(images).logits


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_evaluate_answers_with_the_sum_and_tells_of_every_member(
    members: Members, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(members.folder)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    test = members.first.splits.test
    images = torch.stack([test[k][0] for k in range(len(test))])
    labels = torch.tensor([test[k][1] for k in range(len(test))])
    each = [logits_of(open_run(one.folder), images) for one in (members.first, members.second)]
    assert line["accuracy"] == pytest.approx(float(((each[0] + each[1]).argmax(1) == labels).double().mean()))
    assert line["members"] == {
        f"{name}/run": pytest.approx(float((one.argmax(1) == labels).double().mean()))
        for name, one in zip("ab", each, strict=True)
    }
    assert (line["combine"], line["prototypes"], line["images"]) == ("sum", 12, 8)
    assert json.loads((members.folder / "evaluation.json").read_text())["accuracy"] == line["accuracy"]


def test_the_points_of_both_members_add_up_to_what_is_explained(members: Members, tmp_path: Path) -> None:
    picture = next((members.first.data / "test").rglob("*.png"))
    assert main(["explain", str(members.folder), str(picture), "--frame", "grid", "--out", str(tmp_path)]) == 0
    table = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert "prototypes 0 to 5 of a/run, 6 to 11 of b/run" in next(tmp_path.glob("*.html")).read_text()
    test = members.first.splits.test
    names = [test.sample_name(k) for k in range(len(test))]
    index = next(k for k, name in enumerate(names) if str(picture).endswith(name))
    each = [logits_of(open_run(one.folder), test[index][0][None])[0] for one in (members.first, members.second)]
    logits = each[0] + each[1]
    seen = set()
    for row in table["classes"]:
        k = members.first.splits.classes.index(row["class"])
        shown = sum(one["points"] for one in row["prototypes"])
        assert shown + row["other_points"] == pytest.approx(float(logits[k]), abs=1e-4)
        assert row["logit"] == pytest.approx(float(logits[k]), abs=1e-4)
        assert len(row["prototypes"]) + row["num_other"] == 12
        assert row["probability"] == pytest.approx(float(logits.softmax(0)[k]), abs=1e-5)
        for one in row["prototypes"]:
            is_second = one["prototype"] >= 6
            seen.add(is_second)
            assert one["source"] is None or one["source"].endswith(" of b/run" if is_second else " of a/run")
    assert seen == {False, True}


def test_the_page_has_the_prototypes_of_both_and_their_answers(members: Members) -> None:
    assert main(["report", str(members.folder), "--frame", "grid", "--neighbours", "1"]) == 0
    page = read_page((members.folder / "report/index.html").read_text(encoding="utf-8"))
    assert [sheet["index"] for sheet in page["sheets"]] == list(range(12))
    assert "Prototypes: 0 to 5 of a/run, 6 to 11 of b/run." in json.dumps(page)
    assert page["explanations"]["items"]
    assert page["confusion"] is not None


def test_a_mean_is_evaluated_but_not_explained(
    members: Members, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = members.folder.parent / "mean"
    folder.mkdir(exist_ok=True)
    (folder / "ensemble.toml").write_text('members = ["../a/run", "../b/run"]\ncombine = "mean"\n')
    assert main(["evaluate", str(folder), "--out", str(tmp_path)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    test = members.first.splits.test
    images = torch.stack([test[k][0] for k in range(len(test))])
    each = [logits_of(open_run(one.folder), images).softmax(1) for one in (members.first, members.second)]
    labels = torch.tensor([test[k][1] for k in range(len(test))])
    wanted = -np.log((each[0] + each[1])[torch.arange(8), labels].numpy() / 2).mean()
    assert line["loss"] == pytest.approx(float(wanted), rel=1e-4)
    for verb in (["report", str(folder)], ["explain", str(folder), "x.png", "--out", str(tmp_path)]):
        assert "must add up its members' points to be explained; got combine 'mean'" in refused(capsys, *verb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('members = ["../a/run"]', "members must be two or more different runs; got ['../a/run']. Name the others."),
        ('members = ["../a/run", "../a/../a/run"]', "members must be two or more different runs"),
        ("members = 3", "members must be a list of run folders, such as"),
        ('members = ["../a/run", "../b/run"]\nkind = 1', "must have members and combine alone; got kind. Take it out."),
        ('members = ["../a/run", "../b/run"]\ncombine = "vote"', "combine must be one of sum, mean, auto; got 'vote'"),
        ("members = [", "must be TOML; got something else"),
        ('members = ["../a/run", "../nothing"]', "../nothing"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    members: Members, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = members.folder.parent / "wrong"
    folder.mkdir(exist_ok=True)
    (folder / "ensemble.toml").write_text(text)
    assert message in refused(capsys, "evaluate", str(folder))


@pytest.mark.parametrize("verb", ["push", "prune", "importance", "metrics"])
def test_other_commands_ask_for_a_member(members: Members, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(members.folder)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said == [
        f"protokern {verb}: {members.folder}: must be one run here; got the folder of an ensemble, which evaluate, "
        "explain and report take. Give one of its members."
    ]


def test_strangers_are_for_single_runs(members: Members, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "evaluate", str(members.folder), "--strangers", str(members.first.data))
    assert "--strangers: must be left out for an ensemble; got" in error


def test_members_must_have_the_same_classes_and_images(
    members: Members, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = make_run(tmp_path / "large", size=48)
    other = make_run(tmp_path / "other")
    save_again(other, open_run(other.folder), ("left", "down"))
    for run, message in (
        (larger, "members must read images alike; "),
        (other, "have not: <b>across, left in one of them alone. Leave one out."),
    ):
        folder = tmp_path / f"with-{run.folder.parent.name}"
        folder.mkdir()
        (folder / "ensemble.toml").write_text(f'members = ["{members.first.folder}", "{run.folder}"]')
        assert message in refused(capsys, "evaluate", str(folder))
