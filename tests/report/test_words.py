from __future__ import annotations

from dataclasses import replace

import pytest

from protokern.report.data import ClassWeight, ExplainedImage, Match
from protokern.report.words import join_names, name_classes, name_foreign, name_match


def of_classes(match: Match, *names: str) -> Match:
    weights = tuple(ClassWeight(k, name, 1.0) for k, name in enumerate(names))
    return replace(match, prototype=replace(match.prototype, classes=weights))


@pytest.mark.parametrize(
    ("names", "words"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d"], "a, b and 2 more")],
)
def test_no_name_is_left_out_without_a_count(names: list[str], words: str) -> None:
    assert join_names(names) == words


def test_a_prototype_is_named_with_its_classes(explained: ExplainedImage) -> None:
    one, match = explained.classes[0], explained.classes[0].matches[0]
    assert name_match(of_classes(match, "hat"), one) == "prototype 0, hat"
    assert name_match(of_classes(match, "hat", "cap"), one) == "prototype 0, shared by hat, cap"
    assert name_match(of_classes(match), one) == "prototype 0, used by no class"
    assert name_classes(of_classes(match, *"abcde").prototype) == "shared by a, b and 3 more"


def test_a_prototype_in_slots_is_named_with_those_and_with_the_other_classes(explained: ExplainedImage) -> None:
    one = explained.classes[0]  # class 0
    match = replace(explained.classes[0].matches[0], slots=(3,))
    assert name_match(of_classes(match, "hat", "dress", "skirt"), one) == (
        "slot 3: prototype 0, shared with dress, skirt"
    )
    assert name_match(of_classes(match, "hat"), one) == "slot 3: prototype 0, not shared"
    assert name_match(of_classes(replace(match, slots=(1, 4)), "hat"), one) == "slots 1, 4: prototype 0, not shared"


def test_prototypes_of_no_class_are_not_counted_as_those_of_others(explained: ExplainedImage) -> None:
    assert name_foreign(explained.classes[0]) == "of other classes"
    assert name_foreign(replace(explained.classes[0], num_unused=2)) == "of other classes or none"
