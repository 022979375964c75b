"""Sizes that follow the data: the values of quick.toml where they were measured, and what the rule says elsewhere."""

from __future__ import annotations

import tomllib

import pytest

from protokern.recipes import recipe_text
from protokern.recipes.sizes import SIZED, SIZED_KEYS, sizes_for


def sizes(images: int, classes: int) -> tuple[int, float, float, int, int]:
    """Prototypes of a class, weight, share for validation, images in a step, epochs."""
    tables = sizes_for(images, classes)
    assert {table: tuple(keys) for table, keys in tables.items()} == SIZED_KEYS
    return (*tables["model"].values(), *tables["data"].values(), *tables["train"].values())


@pytest.mark.parametrize(
    ("images", "classes"),
    [(300, 10), (300, 3), (3_068, 10), (2_999, 100), (10_000, 2), (6_000, 1_000)],
)
def test_what_was_measured_has_the_sizes_of_the_recipe(images: int, classes: int) -> None:
    recipe = tomllib.loads(recipe_text(SIZED))
    assert sizes_for(images, classes) == {
        table: {key: recipe[table][key] for key in keys} for table, keys in SIZED_KEYS.items()
    }


@pytest.mark.parametrize(
    ("images", "classes", "wanted"),
    [
        (20, 2, (3, 10.0, 0.05, 8, 25)),  # 24 photographs: 3 steps an epoch
        (4, 2, (1, 30.0, 0.05, 8, 75)),
        (100, 25, (2, 15.0, 0.05, 16, 15)),
        (200, 2, (3, 10.0, 0.05, 32, 15)),
        (256, 2, (3, 10.0, 0.05, 64, 19)),
        (3_000, 1_000, (1, 30.0, 0.05, 64, 15)),  # three images of each class, one of them for validation
        (30_000, 10, (3, 10.0, 0.033333, 64, 5)),
        (100_000, 1_000, (3, 10.0, 0.01, 64, 3)),
        (1_000_000, 1_000, (3, 10.0, 0.001, 64, 3)),
        (1, 1, (1, 30.0, 0.05, 8, 75)),
    ],
)
def test_elsewhere_the_rule_says_what_is_used(images: int, classes: int, wanted: tuple) -> None:
    assert sizes(images, classes) == wanted
