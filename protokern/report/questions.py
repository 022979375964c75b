"""What each measure asks, for the section "Can this be trusted?": its sentence, its number, and its reference.

A sentence has places for numbers and words in braces; {value} is the number of the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RANDOM = "random patches as prototypes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How the page tells one measure.

    Attributes:
        say: the sentence.
        numbers: the number of the measure: the first of these that there is. One that starts with a comma or a space
            is the end of a name, of which the first is taken.
        better: whether more, less or what is nearer to 0 is better.
        line: what it is compared with: of the same measure, the numbers that go with `numbers`, in the same form;
            empty: the same number with random prototypes, if it was measured.
        line_words: what that is, in a few words.
        strength: a number of the measure that says how strong the matches are; it is told of these prototypes and of
            random ones, because a share of less is less.
        of: a number or setting that the number is a part of, if it is a count.
        column: numbers of single prototypes: the first of these that there is; empty: none.
        short: what the number of a single prototype is.
        part: column that names the part of a prototype; empty: none.
    """

    say: str
    numbers: tuple[str, ...]
    better: Literal["more", "less", "near 0"]
    line: tuple[str, ...] = ()
    line_words: str = RANDOM
    strength: str = ""
    of: str = ""
    column: tuple[str, ...] = ()
    short: str = ""
    part: str = ""


GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Is a match about the place that is shown?",
        ("left_alone", "stability", "perturbation", "randomisation", "misalignment"),
    ),
    (
        "Is that place the object, and always the same part?",
        ("on_object", "object_maps", "consistency", "purity", "completeness", "continuity"),
    ),
    ("Does what is shown carry the answer?", ("concentration", "deletion")),
    ("Is it little to read, and right?", ("duplicates", "size", "accuracy")),
)

QUESTIONS: dict[str, Question] = {
    "left_alone": Question(
        say=(
            "With everything outside of {place} replaced by {fill}, {value} of the similarity of the best match is "
            "left."
        ),
        numbers=("grid frame", " cells"),
        better="more",
        strength="similarity of the match",
        column=("grid frame", " cells"),
        short="similarity left without the surroundings",
    ),
    "stability": Question(
        say="After noise that nobody sees, {value} of the prototypes still match at the same place.",
        numbers=("same patch",),
        better="more",
        column=("same patch",),
        short="matches at the same place after noise",
    ),
    "perturbation": Question(
        say="A match loses {value} of its similarity when its place is {changed}.",
        numbers=("brightness, on the match", "blur, on the match"),
        better="more",
        line=("brightness, elsewhere", "blur, elsewhere"),
        line_words="the same change everywhere else",
        column=("mean drop on the match",),
        short="similarity lost by changes of its place",
    ),
    "randomisation": Question(
        say=(
            "With the weights of the net shuffled, the heat maps of the same prototypes have a likeness of {value} to "
            "those that are shown (rank correlation)."
        ),
        numbers=("likeness of the map, backbone and add-on layers shuffled",),
        better="near 0",
        column=("likeness of the map, backbone and add-on layers shuffled",),
        short="likeness of the heat map with shuffled weights",
    ),
    "misalignment": Question(
        say=(
            "A change of the pixels outside of its box that nobody sees takes {value} of the similarity from a match."
        ),
        numbers=("similarity lost (PAC)",),
        better="less",
        column=("similarity lost",),
        short="similarity lost by an attack from outside",
    ),
    "on_object": Question(
        say="{value} of the prototypes of its class match on the object of a picture, {region}.",
        numbers=(", own class",),
        better="more",
        line=(", by chance",),
        line_words="a place at random",
    ),
    "object_maps": Question(
        say="{value} of a heat map lies on the object, {region}.",
        numbers=(", relevance by energy",),
        better="more",
        line=(", share of the image",),
        line_words="the object's share of the picture",
        column=(", relevance by energy",),
        short="share of its heat map on the object",
    ),
    "consistency": Question(
        say="{value} of the prototypes match at one part in at least 80 % of the pictures of their class.",
        numbers=("consistent prototypes",),
        better="more",
        column=("share with the best part",),
        short="pictures of its class with one part at its place",
        part="best part",
    ),
    "purity": Question(
        say="In {value} of the pictures that a prototype finds most similar, the same part is at its place.",
        numbers=("mean purity",),
        better="more",
        column=("purity",),
        short="most similar pictures with one part at its place",
        part="part",
    ),
    "completeness": Question(
        say="Noise outside of the object changes the highest similarity of a prototype by {value}.",
        numbers=("highest similarity (PSC)",),
        better="less",
    ),
    "continuity": Question(
        say=(
            "A slight change of the picture, as by another camera, changes the highest similarity of a prototype by "
            "{value}."
        ),
        numbers=("highest similarity (PSC)",),
        better="less",
    ),
    "concentration": Question(
        say="The four strongest prototypes carry {value} of what decides between the answer and the next class.",
        numbers=("share of the largest 4",),
        better="more",
    ),
    "deletion": Question(
        say=(
            "Without the four frames that are shown, a confidence of {value} is left in the answer; with them it was "
            "{before}."
        ),
        numbers=("without the 4 frames",),
        better="less",
        line=("without the 4 frames, at random places",),
        line_words="without boxes at random places",
    ),
    "duplicates": Question(
        say="{value} of {of} prototypes repeat an earlier one.",
        numbers=("prototypes that repeat an earlier one",),
        better="less",
        of="prototypes",
    ),
    "size": Question(
        say="{value} of {of} prototypes have a weight for some class.",
        numbers=("prototypes with a weight",),
        better="less",
        of="prototypes",
    ),
    "accuracy": Question(
        say="{value} of the answers are right.",
        numbers=("right answers",),
        better="more",
    ),
}
