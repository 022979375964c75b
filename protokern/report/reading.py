"""How a page explains itself: how to read one answer, and what every word and mark means.

A text with marks in it is a list of pieces. A piece is plain text, or [mark, text], where the mark is "b" for bold,
"em" for emphasis, "bdi" for a name, "name" for a bold name; or ["a", text, address], a link.
"""

from __future__ import annotations

from typing import Any

from protokern.report.numbers import TIMES, decimal, whole_percent
from protokern.report.summary import Example
from protokern.report.words import say_because_here

Rich = list[str | list[str]]

NOT_PATCHES: Rich = [
    "The model compares the parts of a picture with what it has learnt, its ",
    ["b", "prototypes"],
    ", and each comparison gives points for or against a class.",
]
PATCHES: Rich = [
    "During training the model picked small parts of training pictures as its examples, the ",
    ["b", "prototypes"],
    ". It judges a new picture by how much its parts look like them. So each answer has reasons that can be looked "
    "at: ",
    ["em", "this"],
    " part looks like ",
    ["em", "that"],
    " one.",
]


EXEMPLARS: Rich = [
    "During training the model learnt to find a number of things in pictures, its ",
    ["b", "prototypes"],
    ". It looks where in a new picture each of them is most present, and adds up what that scores for each class. "
    "Beside every match stands the part of a training picture in which the prototype is most present, so that reasons "
    "can be looked at: ",
    ["em", "this"],
    " part has what ",
    ["em", "that"],
    " one has.",
]


TREE: Rich = [
    "This model is a tree of questions. Every question asks whether some part of the picture looks like a part of one "
    "training picture, its ",
    ["b", "prototype"],
    ". The answers lead to a leaf, which says what the training pictures that arrived there were.",
]


def say_how_decided(*, is_tree: bool, may_abstain: bool = False) -> str:
    """How comparisons become an answer, in a few sentences."""
    if may_abstain:
        return (
            "Each that is present gives points for some classes. The class with the highest total is the answer; if no "
            "class has any, there is none."
        )
    if is_tree:
        return (
            "Each asks one question of a tree: is such a part there? The leaves at the end of its paths are the answer."
        )
    return "Each comparison gives points for or against a class. The class with the highest total is the answer."


def _say_tree_example(example: Example) -> list[Rich]:
    item, one, match = example.item, example.one, example.match
    assert item.end is not None
    leaf = item.class_names[item.end.classes[0][0]]
    count = len(one.matches)
    right = " It is right." if item.true_class == one.class_name else " It is wrong." if item.is_wrong else ""
    first: Rich = [
        "One question on the way of this picture was whether it has something like ",
        ["a", f"prototype {match.prototype.index}", f"#prototype-{match.prototype.index}"],
        f", a part of a training picture. The answer was {whole_percent(match.similarity)} "
        f"{'yes' if match.is_present else 'no'}.",
    ]
    last: Rich = [
        f"After {count} {'question' if count == 1 else 'questions'} the way ends in a leaf for ",
        ["name", leaf],
        ". The whole tree, which weighs all ways by their probabilities, says ",
        ["name", one.class_name],
        f".{right}",
    ]
    return [first, last]


def _say_scored_example(example: Example) -> list[Rich]:
    item, one, match = example.item, example.one, example.match
    index, presence, weight = match.prototype.index, decimal(match.similarity), decimal(match.weight)
    count = len(one.reasons)
    right = " It is right." if item.true_class == one.class_name else " It is wrong." if item.is_wrong else ""
    first: Rich = [
        "This picture was called ",
        ["name", one.class_name],
        " because its framed part has what ",
        ["a", f"prototype {index}", f"#prototype-{index}"],
        " stands for. Beside it is the part of a training picture in which that is most present."
        + (" Other parts scored for the same class." if count > 1 else ""),
    ]
    last: Rich = [
        f"The prototype has a presence of {presence} there and a weight of {weight} for the class, which gives "
        f"{presence} {TIMES} {weight} = ",
        ["b", f"{decimal(match.points)} points"],
        f" of the {decimal(one.total)} for this class, the highest total.{right}",
    ]
    return [first, last]


