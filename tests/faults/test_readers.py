"""Fuzzing of every reader: whatever the bytes are, the answer is a result or an error of the package."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_tensors

from protokern.backbones.weights import read_state as read_weights
from protokern.config import load_config, parse_config
from protokern.data.decode import check_photo, read_photo
from protokern.errors import ProtokernError
from protokern.explain.prototypes import write_prototypes
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.runs.importance import read_importance
from protokern.runs.log import read_progress
from protokern.runs.open import load_model
from protokern.runs.progress import Progress
from protokern.runs.prototypes import read_prototypes
from protokern.storage.files import CHECKSUM, seal, to_json_bytes
from tests.cli.pushed_run import PushedRun, make_run

FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.just(2**70)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
damages = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("readers"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


@pytest.fixture(scope="module")
def copy(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(pushed.folder, tmp_path_factory.mktemp("copy") / "run")


def damaged(content: bytes, changes: list[tuple[float, int]], length: float) -> bytes:
    """Some bytes replaced, and the end cut off."""
    changed = bytearray(content)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    return bytes(changed[: round(length * len(changed))])


def survive(read: Callable[[], object]) -> None:
    """Any other error than one of the package, such as a KeyError, fails the test."""
    try:
        read()
    except ProtokernError as error:
        assert str(error)  # noqa: PT017 - a result is as good


def replaced(table: Any, draw: Callable[[st.SearchStrategy], Any]) -> Any:
    """A copy of a JSON table in which one value, wherever it is, is another one or missing."""
    table = json.loads(json.dumps(table))
    at = table
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and draw(st.integers(0, 3)):
            at = at[key]
            continue
        if draw(st.booleans()):
            at[key] = draw(json_values)
        else:
            del at[key]
        return table


@FEW
@given(st.data())
def test_a_checkpoint_with_another_table(pushed: PushedRun, copy: Path, data: st.DataObject) -> None:
    """Somebody changed it who knows how to mend the checksum."""
    name = data.draw(st.sampled_from(["checkpoints/latest.json", "checkpoints/push-2/state.json"]))
    table = json.loads((pushed.folder / name).read_text())
    del table[CHECKSUM]
    (copy / name).write_bytes(to_json_bytes(seal(replaced(table, data.draw))))
    survive(lambda: load_model(copy))
    survive(lambda: find_resumable(copy))
    survive(lambda: read_checkpoint(copy / "checkpoints" / "push-2"))
    shutil.copy(pushed.folder / name, copy / name)


@FEW
@given(st.data())
def test_the_progress_of_a_run(data: st.DataObject) -> None:
    table = replaced(Progress().to_table(), data.draw)
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):  # `resume` names the checkpoint
        Progress.from_table(table)


@FEW
@given(
    st.sampled_from(
        [
            "run.toml",
            "checkpoints/latest.json",
            "checkpoints/push-2/state.json",
            "checkpoints/push-2/model.safetensors",
            "prototypes/prototypes.json",
            "prototypes/0000-heat.png",
        ]
    ),
    damages,
    st.sampled_from([1.0, 1.0, 0.7]),
)
def test_a_run_folder_with_other_bytes(
    pushed: PushedRun, copy: Path, name: str, changes: list[tuple[float, int]], length: float
) -> None:
    (copy / name).write_bytes(damaged((pushed.folder / name).read_bytes(), changes, length))
    survive(lambda: load_model(copy))
    survive(lambda: load_config(copy / "run.toml"))
    survive(lambda: read_pictures(copy))
    shutil.copy(pushed.folder / name, copy / name)


def read_pictures(run: Path) -> None:
    files = read_prototypes(run)
    assert files is not None
    files.picture(0, "heat")


@FEW
@given(st.data())
def test_a_table_of_prototypes(pushed: PushedRun, copy: Path, data: st.DataObject) -> None:
    name = "prototypes/prototypes.json"
    table = json.loads((pushed.folder / name).read_text())
    (copy / name).write_bytes(to_json_bytes(replaced(table, data.draw)))
    survive(lambda: read_prototypes(copy))
    shutil.copy(pushed.folder / name, copy / name)


@FEW
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode() + b"\n"))
def test_other_tables(tmp_path: Path, content: bytes) -> None:
    for name in ("log.jsonl", "importance/importance.json", "config.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    survive(lambda: read_progress(tmp_path, 0))
    survive(lambda: read_importance(tmp_path))
    survive(lambda: load_config(tmp_path / "config.toml"))


@FEW
@given(
    st.dictionaries(
        st.sampled_from(["model", "data", "train", "prune", "other"]),
        st.dictionaries(st.sampled_from(["name", "backbone", "seed", "path", "image_size", "mixup", "k"]), json_values)
        | json_values,
    )
)
def test_a_configuration_of_any_tables(table: dict[str, Any]) -> None:
    survive(lambda: parse_config(table))


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, "a" + ".a" * 50_000 + " = 1", "a = 1" + "0" * 5_000])
def test_a_configuration_that_is_nested_or_long_beyond_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    survive(lambda: load_config(tmp_path / "config.toml"))


def photographs() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    found = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        found[kind] = file.getvalue()
    return found


PHOTOGRAPHS = photographs()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.sampled_from(sorted(PHOTOGRAPHS)), damages, st.sampled_from([1.0, 1.0, 0.5]))
def test_a_photograph(tmp_path: Path, kind: str, changes: list[tuple[float, int]], length: float) -> None:
    path = tmp_path / "photo"
    path.write_bytes(damaged(PHOTOGRAPHS[kind], changes, length))
    reason = check_photo(path, max_pixels=10**6)
    assert reason is None or reason
    survive(lambda: read_photo(path, (8, 8), max_pixels=10**6))


def weight_files() -> dict[str, bytes]:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
    file = io.BytesIO()
    torch.save(weights, file)
    old = io.BytesIO()
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    return {"zip.pth": file.getvalue(), "old.pth": old.getvalue(), "a.safetensors": save_tensors(weights)}


WEIGHTS = weight_files()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(WEIGHTS)), damages, st.sampled_from([1.0, 1.0, 0.5]))
def test_a_weight_file(tmp_path: Path, name: str, changes: list[tuple[float, int]], length: float) -> None:
    (tmp_path / name).write_bytes(damaged(WEIGHTS[name], changes, length))
    survive(lambda: read_weights(tmp_path / name))
