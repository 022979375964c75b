"""forbidden.json comes back as it was written, and what is broken is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protokern.errors import CheckpointError
from protokern.runs.folder import check_vacant
from protokern.runs.forbidden import Forbidden, ForbiddenPlace, read_forbidden, settle_forbidden
from protokern.storage.files import seal, to_json_bytes

PLACES = Forbidden(
    grid=(3, 4),
    places=(
        ForbiddenPlace(image="train/a/1.png", patch=(2, 3), classes=("a", "b"), reason="a coat hanger"),
        ForbiddenPlace(image="train/\udcff.png", patch=(0, 0), classes=("b",)),  # a name that is not UTF-8
    ),
)


def test_places_come_back(tmp_path: Path) -> None:
    assert read_forbidden(tmp_path) is None
    settle_forbidden(tmp_path, PLACES)
    assert read_forbidden(tmp_path) == PLACES
    table = json.loads((tmp_path / "forbidden.json").read_text())
    assert table["format"] == "protokern-forbidden-1"
    assert table["places"][0] == {
        "image": "train/a/1.png",
        "patch": [2, 3],
        "classes": ["a", "b"],
        "reason": "a coat hanger",
    }
    settle_forbidden(tmp_path, None)
    assert not (tmp_path / "forbidden.json").exists()


def test_a_file_that_a_killed_training_left_is_in_nobodys_way(tmp_path: Path) -> None:
    settle_forbidden(tmp_path, PLACES)
    check_vacant(tmp_path)
    (tmp_path / "forbidden.json").write_text("mine")
    with pytest.raises(CheckpointError, match=r"--out: must hold nothing .* which has forbidden\.json"):
        check_vacant(tmp_path)


def write(folder: Path, **changes: Any) -> None:
    """A file whose checksum is right, with other content."""
    place = {"image": "x.png", "patch": [0, 0], "classes": ["a"], "reason": ""}
    place |= {key: value for key, value in changes.items() if key in place}
    table = {"format": "protokern-forbidden-1", "grid": [3, 4], "places": [place]}
    table |= {key: value for key, value in changes.items() if key in table}
    (folder / "forbidden.json").write_bytes(to_json_bytes(seal(table)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [0, 4]}, r"must have rows and columns of the grid of patches as 'grid'; got '\[0, 4\]'"),
        ({"places": []}, r"must have a list of at least one place as 'places'; got '\[\]'"),
        ({"places": ["x"]}, r"must have tables of places; got 'x'"),
        ({"image": 5}, r"must have the name of an image as 'image'; got '5'"),
        ({"patch": [3, 0]}, r"must have row and column in a grid of 3 x 4 as 'patch'; got '\[3, 0\]'"),
        ({"patch": [True, 0]}, r"must have row and column"),
        ({"patch": 7}, r"must have row and column"),
        ({"classes": []}, r"must have names of classes, at least one, as 'classes'; got '\[\]'"),
        ({"classes": "a"}, r"must have names of classes"),
        ({"reason": None}, r"must have a text as 'reason'; got 'None'"),
        ({"format": "protokern-forbidden-2"}, r"this version reads up to protokern-forbidden-1. Update protokern"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_forbidden(tmp_path)


def test_a_file_that_was_changed_or_is_no_json_is_refused(tmp_path: Path) -> None:
    settle_forbidden(tmp_path, PLACES)
    path = tmp_path / "forbidden.json"
    path.write_text(path.read_text().replace("coat", "hat"))
    with pytest.raises(CheckpointError, match="its checksum differs"):
        read_forbidden(tmp_path)
    path.write_text("[")
    with pytest.raises(CheckpointError, match="is not whole"):
        read_forbidden(tmp_path)