def say_example(example: Example, num_prototypes: int) -> list[Rich]:
    """One answer in words, one text per paragraph; the first one is the answer itself."""
    item, one, match = example.item, example.one, example.match
    if item.end is not None:
        return _say_tree_example(example)
    if one.score is not None:
        return _say_scored_example(example)
    card = match.prototype
    shared = " that this class shares with others" if len(card.classes) > 1 else " of this class"
    more = " More parts did the same." if len(one.reasons) > 1 else ""
    paragraphs: list[Rich] = [
        [
            "This picture was called ",
            ["name", one.class_name],
            " because its framed part looks like ",
            ["a", f"prototype {card.index}", f"#prototype-{card.index}"],
            f", a part of a training picture{shared}.{more}",
        ]
    ]
    here, there = match.picture.proof, card.picture.proof if card.picture else None
    if here and there and here.kept_grey is not None and there.kept_grey is not None:
        paragraphs.append(
            [
                "Is it really these parts? With everything outside of the frames made grey, "
                f"{whole_percent(here.kept_grey)} of the similarity to the prototype is left in the picture, and "
                f"{whole_percent(there.kept_grey)} in the training picture."
            ]
        )
    similarity, weight = decimal(match.similarity), decimal(match.weight)
    because = say_because_here(match)
    paragraphs.append(
        [
            f"The similarity of the two is {similarity}. This prototype has a weight of {weight} for the class, which "
            f"gives {similarity} {TIMES} {weight} = ",
            ["b", f"{decimal(match.points)} points"],
            "." + (f" Why do the two look alike to the model? {because}" if because else ""),
        ]
    )
    if one.num_speaking == num_prototypes:
        speaking = f"all {num_prototypes} prototypes add"
    elif one.num_speaking == 1:
        speaking = f"the one prototype of {num_prototypes} that has any add"
    else:
        speaking = f"the {one.num_speaking} prototypes of {num_prototypes} that have any add"
    right = ", and this one is right" if item.true_class == one.class_name else ""
    wrong = ", here a wrong one" if item.is_wrong else ""
    rule = f". The highest total is the answer{right}{wrong}."
    total = f"The points of {speaking} up to {decimal(one.total)} for this class"
    if len(item.classes) == 1:
        return [*paragraphs, [total + rule]]
    second = item.classes[1]
    last: Rich = [
        f"{total}. The next best, ",
        ["bdi", second.class_name],
        f", has {decimal(second.total)}{rule}",
    ]
    return [*paragraphs, last]


def say_reading(
    *,
    is_focal: bool,
    is_salient: bool,
    has_proof: bool,
    sees_part: bool,
    has_slots: bool,
    is_report: bool,
    is_tree: bool = False,
    is_projected: bool = False,
    has_exemplars: bool = False,
) -> list[list[Any]]:
    """What each word and mark on a page means: [kind of mark or empty, word, text].

    Args:
        is_focal: the average similarity over the image is subtracted from similarities.
        is_salient: similarities are multiplied by how much the patch stands out.
        has_proof: frames were tested.
        sees_part: a patch depends on less than the whole picture.
        has_slots: classes have slots.
        is_report: the page has sheets of prototypes.
        is_tree: the model decides along a path.
        is_projected: similarities are projections, in which the length of a patch counts.
        has_exemplars: prototypes are no patches, and points are shares of a score that is never negative.
    """
    similarity = _similarity(is_focal=is_focal, is_salient=is_salient, is_projected=is_projected)
    of_points = [_PRESENCE, *_SCORES] if has_exemplars else [["", "Similarity", similarity], *_POINTS]
    entries: list[list[Any]] = [
        *([["", "Similarity", similarity], *_DECISIONS] if is_tree else of_points),
        *(_tested_frames(is_focal=is_focal, is_report=is_report) if has_proof else [_GRID_FRAME]),
        ["field", "Dashed line", [_FIELD_PART if sees_part else _FIELD_WHOLE]],
        [
            "heat",
            "Heat map",
            [
                "How alike each place of the picture is to the prototype: bright is more. Colours compare within one "
                "picture, not between two."
            ],
        ],
    ]
    return [*entries, _SLOTS] if has_slots else entries


