"""More than 8 bits: which values are black and white, and that nothing is rounded on the way to the network."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.data import load_image, open_splits
from protokern.data.decode import check_photo
from protokern.data.grey import Values, describe_range, measure_range, range_of
from protokern.errors import DataError

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by number of channels


def png16(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16 bits a channel from (Y, X, C), written here: Pillow writes none in colour."""
    rows, columns, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", columns, rows, 16, COLOUR_TYPES[channels], 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def ramp(top: int, channels: int = 1, side: int = 64) -> np.ndarray:
    """(side, side, channels), every value from 0 to `top` in steps, another one at each pixel."""
    values = np.linspace(0, top, side * side * channels).round().astype(np.uint16)
    return values.reshape(side, side, channels)


@pytest.mark.parametrize(
    ("largest", "white"),
    [
        (0, 255),
        (200, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (3000, 4095),
        (4096, 16383),
        (16384, 65535),
        (65535, 65535),
    ],
)
def test_white_is_the_largest_value_of_the_fewest_bits(largest: int, white: int) -> None:
    assert range_of(Values(0, largest, largest)) == (0, white)


@pytest.mark.parametrize("values", [Values(-3, 100, 100), Values(0, 65536, 9)])
def test_values_that_no_bits_hold_ask_for_a_range(values: Values) -> None:
    with pytest.raises(ValueError, match=r"have no known range; set data.grey_range = \[low, high\]"):
        range_of(values)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [1023, 4095, 16383, 65535])
def test_every_value_of_a_grey_file_stays_apart(tmp_path: Path, top: int, suffix: str) -> None:
    values = ramp(top)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(values[..., 0]).save(path)
    image = load_image(path, 64)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[1].numpy(), values[..., 0] / np.float32(top), rtol=1e-6)
    assert len(image.unique()) == len(np.unique(values))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_files_of_16_bits_in_colour_keep_both_bytes(tmp_path: Path, channels: int) -> None:
    """Pillow alone gives the higher byte of each value: of 12 bits, 16 dark steps."""
    values = ramp(4095, channels)
    if channels in (2, 4):
        values[..., -1] = 65535
    path = png16(tmp_path / "x.png", values)
    grey_range = (0, 4095)
    image = load_image(path, 64, grey_range=grey_range).numpy()
    colours = np.repeat(values[..., :1], 3, axis=2) if channels == 2 else values[..., :3]
    np.testing.assert_allclose(image, np.moveaxis(colours / np.float32(4095), 2, 0), rtol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_in_colour_keeps_both_bytes(tmp_path: Path, order: str) -> None:
    values = ramp(4095, 3, side=8)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff16(values, order))
    image = load_image(path, 8).numpy()
    np.testing.assert_allclose(image, np.moveaxis(values / np.float32(4095), 2, 0), rtol=1e-6)


def tiff16(values: np.ndarray, order: str) -> bytes:
    """An uncompressed RGB TIFF of 16 bits a channel, in either byte order."""
    rows, columns, _ = values.shape
    bits = 8 + 2 + 12 * 8 + 4
    pixels = bits + 6
    entries = [
        (256, 3, 1, columns),
        (257, 3, 1, rows),
        (258, 3, 3, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, pixels),
        (277, 3, 1, 3),
        (279, 4, 1, values.size * 2),
    ]
    content = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 8)
    for tag, kind, count, value in entries:
        packed = struct.pack(
            order + ("HH" if kind == 3 and count == 1 else "I"), *((value, 0) if kind == 3 and count == 1 else (value,))
        )
        content += struct.pack(order + "HHI", tag, kind, count) + packed
    return content + bytes(4) + struct.pack(order + "HHH", 16, 16, 16) + values.astype(order + "u2").tobytes()


def test_opacity_of_16_bits_lays_on_white(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 4), dtype=np.uint16)
    values[:2, :, 3] = 65535
    image = load_image(png16(tmp_path / "x.png", values), 4, grey_range="type")
    assert float(image[:, :2].max()) == 0
    assert float(image[:, 2:].min()) == 1


def test_a_range_that_is_given_cuts_what_is_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[-1000, -200, 300, 4000]], dtype=np.int32)).save(path)
    assert "grey values from -1000 to 4000 have no known range" in str(check_photo(path))
    image = load_image(path, (1, 4), grey_range=(-200, 300))
    np.testing.assert_allclose(image[0, 0].numpy(), [0, 0, 1, 1])


