from __future__ import annotations

import numpy as np
import pytest

from protokern.explain.boxes import activation_box, cell_box, find_boxes, patch_box
from protokern.results.places import Box


def test_box_holds_the_highest_twentieth_and_is_half_open() -> None:
    heat_map = np.zeros((10, 10))
    heat_map[2:4, 5:8] = 1.0  # six of a hundred pixels: the 95th percentile is 1
    assert activation_box(heat_map) == Box(2, 5, 4, 8)
    assert (activation_box(heat_map).height, activation_box(heat_map).width) == (2, 3)


def test_percentile_interpolates_as_numpy_does() -> None:
    heat_map = np.zeros((10, 10))
    heat_map[0, :5] = 1.0  # five of a hundred: the 95th percentile lies at rank 94.05, between 0 and 1
    assert activation_box(heat_map) == Box(0, 0, 1, 5)
    assert activation_box(heat_map, percentile=90) == Box(0, 0, 10, 10)


def test_two_far_peaks_share_one_box() -> None:
    heat_map = np.zeros((20, 20))
    heat_map[1:5, 2:6] = 1.0
    heat_map[15:18, 10:13] = 1.0
    assert activation_box(heat_map) == Box(1, 2, 18, 13)


def test_the_patch_box_is_the_cell_and_what_is_high_beside_it() -> None:
    heat_map = np.zeros((20, 20))
    heat_map[1:5, 2:8] = 1.0
    heat_map[15:18, 10:13] = 1.0
    assert patch_box(heat_map, Box(15, 10, 20, 15)) == Box(15, 10, 20, 15)
    assert patch_box(heat_map, Box(0, 0, 5, 5)) == Box(0, 0, 5, 8)
    assert patch_box(heat_map, Box(5, 15, 10, 20)) == Box(5, 15, 10, 20)


@pytest.mark.parametrize("seed", range(6))
def test_both_boxes_of_a_wild_map_are_those_of_a_flood_fill_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heat_map = rng.normal(size=(23, 31)).cumsum(axis=0).cumsum(axis=1)
    y0, x0 = (int(start) for start in rng.integers(0, (20, 27)))
    cell = Box(y0, x0, y0 + 3, x0 + 4)

    high = {(int(y), int(x)) for y, x in np.argwhere(heat_map >= np.percentile(heat_map, 80))}
    waiting = [(y, x) for y in range(cell.y0, cell.y1) for x in range(cell.x0, cell.x1)]
    reached = set(waiting)
    while waiting:
        y, x = waiting.pop()
        for pixel in {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & high - reached:
            reached.add(pixel)
            waiting.append(pixel)

    boxes = [
        Box(min(ys := [y for y, _ in pixels]), min(xs := [x for _, x in pixels]), max(ys) + 1, max(xs) + 1)
        for pixels in (high, reached)
    ]
    assert list(find_boxes(heat_map, cell, 80)) == boxes
    assert [activation_box(heat_map, 80), patch_box(heat_map, cell, 80)] == boxes


def test_pixels_that_touch_only_at_a_corner_are_not_connected() -> None:
    heat_map = np.zeros((20, 20))
    heat_map[4:8, 4:7] = 1.0
    heat_map[8:11, 7:10] = 1.0
    assert patch_box(heat_map, Box(6, 6, 8, 7)) == Box(4, 4, 8, 7)
    bent = np.zeros((20, 20))
    bent[3:12, 3] = bent[11, 3:12] = bent[3:12, 11] = 1.0
    assert patch_box(bent, Box(2, 2, 4, 4)) == Box(2, 2, 12, 12)


@pytest.mark.parametrize(
    ("grid", "patch", "image_size", "box"),
    [
        ((4, 4), (1, 3), (32, 32), Box(8, 24, 16, 32)),
        ((5, 7), (4, 6), (33, 50), Box(26, 42, 33, 50)),
        ((1, 1), (0, 0), (3, 9), Box(0, 0, 3, 9)),
        ((8, 8), (7, 0), (4, 4), Box(3, 0, 4, 1)),
    ],
)
def test_cells_tile_the_image(
    grid: tuple[int, int], patch: tuple[int, int], image_size: tuple[int, int], box: Box
) -> None:
    assert cell_box(grid, patch, image_size) == box


def test_constant_and_single_pixel_maps_give_the_whole_image() -> None:
    assert activation_box(np.full((3, 7), 0.4)) == patch_box(np.full((3, 7), 0.4), Box(0, 0, 1, 1)) == Box(0, 0, 3, 7)
    assert activation_box(np.ones((1, 1))) == Box(0, 0, 1, 1)


@pytest.mark.parametrize(
    ("heat_map", "percentile", "message"),
    [
        (np.zeros((2, 2, 2)), 95.0, r"heat_map: must have shape \(Y, X\)"),
        (np.zeros((0, 2)), 95.0, r"heat_map: must have shape \(Y, X\)"),
        (np.array([[np.nan]]), 95.0, "heat_map: must be finite"),
        (np.zeros((2, 2)), 101.0, r"percentile: must be in \[0, 100\]; got 101"),
    ],
)
def test_bad_maps_are_refused(heat_map: np.ndarray, percentile: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_box(heat_map, percentile)