def _similarity(*, is_focal: bool, is_salient: bool, is_projected: bool) -> Rich:
    focal = (
        ": that of the best matching part, less that of the image on average, so that it is high where one part is "
        "like the prototype and the rest is not"
    )
    salient = (
        " It is multiplied by how much the part stands out in its picture, so a part that is exactly the prototype "
        "has a similarity below 1 where it does not stand out most."
    )
    projected = (
        " It is a projection: a part counts for more, the more strongly the model responds to it. So a part can have a "
        "higher similarity than the patch that the prototype comes from."
    )
    return [
        f"How alike a part of this picture and a prototype are to the model{focal if is_focal else ''}."
        + (salient if is_salient else "")
        + (projected if is_projected else "")
        + " The scale is the model's own: compare similarities with each other."
    ]


def _tested_frames(*, is_focal: bool, is_report: bool) -> list[list[Any]]:
    focal = " of the place, before that of the image on average comes off," if is_focal else ""
    near = " The nearest patches of a prototype have this mark alone: no frame was sought there." if is_report else ""
    return [
        [
            "frame",
            "Frame",
            [
                "The smallest box found around the best matching place that is enough alone: everything outside of it "
                f"was made grey, the model was run on that, and at least nine tenths of the similarity{focal} were "
                "still there. The same was tried with a blur of the image outside, and with another image. It proves "
                "that this part suffices; other parts may suffice too."
            ],
        ],
        ["cell", "Thin line", [f"The best matching place on the grid: the patch that was compared.{near}"]],
    ]


_GRID_FRAME: list[Any] = [
    "frame",
    "Frame",
    [
        "Where the match is strongest: the best matching place, and the bright area of the heat map that touches it. "
        "It cannot prove that the model ignored everything outside."
    ],
]
_FIELD_PART = (
    "All that could count when the best matching place was compared: the model saw this whole area there, not only "
    "what is framed. In most models it is much larger than the frame."
)
_FIELD_WHOLE = (
    "Would go around all that could count when the best matching place was compared. Here this is always the whole "
    "picture, so no line is drawn: what lies outside a frame may have counted too."
)
_SLOTS: list[Any] = [
    "",
    "Slots",
    [
        "Each class has ",
        ["b", "slots"],
        ", and each slot holds one prototype of a pool that all classes choose from. So a prototype may be shared: "
        "what it finds then counts for several classes.",
    ],
]
_PRESENCE: list[Any] = [
    "",
    "Presence",
    [
        "How much of the best matching place of a picture a prototype takes, from 0 to 1: at every place all of them "
        "share 1. A small presence counts as 0. Frames and heat maps call it the similarity."
    ],
]
_SCORES: list[list[Any]] = [
    [
        "",
        "Weight",
        ["How much a prototype scores for a class, never below 0. Learnt in training, the same for all pictures."],
    ],
    [
        "",
        "Points",
        [
            "Presence times weight. The points of ",
            ["b", "all"],
            " prototypes add up to the total of a class. If no class has any, the model gives no answer.",
        ],
    ],
]
_POINTS: list[list[Any]] = [
    [
        "",
        "Weight",
        [
            "How much a prototype speaks for a class, or against it if the weight is negative. Learnt in training, "
            "the same for all pictures."
        ],
    ],
    [
        "",
        "Points",
        [
            "Similarity times weight. The points of ",
            ["b", "all"],
            " prototypes add up to the total of a class. A total may be below zero: only the differences between "
            "classes count.",
        ],
    ],
]
_DECISIONS: list[list[Any]] = [
    [
        "",
        "Decision",
        [
            "Whether the picture has a part that looks like the prototype. The model gives a probability; the way "
            "shown here always takes the more probable side."
        ],
    ],
    [
        "",
        "Leaf",
        [
            "Where a way ends: the probabilities of the classes there. The model mixes all leaves by how probable they "
            "are."
        ],
    ],
]
