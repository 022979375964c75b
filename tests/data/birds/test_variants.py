"""Birds whose classes differ in one property differ in that one and in nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from protokern.config import parse_config
from protokern.data import SyntheticBirds
from protokern.data.birds.scene import Scene, paint_scene
from protokern.data.birds.species import BEAKS, DIFFERENCES, variant, with_chance
from protokern.runs.data import open_data


def scene(difference: str, number: int) -> Scene:
    return paint_scene(variant(difference, number), np.random.default_rng(5), (96, 96))


def test_colour_alone_changes_hues_and_no_grey_value() -> None:
    pictures = [scene("colour", number).pixels for number in range(DIFFERENCES["colour"])]
    greys = [np.asarray(Image.fromarray(picture).convert("L")).astype(int) for picture in pictures]
    for other in range(1, len(pictures)):
        assert (np.abs(pictures[other].astype(int) - pictures[0]).max(axis=2) > 30).mean() > 0.05
        # The light of a picture tints red and blue by up to 5 %, so grey by a few values, and clips what is brightest.
        change = np.abs(greys[other] - greys[0])
        assert (change > 8).mean() < 0.01
        assert change.mean() < 0.5


def test_the_hues_are_all_different_and_within_range() -> None:
    plumages = [variant("colour", number).plumage for number in range(DIFFERENCES["colour"])]
    assert len({plumage.back for plumage in plumages}) == 8
    channels = [value for one in plumages for colour in (one.back, one.wing, one.belly, one.accent) for value in colour]
    assert min(channels) >= 0
    assert max(channels) <= 255


def test_beaks_alone_differ_in_shape_and_have_one_colour() -> None:
    species = [variant("beak", number) for number in range(DIFFERENCES["beak"])]
    assert [one.beak for one in species] == list(BEAKS)
    for one in species:
        assert one.beak_colour is not None
        assert replace(one, beak=BEAKS[0]) == species[0]


@pytest.mark.parametrize(("differ_in", "kept", "drawn"), [("colour", "plumage", "beak"), ("beak", "beak", "plumage")])
def test_what_does_not_tell_the_class_is_chance(differ_in: str, kept: str, drawn: str) -> None:
    species = variant(differ_in, 1)
    birds = [with_chance(species, differ_in, np.random.default_rng([0, 0, index])) for index in range(200)]
    assert {getattr(bird, kept) for bird in birds} == {getattr(species, kept)}
    counts = Counter(getattr(bird, drawn) for bird in birds)
    assert len(counts) == (7 if drawn == "beak" else 8)
    assert min(counts.values()) >= 10  # of 25 or more
    assert birds[3] == with_chance(species, differ_in, np.random.default_rng([0, 0, 3]))


def test_species_are_left_as_they_are() -> None:
    assert with_chance(variant("species", 5), "species", np.random.default_rng([0, 0, 1])) == variant("species", 5)


def test_as_a_data_set_and_from_a_configuration() -> None:
    birds = SyntheticBirds("train", num_classes=3, images_per_class=1, image_size=32, differ_in="colour")
    assert len(set(birds.classes)) == 3
    table = {"birds_differ_in": "beak", "birds_classes": 2, "birds_train": 1, "birds_val": 1, "birds_test": 1}
    splits = open_data(parse_config({"data": {**table, "image_size": 32}}))
    assert splits.classes[1].endswith("_needle-beak_square-tail")
    assert splits.notes[0].startswith("synthetic birds: 2 classes that differ in beak alone, 2 training")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"differ_in": "size"}, "differ_in: must be one of species, colour, beak; got 'size'"),
        ({"differ_in": "colour", "num_classes": 9}, "num_classes: must be from 2 to 8; got 9"),
        (
            {"differ_in": "beak", "num_classes": 8},
            "from 2 to 7; got 8. There are no more birds that differ in beak alone",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticBirds("train", **arguments)
