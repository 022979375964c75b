"""No reader of the package can be made to run what a file says."""

from __future__ import annotations

import ast
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from protokern.backbones.weights import read_state
from protokern.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[2] / "protokern"
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
    "shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "joblib.load", "yaml.load", "yaml.unsafe_load",
    "os.system", "os.popen", "torch.jit.load",
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_module_calls_what_could_run_the_content_of_a_file() -> None:
    for path in PACKAGE.rglob("*.py"):
        for name, call in calls(path):
            where = f"{path.relative_to(PACKAGE)}:{call.lineno}: {name}"
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            assert name not in FORBIDDEN, where
            assert name != "torch.load" or options.get("weights_only") == "True", where
            assert name not in ("np.load", "numpy.load") or options.get("allow_pickle") == "False", where
            assert options.get("shell") in (None, "False"), where


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil))])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_weight_file_that_would_run_something_is_refused(tmp_path: Path, save) -> None:
    save(Evil(tmp_path / "was here"), tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="weights: must be a readable state-dict file"):
        read_state(tmp_path / "net.pth")
    assert not (tmp_path / "was here").exists()


def test_a_compressed_weight_file_is_not_unfolded(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(4)}, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth") as sound, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in sound.infolist():
            bomb.writestr(entry.filename, sound.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ConfigError, match="it is compressed"):
        read_state(tmp_path / "bomb.pth")
