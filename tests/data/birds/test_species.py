"""The species code keeps its promise: any two species differ in at least four parts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from protokern.data.birds.anatomy import Individual, draw_bird
from protokern.data.birds.dataset import ANNOTATED_PARTS, annotate
from protokern.data.birds.scene import paint_scene
from protokern.data.birds.species import (
    BEAKS,
    BREASTS,
    CRESTS,
    FACES,
    MAX_SPECIES,
    PARTS,
    PLUMAGES,
    TAILS,
    WINGS,
    Species,
    species_of,
)

FORMS = {"beak": BEAKS, "crest": CRESTS, "tail": TAILS, "wing": WINGS, "breast": BREASTS, "face": FACES}
EVERY_FORM = [(part, form) for part in PARTS for form in FORMS[part]]


def forms_of(species: Species) -> tuple[str, ...]:
    return tuple(getattr(species, part) for part in PARTS)


def test_any_two_species_differ_in_at_least_four_local_parts() -> None:
    forms = [forms_of(species_of(number)) for number in range(MAX_SPECIES)]
    least = min(sum(a != b for a, b in zip(*pair, strict=True)) for pair in combinations(forms, 2))
    assert least == 4


def test_the_first_seven_differ_in_every_part_and_the_first_49_in_five() -> None:
    for number, wanted in ((7, 6), (49, 5)):
        pairs = combinations([forms_of(species_of(n)) for n in range(number)], 2)
        assert min(sum(a != b for a, b in zip(*pair, strict=True)) for pair in pairs) == wanted


def test_names_are_unique() -> None:
    assert len({species_of(number).name for number in range(MAX_SPECIES)}) == MAX_SPECIES


def test_colour_alone_does_not_tell_the_first_ten_species() -> None:
    plumages = [species_of(number).plumage.name for number in range(10)]
    assert 1 < len(set(plumages)) < 10


def with_forms(changes: dict[str, str]) -> Species:
    forms = {part: FORMS[part][0] for part in PARTS} | changes
    return Species(**forms, plumage=PLUMAGES[4])


@pytest.mark.parametrize(("part", "form"), EVERY_FORM)
def test_every_form_looks_different_from_the_first_one(part: str, form: str) -> None:
    usual, other = (
        paint_scene(with_forms(changes), np.random.default_rng(0), (128, 128)).pixels.astype(int)
        for changes in ({}, {part: form})
    )
    is_first = form == FORMS[part][0]
    # The scenes differ in scale where the form changes the bird's extent; any difference at all is enough here.
    assert (np.abs(usual - other).max() > 60) != is_first


@pytest.mark.parametrize(("part", "form"), EVERY_FORM)
def test_keypoints_lie_on_their_parts(part: str, form: str) -> None:
    scene = paint_scene(with_forms({part: form}), np.random.default_rng(1), (128, 128))
    visible = {name for name, (_, _, is_visible) in annotate(scene).keypoints.items() if is_visible}
    assert visible == set(ANNOTATED_PARTS)


def test_a_turned_head_moves_beak_and_eye_but_not_the_tail() -> None:
    still, nodding = (draw_bird(species_of(0), Individual(head_angle=angle)).keypoints for angle in (0, 6))
    assert still["beak"] != nodding["beak"]
    assert still["eye"] != nodding["eye"]
    assert still["tail"] == nodding["tail"]
