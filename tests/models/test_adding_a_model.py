"""The model in docs/adding-a-model.md is taken from the page, registered, and goes all the way of a user."""

# mypy: disable-error-code=call-arg
# The model is made from the text of the page, so mypy does not know its settings.

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from protokern.cli.main import main
from protokern.config import load_config
from protokern.errors import ConfigError
from protokern.explain import explain_image
from protokern.losses import Labels, LossCoefficients
from protokern.models import MODELS, PrototypeModel
from protokern.runs.log import read_log
from protokern.runs.open import load_model
from tests.cli.pushed_run import write_photos
from tests.models.contract import PointsContract
from tests.report.test_page import read_page

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"
SETTINGS = [
    "--set", "model.name=class_sum",
    "--set", "model.backbone=tiny",
    "--set", "model.prototypes_per_class=2",
    "--set", "model.prototype_dim=8",
    "--set", "model.crowding=0.2",
    "--set", "data.image_size=32",
    "--set", "data.val_fraction=0.34",
    "--set", "train.batch_size=4",
    "--set", "train.warm_epochs=1",
    "--set", "train.joint_epochs=2",
    "--set", "train.last_layer_epochs=2",
    "--set", "prune.enabled=true",
    "--set", "prune.threshold=1",
]  # fmt: skip


def code_of_the_page() -> str:
    """The one Python block of the page."""
    blocks = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) == 1
    return blocks[0].partition("```")[0]


@pytest.fixture(scope="module")
def class_sum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[PrototypeModel]]:
    """The page's model as a file and a row of the registry."""
    folder = tmp_path_factory.mktemp("added")
    (folder / "page_class_sum.py").write_text(code_of_the_page(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = importlib.import_module("page_class_sum")
        patch.setitem(MODELS._rows, "class_sum", "page_class_sum:ClassSum")
        yield module.ClassSum
    del sys.modules["page_class_sum"]


@pytest.fixture(scope="module")
def run(class_sum: type[PrototypeModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("class_sum")
    write_photos(root / "photos")
    assert main(["train", "--data", str(root / "photos"), "--out", str(root / "run"), *SETTINGS]) == 0
    return root / "run"


def test_the_page_s_command_is_understood(class_sum: type[PrototypeModel]) -> None:
    assert "protokern train --out runs/sum --set model.name=class_sum --set model.crowding=0.2" in PAGE.read_text()
    config = load_config(None, ["model.name=class_sum", "model.crowding=0.2"])
    assert type(config.model) is class_sum.Config
    with pytest.raises(ConfigError, match=r"^model\.crowding: must be a finite number of at least 0; got -1\.0\.$"):
        load_config(None, ["model.name=class_sum", "model.crowding=-1"])
    with pytest.raises(ConfigError, match=r"model\.slots_per_class: no such key\. It is a key of protopool"):
        load_config(None, ["model.name=class_sum", "model.slots_per_class=3"])


def test_it_trains_pushes_and_prunes(run: Path) -> None:
    log = read_log(run / "log.jsonl")
    epochs = [line for line in log if line["kind"] == "epoch"]
    assert [line["stage"] for line in epochs] == ["warm", "joint", "joint"]
    assert set(epochs[0]["terms"]) == {"cross_entropy", "cluster", "crowding"}
    stages = [line["stage"] for line in log if line["kind"] == "stage"]
    assert stages == ["joint", "push", "last_layer", "prune", "pruned_last_layer"]
    assert tomllib.loads((run / "run.toml").read_text())["model"]["crowding"] == 0.2
    assert all(line["details"]["epochs"] == 2 for line in log if "last_layer" in line.get("stage", ""))


def test_every_verb_runs_on_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["accuracy"] == pytest.approx(json.loads((run / "metrics.json").read_text())["accuracy"])
    assert main(["push", str(run)]) == 0
    assert main(["prune", str(run)]) == 0
    photo = next((run.parent / "photos" / "test" / "down").iterdir())
    assert main(["explain", str(run), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert list((tmp_path / "why").glob("*.html"))
    assert main(["report", str(run)]) == 0
    assert read_page((run / "report" / "index.html").read_text(encoding="utf-8"))["pictures"]


def test_a_run_is_resumed_to_its_end(run: Path) -> None:
    before = (run / "metrics.json").read_text()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert (run / "metrics.json").read_text() == before


def test_the_points_of_an_explanation_add_up_to_the_logit(run: Path) -> None:
    model, _, _ = load_model(run)
    image = torch.rand(3, 32, 32)
    explanation = explain_image(model, image)
    with torch.no_grad():
        logits = model(image[None]).logits[0]
    assert explanation.points.sum(axis=0) == pytest.approx(logits.numpy(), abs=1e-5)


@pytest.mark.usefixtures("class_sum")
class TestTheModelOfThePage(PointsContract):
    TERMS = frozenset({"cross_entropy", "cluster", "crowding"})

    def coefficient(self, model: Any, name: str, coefficients: LossCoefficients) -> float:
        return model.crowding if name == "crowding" else super().coefficient(model, name, coefficients)

    def build(self, backbone: nn.Module, num_classes: int) -> PrototypeModel:
        model = MODELS["class_sum"]
        settings = {"prototypes_per_class": 2, "prototype_dim": 6}
        return model(backbone, num_classes, image_size=16, in_channels=self.CHANNELS, **settings)

    def test_it_is_made_as_the_page_says(self):
        assert "`ClassSum(backbone, 10, crowding=0.2)`" in PAGE.read_text()
        model = MODELS["class_sum"](nn.Conv2d(3, 6, 3), 10, crowding=0.2)
        assert (model.crowding, model.num_prototypes) == (0.2, 30)

    def test_its_loss_by_hand(self, model, images):
        output = model(images)
        labels = Labels(torch.tensor([0, 1, 2, 0]))
        total, terms = model.loss(output, labels, LossCoefficients())
        prototypes = model.prototype_layer.prototypes
        cosines = [torch.cosine_similarity(prototypes[2 * k], prototypes[2 * k + 1], dim=0) for k in range(3)]
        torch.testing.assert_close(terms["crowding"], sum(cosines) / 3)
        expected = terms["cross_entropy"] + 0.8 * terms["cluster"] + 0.1 * terms["crowding"]
        torch.testing.assert_close(total, expected)
