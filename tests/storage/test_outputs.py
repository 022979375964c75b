"""Whose file is it? Every test has a folder with files of a user and files of a command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from protokern.errors import CheckpointError
from protokern.storage.outputs import LISTING, check_whole_folder, claim_outputs, list_folder


def write(folder: Path, name: str, content: str, by: str = "explain") -> None:
    with claim_outputs(folder, [name], by=by).writing() as stage:
        (stage / name).write_text(content)


def refuses(folder: Path, name: str, reason: str, by: str = "explain", inputs: tuple[Path, ...] = ()) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match=rf"--out: must hold no files .*{name}, which {reason}\. Move it away"):
        claim_outputs(folder, [name], by=by, inputs=inputs)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_command_replaces_what_it_wrote_and_leaves_no_litter(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write(out, "a.html", "one")
    write(out, "a.html", "two")
    write(out, "b.html", "three")
    write(out, "a.html", "two")
    assert (out / "a.html").read_text() == "two"
    assert {path.name for path in out.iterdir()} == {"a.html", "b.html", LISTING}


def test_to_claim_writes_nothing(tmp_path: Path) -> None:
    claim_outputs(tmp_path / "out", ["a.html"], by="explain")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_user_stays(tmp_path: Path) -> None:
    write(tmp_path, "b.html", "ours")
    (tmp_path / "a.html").write_text("mine")
    refuses(tmp_path, "a.html", "'protokern explain' did not write")


def test_a_file_that_the_user_changed_or_put_in_its_place_stays(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "ours")
    (tmp_path / "a.html").write_text("0urs")
    refuses(tmp_path, "a.html", "was changed since 'protokern explain' wrote it")
    (tmp_path / "a.html").unlink()
    (tmp_path / "a.html").symlink_to(tmp_path / LISTING)
    refuses(tmp_path, "a.html", "is a link")
    (tmp_path / "a.html").unlink()
    (tmp_path / "a.html").mkdir()
    refuses(tmp_path, "a.html", "is not a plain file")


def test_a_file_of_another_command_stays(tmp_path: Path) -> None:
    write(tmp_path, "neighbours.json", "table", by="neighbours")
    refuses(tmp_path, "neighbours.json", "'protokern explain' did not write")


def test_a_copied_folder_is_still_known(tmp_path: Path) -> None:
    write(tmp_path / "a", "a.html", "one")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copy)
    write(tmp_path / "b", "a.html", "two")
    assert (tmp_path / "b" / "a.html").read_text() == "two"


@pytest.mark.parametrize("link", [os.link, lambda source, target: os.symlink(source, target)], ids=["hard", "soft"])
def test_an_input_is_never_replaced_whatever_it_is_called(tmp_path: Path, link) -> None:
    out, other = tmp_path / "out", tmp_path / "other.png"
    write(out, "a.png", "ours")
    refuses(out, "a.png", "is an input of this command", inputs=(out / "a.png",))
    link(out / "a.png", other)
    refuses(out, "a.png", "is an input of this command", inputs=(other,))
    assert other.read_text() == "ours"


def test_a_file_system_that_takes_two_names_for_one_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Bird.PNG").write_text("mine")
    lstat = os.lstat

    def look(path):
        path = Path(path)
        same = [one for one in os.listdir(path.parent) if one.casefold() == path.name.casefold()]
        return lstat(path.parent / (same or [path.name])[0])

    monkeypatch.setattr(os, "lstat", look)
    with pytest.raises(CheckpointError, match=r"bird\.png, which 'protokern explain' did not write"):
        claim_outputs(tmp_path, ["bird.png"], by="explain")


def test_a_place_that_is_taken_during_the_work_stays_and_nothing_else_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "old")
    claimed = claim_outputs(tmp_path, ["a.html", "b.html"], by="explain")

    def work() -> None:
        with claimed.writing() as stage:
            (stage / "a.html").write_text("new")
            (stage / "b.html").write_text("new")
            (tmp_path / "b.html").write_text("mine")

    with pytest.raises(CheckpointError, match=r"b\.html"):
        work()
    assert (tmp_path / "a.html").read_text() == "old"
    assert (tmp_path / "b.html").read_text() == "mine"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_that_was_killed_as_a_file_got_its_name_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write(tmp_path, "a.html", "old")
    replace = os.replace

    def stop(source: Path, target: Path) -> None:
        if target == tmp_path / "a.html":
            if moment == "after":
                replace(source, target)
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "a.html", "new")
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path, "a.html", "third")
    assert (tmp_path / "a.html").read_text() == "third"


def test_a_line_that_was_cut_off_and_a_folder_that_was_left_are_in_nobodys_way(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "old")
    with (tmp_path / LISTING).open("a") as file:
        file.write('{"name": "b.ht')
    left = tmp_path / f".protokern.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_text("half")
    (tmp_path / ".notes.1.tmp").write_text("mine")
    write(tmp_path, "b.html", "one")
    write(tmp_path, "b.html", "two")
    write(tmp_path, "a.html", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.html", ".notes.1.tmp", LISTING}


def test_a_listing_is_not_written_through_a_link_and_not_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LISTING).symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="must be a plain file"):
        write(tmp_path, "a.html", "new")
    (tmp_path / LISTING).unlink()
    (tmp_path / LISTING).write_text("mine")
    with pytest.raises(CheckpointError, match="must be a list of outputs"):
        write(tmp_path, "a.html", "new")
    assert (tmp_path / LISTING).read_text() == "mine"
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_long_listing_is_shortened(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "one")
    listing = tmp_path / LISTING
    line = listing.read_text().splitlines()[-1]
    checksum = json.loads(line)["sha256"]
    earlier = [line.replace(checksum, f"{number:064x}") for number in range(10_000)]
    listing.write_text("\n".join([listing.read_text(), *earlier]))
    write(tmp_path, "b.html", "one")
    assert (tmp_path / LISTING).read_text().count("a.html") == 1
    write(tmp_path, "a.html", "again")


def test_files_of_a_version_without_listings_may_be_replaced_where_a_run_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("of old")
    outputs = claim_outputs(tmp_path, ["index.html"], by="report", trusts_unlisted=True)
    outputs.replace(tmp_path / "index.html", b"new")
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(CheckpointError, match="was changed since"):
        claim_outputs(tmp_path, ["index.html"], by="report", trusts_unlisted=True)


def test_only_what_the_command_wrote_is_removed(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "ours")
    (tmp_path / "b.html").write_text("mine")
    outputs = claim_outputs(tmp_path, [], by="explain")
    for name in ("a.html", "b.html", "c.html"):
        outputs.remove(name)
    assert {path.name for path in tmp_path.iterdir()} == {"b.html", LISTING}


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9t\xe9.html")
    write(tmp_path, name, "one")
    write(tmp_path, name, "two")
    assert (tmp_path / name).read_text() == "two"


@pytest.mark.parametrize("inside", ["out", "out/a/b"])
def test_an_out_that_is_a_file_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match=r"--out: must be a folder; got the file .*out\. Give another one"):
        claim_outputs(tmp_path / inside, ["a.html"], by="explain")


def test_an_out_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(CheckpointError, match=r"--out: must be a folder that can be written; got .*new"):
        claim_outputs(tmp_path / "new", ["a.html"], by="explain")


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_folder_that_is_replaced_whole_must_hold_nothing_else(tmp_path: Path, is_listed: bool) -> None:
    def check() -> None:
        check_whole_folder(tmp_path / "prototypes", "push", lambda name: name.endswith(".png"))

    check()
    (tmp_path / "prototypes").mkdir()
    (tmp_path / "prototypes" / "0.png").write_text("ours")
    if is_listed:
        list_folder(tmp_path / "prototypes", "push")
    check()
    if is_listed:
        (tmp_path / "prototypes" / "0.png").write_text("mine")
        with pytest.raises(CheckpointError, match=r"must hold only what protokern wrote .* got 0\.png"):
            check()
        (tmp_path / "prototypes" / "0.png").write_text("ours")
    (tmp_path / "prototypes" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"got notes\.txt"):
        check()
