"""Images that a program holds are read like the files that they came from."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.data.decode import ReadOptions, read_image
from protokern.data.given import as_image, name_of
from protokern.errors import DataError

SIZE = (16, 24)
OPTIONS = ReadOptions()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written(folder: Path, picture: Image.Image, name: str = "one.png", **options: object) -> Path:
    path = folder / name
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_every_form_of_a_photograph_has_the_pixels_of_its_file(tmp_path: Path, channels: int) -> None:
    options = ReadOptions(channels=channels)
    pixels = noise(40, 50, 3)
    path = written(tmp_path, Image.fromarray(pixels))
    wanted = read_image(path, SIZE, options)
    with Image.open(path) as opened:
        forms = [path, str(path), opened, Image.fromarray(pixels), pixels, torch.from_numpy(pixels).movedim(2, 0)]
        for form in forms:
            assert torch.equal(as_image(form, SIZE, options), wanted)
    # Files are resized in steps of 1/255, floats are not.
    floats = pixels.astype(np.float64) / 255
    for form in (floats, torch.from_numpy(floats).movedim(2, 0)):
        torch.testing.assert_close(as_image(form, SIZE, options), wanted, atol=2 / 255, rtol=0)


def test_an_image_of_the_right_size_keeps_every_bit() -> None:
    tensor = torch.rand(3, *SIZE)
    assert torch.equal(as_image(tensor, SIZE, OPTIONS), tensor)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_arrays_become_three_equal_channels(dtype: type) -> None:
    grey = noise(*SIZE) if dtype is np.uint8 else noise(*SIZE).astype(np.float32) / 255
    image = as_image(grey, SIZE, OPTIONS)
    wanted = torch.from_numpy(noise(*SIZE).astype(np.float32) / 255).expand(3, -1, -1)
    torch.testing.assert_close(image, wanted)
    assert as_image(grey[..., None], SIZE, OPTIONS).equal(image)


def test_opacity_is_laid_on_white_in_floats_as_in_bytes() -> None:
    pixels = noise(*SIZE, 4)
    of_bytes, of_floats = (as_image(one, SIZE, OPTIONS) for one in (pixels, pixels.astype(np.float32) / 255))
    torch.testing.assert_close(of_bytes, of_floats, atol=1.5 / 255, rtol=0)  # Pillow rounds after every step


def test_a_picture_is_turned_upright_like_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(tmp_path, Image.fromarray(noise(40, 50, 3)), "turned.png", exif=exif)
    wanted = read_image(path, SIZE, OPTIONS)
    assert not torch.equal(wanted, as_image(noise(40, 50, 3), SIZE, OPTIONS))
    with Image.open(path) as opened:
        opened.load()
        assert torch.equal(as_image(opened, SIZE, OPTIONS), wanted)
    with Image.open(BytesIO(path.read_bytes())) as opened:
        assert torch.equal(as_image(opened, SIZE, OPTIONS), wanted)


def test_sixteen_bits_are_read_by_the_range_of_the_run(tmp_path: Path) -> None:
    options = ReadOptions(channels=1, grey_range=(0.0, 4095.0))
    values = np.random.default_rng(1).integers(0, 4096, SIZE, dtype=np.uint16)
    path = written(tmp_path, Image.fromarray(values))
    wanted = torch.from_numpy(values.astype(np.float32) / 4095)[None]
    with Image.open(path) as opened:
        for form in (path, opened, values):
            torch.testing.assert_close(as_image(form, SIZE, options), wanted)


def test_more_channels_than_colours_are_taken_as_they_are() -> None:
    stack = np.random.default_rng(2).random((*SIZE, 7), dtype=np.float32)
    image = as_image(stack, SIZE, ReadOptions(channels=7))
    assert torch.equal(image, torch.from_numpy(stack).movedim(2, 0))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "address": (lambda: "https://example.org/a.jpg", "got the address 'https://example.org/a.jpg'. Save it as a file"),
    "data": (lambda: "data:image/png;base64,AAAA", "got the address 'data:image/png;base64,AAAA'"),
    "bytes": (lambda: [1, 2], "got list. Convert it to one of these"),
    "batch": (lambda: torch.rand(2, 3, 4, 4), r"tensor of shape \(2, 3, 4, 4\). Give one image at a time"),
    "line": (lambda: np.zeros(4), r"array of shape \(4,\). Give one image at a time"),
    "normalised": (lambda: torch.full((3, 4, 4), -2.1), r"floats from -2.1 to -2.1. Give them in \[0, 1\]"),
    "nan": (lambda: torch.full((3, 4, 4), torch.nan), "floats from nan to nan"),
    "whole numbers": (lambda: np.zeros((4, 4, 3), dtype=np.int64), "numbers of type int64"),
    "channels": (lambda: np.zeros((4, 4, 6), dtype=np.uint8), "6 channels. The images of this net have 3"),
    "empty": (lambda: np.zeros((0, 4, 3), dtype=np.uint8), "3 channels. The images of this net have 3"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_in_one_line(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^image: must be .*{message}") as refused:
        as_image(make(), SIZE, OPTIONS)
    assert "\n" not in str(refused.value)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match=r"image: must be .*got 40 x 30 pixels. At most 100 are read"):
        as_image(Image.new("RGB", (40, 30)), SIZE, ReadOptions(max_pixels=100))


def test_a_missing_file_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no such file"):
        as_image("missing.png", SIZE, OPTIONS)


def test_names_are_those_of_files(tmp_path: Path) -> None:
    path = written(tmp_path, Image.new("RGB", (4, 4)), "bird.png")
    with Image.open(path) as opened:
        assert [name_of(one) for one in (path, str(path), opened)] == ["bird.png"] * 3
    assert [name_of(one) for one in (Image.new("RGB", (4, 4)), np.zeros((4, 4)), torch.zeros(3, 4, 4))] == [""] * 3
