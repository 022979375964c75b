"""A file that is no photograph is called what it is, whatever its name."""

from __future__ import annotations

import io
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from protokern.data.decode import check_photo, load_image
from protokern.data.signatures import HEAD_BYTES, describe_content


def box(brand: bytes, *compatible: bytes) -> bytes:
    """The first box of an ISO base media file."""
    return (
        (16 + 4 * len(compatible)).to_bytes(4)
        + b"ftyp"
        + brand
        + b"\0\0\0\0"
        + b"".join(compatible)
        + bytes(range(256)) * 2
    )


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (box(b"heic", b"mif1", b"heic"), "HEIC: convert it to JPEG, or install pillow-heif"),
        (box(b"mif1", b"heix"), "HEIC: convert"),
        (box(b"msf1", b"hevc"), "HEIC: convert"),
        (box(b"mif1", b"avif"), "AVIF: convert"),
        (box(b"isom", b"mp42"), "a video (MP4 or QuickTime)"),
        (box(b"qt  "), "a video (MP4 or QuickTime)"),
        (box(b"crx "), "a RAW photograph (CR3)"),
        (b"\xff\x0a" + b"\xfa\x1f" * 40, "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"8BPS\0\1" + bytes(40), "PSD (Photoshop)"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "a RAW photograph (CR2)"),
        (b"FUJIFILMCCD-RAW " + bytes(40), "a RAW photograph (RAF)"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "a video (Matroska or WebM)"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(40), "a video (AVI)"),
        (b"RIFF\x10\0\0\0WAVEfmt " + bytes(40), "sound (WAV)"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"\x93NUMPY\1\0" + bytes(40), "a NumPy array"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF: convert"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG: convert"),
        (b"<svg width='1'/>", "SVG: convert"),
        (b"<!DOCTYPE html><title>404</title>", "a page of HTML, perhaps an error of a download"),
        (b"<html><body>Not found", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS, fetch"),
        (b"../../.git/annex/objects/aa/bb/x.jpg", "a pointer of git-annex"),
        (b'{"error": "rate limit"}', "JSON"),
        ("Grüße\n".encode() * 300, "text"),
        (b"<?xml version='1.0'?><a/>", "XML"),
        (zipped(), "ZIP, an archive; unpack it"),
        (tar(), "tar, an archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip, an archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7-Zip, an archive; unpack it"),
        (b"Rar!\x1a\7\0" + bytes(40), "RAR, an archive; unpack it"),
        (bytes(5000), "all bytes are zero"),
        (b"\xff\xd8\xff", "JPEG, truncated or damaged: 3 bytes"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "Truncated File Read"),
        (b"\x89PNG\r\n\x1a\n", "PNG, truncated or damaged: 8 bytes"),
        (b"\x01\x02\x9c\xfe" * 20, "not an image"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_what_is_no_photograph_is_called_by_its_first_bytes(tmp_path: Path, content, said, suffix) -> None:
    path = tmp_path / f"IMG_1{suffix}"
    path.write_bytes(content)
    reason = check_photo(path)
    if said.startswith("AVIF") and features.check("avif"):
        said = "AVIF, truncated or damaged"
    assert reason is not None
    assert said in reason
    assert "\n" not in reason


def test_text_that_is_cut_within_a_character_is_text() -> None:
    head = ("x" + "ü" * HEAD_BYTES).encode()[:HEAD_BYTES]
    assert describe_content(head, 5000) == "not an image: text"


def test_an_image_with_another_suffix_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a", "PNG")
    (tmp_path / "a").rename(tmp_path / "photo.jpg")
    assert load_image(tmp_path / "photo.jpg", 4)[0, 0, 0] == 1


def test_heic_is_read_where_pillow_heif_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of that name registers a reader; a plain one takes its place here."""
    asked = []
    package: Any = types.ModuleType("pillow_heif")

    def register_heif_opener() -> None:
        asked.append("registered")
        picture = io.BytesIO()
        Image.new("RGB", (6, 4), (0, 255, 0)).save(picture, "PNG")

        def open_instead(file: io.BufferedReader, name: str) -> Image.Image:
            file.close()
            return Image.open(io.BytesIO(picture.getvalue()))

        Image.register_open("HEIF", open_instead, lambda prefix: prefix[4:8] == b"ftyp")

    package.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(box(b"heic", b"mif1"))
    assert check_photo(path) is None
    assert asked
    np.testing.assert_array_equal(load_image(path, 2)[:, 0, 0], [0, 1, 0])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_reads_it(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (250, 10, 10)).save(tmp_path / "a.avif", quality=95)
    (tmp_path / "a.avif").rename(tmp_path / "a.jpg")
    assert float(load_image(tmp_path / "a.jpg", 4)[0, 0, 0]) > 0.9


@pytest.mark.parametrize(("brand", "name"), [(b"heic", "HEIC"), (b"avif", "AVIF")])
def test_what_could_be_read_here_is_not_told_to_be_converted(brand: bytes, name: str) -> None:
    content = box(brand, brand)
    assert describe_content(content, 900, [name]) == f"{name}, truncated or damaged: 900 bytes"
    assert describe_content(content, 900).startswith(f"{name}: convert it to JPEG, or install ")


@pytest.mark.parametrize("how", ["tag", "suffix"])
def test_the_preview_in_a_raw_photograph_is_not_taken_for_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / ("photo.tif" if how == "tag" else "photo.NEF")
    tags = {50706: b"\1\4\0\0"} if how == "tag" else {}
    Image.new("RGB", (8, 8)).save(path, "TIFF", tiffinfo=tags)
    assert check_photo(path) == "a RAW photograph, of which this would be the preview: convert it to JPEG or PNG"


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    assert check_photo(tmp_path / "a.jpg") == "a link to gone.jpg, where no file is"
