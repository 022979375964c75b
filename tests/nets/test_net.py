"""One object for a run: answers, explanations, contrasts and prototypes, for images in any form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import protokern
from protokern.cli.main import main
from protokern.errors import CheckpointError
from protokern.explain import Explanation
from protokern.explain.prototypes import write_prototypes
from protokern.explain.shown import Shown
from protokern.interop import save_pretrained
from protokern.nets import Net
from protokern.runs.open import load_model
from tests.cli.pushed_run import CLASSES, PushedRun, make_pool_run, make_run
from tests.explain.test_shown import Frames
from tests.report.test_page import read_page


@dataclass
class Opened:
    run: PushedRun
    net: Net
    photo: Path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    root = tmp_path_factory.mktemp("net")
    run = make_run(root)
    assert run.push is not None
    write_prototypes(run.folder, run.model, run.splits, run.push)
    photo = next((run.data / "test").rglob("*.png"))
    return Opened(run, protokern.load(run.folder), photo)


@pytest.fixture(scope="module")
def explanation(opened: Opened) -> Explanation:
    return opened.net.explain(opened.photo)


def page_of(shown: Shown) -> dict:
    (frame,) = Frames(shown._repr_html_()).found
    return read_page(str(frame["srcdoc"]))


def logits(opened: Opened) -> torch.Tensor:
    with Image.open(opened.photo) as image:
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    with torch.no_grad():
        return opened.run.model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255).logits[0]


def test_a_net_knows_its_classes_and_answers(opened: Opened) -> None:
    net = opened.net
    assert net.classes == CLASSES
    assert repr(net) == "Net run: ProtoPNet, 2 classes, 6 prototypes"
    wanted = logits(opened)
    assert net.predict(opened.photo) == CLASSES[int(wanted.argmax())]
    shares = net.probabilities(opened.photo)
    assert list(shares) == list(CLASSES)
    torch.testing.assert_close(torch.tensor(list(shares.values())), wanted.softmax(dim=0))


def test_an_explanation_shows_itself_with_names_and_pictures(opened: Opened, explanation: Explanation) -> None:
    page = page_of(explanation)
    assert page["model"] == "run"
    assert page["item"]["name"] == opened.photo.name
    assert page["item"]["first"]["reasons"][0]["there"] is not None
    torch.testing.assert_close(torch.from_numpy(explanation.logits), logits(opened))


def test_every_form_of_an_image_gets_the_same_explanation(opened: Opened, explanation: Explanation) -> None:
    with Image.open(opened.photo) as picture:
        forms = [str(opened.photo), picture, np.asarray(picture)]
        for form in forms:
            assert np.array_equal(opened.net.explain(form).logits, explanation.logits)
    assert opened.net.explain(np.zeros((9, 9))).name == ""
    assert opened.net.explain(np.zeros((9, 9)), name="dark").name == "dark"


def test_the_numbers_are_those_of_the_command(opened: Opened, tmp_path: Path) -> None:
    assert main(["explain", str(opened.run.folder), str(opened.photo), "--out", str(tmp_path), "--frame", "grid"]) == 0
    (path,) = (file for file in tmp_path.glob("*.json") if not file.name.startswith("."))
    table = json.loads(path.read_text(encoding="utf-8"))
    for of_the_command in ("heat_map", "frame", "receptive_field_share"):
        table.pop(of_the_command)
    assert json.loads(json.dumps(opened.net.explain(opened.photo).to_dict())) == table


def test_a_wrong_answer_is_told(opened: Opened) -> None:
    other = next(name for name in CLASSES if name != opened.net.predict(opened.photo))
    assert page_of(opened.net.explain(opened.photo, true_class=other))["item"]["verdict"] == "wrong"
    with pytest.raises(ValueError, match=r"true_class: must be a class, one of <b>across, down; got 'up'"):
        opened.net.explain(opened.photo, true_class="up")


def test_tested_frames_are_sought_if_asked_for(opened: Opened) -> None:
    explanation = opened.net.explain(opened.photo, frame="sufficient")
    first = explanation.classes[0].matches[0]
    assert first.view.sufficient is not None
    assert first.prototype.picture is not None
    assert first.prototype.picture.proof is not None
    with pytest.raises(ValueError, match="frame: must be one of sufficient, grid, paper; got 'tight'"):
        opened.net.explain(opened.photo, frame="tight")


def test_the_prototypes_are_a_gallery(opened: Opened, tmp_path: Path) -> None:
    gallery = opened.net.prototypes
    assert len(gallery) == 6
    assert gallery[4].index == 4
    assert repr(gallery) == "Gallery of run: 6 prototypes, 6 with pictures"
    page = page_of(gallery)
    assert page["nav"] == [["prototypes", "Prototypes"]]
    assert [sheet["index"] for sheet in page["sheets"]] == list(range(6))
    own = gallery.of("down")
    assert [card.index for card in own] == [3, 4, 5]
    assert [sheet["index"] for sheet in page_of(own[1:])["sheets"]] == [4, 5]
    own.save(tmp_path / "own.html")
    assert [sheet["index"] for sheet in read_page((tmp_path / "own.html").read_text())["sheets"]] == [3, 4, 5]
    with pytest.raises(ValueError, match="name: must be a class, one of <b>across, down; got 'up'"):
        gallery.of("up")


def test_a_run_without_pictures_is_explained_without_them(tmp_path: Path) -> None:
    net = protokern.load(make_run(tmp_path, is_pushed=False).folder)
    explanation = net.explain(np.zeros((9, 9)))
    assert page_of(explanation)["item"]["first"]["reasons"][0]["there"] is None
    assert repr(net.prototypes) == "Gallery of run: 6 prototypes, 0 with pictures"


def test_an_exported_folder_answers_like_its_run(opened: Opened, tmp_path: Path) -> None:
    model, config, classes = load_model(opened.run.folder)
    save_pretrained(tmp_path / "exported", model, config, classes)
    net = protokern.load(tmp_path / "exported")
    assert net.classes == CLASSES
    # Convolutions of a run have another memory format, and round differently.
    assert net.probabilities(opened.photo) == pytest.approx(opened.net.probabilities(opened.photo), abs=1e-6)
    assert net.explain(opened.photo).model_name == "exported"


def test_soft_choices_and_missing_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must have final choices to be explained"):
        protokern.load(make_pool_run(tmp_path, is_pushed=False).folder)
    with pytest.raises(CheckpointError):
        protokern.load(tmp_path / "nowhere")


def test_an_ensemble_answers_with_the_points_of_all_members(opened: Opened, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    second = make_run(tmp_path)
    (folder / "ensemble.toml").write_text(f"members = ['{opened.run.folder}', '{second.folder}']\n")
    net = protokern.load(folder)
    assert repr(net) == "Net both: Ensemble, 2 classes, 12 prototypes"
    assert [card.index for card in net.prototypes] == list(range(12))
    explanation = net.explain(opened.photo)
    contrast = explanation.contrast(*CLASSES, top=12)
    assert sorted(row.evidence.view.prototype for row in contrast.rows) == list(range(12))
    assert sum(row.difference for row in contrast.rows) == pytest.approx(
        float(explanation.logits[0] - explanation.logits[1]), abs=1e-4
    )
    for row in contrast.rows:
        j = row.evidence.view.prototype
        assert row.points_a == pytest.approx(explanation.points[j, 0])
    assert re.search(r"looks like prototype (6|7|8|9|10|11) \(", str(contrast))
