from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from protokern.errors import DataError
from protokern.features import Fingerprint, fingerprint_of_files, fingerprint_of_weights


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def test_weights_are_known_by_every_bit_and_by_the_layers() -> None:
    wanted = fingerprint_of_weights(net())
    assert fingerprint_of_weights(net().to(memory_format=torch.channels_last)) == wanted
    others = [net() for _ in range(4)]
    with torch.no_grad():
        others[0][0].weight.view(torch.int32)[0, 0, 0, 0] ^= 1
        others[1][1].running_mean[0] = 1
    others[2][2] = nn.GELU()
    others[3].double()
    assert len({wanted, *map(fingerprint_of_weights, others)}) == 5


def test_files_are_known_by_name_label_size_time_and_order(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1234")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    one, other = ("a", 0, tmp_path / "a"), ("b", 1, tmp_path / "b")
    prints = [fingerprint_of_files(files) for files in ([one, other], [other, one], [one], [one, ("b", 0, other[2])])]
    prints.append(fingerprint_of_files([one, ("c", 1, other[2])]))
    assert fingerprint_of_files([one, ("b", 1, tmp_path / "a")]) == prints[0]  # where the file is does not count
    os.utime(tmp_path / "b", ns=(10**18, 10**18 + 1))
    prints.append(fingerprint_of_files([one, other]))
    (tmp_path / "b").write_bytes(b"12345")
    os.utime(tmp_path / "b", ns=(10**18, 10**18))
    prints.append(fingerprint_of_files([one, other]))
    prints.append(fingerprint_of_files([("a", 0, None), ("b", 1, None)]))
    assert len(set(prints)) == len(prints)


def test_a_file_that_is_gone_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        fingerprint_of_files([("gone", 0, tmp_path / "gone.png")])


def test_differences_are_named() -> None:
    one = Fingerprint(weights="w", transform="t", files="f")
    assert one.differences(one) == []
    assert one.differences(Fingerprint(weights="w", transform="u", files="g")) == ["transform", "files"]
