"""Classes that their files give away; values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from protokern.data.confounds import Confound, find_confounds
from protokern.data.decode import ImageHeader


def headers(*parts: tuple[int, int, int, str, str]) -> tuple[list[ImageHeader], list[int]]:
    """(label, width, height, mode, format) of every image."""
    return [ImageHeader(*part[1:]) for part in parts], [part[0] for part in parts]


def same(label: int, count: int, width: int = 48, height: int = 48, mode: str = "RGB", kind: str = "PNG"):
    return [(label, width, height, mode, kind)] * count


def find(*parts) -> list[Confound]:
    some, labels = headers(*parts)
    return find_confounds(some, labels, max(labels) + 1)


def test_alike_files_give_nothing_away() -> None:
    assert find(*same(0, 6), *same(1, 6), *same(2, 6)) == []


def test_a_size_of_its_own_is_named_once() -> None:
    found = find(*same(0, 6), *same(1, 6, 40, 60), *same(2, 6))
    assert found == [Confound(1, "size", "40 x 60 pixels")], "not for its shape again"


def test_the_mode_and_the_format_are_named() -> None:
    assert find(*same(0, 6, mode="L"), *same(1, 6)) == [
        Confound(0, "mode", "of mode L"),
        Confound(1, "mode", "of mode RGB"),
    ]
    assert find(*same(0, 6), *same(1, 6), *same(2, 6, kind="JPEG")) == [Confound(2, "format", "JPEG files")]


def test_the_shape_is_named_where_sizes_differ() -> None:
    tall = [(1, 30 + step, 60 + step, "RGB", "PNG") for step in range(10)]
    wide = [(0, 60 + step, 30 + step, "RGB", "PNG") for step in range(10)]
    assert find(*wide, *tall) == [Confound(0, "shape", "wide"), Confound(1, "shape", "tall")]


def test_more_pixels_than_all_others_are_named() -> None:
    small = [(0, 100 + step, 100 + step, "RGB", "PNG") for step in range(10)]
    large = [(1, 400 + step, 400 + step, "RGB", "PNG") for step in range(10)]
    assert find(*small, *large) == [Confound(0, "size", "of fewer pixels"), Confound(1, "size", "of more pixels")]


def plainly_common(values: list[str], labels: list[int], label: int) -> str | None:
    """The value of a class by its definition: nearly all of its images have it, and nearly no others."""
    own = [value for value, one in zip(values, labels, strict=True) if one == label]
    others = [value for value, one in zip(values, labels, strict=True) if one != label]
    for value in dict.fromkeys(own):
        if own.count(value) >= 0.95 * len(own) and others.count(value) <= 0.05 * len(others):
            return value
    return None


def test_common_values_of_many_classes_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(0)
    formats = ["PNG", "JPEG", "WEBP", "BMP"]
    parts = [
        (label, 48, 48, "RGB", formats[label % 4] if rng.random() < (0.6 if label == 3 else 0.98) else "GIF")
        for label in range(4)
        for _ in range(40)
    ]
    values, labels = [part[4] for part in parts], [part[0] for part in parts]
    wanted = {label: plainly_common(values, labels, label) for label in range(4)}
    assert {value is None for value in wanted.values()} == {True, False}
    found = {one.label: one.value for one in find(*parts) if one.kind == "format"}
    assert found == {label: f"{value} files" for label, value in wanted.items() if value is not None}


def test_a_single_other_file_in_twenty_hides_nothing() -> None:
    assert find(*same(0, 19), *same(0, 1, 40, 60), *same(1, 20, 40, 60)) == [
        Confound(0, "size", "48 x 48 pixels"),
        Confound(1, "size", "40 x 60 pixels"),
    ]
    assert find(*same(0, 17), *same(0, 3, 40, 60), *same(1, 20, 40, 60)) == []


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_images_say_nothing(count: int) -> None:
    assert find(*same(0, count, 40, 60), *same(1, 20)) == []


def test_sizes_that_all_differ_say_nothing() -> None:
    """Every photograph was cropped by hand: no two have one size, and both classes have small and large ones."""
    mixed = [(step % 2, 100 + 7 * step, 200 - 5 * step, "RGB", "JPEG") for step in range(20)]
    assert find(*mixed) == []


def test_unknown_headers_are_left_out() -> None:
    some, labels = headers(*same(0, 6, 40, 60), *same(1, 6))
    assert find_confounds([*some, None, None], [*labels, 0, 1], 2) == find_confounds(some, labels, 2) != []
