"""The reader of files of torch: everything is read, and nothing is run, whatever the file asks for."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protokern.errors import CheckpointError
from protokern.interop.module_state import read_network
from protokern.interop.pickles import MOST_OPERATIONS
from protokern.interop.torch_files import read_plain_pickle, read_torch_file

from .programs import PPNet

FORMATS = {"new": True, "old": False}
WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "state dict": lambda net: net.state_dict(),
    "module": lambda net: net,
    "DataParallel": nn.DataParallel,
    "state dict of DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "dictionary": lambda net: {"model_state_dict": net.state_dict(), "epoch": 3},
    "dictionary with arguments": lambda net: {"args": argparse.Namespace(depth=2), "model": net.state_dict()},
    "dictionary with a module": lambda net: {"net": net, "optimizer": torch.optim.Adam(net.parameters()).state_dict()},
}


def network() -> PPNet:
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return PPNet(backbone, (8, 5, 1, 1), 2, 6)


@pytest.fixture(params=FORMATS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=FORMATS[request.param])
        return tmp_path / "net.pth"

    return write


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_network_is_read_as_it_was_saved(save: Callable[[Any], Path], wrapping: str) -> None:
    net = network()
    wanted = net.state_dict()
    state = read_network(save(WRAPPED[wrapping](net)))
    assert state.tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert state.tensors[name].dtype == value.dtype
        assert torch.equal(state.tensors[name], value)


def test_the_settings_of_a_module_are_read(save: Callable[[Any], Path]) -> None:
    net = network()
    state = read_network(save(nn.DataParallel(net)))
    assert state.kind == "PPNet"
    assert torch.equal(state.settings["prototype_class_identity"], net.prototype_class_identity)
    for name in ("num_classes", "img_size", "epsilon", "prototype_activation_function", "prototype_shape"):
        assert state.settings[name] == getattr(net, name)
    assert state.settings["features.0.stride"] == (2, 2)


def test_arguments_beside_a_network_are_read(save: Callable[[Any], Path]) -> None:
    content = {"model": network().state_dict(), "args": argparse.Namespace(depth=4, arch="deit"), "epoch": 7}
    state = read_network(save(content))
    assert state.settings == {"args.depth": 4, "args.arch": "deit", "epoch": 7}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_kind_and_stride(save: Callable[[Any], Path], dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    views = OrderedDict(whole=base, turned=base.T, part=base[1:3, ::2], one=base[2, 3], none=base[:0])
    state = read_network(save(views))
    for name, value in views.items():
        assert torch.equal(state.tensors[name], value)
        assert state.tensors[name].stride() == value.stride() or value.numel() == 0


def test_a_plain_pickle_keeps_its_objects_apart(tmp_path: Path) -> None:
    one, other = network(), network()
    (tmp_path / "tree.pkl").write_bytes(pickle.dumps({one: 1, other: 2, "root": one}))
    table = read_plain_pickle(tmp_path / "tree.pkl")
    assert table[table["root"]] == 1
    assert len(table) == 3


class Command:
    """Pickled as a call of a command that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_command_in_a_file_is_not_run(save: Callable[[Any], Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    state = read_network(save({"weight": torch.ones(2), "bad": Command(mark)}))
    assert torch.equal(state.tensors["weight"], torch.ones(2))
    assert not mark.exists()


# Programs for the machine of a pickle, each as a test of one limit.
MANY = 3 * MOST_OPERATIONS
HOSTILE: dict[str, bytes] = {
    "command": b"cos\nsystem\n(S'touch ran'\ntR.",
    "built-in": b"cbuiltins\nexec\n(S'1/0'\ntR.",
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested dictionaries": b"\x80\x02" + b"}K\x01" * 50_000 + b"N" + b"s" * 50_000 + b".",
    "many objects": b"\x80\x02(" + b"]" * MANY + b"l.",
    "memo": b"\x80\x04" + b"]\x94" * (MANY // 2) + b".",
    "high entry of the memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "tuples doubled": b"\x80\x02)" + b"2\x86" * 60 + b".",
    "doubled tuple as a key": b"\x80\x02}N" + b"2\x86" * 60 + b"K\x01s.",
    "long number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "number of many digits": b"I" + b"7" * 5000 + b"\n.",
    "text longer than the file": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "negative length": b"\x80\x02T\xff\xff\xff\xff.",
    "extension": b"\x80\x02\x82\x01.",
    "no storage": b"\x80\x02(X\x01\x00\x00\x00xtQ.",
    "tensor rebuilt of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "rebuilding nested": b"\x80\x02"
    + b"ctorch._tensor\n_rebuild_from_type_v2\n" * 2000
    + b"N"
    + b"N\x86R" * 2000
    + b".",
    "empty": b".",
    "one state for many": b"\x80\x02}("
    + b"".join(b"J%bK\x01" % struct.pack("<i", n) for n in range(30_000))
    + b"uq\x000("
    + b"cx\ny\n)R0" * 10
    + b"cx\ny\n)Rh\x00b" * 50_000
    + b"t.",
    "one list for many": b"\x80\x02]("
    + b"K\x01K\x02\x86" * 50_000
    + b"e\x85q\x000("
    + b"ccollections\nOrderedDict\nh\x00R" * 50_000
    + b"t.",
}
OLD_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
LONG = ("many objects", "memo", "nested lists", "one state for many", "one list for many")


def zipped(pickled: bytes, storages: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("net/data.pkl", pickled)
        for name, content in storages.items():
            archive.writestr(f"net/data/{name}", content)
    return out.getvalue()


def refused(path: Path) -> str:
    """The one line with which a file is refused, within five seconds of work."""
    begun = time.process_time()
    with pytest.raises(CheckpointError) as error:
        read_network(path)
    assert time.process_time() - begun < 5
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "container"),
    [*((name, "zip") for name in HOSTILE), *((name, "old") for name in HOSTILE if name not in LONG), ("empty", "bare")],
)
def test_a_hostile_pickle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, container: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    if container == "zip":
        content = zipped(content, {})
    elif container == "old":
        content = OLD_HEAD + content
    (tmp_path / "bad.pth").write_bytes(content)
    refused(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def tensor_pickle(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int) -> bytes:
    """A state dict with one tensor, as torch.save pickles it."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments: tuple[Any, ...] = (Storage(), offset, shape, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    out = io.BytesIO()
    Persistent(out, 2).dump({"weight": Rebuilt()})
    return out.getvalue()


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "count", "stored"),
    [
        ((5,), (1,), 0, 4, 4),
        ((4,), (1,), 1, 4, 4),
        ((2, 2), (3, 1), 0, 4, 4),
        ((1 << 40,), (0,), 0, 4, 4),
        ((1 << 20, 1 << 20, 1 << 20, 0, 1 << 20), (0, 0, 0, -1, 0), 0, 4, 4),
        ((2, 2), (1,), 0, 4, 4),
        ((-1,), (1,), 0, 4, 4),
        ((4,), (1,), -1, 4, 4),
        ((1,) * 40, (1,) * 40, 0, 4, 4),
        ((4,), (1,), 0, 4, 3),
        ((1 << 33,), (1,), 0, 1 << 33, 4),
    ],
)
def test_a_tensor_outside_of_its_numbers_is_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int, stored: int
) -> None:
    pickled = tensor_pickle(shape, stride, offset, count)
    (tmp_path / "bad.pth").write_bytes(zipped(pickled, {"0": bytes(4 * stored)}))
    refused(tmp_path / "bad.pth")


def test_a_tensor_inside_of_its_numbers_is_read(tmp_path: Path) -> None:
    numbers = torch.arange(6.0)
    content = zipped(tensor_pickle((2, 2), (3, 1), 1, 6), {"0": numbers.numpy().tobytes()})
    (tmp_path / "good.pth").write_bytes(content)
    assert read_network(tmp_path / "good.pth").tensors["weight"].tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path, form: str) -> None:
    torch.save(network(), tmp_path / "net.pth", _use_new_zipfile_serialization=FORMATS[form])
    whole = (tmp_path / "net.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        refused(tmp_path / "cut.pth")


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    bomb = zipped(pickle.dumps({}), {"0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    (tmp_path / "bomb.pth").write_bytes(bomb)
    assert "compressed" in refused(tmp_path / "bomb.pth")


def test_a_zip_of_very_many_entries_is_refused(tmp_path: Path) -> None:
    end = struct.pack("<4s4xHHLLH", b"PK\x05\x06", 0xFFFF, 0xFFFF, 0xFFFFFFF, 0, 0)
    (tmp_path / "many.pth").write_bytes(b"PK\x03\x04" + bytes(1000) + end)
    refused(tmp_path / "many.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK", b"\x80", b"<html>", bytes(300)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "else.pth").write_bytes(content)
    refused(tmp_path / "else.pth")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.pth")


def test_what_is_no_network_is_said(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    assert "must hold a network or its state dict; got 'dict'" in refused(tmp_path / "epoch.pth")


class Level(nn.Module):
    pass


def test_modules_nested_without_end_are_refused(tmp_path: Path) -> None:
    top = level = Level()
    for _ in range(90):
        level.inside = Level()
        level = level.inside
    torch.save(top, tmp_path / "deep.pth")
    assert "64 inside each other" in refused(tmp_path / "deep.pth")


def test_modules_of_many_entries_in_many_places_are_refused(tmp_path: Path) -> None:
    wide, top = Level(), Level()
    for number in range(11_000):
        setattr(wide, f"setting{number}", number)
    for number in range(100):
        setattr(top, f"place{number}", wide)
    torch.save(top, tmp_path / "wide.pth")
    assert "1,000,000 entries in all" in refused(tmp_path / "wide.pth")


def test_modules_that_double_at_every_level_are_refused(tmp_path: Path) -> None:
    bottom = Level()
    for _ in range(40):
        above = Level()
        above.one = above.other = bottom
        bottom = above
    torch.save(bottom, tmp_path / "doubled.pth")
    refused(tmp_path / "doubled.pth")


MEASURE = """
import resource, sys
from pathlib import Path
from protokern.errors import CheckpointError
from protokern.interop.module_state import read_network
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_network(Path(path))
    except CheckpointError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    names = []
    for name in ("memo", "one state for many"):
        names.append(str(tmp_path / f"{name}.pth"))
        Path(names[-1]).write_bytes(zipped(HOSTILE[name], {}))
    result = subprocess.run([sys.executable, "-c", MEASURE, *names], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 200 * 1024  # kilobytes


def test_every_operation_of_a_pickle_is_known_or_refused() -> None:
    from protokern.interop.pickles import KNOWN_OPERATIONS

    refused_ones = {"EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8"}
    assert {one.name for one in pickletools.opcodes} - refused_ones == KNOWN_OPERATIONS


def test_tensors_do_not_take_the_memory_of_the_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 3)}, tmp_path / "net.pth")
    file = read_torch_file(tmp_path / "net.pth")
    one, other = (file.tensor(file.root["weight"]) for _ in range(2))
    assert isinstance(one, Tensor)
    assert one.data_ptr() == other.data_ptr()
