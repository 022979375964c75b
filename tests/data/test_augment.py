"""Random views: inside the photograph, of the promised strength, resampled exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protokern.data.augment import PRESETS, WHOLE_IMAGE, Augmentation, draw_quad, find_augmentation, warp

ACTIVE = [name for name, augmentation in PRESETS.items() if augmentation is not None]


def ramp(size: int) -> torch.Tensor:
    """(1, 3, Y, X): channel 0 is x, channel 1 is y at pixel centres in unit coordinates, channel 2 is 0."""
    centres = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).unsqueeze(0)


def area_of(quad: tuple[tuple[float, float], ...]) -> float:
    x, y = np.array(quad).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def test_whole_image_is_the_identity() -> None:
    image = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp(image, [WHOLE_IMAGE], (9, 7)), image, rtol=0, atol=1e-6)


def test_swapped_corners_mirror() -> None:
    image = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    mirrored = warp(image, [((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0))], (9, 7))
    torch.testing.assert_close(mirrored, image.flip(3), rtol=0, atol=1e-6)


def test_perspective_follows_the_homography() -> None:
    quad = ((0.2, 0.1), (0.9, 0.15), (0.8, 0.85), (0.1, 0.9))
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    rows = []
    for (u, v), (x, y) in zip(unit, quad, strict=True):  # plain linear solve of the eight unknowns
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
    a, b, c, d, e, f, g, h = np.linalg.solve(np.array(rows), np.array(quad).reshape(-1))
    view = warp(ramp(64), [quad], (16, 16))[0]
    for row, column in ((0, 0), (3, 12), (15, 15)):
        u, v = (column + 0.5) / 16, (row + 0.5) / 16
        depth = g * u + h * v + 1
        expected = torch.tensor([(a * u + b * v + c) / depth, (d * u + e * v + f) / depth, 0.0], dtype=torch.float32)
        torch.testing.assert_close(view[:, row, column], expected, rtol=0, atol=1e-5)


def test_view_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    quads = [WHOLE_IMAGE] + [draw_quad(PRESETS["protopnet"], rng) for _ in range(4)]
    images = torch.rand(5, 3, 21, 21, generator=torch.Generator().manual_seed(0))
    together = warp(images, quads, (13, 17))
    for i, quad in enumerate(quads):
        assert torch.equal(warp(images[i : i + 1], [quad], (13, 17))[0], together[i])


@given(
    seed=st.integers(0, 2**32),
    rotation=st.floats(0, 45),
    shear=st.floats(0, 45),
    skew=st.floats(0, 0.49),
    crop=st.floats(0.1, 1),
    one=st.booleans(),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_corners_stay_inside_and_the_quad_is_convex(
    seed: int, rotation: float, shear: float, skew: float, crop: float, one: bool
) -> None:
    augmentation = Augmentation(
        rotation=rotation,
        shear=shear,
        skew=skew,
        smallest_crop=crop,
        largest_stretch=1.5,
        flip_probability=0.5,
        one_at_a_time=one,
    )
    corners = np.array(draw_quad(augmentation, np.random.default_rng(seed)))
    assert corners.min() >= 0
    assert corners.max() <= 1
    edges = np.roll(corners, -1, axis=0) - corners
    after = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0]
    assert (turns > 0).all() or (turns < 0).all()


@pytest.mark.parametrize("name", ACTIVE)
def test_half_of_the_views_are_mirrored(name: str) -> None:
    rng = np.random.default_rng(0)
    mirrored = [area_of(draw_quad(PRESETS[name], rng)) < 0 for _ in range(400)]
    assert 0.4 < np.mean(mirrored) < 0.6


def test_crop_preset_keeps_at_least_the_smallest_area_before_rotation() -> None:
    augmentation = Augmentation(smallest_crop=0.5, largest_stretch=4 / 3)
    rng = np.random.default_rng(0)
    areas = [area_of(draw_quad(augmentation, rng)) for _ in range(300)]
    assert 0.45 < min(areas) < 0.55
    assert max(areas) > 0.9


def test_rotation_reaches_both_signs_and_its_limit() -> None:
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(300):
        (x0, y0), (x1, y1), *_ = draw_quad(Augmentation(rotation=15), rng)
        angles.append(np.degrees(np.arctan2(y1 - y0, x1 - x0)))
    assert -15 <= min(angles) < -14
    assert 14 < max(angles) <= 15


def test_same_generator_state_draws_the_same_view() -> None:
    views = [draw_quad(PRESETS["crop"], np.random.default_rng([0, 3, 7])) for _ in range(2)]
    assert views[0] == views[1]
    assert draw_quad(PRESETS["crop"], np.random.default_rng([0, 4, 7])) != views[0]


def test_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"augmentation: must be one of none, protopnet, crop; got 'heavy'"):
        find_augmentation("heavy")


@pytest.mark.parametrize("field", ["rotation", "shear", "skew", "smallest_crop", "largest_stretch", "flip_probability"])
def test_strength_out_of_range_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"augmentation.{field}: must be in its range; got -1"):
        Augmentation(**{field: -1})
