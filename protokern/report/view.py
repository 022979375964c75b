"""The JSON of a page, which its script draws: finished texts, and pictures as positions on a shelf.

The results are walked through once. Placing a picture puts it on the shelf, so each picture is read and kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protokern.report.images import PictureShelf, Shelf
from protokern.report.numbers import TIMES, decimal, percent, short
from protokern.report.reading import say_reading
from protokern.report.scoring import view_no_answer
from protokern.report.sections import Sections
from protokern.report.trust import view_numbers_of
from protokern.report.words import (
    TREE_TEXT,
    UNSOUGHT,
    UNSOUGHT_NAME,
    is_own,
    join_names,
    main_reasons,
    name_classes,
    name_foreign,
    name_frame,
    name_match,
    name_property,
    name_source,
    say_agreement,
    say_because,
    say_because_here,
    say_decision,
    say_end,
    say_frame,
    say_role,
)
from protokern.results.explanations import ClassExplanation, DecisionEnd, Evidence, Explanation
from protokern.results.places import SeenPicture
from protokern.results.progress import Progress, show_nothing
from protokern.results.prototypes import Neighbour, Prototype
from protokern.results.run import Report

Table = dict[str, Any]
LEAST_LEAF = 0.005  # a class of a leaf that is less probable is not drawn
_RULE = (
    "Chosen by rule, not for their looks: the first right answer of up to six classes, spread evenly over the list, "
    "and the first wrong answer of up to six."
)


def view_report(
    report: Report, progress: Progress = show_nothing, *, shelf: Shelf | None = None
) -> tuple[Table, Shelf]:
    """The page of a run as a table, and its pictures.

    Args:
        report: what the page shows.
        progress: shows how many prototypes are done.
        shelf: where the pictures are put; None: on a new one.
    """
    pictures = [one.picture for one in report.prototypes if one.picture is not None]
    is_tested = any(one.proof is not None for one in pictures)
    view = View(
        links=True,
        shelf=shelf,
        is_tested=is_tested,
        has_distances=report.shows_distance,
        has_exemplars=report.scoring is not None,
    )
    sections = Sections(report)
    explanations = [view.explanation(one) for one in report.explanations]
    table: Table = {
        "title": f"{report.title}, protokern",
        "nav": sections.names(),
        "overview": sections.overview(),
        "how": _how(report, sections, view, is_tested=is_tested),
        "explanations": {
            "title": "Why these test images were classified as they were",
            "text": _RULE,
            "items": explanations,
        }
        if explanations
        else None,
        "because": sections.because(),
        "trust": sections.trust,
        "pool": sections.pool_table(),
        "tree": view.tree(report),
        "scoring": sections.scoring(),
        "prototypes": sections.gallery(),
        "training": sections.training(),
        "confusion": sections.confusion(),
        "run": sections.run(),
        "sees_part": any(one.sees_part for one in pictures),
        "tested": is_tested,
        "alone": "Similarities here are of the place alone, before that of the image on average comes off."
        if report.is_focal
        else "",
        "sheets": [
            view.sheet(one, view_numbers_of(report.trust, one.index), still_chooses=report.still_chooses)
            for one in progress(report.prototypes, "the page, prototype by prototype", len(report.prototypes))
        ],
        "texts": view.texts,
    }
    return {name: value for name, value in table.items() if value is not None}, view.shelf


def _how(report: Report, sections: Sections, view: View, *, is_tested: bool) -> Table:
    """The section that says how to read the page."""
    pictures = [one.picture for one in report.prototypes if one.picture is not None]
    return {
        "title": "How to read this page",
        **sections.how(lambda seen, alt: [view.place(seen), alt]),
        "reading": say_reading(
            is_focal=report.is_focal,
            is_salient=report.is_salient,
            is_projected=report.is_projected,
            has_exemplars=report.scoring is not None,
            has_proof=is_tested,
            sees_part=any(one.sees_part for one in pictures),
            has_slots=sections.pool is not None,
            is_tree=report.tree is not None,
            is_report=True,
        ),
    }


def view_explanation(item: Explanation, model_name: str) -> tuple[Table, Shelf]:
    """The page of one explained image as a table, and its pictures."""
    view = View(links=False, has_exemplars=any(one.score is not None for one in item.classes))
    matches = [match for one in item.classes for match in one.matches]
    table = {
        "title": f"Why {item.predicted_class}? {item.name}",
        "model": model_name,
        "item": view.explanation(item),
        "reading": say_reading(
            is_focal=item.is_focal,
            is_salient=item.is_salient,
            is_projected=item.is_projected,
            has_exemplars=item.classes[0].score is not None,
            has_proof=any(match.picture.proof is not None for match in matches),
            sees_part=any(match.picture.sees_part for match in matches),
            has_slots=any(match.slots for match in matches),
            is_tree=item.end is not None,
            is_report=False,
        ),
    }
    return table, view.shelf


def _source_alt(prototype: Prototype, *, is_exemplar: bool) -> str:
    of_class = f" of class {prototype.classes[0].class_name}" if len(prototype.classes) == 1 else ""
    return name_source(of_class, prototype.index, is_exemplar=is_exemplar)


def _unbroken(sentence: str) -> str:
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")


class View:
    """One walk over what a page shows.

    Attributes:
        shelf: the pictures so far.
        links: whether the page has sheets of prototypes to link to.

    `is_tested` says whether the page has tested frames, `has_distances` whether it shows distances, `has_exemplars`
    whether prototypes are shown by patches that they are not.
    """

    def __init__(
        self,
        *,
        links: bool,
        shelf: Shelf | None = None,
        is_tested: bool = True,
        has_distances: bool = True,
        has_exemplars: bool = False,
    ) -> None:
        self.shelf: Shelf = PictureShelf() if shelf is None else shelf
        self.links = links
        self._is_tested = is_tested
        self._has_distances = has_distances
        self._has_exemplars = has_exemplars
        self._places: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """Names that occur several times, stored once; a sheet has their positions."""
        return list(self._places)

    def _text(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def place(self, seen: SeenPicture) -> list[Any]:
        """[picture, rows, columns, box, field, cell]; no field if it is the whole picture, no cell if unmarked."""
        rows, columns = seen.image.shape[:2]
        box, field = tuple(map(int, seen.box)), tuple(map(int, seen.receptive_field_box))
        field_seen = None if field == (0, 0, rows, columns) else field
        view = [self.shelf.find(seen.image).index, rows, columns, box, field_seen]
        return view if seen.cell is None else [*view, tuple(map(int, seen.cell))]

    def _heat(self, seen: SeenPicture) -> int | str | None:
        return None if seen.heat is None else self.shelf.find(seen.heat).index

    def explanation(self, item: Explanation) -> Table:
        rows, columns = item.image.shape[:2]
        judged = "known" if item.true_class is not None else "unknown"
        verdict = {"wrong": "wrong", "known": "right", "unknown": ""}["wrong" if item.is_wrong else judged]
        first, *others = item.classes
        return {
            "name": item.name,
            "answer": item.predicted_class,
            "picture": [self.shelf.find(item.image).index, rows, columns],
            "alt": f"The explained image, {item.name}",
            "verdict": verdict,
            "truth": ["it is ", ["bdi", item.true_class]] if item.is_wrong else None,
            "unknown": "" if verdict else "What the model sees in it. The right answer is not known here.",
            "totals": [
                [one.class_name, decimal(one.total), percent(one.probability), round(one.probability, 3)]
                for one in item.classes
            ],
            "total_head": "points" if item.end is None else "log",
            "why": ["Why ", item.predicted_class if item.abstains else ["bdi", first.class_name]],
            "first": self._first(first, item),
            "others": [
                {
                    "why": [
                        "Why not ",
                        ["bdi", one.class_name],
                        "?" + (" The right answer." if one.class_name == item.true_class else ""),
                    ],
                    **self._matches(one),
                }
                for one in others
                if one.matches and not item.abstains
            ],
        }

    def _first(self, one: ClassExplanation, item: Explanation) -> Table:
        """Why the answer is what it is."""
        if item.end is not None:
            return self._decisions(one, item, item.end)
        return view_no_answer(one, item) if item.abstains else self._matches(one)

    def _matches(self, one: ClassExplanation) -> Table:
        largest = max((abs(match.points) for match in one.matches), default=0.0) or 1.0
        count = len(one.matches)
        ledger = [
            [
                [f"{count} prototype{'' if count == 1 else 's'} shown"],
                decimal(sum(match.points for match in one.matches)),
            ]
        ]
        if one.num_own:
            more: list[Any] = [f"{one.num_own} more of ", ["bdi", one.class_name], ", together"]
            ledger.append([more, decimal(one.own_points)])
        if one.num_foreign:
            ledger.append([[f"{one.num_foreign} {name_foreign(one)}, together"], decimal(one.foreign_points)])
        if one.bias:
            bias: list[Any] = ["bias of ", ["bdi", one.class_name]]
            ledger.append([bias, decimal(one.bias)])
        total: list[Any] = ["total for ", ["bdi", one.class_name]]
        return {
            "reasons": [self.match(match, one, largest) for match in one.reasons],
            "none": ["No prototype of ", ["bdi", one.class_name], " speaks for it here."] if not one.reasons else None,
            "counted": [
                "These count as well, but are no reasons for ",
                ["bdi", one.class_name],
                ": they speak against it, or stand for another class.",
            ]
            if one.no_reasons
            else None,
            "no_reasons": [self.match(match, one, largest) for match in one.no_reasons],
            "ledger": ledger,
            "total": [total, f"{decimal(one.total)} points"],
        }

    def _decisions(self, one: ClassExplanation, item: Explanation, end: DecisionEnd) -> Table:
        """The path through a tree: a row for each decision, then the leaf."""
        names = item.class_names
        ledger = [[["in the leaf: ", ["bdi", names[k]]], percent(probability)] for k, probability in end.classes]
        none = ["The decisions lead to the answer, ", ["bdi", item.predicted_class], "."]
        whole: list[Any] = ["the whole tree, which mixes all leaves: ", ["bdi", item.predicted_class]]
        return {
            "reasons": [
                self.match(match, one, 1.0) | say_decision(match) | {"caption": f"prototype {match.prototype.index}"}
                for match in one.matches
            ],
            "none": None if one.matches else none,
            "counted": None,
            "no_reasons": [],
            "ledger": [*ledger, [["share of this leaf in the whole tree"], percent(end.share)]],
            "total": [whole, percent(one.probability)],
            "note": say_end(end),
        }

    def match(self, match: Evidence, one: ClassExplanation, largest: float) -> Table:
        return {
            **self.match_pictures(match),
            "role": say_role(match),
            "caption": name_match(match, one),
            "product": f"{decimal(match.similarity)} {TIMES} {decimal(match.weight)} =",
            "points": f"{decimal(match.points)} points",
            "share": round(abs(match.points) / largest, 3),
            "against": match.points < 0,
            "because": say_because_here(match),
        }

    def match_pictures(self, match: Evidence) -> Table:
        card = match.prototype
        index, picture = card.index, card.picture
        return {
            "here": self.place(match.picture),
            "here_alt": f"The explained image; a frame marks the part that prototype {index} responds to",
            "here_heat": self._heat(match.picture),
            "here_heat_alt": f"Heat map of prototype {index} on the explained image",
            "here_proof": _unbroken(say_frame(match.picture.proof)),
            "there": None if picture is None else self.place(picture),
            "there_alt": _source_alt(card, is_exemplar=self._has_exemplars),
            "there_heat": None if picture is None else self._heat(picture),
            "there_heat_alt": f"Heat map of prototype {index} on the training image it comes from",
            "there_proof": "" if picture is None else _unbroken(say_frame(picture.proof)),
            "no_patch": "This prototype is not a patch of an image." if picture is None else "",
            "link": f"#prototype-{index}" if self.links else "",
        }

    def tree(self, report: Report) -> Table | None:
        """The whole tree: its nodes, each with the positions of those below it; a branch shows its patch."""
        if report.tree is None:
            return None
        nodes: list[Table] = []
        for node in report.tree:
            if node.prototype is None:
                first, *more = sorted(node.classes, key=lambda one: -one[1])[:3]
                best = [first, *(one for one in more if one[1] >= LEAST_LEAF)]
                nodes.append(
                    {"leaf": [[name, percent(probability), round(probability, 3)] for name, probability in best]}
                )
                continue
            picture = report.prototypes[node.prototype].picture
            nodes.append(
                {
                    "prototype": node.prototype,
                    "view": None if picture is None else self.place(picture),
                    "absent": node.absent,
                    "present": node.present,
                }
            )
        return {"title": "The whole tree", "text": TREE_TEXT, "nodes": nodes}

    def sheet(self, card: Prototype, numbers: list[list[str]], *, still_chooses: bool) -> Table:
        """What the page shows of one prototype on its card and its sheet."""
        picture, near = card.picture, card.neighbours
        is_unsought = self._is_tested and picture is not None and picture.proof is None
        classes = sorted(card.classes, key=lambda one: -one.weight)
        main = [name_property(one.modification) for one in main_reasons(card.reasons, card.mean_similarity)]
        no_patch = (
            "Not a patch of an image." if card.classes or still_chooses else "Used by no class, no patch of an image."
        )
        sheet = {
            "index": card.index,
            "of": "not chosen yet" if still_chooses else name_classes(card),
            "classes": [[self._text(one.class_name), decimal(one.weight), one.class_index] for one in classes],
            "source": card.source_name,
            "moved": short(card.distance) if card.distance and self._has_distances else None,
            "view": None if picture is None else self.place(picture),
            "alt": None if picture is None else _source_alt(card, is_exemplar=self._has_exemplars),
            "no_patch": no_patch if picture is None else None,
            "heat": None if picture is None else self._heat(picture),
            "unsought": is_unsought or None,
            "proof": UNSOUGHT if is_unsought else say_frame(picture.proof) if picture else "",
            "proof_name": UNSOUGHT_NAME if is_unsought else name_frame(picture.proof) if picture else "",
            "because": say_because(card),
            "main": main,
            "main_names": f"because of {join_names(main)}" if main else "",
            "reasons": [
                # Not rounded, because the sentence and the script must round the same numbers.
                [name_property(one.modification), one.score, one.low, one.high, one.test_score]
                for one in card.reasons
            ],
            "trust": numbers,
            "near": None if near is None else [self.neighbours(card, near.train), self.neighbours(card, near.test)],
        }
        return {name: value for name, value in sheet.items() if value not in (None, "", [])}

    def neighbours(self, card: Prototype, neighbours: Sequence[Neighbour]) -> list[Any]:
        """[what people should know of their classes, a row for each] of the nearest patches of a prototype."""
        rows = [
            [
                self.place(one.picture),
                self._text(one.name),
                self._text(one.class_name),
                int(is_own(card, one)),
                decimal(one.similarity),
                short(one.distance) if self._has_distances else "",
            ]
            for one in neighbours
        ]
        return [say_agreement(card, neighbours), rows]
