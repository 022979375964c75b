"""Prototypes, classes, slots and reasons in a few words, for pages, figures and the command line."""

from __future__ import annotations

from collections.abc import Sequence

from protokern.report.numbers import percent, whole_percent
from protokern.results.explanations import ClassExplanation, DecisionEnd, Evidence, Explanation
from protokern.results.importance import Reason
from protokern.results.places import SufficientFrame
from protokern.results.prototypes import Neighbour, Prototype

MOST_NAMES = 3
MOST_REASONS = 3
LEAST_SHARE = 0.05  # share of the similarity; a change that takes less away is no reason
LEAST_SCORE = 0.005  # a score that is shown as 0.00 is no reason either
TREE_TEXT = (
    "Every decision asks whether a part of the image looks like the patch of a training image: to the right if it "
    "does, to the left if not. A leaf says which classes the training images that arrive there have. Open a closed "
    "part to see what is below it."
)
_PROPERTIES = {"hue": "colour (hue)", "saturation": "colour strength (saturation)"}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def join_names(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Names joined by commas; of more than `most` the first ones and the number of the others."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def name_classes(card: Prototype) -> str:
    """The classes of a prototype: its one class, "shared by hat, dress", or "used by no class"."""
    names = [one.class_name for one in card.classes]
    if not names:
        return "used by no class"
    return names[0] if len(names) == 1 else f"shared by {join_names(names)}"


def name_match(match: Evidence, one: ClassExplanation) -> str:
    """The prototype of a match: "prototype 12, hat", or "slot 3: prototype 17, shared with dress, skirt"."""
    prototype = f"prototype {match.prototype.index}"
    if not match.slots:
        return f"{prototype}, {name_classes(match.prototype)}"
    return f"{name_slots(match.slots)}: {prototype}, {name_sharers(match, one)}"


def name_source(of_class: str, index: int, *, is_exemplar: bool = False) -> str:
    """The alternative text of a prototype's picture; `of_class` is " of class ..." or empty."""
    what = f"in which prototype {index} is most present" if is_exemplar else f"that is prototype {index}"
    return f"Training image{of_class}; a frame marks the patch {what}"


def say_nothing(item: Explanation) -> str:
    """Why a model has no answer to an image, and what came nearest to one."""
    said = "There is nothing here that any class is scored by."
    if item.faint is None or not item.faint.prototypes:
        return said
    names = join_names([f"prototype {j} ({value:.2f})" for j, value in item.faint.prototypes])
    return f"{said} Most present, but below {item.faint.smallest:g}, from which on a prototype counts: {names}."


def say_role(match: Evidence) -> str:
    """Why a match is no reason for the class: "against it" or "of another class"; empty for a reason."""
    if match.is_reason:
        return ""
    return "against it" if match.points < 0 else "of another class" if match.prototype.classes else "of no class"


def name_slots(slots: Sequence[int]) -> str:
    """ "slot 3", or "slots 3, 5"."""
    return f"slot{'' if len(slots) == 1 else 's'} {', '.join(map(str, slots))}"


def name_sharers(match: Evidence, one: ClassExplanation) -> str:
    """The other classes that share the prototype of a match: "shared with dress", or "not shared"."""
    others = [other.class_name for other in match.prototype.classes if other.class_index != one.class_index]
    return f"shared with {join_names(others)}" if others else "not shared"


def name_foreign(one: ClassExplanation) -> str:
    """Whose points `foreign_points` are: "of other classes", with "or none" if some prototypes belong to no class."""
    return "of other classes or none" if one.num_unused else "of other classes"


def name_property(modification: str) -> str:
    """What a modification changes, in words: "colour (hue)", or the name of the modification."""
    return _PROPERTIES.get(modification, modification)


def main_reasons(reasons: Sequence[Reason], similarity: float | None = None) -> tuple[Reason, ...]:
    """The properties that mattered most, by falling score; empty if no change mattered.

    A change counts if it takes at least a twentieth off the similarity and its interval, if it has one, lies above
    zero. Of these, the result has the one with the greatest score and up to two more with at least half of that score.

    Args:
        reasons: of a prototype or of a match.
        similarity: the similarity that the scores are parts of; None: only scores that are shown as 0.00 are too small.
    """
    least = max(LEAST_SCORE, 0.0 if similarity is None else LEAST_SHARE * similarity)
    counting = [one for one in reasons if one.score >= least and (one.low is None or one.low > 0)]
    ranked = sorted(counting, key=lambda one: -one.score)
    return tuple(one for one in ranked[:MOST_REASONS] if one.score >= ranked[0].score / 2)


def say_frame(proof: SufficientFrame | None) -> str:
    """The result of testing a frame, as a sentence; empty if it was not tested."""
    if proof is None:
        return ""
    if proof.kept_grey is None or proof.area is None:
        return "The similarity is not positive, so no part of the image can keep it. Framed is the best matching place."
    if proof.area == 1:
        return "It takes the whole image to keep nine tenths of the similarity."
    checks = [
        f"with {what} {whole_percent(kept)}"
        for kept, what in ((proof.kept_blur, "a blur around it"), (proof.kept_other, "another image"))
        if kept is not None
    ]
    checked = f" {checks[0].capitalize()}{f', {checks[1]}' if len(checks) > 1 else ''}." if checks else ""
    return (
        f"This frame alone keeps {whole_percent(proof.kept_grey)} of the similarity; "
        f"{whole_percent(proof.area)} of the image.{checked}"
    )


# Of a prototype without a tested frame on a page where others have one.
UNSOUGHT = (
    "No frame was sought for this prototype, so only its patch is marked. "
    "'protokern report RUN --all-frames' seeks the frames of all."
)
UNSOUGHT_NAME = "frame not sought"


def name_frame(proof: SufficientFrame | None) -> str:
    """The result of testing a frame in a few words: "frame alone keeps 93 %; 18 % of the image"."""
    if proof is None:
        return ""
    if proof.kept_grey is None or proof.area is None:
        return "similarity not positive: no frame"
    if proof.area == 1:
        return "nine tenths need the whole image"
    return f"frame alone keeps {whole_percent(proof.kept_grey)}; {whole_percent(proof.area)} of the image"


def name_frame_shortly(proof: SufficientFrame | None) -> str:
    """The result of testing a frame in very few words: "keeps 93 %, area 18 %"."""
    if proof is None or proof.kept_grey is None or proof.area is None:
        return ""
    if proof.area == 1:
        return "needs the whole image"
    return f"keeps {whole_percent(proof.kept_grey)}, area {whole_percent(proof.area)}"


def say_because(card: Prototype) -> str:
    """The properties that matter to a prototype, as a sentence; empty if they were not measured."""
    return _say(card.reasons, card.mean_similarity, "the similarity on average")


def say_because_here(match: Evidence) -> str:
    """The properties that matter to a match in this image, as a sentence; empty if they were not measured."""
    place = match.place_similarity
    if place is None:
        return _say(match.reasons, match.similarity, "the similarity")
    return _say(match.reasons, place, f"the similarity ({place:.2f} before the image's average comes off)")


def _say(reasons: Sequence[Reason], similarity: float | None, what: str) -> str:
    if not reasons:
        return ""
    main = main_reasons(reasons, similarity)
    if not main:
        if len(reasons) == 1:
            return f"Changing its {name_property(reasons[0].modification)} did not make it look much less alike."
        number = _NUMBERS[len(reasons)] if len(reasons) < len(_NUMBERS) else str(len(reasons))
        return f"None of the {number} changes made it look much less alike."
    names = [f"its {name_property(one.modification)}" for one in main]
    scores = [f"{one.score:.2f}" for one in main]
    if len(main) == 1:
        return f"Mostly because of {names[0]}: changing that takes {scores[0]} off {what}."
    return f"Because of {_join(names)}: changing these takes {_join(scores)} off {what}."


def _join(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def say_agreement(card: Prototype, neighbours: Sequence[Neighbour]) -> str:
    """How many of the nearest patches are of a class of the prototype; empty if the prototype has no class."""
    if not card.classes or not neighbours:
        return ""
    own = sum(is_own(card, one) for one in neighbours)
    its = "its class" if len(card.classes) == 1 else "a class that it belongs to"
    if len(neighbours) == 1:
        return f"It is {'' if own else 'not '}of {its}."
    if own == len(neighbours):
        return f"All {own} are of {its}."
    return f"{own or 'None'} of the {len(neighbours)} {'is' if own == 1 else 'are'} of {its}."


def is_own(card: Prototype, neighbour: Neighbour) -> bool:
    """Whether the image of a patch is of a class that the prototype belongs to."""
    return any(one.class_name == neighbour.class_name for one in card.classes)


def say_decision(match: Evidence) -> dict[str, str | float | bool]:
    """The words of one decision of a tree, in place of those of points."""
    present = match.similarity if match.is_present else 1 - match.similarity
    return {
        "like": "looks like" if match.is_present else "no part like",
        "absent": "" if match.is_present else "absent",
        "role": "",
        "product": f"there with a probability of {percent(present)}:",
        "points": "goes right" if match.is_present else "goes left",
        "against": not match.is_present,
        "share": round(present, 3),
    }


def say_end(end: DecisionEnd) -> str:
    """Whether the path and the whole tree agree."""
    if end.agrees:
        return "The path and the whole tree give the same answer."
    return "The whole tree, which weighs all leaves, gives another answer than the leaf at the end of this path."
