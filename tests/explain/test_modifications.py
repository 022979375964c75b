"""The six modifications are, bit for bit, what the paper's libraries give; others are checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from protokern.data import SyntheticBirds
from protokern.errors import MissingPackageError
from protokern.explain.modifications import MODIFICATIONS, change_hue, choose_modifications, modify

SIZES = [(1, 1), (1, 9), (5, 2), (6, 6), (20, 33), (64, 48)]


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng([7, *size]).integers(0, 256, (*size, 3), dtype=np.uint8)


def by_torchvision(function: Callable[..., Any], amount: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.asarray(function(Image.fromarray(image), amount))


def by_opencv(image: np.ndarray) -> np.ndarray:
    """As the paper's script sees it: the file read by OpenCV, which gives blue, green, red, and written by it."""
    read = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    changed = cv2.fastNlMeansDenoisingColored(read, None, h=4, hColor=4, templateWindowSize=7, searchWindowSize=21)
    return cv2.cvtColor(changed, cv2.COLOR_BGR2RGB)


def by_loops(image: np.ndarray) -> np.ndarray:
    """The paper's wave, a row and then a column at a time."""
    bent = image.copy()
    for i in range(bent.shape[0]):
        bent[i] = np.roll(bent[i], int(4 * np.sin(np.pi * i * 0.05)), axis=0)
    for i in range(bent.shape[1]):
        bent[:, i] = np.roll(bent[:, i], int(4 * np.sin(np.pi * i * 0.05)), axis=0)
    return bent


REFERENCES = {
    "brightness": by_torchvision(functional.adjust_brightness, 0.8),
    "contrast": by_torchvision(functional.adjust_contrast, 0.45),
    "saturation": by_torchvision(functional.adjust_saturation, 0.7),
    "hue": by_torchvision(functional.adjust_hue, 0.1),
    "shape": by_loops,
    "texture": by_opencv,
}


def test_the_six_of_the_paper_have_their_names() -> None:
    assert set(MODIFICATIONS) == set(REFERENCES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODIFICATIONS)
def test_equal_to_the_reference_on_noise_of_any_size(name: str, size: tuple[int, int]) -> None:
    image = noise(size)
    before = image.copy()
    np.testing.assert_array_equal(modify(image, name, MODIFICATIONS[name]), REFERENCES[name](before))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", MODIFICATIONS)
def test_equal_to_the_reference_on_a_picture_and_something_changes(name: str) -> None:
    image = SyntheticBirds("test", num_classes=2, images_per_class=1, image_size=96).display_image(0)
    changed = modify(image, name, MODIFICATIONS[name])
    np.testing.assert_array_equal(changed, REFERENCES[name](image))
    assert (changed != image).mean() > 0.05


@pytest.mark.parametrize("name", MODIFICATIONS)
def test_a_view_with_strides_is_as_good_as_a_copy(name: str) -> None:
    image = noise((40, 40))[::2, 30:5:-1]
    np.testing.assert_array_equal(modify(image, name, MODIFICATIONS[name]), REFERENCES[name](image.copy()))


def test_grey_pictures_have_no_hue_and_no_saturation_to_lose() -> None:
    grey = np.repeat(noise((24, 24))[..., :1], 3, axis=2)
    for name in ("hue", "saturation"):
        np.testing.assert_array_equal(MODIFICATIONS[name](grey), grey)
    for name in ("brightness", "contrast", "shape", "texture"):
        assert (modify(grey, name, MODIFICATIONS[name]) != grey).any()


def test_the_wave_is_that_of_the_loop_on_long_sides() -> None:
    image = np.arange(900 * 900 * 3, dtype=np.uint32).reshape(900, 900, 3).astype(np.uint8)
    np.testing.assert_array_equal(MODIFICATIONS["shape"](image), by_loops(image))


def test_other_strengths_are_arguments() -> None:
    image = noise((16, 16))
    np.testing.assert_array_equal(change_hue(image, 0.25), by_torchvision(functional.adjust_hue, 0.25)(image))


def test_chosen_by_name_in_the_order_given() -> None:
    assert list(choose_modifications(["shape", "hue"])) == ["shape", "hue"]
    assert choose_modifications() == dict(MODIFICATIONS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hue", "shapes"], r"modifications: must be of brightness, .*; got 'shapes'. Did you mean shape\?"),
        ([], "modifications: must name at least one of brightness"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_modifications(names)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (np.zeros((4, 6, 3), np.uint8), r"\(4, 6, 3\) uint8"),
        (np.zeros((5, 6, 3), np.float32), r"\(5, 6, 3\) float32"),
        (Image.new("RGB", (6, 5)), "Image"),
        (None, "NoneType"),
    ],
)
def test_a_modification_that_returns_something_else_is_named(result: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^modifications: 'mine' must return .*, \(5, 6, 3\) uint8; got {got}\.$"):
        modify(noise((5, 6)), "mine", lambda image: result)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^image: must be an array of shape \(Y, X, 3\) and type uint8; got \("):
        modify(image, "hue", MODIFICATIONS["hue"])


def test_without_opencv_only_texture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = r"^opencv-python-headless: must be installed for the modification texture; .*'protokern\[explain\]'\.$"
    with pytest.raises(MissingPackageError, match=message):
        choose_modifications()
    with pytest.raises(MissingPackageError, match=message):
        MODIFICATIONS["texture"](noise((8, 8)))
    assert list(choose_modifications(["hue", "shape"])) == ["hue", "shape"]
