from __future__ import annotations

from dataclasses import replace

import pytest

from protokern.report.words import (
    join_names,
    main_reasons,
    name_classes,
    name_foreign,
    name_frame,
    name_frame_shortly,
    name_match,
    say_agreement,
    say_because,
    say_because_here,
    say_frame,
    say_role,
)
from protokern.results.explanations import Evidence, Explanation
from protokern.results.importance import Reason
from protokern.results.places import SufficientFrame
from protokern.results.prototypes import ClassWeight, Prototype
from tests.report.conftest import make_neighbour, make_proof


def of_classes(match: Evidence, *names: str) -> Evidence:
    weights = tuple(ClassWeight(k, name, 1.0) for k, name in enumerate(names))
    return replace(match, prototype=replace(match.prototype, classes=weights))


@pytest.mark.parametrize(
    ("names", "words"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d"], "a, b and 2 more")],
)
def test_no_name_is_left_out_without_a_count(names: list[str], words: str) -> None:
    assert join_names(names) == words


def test_a_prototype_is_named_with_its_classes(explained: Explanation) -> None:
    one, match = explained.classes[0], explained.classes[0].matches[0]
    assert name_match(of_classes(match, "hat"), one) == "prototype 0, hat"
    assert name_match(of_classes(match, "hat", "cap"), one) == "prototype 0, shared by hat, cap"
    assert name_match(of_classes(match), one) == "prototype 0, used by no class"
    assert name_classes(of_classes(match, *"abcde").prototype) == "shared by a, b and 3 more"


def test_a_prototype_in_slots_is_named_with_those_and_with_the_other_classes(explained: Explanation) -> None:
    one = explained.classes[0]  # class 0
    match = replace(explained.classes[0].matches[0], slots=(3,))
    assert name_match(of_classes(match, "hat", "dress", "skirt"), one) == (
        "slot 3: prototype 0, shared with dress, skirt"
    )
    assert name_match(of_classes(match, "hat"), one) == "slot 3: prototype 0, not shared"
    assert name_match(of_classes(replace(match, slots=(1, 4)), "hat"), one) == "slots 1, 4: prototype 0, not shared"


def test_prototypes_of_no_class_are_not_counted_as_those_of_others(explained: Explanation) -> None:
    assert name_foreign(explained.classes[0]) == "of other classes"
    assert name_foreign(replace(explained.classes[0], num_unused=2)) == "of other classes or none"


@pytest.mark.parametrize(
    ("proof", "sentence", "name", "short_name"),
    [
        (
            make_proof(0.934, 0.88, 0.679, 0.18),
            "This frame alone keeps 93 % of the similarity; 18 % of the image. "
            "With a blur around it 88 %, with another image 68 %.",
            "frame alone keeps 93 %; 18 % of the image",
            "keeps 93 %, area 18 %",
        ),
        (
            make_proof(1.031, 0.5, None, 0.002),
            "This frame alone keeps 103 % of the similarity; under 1 % of the image. With a blur around it 50 %.",
            "frame alone keeps 103 %; under 1 % of the image",
            "keeps 103 %, area under 1 %",
        ),
        (
            make_proof(1.0, 1.0, 1.0, 1.0),
            "It takes the whole image to keep nine tenths of the similarity.",
            "nine tenths need the whole image",
            "needs the whole image",
        ),
        (
            make_proof(None, None, None, None),
            "The similarity is not positive, so no part of the image can keep it. Framed is the best matching place.",
            "similarity not positive: no frame",
            "",
        ),
        (None, "", "", ""),
    ],
    ids=["all-fills", "without-another", "whole", "not-positive", "untested"],
)
def test_what_a_frame_was_tested_for_is_said_with_its_numbers(
    proof: SufficientFrame | None, sentence: str, name: str, short_name: str
) -> None:
    assert say_frame(proof) == sentence
    assert name_frame(proof) == name
    assert name_frame_shortly(proof) == short_name


def card_with(*reasons: Reason, similarity: float | None = None) -> Prototype:
    return Prototype(index=0, classes=(), reasons=reasons, mean_similarity=similarity)


def test_one_reason_that_stands_out_is_named_alone() -> None:
    hue, shape = Reason("hue", 0.9, 0.8, 1.0), Reason("shape", 0.4, 0.3, 0.5)
    assert say_because(card_with(shape, hue)) == (
        "Mostly because of its colour (hue): changing that takes 0.90 off the similarity on average."
    )
    assert say_because(card_with()) == ""


def test_reasons_that_are_close_are_named_together_and_no_more_than_three() -> None:
    reasons = [Reason(name, score) for name, score in (("a", 0.5), ("b", 0.9), ("c", 0.6), ("d", 0.7), ("e", 0.1))]
    assert say_because(card_with(*reasons)) == (
        "Because of its b, its d and its c: changing these takes 0.90, 0.70 and 0.60 off the similarity on average."
    )


def test_what_the_numbers_do_not_carry_is_not_claimed() -> None:
    uncertain, tiny, negative = Reason("hue", 0.9, -0.1, 2.0), Reason("shape", 0.004, 0.003, 0.005), Reason("x", -1.0)
    assert main_reasons((uncertain, tiny, negative)) == ()
    assert say_because(card_with(uncertain, tiny, negative)) == (
        "None of the three changes made it look much less alike."
    )
    small = Reason("hue", 0.1, 0.09, 0.11)
    assert main_reasons((small,)) == (small,)
    assert main_reasons((small,), similarity=3.0) == ()
    assert say_because(card_with(small, similarity=3.0)) == (
        "Changing its colour (hue) did not make it look much less alike."
    )
    eleven = [Reason(str(k), 0.0) for k in range(11)]
    assert say_because(card_with(*eleven)) == "None of the 11 changes made it look much less alike."


def test_a_match_says_why_it_matched_here(explained: Explanation) -> None:
    match = replace(explained.classes[0].matches[0], reasons=(Reason("shape", 1.0), Reason("hue", 0.1)))
    assert say_because_here(match) == "Mostly because of its shape: changing that takes 1.00 off the similarity."
    assert say_because_here(replace(match, reasons=(Reason("hue", 0.1), Reason("shape", -2.0)))) == (
        "None of the two changes made it look much less alike."
    )
    assert say_because_here(replace(match, reasons=())) == ""


def test_reasons_of_a_focal_match_are_parts_of_the_similarity_at_its_place(explained: Explanation) -> None:
    small = replace(explained.classes[0].matches[0], similarity=0.5, reasons=(Reason("hue", 0.2),))
    assert say_because_here(small) != say_because_here(replace(small, place_similarity=6.0))
    assert say_because_here(replace(small, place_similarity=6.0)) == (
        "Changing its colour (hue) did not make it look much less alike."
    )
    assert say_because_here(replace(small, place_similarity=3.0)) == (
        "Mostly because of its colour (hue): changing that takes 0.20 off the similarity "
        "(3.00 before the image's average comes off)."
    )


def test_agreement_is_said_in_words(explained: Explanation) -> None:
    match = explained.classes[0].matches[0]
    hat, cap = make_neighbour(0, "hat"), make_neighbour(1, "cap")
    card = of_classes(match, "hat").prototype
    assert say_agreement(card, (hat, hat)) == "All 2 are of its class."
    assert say_agreement(card, (hat, cap)) == "1 of the 2 is of its class."
    assert say_agreement(card, (cap, cap)) == "None of the 2 are of its class."
    assert say_agreement(card, (cap,)) == "It is not of its class."
    assert (
        say_agreement(of_classes(match, "hat", "cap").prototype, (hat, cap))
        == "All 2 are of a class that it belongs to."
    )
    assert say_agreement(of_classes(match).prototype, (hat,)) == ""
    assert say_agreement(card, ()) == ""


def test_a_match_that_is_no_reason_says_what_it_is(explained: Explanation) -> None:
    match = explained.classes[0].matches[0]
    assert say_role(match) == ""
    apart = replace(match, is_reason=False)
    assert say_role(replace(apart, points=-2.0)) == "against it"
    assert say_role(replace(apart, points=2.0)) == "of another class"
    assert say_role(replace(of_classes(apart), points=2.0)) == "of no class"