@pytest.mark.parametrize("wrong", ["bits", (3, 3), (5, 1), (0, float("nan")), (1, 2, 3), None])
def test_a_range_is_a_name_or_two_numbers(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match=r'grey_range: must be "auto", "type" or two numbers \[low, high\]'):
        load_image(tmp_path / "x.png", 8, grey_range=wrong)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="NaN or infinite"):
        load_image(tmp_path / "x.tif", 2, grey_range=(0, 1))


def make_folder(root: Path, tops: dict[str, int]) -> Path:
    """Two classes of grey files whose largest values are those given, by split."""
    for split, top in tops.items():
        for k, name in enumerate(("left", "right")):
            for i in range(3):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                values = ramp(top, side=16)[..., 0] // (i + 1 + k)
                Image.fromarray(values.astype(np.uint16)).save(folder / f"{i}.png")
    return root


def test_one_range_is_measured_over_the_training_images_and_used_for_all(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": 3000, "val": 900, "test": 200})
    splits = open_splits(root, image_size=16, augmentation="none")
    assert splits.grey_range == (0, 4095)
    brightest = [
        float(torch.stack([data[i][0] for i in range(6)]).max()) for data in (splits.push, splits.val, splits.test)
    ]
    np.testing.assert_allclose(brightest, np.array([3000, 900, 200]) / 4095, rtol=1e-6)
    assert any("0 to 4095 become black to white (12 bits" in note for note in splits.notes)
    again = open_splits(root, image_size=16, augmentation="none", grey_range=splits.grey_range)
    assert torch.equal(again.test[0][0], splits.test[0][0])
    assert not any("12 bits" in note for note in again.notes)


def test_one_range_is_measured_over_the_pages_of_files_too(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": 3000, "val": 900, "test": 200})
    for path in list(root.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".tif"), save_all=True, append_images=[image] * 4)
        path.unlink()
    splits = open_splits(root, image_size=16, augmentation="none", channels=5)
    assert splits.grey_range == (0, 4095)
    brightest = float(torch.stack([splits.test[i][0] for i in range(6)]).max())
    assert brightest == pytest.approx(200 / 4095)


def test_values_above_the_measured_range_are_told(tmp_path: Path) -> None:
    notes = open_splits(make_folder(tmp_path, {"train": 900, "test": 5000}), image_size=16, val_fraction=0.3).notes
    assert any("6 of them have values outside of that, which are cut off" in note for note in notes)


def test_a_few_bright_pixels_do_not_hide_that_pictures_are_dark() -> None:
    line = describe_range((0, 65535), [Values(0, 65000, 900)] * 3, is_measured=True)
    assert "they will look dark, as 99 % of a usual one is at most 900: set data.grey_range" in line
    assert "dark" not in describe_range((0, 65535), [Values(0, 65000, 30000)], is_measured=True)


def test_processes_that_share_the_check_measure_the_same_range(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": 3000, "val": 200, "test": 200})
    top = root / "train/left/0.png"
    Image.fromarray(ramp(9000, side=16)[..., 0]).save(top)
    ranges = {open_splits(root, image_size=16, checked_part=(part, 5)).grey_range for part in range(5)}
    assert ranges == {(0, 16383)}


def test_images_of_8_bits_have_no_range(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": 255, "test": 255})
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            grey = Image.fromarray(np.asarray(image).astype(np.uint8))
        grey.save(path)
    splits = open_splits(root, image_size=16, val_fraction=0.3)
    assert splits.grey_range == "auto"
    assert not any("8 bits" in note for note in splits.notes)
    assert measure_range([]) is None


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("part", [(0, 1), (0, 12)])
def test_a_cache_rounds_nothing(tmp_path: Path, cache: str, part: tuple[int, int]) -> None:
    """Where several processes share the check, one may not know before of files with more than 8 bits."""
    root = make_folder(tmp_path, {"train": 3000, "test": 3000})
    Image.new("L", (16, 16), 51).save(root / "train/left/0.png")
    data = open_splits(root, image_size=16, val_fraction=0.3, augmentation="none", cache=cache, checked_part=part).train
    data.preload()
    items = [data[i][0] for i in range(len(data))] + [data[i][0] for i in range(len(data))]
    for index, item in enumerate(items[: len(data)]):
        assert torch.equal(item, items[len(data) + index])
        expected = load_image(data.source_path(index), 16, grey_range=(0, 4095))
        torch.testing.assert_close(item, expected, rtol=1e-6, atol=0)
    assert data.display_image(0).dtype == np.uint8
