"""Tar files and rows with small pictures, for tests."""

from __future__ import annotations

import io
import tarfile
import types
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, **counts: int) -> Path:
    """Two shards of every split; classes alternate."""
    folder.mkdir(exist_ok=True)
    for split, count in counts.items():
        for shard in range(2):
            with tarfile.open(folder / f"{split}-{shard:06}.tar", "w") as archive:
                for number in range(shard, count, 2):
                    add(archive, f"some/{split}_{number}.cls", str(number // 2 % 2).encode())
                    add(archive, f"some/{split}_{number}.png", png(number))
                    add(archive, f"some/{split}_{number}.json", b"{}")
    return folder


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add(archive, name, content)


class FakeRows:
    """One split as `datasets` has them."""

    def __init__(self, package, labels: list[int | None], *, decodes: bool = True, fingerprint: str = "a1") -> None:
        names = types.SimpleNamespace(names=list(CLASSES))
        self.features = {"image": package.Image(), "label": package.ClassLabel()}
        self.features["label"].names = names.names
        self.package, self.labels, self.decodes, self._fingerprint = package, labels, decodes, fingerprint
        self.num_rows = len(labels)

    def cast_column(self, column: str, kind) -> FakeRows:
        assert (column, kind.decode) == ("image", False)
        return FakeRows(self.package, self.labels, decodes=False)

    def __getitem__(self, key):
        if key == "label":
            return self.labels
        assert not self.decodes
        return {"image": {"bytes": png(key), "path": None}, "label": self.labels[key]}
