"""Every file of a folder with all that people have in theirs is in a number of the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import features

from protokern.data import open_splits
from tests.data.odd_files import UNREADABLE, entries, write_odd_files


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_every_file_is_in_a_number(tmp_path: Path) -> None:
    root = write_odd_files(tmp_path / "odd")
    splits = open_splits(root, image_size=16, augmentation="none", on_unreadable="skip")
    account, *notes = splits.notes
    total, train, val, test, passed = (
        int(number)
        for number in re.fullmatch(
            r"data: (\d+) files: (\d+) training, (\d+) validation \(valid/\), (\d+) test \(Test/\); (\d+) not .*",
            account,
        ).groups()
    )
    assert total == train + val + test + passed == entries(root)
    assert (train, val, test) == (len(splits.train), len(splits.val), len(splits.test))
    reasons = [int(number) for number in re.findall(r"(?:: |\), )(\d+) (?=[a-z])", account.partition("not counted")[2])]
    assert sum(reasons) == passed
    for said in (
        "4 hidden",
        "3 in folders that are not a split (extra/)",
        "2 beside the folders (README.md, labels.csv)",
        "1 by a link to a folder that is read already (gull/loop)",
        "1 by a link to an image that counts already (train/gull/link-again.png)",
        f"{UNREADABLE} unreadable (",
    ):
        assert said in account
    told = "\n".join(notes)
    for said in (
        "4 files with several pictures",
        f"skipped {UNREADABLE} unreadable files",
        "1 image by links that lead out",
    ):
        assert said in told
    assert "2 images have more than 8 bits a channel: 0 to 4095 become black to white (12 bits" in told
    assert [image.shape for image, _ in (splits.push[i] for i in range(len(splits.push)))] == [(3, 16, 16)] * train
