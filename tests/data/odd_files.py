"""A data folder with every odd thing that people have in theirs, for tests and for trials by hand.

python -m tests.data.odd_files FOLDER
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

CLASSES = ("gull", "owl")
# What of FOLDER/train/gull cannot be read.
UNREADABLE = 18


def picture(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def write_odd_files(root: Path) -> Path:
    """Write the folder; what counts is in train/, valid/ and Test/."""
    seed = 0
    for split, count in (("train", 4), ("valid", 2), ("Test", 2)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(seed := seed + 1).save(folder / f"{i}.png")
    odd = root / "train/gull"
    _write_modes(odd)
    _write_orientations(odd)
    _write_names(odd)
    _write_sizes(odd)
    _write_sequences(odd)
    _write_unreadable(odd)
    _write_links(root, odd)
    _write_beside(root)
    return root


def _write_modes(folder: Path) -> None:
    colour = picture(100)
    lab = ImageCms.profileToProfile(
        colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    palette = colour.quantize(16)
    palette.save(folder / "mode-PA.png", transparency=0)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        colour.convert(mode).save(folder / f"mode-{mode}.png")
    for mode in ("CMYK", "YCbCr"):
        colour.convert(mode).save(folder / f"mode-{mode}.tif")
    lab.save(folder / "mode-LAB.tif")
    colour.convert("CMYK").save(folder / "mode-CMYK.jpg")
    ramp = np.linspace(0, 4095, 32 * 24).astype(np.uint16).reshape(24, 32)
    Image.fromarray(ramp).save(folder / "mode-I16.png")
    Image.fromarray(ramp.astype(np.int32)).save(folder / "mode-I.tif")
    for suffix in ("jpg", "webp", "bmp", "gif", "ppm", "avif"):
        colour.save(folder / f"format.{suffix}")


def _write_orientations(folder: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(200 + orientation).save(folder / f"turned-{orientation}.jpg", exif=exif)


def _write_names(folder: Path) -> None:
    for number, name in enumerate(
        ("UPPER.PNG", "two.dots.png", " space .png", "cafe\u0301.png", "日本🐦.png", "-rf.png")
    ):
        picture(300 + number).save(folder / name, "PNG")
    picture(310).save(folder / "png-inside.jpg", "PNG")
    picture(311).save(folder / "no-suffix", "PNG")


def _write_sizes(folder: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(folder / "size-1.png")
    picture(400, (3, 200)).save(folder / "size-tall.png")


def _write_sequences(folder: Path) -> None:
    frames = [picture(500 + i) for i in range(3)]
    for suffix in ("gif", "webp", "png", "tif"):
        frames[0].save(folder / f"several.{suffix}", save_all=True, append_images=frames[1:])


def _write_unreadable(folder: Path) -> None:
    archive, packed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", b"x")
    with tarfile.open(fileobj=packed, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.png"))
    jpeg = io.BytesIO()
    picture(600, (200, 200)).save(jpeg, "JPEG")
    contents = {
        "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "jxl.jpg": b"\xff\x0a" + b"\xfa\x1f" * 40,
        "jp2.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "psd.jpg": b"8BPS\0\1" + bytes(40),
        "raw.jpg": b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
        "pdf.png": b"%PDF-1.7\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "video.jpg": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(40),
        "zip.jpg": archive.getvalue(),
        "tar.jpg": packed.getvalue(),
        "error.jpg": b"<!DOCTYPE html><title>404</title>",
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "notes.txt": b"seen on Monday",
        "empty.jpg": b"",
        "truncated.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(folder / "mode-F.tif")
    Image.new("1", (12_000, 9_000)).save(folder / "size-large.png")
    (folder / "link-to-nothing.png").symlink_to("gone.png")


def _write_links(root: Path, folder: Path) -> None:
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    picture(700).save(outside / "far.png")
    (folder / "link-out.png").symlink_to(outside / "far.png")
    (folder / "link-again.png").symlink_to("0.png")
    (folder / "loop").symlink_to("..")


def _write_beside(root: Path) -> None:
    for name in ("README.md", "labels.csv", ".hidden", "train/Thumbs.db", "train/gull/.DS_Store", "train/owl/._0.png"):
        (root / name).write_bytes(b"x")
    (root / "extra/more").mkdir(parents=True)
    for i in range(3):
        picture(800 + i).save(root / f"extra/more/{i}.png")


def entries(root: Path) -> int:
    """How many files and links there are; folders that are links are one each."""
    count = 0
    for parent, folders, names in os.walk(root):
        count += len(names) + sum((Path(parent) / name).is_symlink() for name in folders)
    return count


if __name__ == "__main__":
    sys.stdout.write(f"{entries(write_odd_files(Path(sys.argv[1])))} files\n")
