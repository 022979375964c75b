"""Images of one channel, of opacity, and of pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from protokern.data import PhotoDataset, ReadOptions, SyntheticBirds, load_image
from protokern.data.colours import channels_of_rgb, from_rgb
from protokern.data.decode import check_photo
from protokern.data.pixels import to_display

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_grey_is_one_channel_and_colour_becomes_grey(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.png", Image.fromarray(PIXELS[..., 0]))
    np.testing.assert_array_equal(load_image(grey, (6, 8), channels=1), PIXELS[None, ..., 0] / np.float32(255))
    colour = saved(tmp_path / "colour.png", Image.fromarray(PIXELS[..., :3]))
    luma = PIXELS[..., :3] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(load_image(colour, (6, 8), channels=1)[0] * 255, luma, atol=0.51)


def test_a_data_set_reads_its_files_as_it_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(PIXELS[..., :3]))
    reading = ReadOptions(channels=1)
    images = PhotoDataset([(path, 0)], ["one"], root=tmp_path, image_size=(6, 8), reading=reading)
    assert images.channels == 1
    assert torch.equal(images[0][0], load_image(path, (6, 8), channels=1))
    assert images.transform() == "6 x 8 pixels, antialiased bilinear, 1 channels in [0, 1]"


def test_opacity_is_a_channel_where_it_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(PIXELS))
    np.testing.assert_allclose(load_image(path, (6, 8), channels=4)[3] * 255, PIXELS[..., 3], atol=1e-4)
    assert load_image(path, (6, 8), channels=2).shape == (2, 6, 8)
    opaque = saved(tmp_path / "y.png", Image.fromarray(PIXELS[..., :3]))
    image = load_image(opaque, (6, 8), channels=4)
    assert float(image[3].min()) == 1
    np.testing.assert_allclose(image[:3] * 255, np.moveaxis(PIXELS[..., :3], 2, 0), atol=1e-4)


@pytest.mark.parametrize("deep", [False, True])
def test_more_channels_are_the_pages_of_a_file(tmp_path: Path, deep: bool) -> None:
    values = [np.full((4, 4), 10 * (i + 1), dtype=np.uint16 if deep else np.uint8) for i in range(5)]
    pages = [Image.fromarray(page) for page in values]
    path = saved(tmp_path / "stack.tif", pages[0], save_all=True, append_images=pages[1:])
    image = load_image(path, 4, channels=5)
    np.testing.assert_allclose(image[:, 0, 0] * 255, [10, 20, 30, 40, 50], rtol=1e-5)
    with pytest.raises(ValueError, match="5 pages, but 6 channels need as many grey pages"):
        load_image(path, 4, channels=6)
    assert to_display(np.moveaxis(image.numpy(), 0, 2)).shape == (4, 4, 3)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_channels_are_a_positive_number(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match="channels: must be a whole number of at least 1"):
        load_image(tmp_path / "x.png", 4, channels=wrong)


def test_birds_have_the_channels_that_are_asked_for() -> None:
    plain = SyntheticBirds("train", num_classes=2, images_per_class=1, image_size=32)
    for channels in (1, 2, 4):
        birds = SyntheticBirds("train", num_classes=2, images_per_class=1, image_size=32, channels=channels)
        image = birds[0][0]
        assert image.shape == (channels, 32, 32)
        torch.testing.assert_close(channels_of_rgb(plain[0][0][None], channels)[0], image, atol=0.6 / 255, rtol=0)
        assert birds.display_image(0).shape == (32, 32, 3)
    with pytest.raises(ValueError, match="channels: must be 1 to 4 for pictures in colour; got 5"):
        from_rgb(PIXELS[..., :3], 5)


def odd_modes() -> dict[str, Image.Image]:
    colour = Image.fromarray(PIXELS[..., :3])
    palette = colour.quantize(8)
    pa = palette.copy()
    pa.info["transparency"] = 0
    lab = ImageCms.profileToProfile(
        colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    return {
        "1.png": colour.convert("1"),
        "L.png": colour.convert("L"),
        "LA.png": Image.fromarray(PIXELS).convert("LA"),
        "P.png": palette,
        "PA.png": pa,
        "RGBA.png": Image.fromarray(PIXELS),
        "CMYK.tif": colour.convert("CMYK"),
        "YCbCr.tif": colour.convert("YCbCr"),
        "LAB.tif": lab,
    }


@pytest.mark.parametrize("name", sorted(odd_modes()))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_comes_in_any_number_of_channels(tmp_path: Path, name: str, channels: int) -> None:
    path = saved(tmp_path / name, odd_modes()[name])
    assert check_photo(path) is None
    image = load_image(path, (6, 8), channels=channels)
    assert image.shape == (channels, 6, 8)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_lab_keeps_its_colours(tmp_path: Path) -> None:
    path = saved(tmp_path / "lab.tif", odd_modes()["LAB.tif"])
    difference = load_image(path, (6, 8)).numpy() * 255 - np.moveaxis(PIXELS[..., :3], 2, 0)
    assert np.abs(difference).mean() < 3  # LAB of 8 bits is coarse where it is dark
