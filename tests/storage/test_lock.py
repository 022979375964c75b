from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.errors import CheckpointError
from protokern.storage import lock
from protokern.storage.files import write_folder
from protokern.storage.lock import LOCK_FILE, is_locked, lock_run

# Takes the lock as the package does, without the seconds that the import of torch would take.
HOLDER = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
os.write(descriptor, b"process 4711 on elsewhere\\n")
worker = os.fork()
if worker:
    print(worker, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock, and a worker process of its; both are gone afterwards."""
    path = tmp_path / LOCK_FILE
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(worker, signal.SIGKILL)


def test_a_second_process_is_told_who_is_at_work_until_the_kernel_frees_the_lock(tmp_path, holder) -> None:
    message = r"must be written by one process at a time; process 4711 on elsewhere is at work on it\. Wait"
    with pytest.raises(CheckpointError, match=message), lock_run(tmp_path):
        pytest.fail("two processes hold the lock")
    assert is_locked(tmp_path)
    holder.kill()  # its worker lives on and does not hold the lock
    holder.wait()
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"process {os.getpid()} on {lock.socket.gethostname()}\n"


def test_two_trainings_in_one_folder_are_one_line(tmp_path, holder, capsys) -> None:
    small = ["model.backbone=tiny", "model.prototype_dim=8", "data.image_size=16", "data.birds_train=2"]
    sets = (word for change in small for word in ("--set", change))
    command = ["train", "--recipe", "paper", "--out", str(tmp_path), *sets]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "must be written by one process at a time" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == [LOCK_FILE]


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.EIO, pytest.raises(CheckpointError, match=r"could not be locked \(Input/output error\)")),
        (errno.ENOLCK, pytest.warns(UserWarning, match="its file system has no locks .*take care that no other")),
    ],
    ids=["broken", "no-locks"],
)
def test_a_file_system_that_cannot_lock_is_named(tmp_path, monkeypatch, number, outcome) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", fail)
    with outcome, lock_run(tmp_path):
        pass


def test_what_killed_processes_left_is_removed(tmp_path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = tmp_path / f".prototypes.{os.getppid()}.tmp"
    litter = [tmp_path / f".prototypes.{dead.pid}.tmp"]
    litter += [tmp_path / "checkpoints" / f".joint-2.{os.getpid()}.tmp"]  # in a container all have our number
    for path in (alive, *litter):
        path.mkdir(parents=True)
        (path / "half").write_bytes(b"")
    names = ("split.json", "forbidden.json", "imported.json", "prototypes/prototypes.json", "report/index.html")
    for name in names:
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        litter.append(place.with_name(f".{place.name}.{dead.pid}.tmp"))
        litter[-1].write_bytes(b"half")
    (tmp_path / "away").symlink_to(tmp_path.parent)
    (tmp_path / ".gitignore").write_text("")
    with lock_run(tmp_path):
        assert [path for path in litter if path.exists()] == []
        assert alive.exists()
        assert (tmp_path / ".gitignore").exists()


def test_a_folder_that_a_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / f".joint-2.{os.getpid()}.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    write_folder(tmp_path / "joint-2", {"state.json": b"{}"})
    assert os.listdir(tmp_path / "joint-2") == ["state.json"]


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK_FILE).symlink_to(precious)
    with pytest.raises(CheckpointError, match=r"\.lock: could not be written"), lock_run(folder):
        pytest.fail("followed the link")
    assert precious.read_text() == "mine"


def test_files_of_others_with_such_names_stay(tmp_path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / ".joint-2.1.old").write_text("mine")
    (tmp_path / ".notes.1.old").write_text("mine")
    with lock_run(tmp_path):
        assert (tmp_path / ".notes.1.old").exists()
        assert (folder / ".joint-2.1.old").exists()
    (tmp_path / LOCK_FILE).write_text("of another program")
    with pytest.raises(CheckpointError, match=r"must have no \.lock of another program"), lock_run(tmp_path):
        pytest.fail("wrote over it")
    assert (tmp_path / LOCK_FILE).read_text() == "of another program"


@pytest.mark.parametrize("content", [b"", b"proc", b"\0" * 40], ids=["empty", "cut-off", "lost"])
def test_a_lock_that_was_not_written_to_its_end_is_in_nobodys_way(tmp_path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with lock_run(tmp_path):
        pass


def test_a_lock_that_is_not_of_the_process_excludes_a_second_writer_in_it(tmp_path) -> None:
    first, second = lock.open_lock(tmp_path / "lock"), lock.open_lock(tmp_path / "lock")
    assert lock.take_lock(first)
    assert not lock.take_lock(second)
    os.close(first)
    assert lock.take_lock(second)
    os.close(second)
