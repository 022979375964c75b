"""An edited run remembers the patches that forbidden prototypes were."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.edits.history import append_entry
from protokern.edits.records import Add, Assign, Entry, Forbid, Keep, Replace
from protokern.runs.forbidden import Forbidden, ForbiddenPlace, read_forbidden
from tests.cli.pushed_run import CLASSES, PushedRun, make_run

IMAGE = f"train/{CLASSES[1]}/2.png"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("forbidden"))


def edit(run: Path, folder: Path, *entries: Entry) -> Path:
    for entry in entries:
        append_entry(folder / "edits.jsonl", entry)
    assert main(["edit", str(run), "--apply", str(folder / "edits.jsonl"), "--out", str(folder / "edited")]) == 0
    return folder / "edited"


def places_of(run: Path) -> Forbidden:
    found = read_forbidden(run)
    assert found is not None
    return found


def source_of(pushed: PushedRun, prototype: int) -> tuple[str, tuple[int, int]]:
    assert pushed.push is not None
    row, column = divmod(int(pushed.push.patch[prototype]), pushed.push.grid[1])
    return pushed.splits.push.sample_name(int(pushed.push.image[prototype])), (row, column)


def test_places_are_those_of_the_push_or_of_the_edit(pushed: PushedRun, tmp_path: Path) -> None:
    edited = edit(
        pushed.folder,
        tmp_path,
        Forbid(prototype=1, reason="a coat hanger"),
        Add(classes=(CLASSES[1],), image=IMAGE, patch=(2, 3)),
        Forbid(prototype=6),
        Assign(prototype=4, classes=CLASSES),
        Forbid(prototype=4),
    )
    found = places_of(edited)
    assert found.grid == (4, 4)
    image, patch = source_of(pushed, 1)
    last_image, last_patch = source_of(pushed, 4)
    assert found.places == (
        ForbiddenPlace(image=image, patch=patch, classes=(CLASSES[0],), reason="a coat hanger"),
        ForbiddenPlace(image=last_image, patch=last_patch, classes=CLASSES),
        ForbiddenPlace(image=IMAGE, patch=(2, 3), classes=(CLASSES[1],)),
    )


def test_a_run_without_a_forbidden_prototype_has_no_file(pushed: PushedRun, tmp_path: Path) -> None:
    edited = edit(pushed.folder, tmp_path, Forbid(prototype=1), Keep(prototype=1), Assign(prototype=4, classes=CLASSES))
    assert not (edited / "forbidden.json").exists()


def test_places_are_passed_on_unless_a_person_wants_the_patch(pushed: PushedRun, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "3").mkdir()
    first = edit(pushed.folder, tmp_path / "1", Forbid(prototype=1), Forbid(prototype=4))
    second = edit(first, tmp_path / "2", Forbid(prototype=0))
    before, after = places_of(first), places_of(second)
    assert after.places[:2] == before.places
    assert len(after.places) == 3
    image, patch = source_of(pushed, 4)
    third = edit(second, tmp_path / "3", Replace(prototype=0, image=image, patch=patch), Forbid(prototype=1))
    # Prototype 0 is of the other class, so the place stays forbidden to its own.
    assert before.places[1] in places_of(third).places


def test_a_patch_that_a_person_makes_a_prototype_again_is_allowed(pushed: PushedRun, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first = edit(pushed.folder, tmp_path / "1", Forbid(prototype=1), Forbid(prototype=4))
    image, patch = source_of(pushed, 4)
    second = edit(first, tmp_path / "2", Add(classes=(CLASSES[1],), image=image, patch=patch))
    before, after = places_of(first), places_of(second)
    assert after.places == before.places[:1]


def test_a_broken_file_of_the_run_is_refused(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = edit(pushed.folder, tmp_path, Forbid(prototype=1))
    (first / "forbidden.json").write_text("{}")
    arguments = ["edit", str(first), "--apply", str(tmp_path / "edits.jsonl"), "--out", str(tmp_path / "x")]
    assert main(arguments) == 2
    assert "forbidden.json: must be of format protokern-forbidden-1; got None" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
