from __future__ import annotations

import numpy as np
import pytest
import torch

from protokern.explain.pictures import draw_box, make_visible, overlay_heat, to_picture, upsample
from protokern.results.places import Box


def test_bicubic_upsampling_keeps_a_constant_and_equals_the_cubic_kernel() -> None:
    assert torch.allclose(upsample(torch.full((2, 3, 4), 2.5), (12, 20)), torch.full((2, 12, 20), 2.5))
    # Keys' kernel with a = -0.75 (OpenCV's): an impulse seen from 1/4 and 3/4 of a cell away
    line = upsample(torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]]), (1, 10))[0, 0]
    a = -0.75
    near = (a + 2) * 0.25**3 - (a + 3) * 0.25**2 + 1
    far = (a + 2) * 0.75**3 - (a + 3) * 0.75**2 + 1
    assert line[4:6].tolist() == pytest.approx([near, near])
    assert [line[3].item(), line[6].item()] == pytest.approx([far, far])


def test_colour_grey_and_many_channels_become_rgb() -> None:
    colour = to_picture(torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(3, 2, 4))
    assert colour.shape == (2, 4, 3)
    assert colour.dtype == np.uint8
    assert colour[1, 3].tolist() == [0, 128, 255]
    assert to_picture(torch.full((1, 2, 2), 0.2))[0, 0].tolist() == [51, 51, 51]
    assert to_picture(torch.tensor([0.0, 0.2, 0.4, 0.2])[:, None, None])[0, 0].tolist() == [51, 51, 51]


def test_values_outside_the_unit_range_are_stretched() -> None:
    picture = to_picture(torch.tensor([[[-2.0, 0.0], [1.0, 2.0]]]))
    assert picture[:, :, 0].tolist() == [[0, 128], [191, 255]]


def test_heat_is_see_through_where_low_and_bright_where_high() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:] = (250, 200, 150)  # luminance 209.25
    heat_map = np.zeros((4, 4))
    heat_map[2, 1] = 3.0
    blended = overlay_heat(picture, heat_map)
    assert blended[0, 0].tolist() == [188, 188, 189]  # nine tenths of the grey, one tenth of inferno's nearly black
    red, green, blue = (int(channel) for channel in blended[2, 1])
    assert red > 200
    assert green > 200
    assert blue < green
    assert (overlay_heat(picture, np.ones((4, 4)))[0, 0] == blended[0, 0]).all()


def test_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heat_map: must have shape \(4, 4\) to match the picture; got \(4, 5\)"):
        overlay_heat(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"image: must have shape \(C, Y, X\); got \(4, 5\)"):
        to_picture(torch.zeros(4, 5))


def test_a_frame_follows_the_inner_edge_of_the_box_and_leaves_the_rest() -> None:
    picture = np.full((20, 30, 3), 100, np.uint8)
    framed = draw_box(picture, Box(2, 5, 14, 25))
    assert (picture == 100).all()
    assert framed[2, 5].tolist() == framed[13, 24].tolist() == [20, 20, 20]
    assert framed[3, 6].tolist() == framed[12, 23].tolist() == [255, 210, 63]
    assert framed[8, 15].tolist() == framed[1, 5].tolist() == framed[14, 24].tolist() == [100, 100, 100]
    assert (draw_box(picture, Box(0, 0, 1, 2))[0, :2] == 20).all()


def test_dots_are_made_visible_within_their_box() -> None:
    heat_map = np.zeros((60, 80), dtype=np.float32)
    heat_map[20:40, 30:50:4] = 1
    heat_map[25, 31] = 1000
    visible = make_visible(heat_map)
    assert visible.shape == heat_map.shape
    assert visible.dtype == np.float32
    assert (visible[20:40, 30:47] > 0).all()
    visible[20:40, 30:47] = 0
    assert not visible.any()
    single = np.zeros((9, 9), dtype=np.float32)
    single[4, 4] = 5
    assert make_visible(single).argmax() == 40


def test_a_blur_keeps_the_sum_away_from_the_borders() -> None:
    heat_map = np.zeros((40, 40), dtype=np.float32)
    heat_map[0, 0] = heat_map[39, 39] = 1e-9  # the box is the whole map
    heat_map[20, 20] = 1
    offsets = np.arange(-3, 4)
    weights = np.exp(-0.5 * offsets**2)
    expected = np.outer(weights, weights) / weights.sum() ** 2
    visible = make_visible(heat_map)[17:24, 17:24]
    limit = np.sort(visible.ravel())[-1]
    np.testing.assert_allclose(visible, np.minimum(expected, limit), rtol=1e-5, atol=1e-7)


def test_a_map_of_zeros_stays() -> None:
    assert not make_visible(np.zeros((5, 5), dtype=np.float32)).any()
