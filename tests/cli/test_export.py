"""`protokern export`: the files and pictures, the example that needs no torch, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from protokern.cli.main import main
from protokern.interop.export import onnx_file
from protokern.interop.export.formats import FORMATS
from tests.cli.pushed_run import CLASSES, PushedRun, make_pool_run, make_run

ROOT = Path(__file__).resolve().parents[2]
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[onnx]'")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("pushed"))


@pytest.fixture(scope="module")
def exported(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "birds"
    command = ["export", str(pushed.folder), "--format", "onnx", "--out", str(out), "--size", "fixed"]
    assert main([*command, "--license", "cc-by-4.0"]) == 0
    return out


def error_of(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(word) for word in command]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    return captured


def test_the_folder_has_the_model_a_table_and_pictures(exported: Path, pushed: PushedRun) -> None:
    assert {path.name for path in exported.iterdir() if path.name[0] != "."} == {
        "model.onnx",
        "prototypes",
        "prototypes.json",
    }
    table = json.loads((exported / "prototypes.json").read_text())
    assert table["format"] == "protokern-export-1"
    assert table["classes"] == list(CLASSES)
    weights = pushed.model.prototype_weight.tolist()
    assert [row == pytest.approx(wanted) for row, wanted in zip(table["weights"], weights, strict=True)] == [True] * 2
    assert len(table["prototypes"]) == 6
    assert pushed.push is not None
    for index, one in enumerate(table["prototypes"]):
        assert one["classes"] == [{"class": index // 3, "name": CLASSES[index // 3]}]
        row, column = one["source"]["patch"]
        assert row * pushed.push.grid[1] + column == int(pushed.push.patch[index])
        assert one["source"]["image"] == pushed.splits.push.sample_name(int(pushed.push.image[index]))
        assert one["similarity_of_copies"] == pytest.approx(9.21034, abs=1e-4)
        with Image.open(exported / one["picture"]) as picture:
            assert picture.size == (32, 32)
    facts = {one.key: one.value for one in onnx.load(str(exported / "model.onnx")).metadata_props}
    assert facts["license"] == "cc-by-4.0"
    assert json.loads(facts["protokern.prototypes"]) == table["prototypes"]
    assert len(facts["protokern.sha256"]) == 64


def test_the_example_explains_a_photograph_without_torch(exported: Path, pushed: PushedRun) -> None:
    """The source image of a prototype: it is its own best match, and the points of all make the logit."""
    script = (
        "import runpy, sys\n"
        "sys.modules['torch'] = sys.modules['protokern'] = None\n"
        "sys.argv = ['example', *sys.argv[1:]]\n"
        f"runpy.run_path({str(ROOT / 'examples' / 'explain_with_onnxruntime.py')!r}, run_name='__main__')\n"
    )
    photo = exported / "prototypes" / "0004-image.png"
    command = [sys.executable, "-c", script, str(exported), str(photo)]
    answer, *reasons = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert answer.startswith("down: ")
    assert len(reasons) == 3
    assert any(line.startswith("+9.210 at ") and line.endswith("prototypes/0004-box.png") for line in reasons)


def test_a_second_call_replaces_its_own_files_and_no_others(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=lambda *_: pytest.fail("too late")))
    command = ["export", pushed.folder, "--format", "onnx", "--out"]
    (tmp_path / "model.onnx").write_text("mine")
    assert "model.onnx, which 'protokern export' did not write" in error_of(capsys, *command, tmp_path)
    (tmp_path / "model.onnx").unlink()
    (tmp_path / "prototypes").mkdir()
    (tmp_path / "prototypes" / "0000-box.png").write_text("mine")
    assert "0000-box.png, which 'protokern export' did not write" in error_of(capsys, *command, tmp_path)
    assert "outside of the data folder" in error_of(capsys, *command, pushed.data / "new")
    assert "keeps for itself" in error_of(capsys, *command, pushed.folder / "prototypes")


def test_choices_must_be_final(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_pool_run(tmp_path, is_pushed=False)
    error = error_of(capsys, "export", run.folder, "--format", "onnx", "--out", tmp_path / "out")
    assert "must have final choices" in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_differs_is_not_left_behind(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*arguments: object) -> None:
        folder = arguments[2]
        assert isinstance(folder, Path)
        (folder / "model.onnx").write_bytes(b"wrong")
        raise onnx_file.ExportError("model.onnx: must answer as the run does; its logits differ by 1 for 2 images.")

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write))
    error = error_of(capsys, "export", pushed.folder, "--format", "onnx", "--out", tmp_path / "out")
    assert error == "protokern export: model.onnx: must answer as the run does; its logits differ by 1 for 2 images.\n"
    assert not any((tmp_path / "out").glob("*"))
