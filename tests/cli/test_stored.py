"""A head on a frozen backbone through the commands: who runs the backbone, and who reads what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protokern.backbones.registry import Backbone
from protokern.cli.main import main
from protokern.runs.folder import new_config
from tests.cli.test_train import SETTINGS, photos  # noqa: F401
from tests.report.test_page import read_page

FROZEN = {**SETTINGS, "train.backbone": "frozen", "train.joint_epochs": "1"}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the images of every call of a backbone but the one on a black image, by which a model is measured."""
    seen: list[int] = []
    forward = Backbone.forward

    def count(self, images):
        if images.device.type != "meta" and images.any():
            seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", count)
    return seen


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict:
    assert main(["evaluate", str(run), *flags]) == 0
    answer: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def reported(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[list[int]]:
    """The confusion matrix of the page, true classes by answers."""
    assert main(["report", str(run), "--frame", "grid", *flags]) == 0
    page = read_page(Path(capsys.readouterr().out.splitlines()[-1]).read_text(encoding="utf-8"))
    return [[count for count, _, _ in row] for row in page["confusion"]["matrix"]]


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    run = tmp_path_factory.mktemp("trained") / "run"
    sets = [part for key, value in FROZEN.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", "--recipe", "paper", "--data", str(photos), "--out", str(run), *sets]) == 0
    return run


def test_a_store_is_named_so_that_it_holds_anywhere(
    photos: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**FROZEN, "data.feature_store": "shared", "data.path": str(photos)}
    monkeypatch.chdir(tmp_path)
    changes = [f"{key}={value}" for key, value in settings.items()]
    assert new_config(tmp_path / "run", None, changes, None).data.feature_store == str(tmp_path / "shared")


def test_verbs_read_the_stores_of_their_images_and_run_the_backbone_for_others(
    photos: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    batches: list[int],
) -> None:
    run, sets = tmp_path / "run", [part for key, value in FROZEN.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", "--recipe", "paper", "--data", str(photos), "--out", str(run), *sets]) == 0
    assert "the backbone is frozen: all stages read" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert (run / "report" / "index.html").exists()

    batches.clear()
    from_store = evaluated(run, capsys)
    assert batches == []
    assert from_store["accuracy"] == metrics["accuracy"]
    batches.clear()
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied, copy_function=shutil.copy)  # with new times
    from_images = evaluated(run, capsys, "--data", str(copied))
    assert sum(batches) == from_images["images"]
    assert from_images["loss"] == pytest.approx(from_store["loss"], rel=1e-4)

    # Otherwise the page measures some images itself how far it can be trusted.
    asked = ("left_alone", "stability", "randomisation", "concentration", "duplicates")
    assert main(["metrics", str(run), "--only", *asked, "--images", "2", "--frames", "grid"]) == 0
    batches.clear()
    counts = reported(run, capsys)
    assert set(batches) == {1}  # images that are explained, and none of the whole data set
    assert sum(map(sum, counts)) == from_store["images"]
    assert sum(counts[k][k] for k in range(2)) / from_store["images"] == metrics["accuracy"]
    batches.clear()
    assert reported(run, capsys, "--data", str(copied)) == counts
    assert sum(size for size in batches if size > 1) >= from_store["images"]

    batches.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protokern.cli.head_verb._write_pictures", lambda *_: None)
        patch.setattr("protokern.cli.head_verb._write_page", lambda folder, splits, inputs: folder)
        assert main(["push", str(run)]) == 0
    assert batches == []
    (run / "features" / "test" / "features.bin").write_bytes(b"")
    assert main(["evaluate", str(run)]) == 2
    assert "features.bin: must have" in capsys.readouterr().err
    shutil.rmtree(run / "features")
    assert evaluated(run, capsys)["checkpoint"].startswith("push-")


@pytest.mark.parametrize("verb", ["evaluate", "report", "neighbours", "push"])
def test_a_verb_that_must_run_the_backbone_again_says_why(
    verb: str,
    trained: Path,
    photos: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, copied = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(trained, run)
    shutil.copytree(photos, copied, copy_function=shutil.copy)
    extra = ["--frame", "grid"] if verb in ("report", "neighbours") else []
    extra += ["--out", str(tmp_path / "out")] if verb == "neighbours" else []
    assert main([verb, str(run), "--data", str(copied), *extra]) == 0
    out = capsys.readouterr().out
    assert (
        f"{run / 'features' / 'test'}: the stored features are of other files, so the backbone runs over the images "
        "again\n"
    ) in out
    shutil.rmtree(run / "features" / "test")
    extra = [str(tmp_path / "again") if one == str(tmp_path / "out") else one for one in extra]
    assert main([verb, str(run), "--data", str(photos), *extra]) == 0
    out = capsys.readouterr().out
    assert (
        f"{run / 'features' / 'test'}: there are no complete stored features, so the backbone runs over the images "
        "again\n"
    ) in out
    assert str(run / "features" / "train") not in out
