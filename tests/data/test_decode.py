"""Every kind of photograph comes out as upright RGB; every kind of broken file comes out as a reason."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.data.decode import UnreadableImageError, check_photo, load_image, parse_image_size, read_photo
from protokern.errors import DataError

LIMIT = "the limit against decompression bombs, max_image_pixels = 89478485"
ORANGE = (240, 120, 30)


def saved(tmp_path: Path, image: Image.Image, name: str = "photo.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def left_right(mode: str, left: object, right: object) -> Image.Image:
    image = Image.new(mode, (8, 6), left)
    image.paste(right, (4, 0, 8, 6))
    return image


@pytest.mark.parametrize(
    ("image", "left", "right"),
    [
        pytest.param(left_right("L", 50, 200), (50, 50, 50), (200, 200, 200), id="grey"),
        pytest.param(left_right("1", 0, 1), (0, 0, 0), (255, 255, 255), id="bilevel"),
        pytest.param(left_right("RGB", ORANGE, "navy").quantize(2), ORANGE, (0, 0, 128), id="palette"),
        pytest.param(left_right("RGBA", (*ORANGE, 255), (0, 0, 0, 0)), ORANGE, (255, 255, 255), id="rgba-on-white"),
        pytest.param(left_right("LA", (50, 255), (0, 0)), (50, 50, 50), (255, 255, 255), id="grey-alpha"),
        pytest.param(left_right("I;16", 257 * 50, 65535), (50, 50, 50), (255, 255, 255), id="16-bit"),
    ],
)
def test_pixel_formats_become_rgb(
    tmp_path: Path, image: Image.Image, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    pixels = read_photo(saved(tmp_path, image), (6, 8))
    assert pixels.shape == (6, 8, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[3, 1]) == left
    assert tuple(pixels[3, 6]) == right


def test_transparent_palette_is_laid_on_white(tmp_path: Path) -> None:
    image = left_right("P", 0, 1)
    image.putpalette([*ORANGE, 9, 9, 9])
    pixels = read_photo(saved(tmp_path, image, transparency=1), (6, 8))
    assert tuple(pixels[0, 0]) == ORANGE
    assert tuple(pixels[0, 7]) == (255, 255, 255)


def test_32_bit_grey_is_read_as_16_bit(tmp_path: Path) -> None:
    pixels = read_photo(saved(tmp_path, left_right("I", 257 * 50, 257 * 200), "photo.tif"), (6, 8))
    assert (pixels[0, 0, 0], pixels[0, 7, 0]) == (50, 200)


def test_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (16, 16), ORANGE).convert("CMYK"), "photo.jpg", quality=95)
    np.testing.assert_allclose(read_photo(path, (4, 4))[0, 0], ORANGE, atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    path = saved(tmp_path, stored, "photo.jpg", exif=exif, quality=95, subsampling=0)
    difference = read_photo(path, (32, 48)).astype(int) - upright
    assert np.abs(difference).mean() < 3


def test_damaged_exif_does_not_spoil_the_photograph(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (8, 8), ORANGE), "photo.jpg", exif=b"Exif\0\0XX*\0damaged")
    assert check_photo(path) is None
    assert read_photo(path, (8, 8)).shape == (8, 8, 3)


def test_resize_is_antialiased_and_keeps_no_aspect_ratio(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 64))  # one pixel each
    pixels = read_photo(saved(tmp_path, Image.fromarray(stripes)), (16, 8))
    assert pixels.shape == (16, 8, 3)
    assert np.abs(pixels[:, 1:-1].astype(int) - 127).max() <= 1


def test_large_jpeg_decoded_at_reduced_scale_looks_the_same(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, axis=2))
    path = saved(tmp_path, image, "photo.jpg", quality=95)
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(read_photo(path, (64, 64)) - expected).max() <= 3


def broken_files(tmp_path: Path) -> dict[str, Path]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    jpeg = saved(tmp_path, noise, "whole.jpg").read_bytes()
    png = saved(tmp_path, noise, "whole.png").read_bytes()
    contents = {
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "almost.jpg": jpeg[:-200],
        "truncated.png": png[: len(png) // 2],
        "text.jpg": b"not a photograph",
        "header.jpg": jpeg[:30],
        "flipped.png": png[:60] + bytes(200) + png[260:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    return {name: tmp_path / name for name in (*contents, "folder.jpg", "missing.jpg")}


REASONS = {
    "empty.jpg": "empty file, 0 bytes",
    "truncated.jpg": "truncated",
    "almost.jpg": "truncated",
    "truncated.png": "truncated",
    "text.jpg": "not an image",
    "header.jpg": "",
    "flipped.png": "",
    "folder.jpg": "a folder, not a file",
    "missing.jpg": "no such file",
}


@pytest.mark.parametrize("name", REASONS)
def test_broken_file_is_found_by_the_check_and_by_reading(tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path)[name]
    reason = check_photo(path)
    assert reason is not None
    assert REASONS[name] in reason
    with pytest.raises(UnreadableImageError, match="image: must be a readable photograph; got .*" + name) as caught:
        read_photo(path, (8, 8))
    assert caught.value.path == path


def test_floating_point_image_is_refused_without_a_range(tmp_path: Path) -> None:
    path = saved(tmp_path, left_right("F", 0.5, 2.0), "photo.tif")
    assert check_photo(path) == "floating-point pixels have no known range; set data.grey_range = [low, high]"
    image = load_image(path, (6, 8), grey_range=(0, 2))
    assert (float(image[0, 0, 0]), float(image[0, 0, 7])) == (0.25, 1.0)


@pytest.mark.parametrize("limit", [50, 99, 119])
def test_decompression_bomb_is_refused(tmp_path: Path, limit: int) -> None:
    path = saved(tmp_path, Image.new("RGB", (12, 10)))
    reason = f"12 x 10 pixels are more than the limit against decompression bombs, max_image_pixels = {limit}"
    assert check_photo(path, max_pixels=limit) == reason
    with pytest.raises(UnreadableImageError, match="12 x 10 pixels are more than the limit"):
        read_photo(path, (4, 4), max_pixels=limit)


@pytest.mark.parametrize("pillows", [50, 99])  # Pillow raises above twice its limit and only warns above the limit
@pytest.mark.parametrize("name", ["photo.png", "photo.gif", "photo.tif", "photo.webp"])
def test_a_raised_limit_lets_larger_images_in_and_leaves_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillows: int, name: str
) -> None:
    path = saved(tmp_path, Image.new("RGB", (12, 10)), name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
    assert check_photo(path, max_pixels=120) is None
    assert load_image(path, 4, max_pixels=120).shape == (3, 4, 4)
    assert pillows == Image.MAX_IMAGE_PIXELS


def test_a_file_with_more_bytes_than_its_pixels_could_need_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (12, 10)), "photo.webp")
    with path.open("r+b") as file:
        file.truncate(10**12)  # a hole, which takes no space on the disk
    assert check_photo(path) == "1000000000000 bytes are too many for " + LIMIT


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Half a megabyte that would unfold to three gigabytes."""
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 2**15, 2**15, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    tracemalloc.start()
    assert check_photo(path) == "more pixels than " + LIMIT
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_pipe_is_no_photograph(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.png")
    assert check_photo(tmp_path / "photo.png") == "not a plain file"


def test_unreadable_image_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError(Path("a.jpg"), "not an image")))
    assert (error.path, error.reason) == (Path("a.jpg"), "not an image")
    assert str(error) == ("image: must be a readable photograph; got a.jpg (not an image). Replace or remove the file.")


def test_load_image_gives_a_unit_range_tensor(tmp_path: Path) -> None:
    image = load_image(saved(tmp_path, left_right("RGB", (255, 0, 51), "black")), (6, 8))
    assert image.shape == (3, 6, 8)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_load_image_of_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_image(tmp_path / "missing.jpg", 32)


@pytest.mark.parametrize("size", [0, -3, (32,), (32, 0), (1, 2, 3), 2.5, True])
def test_image_size_must_be_a_size(size: object) -> None:
    with pytest.raises(ValueError, match=r"image_size: must be a positive number of pixels or a pair"):
        parse_image_size(size)


def test_image_size_may_be_a_number_or_a_pair() -> None:
    assert parse_image_size(224) == (224, 224)
    assert parse_image_size((192, 256)) == (192, 256)
