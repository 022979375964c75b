"""The sections of a run's page, except explanations and single prototypes, as JSON. No HTML here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from protokern.report import charts
from protokern.report.numbers import decimal, percent
from protokern.report.pool import view_pool
from protokern.report.reading import EXEMPLARS, NOT_PATCHES, PATCHES, TREE, say_example, say_how_decided
from protokern.report.scoring import view_scoring
from protokern.report.summary import (
    choose_example,
    group_by_class,
    group_by_use,
    list_confused_pairs,
    list_filter_classes,
    make_confusion_rows,
    make_reason_rows,
    make_tiles,
)
from protokern.report.trust import view_trust
from protokern.report.words import name_classes, name_source
from protokern.results.places import SeenPicture
from protokern.results.prototypes import Prototype
from protokern.results.run import Report
from protokern.results.stages import STAGES

MOST_DRAWN = 200  # prototypes; of more, only the visible ones are laid out and drawn
_LEARNT = (
    "Each that a class uses is one patch of one training image, shown in the image, enlarged, and as a heat map. The "
    "others are learnt vectors without a picture, and give no points."
)
_ALL_PATCHES = "Each is one patch of one training image, shown in the image, enlarged, and as a heat map."
_OPEN_ONE = " Open one to see the patches nearest to it."
_MOST_PRESENT = (
    "Each is a channel of the net. It is shown by the training patch in which it is most present, in the image, "
    "enlarged, and as a heat map. Open one to see the patches in which it is most present."
)
_NO_PATCHES = "These prototypes are not patches of images yet, so there is nothing true to show. Push them first."
Table = dict[str, Any]


class Sections:
    """The sections of a report; a section with nothing to show is None."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.pool = view_pool(report)
        self.reasons = make_reason_rows(report.prototypes)
        self.trust = view_trust(report.trust)
        self.num_sources = sum(one.picture is not None for one in report.prototypes)

    def names(self) -> list[list[str]]:
        """[place, name] of each section of the page, in order."""
        report = self.report
        there = (
            ("overview", "Overview", True),
            ("how", "How to read it", True),
            ("explanations", "Explanations", bool(report.explanations)),
            ("because", "Because", bool(self.reasons)),
            ("trust", "Trust", self.trust is not None),
            ("pool", "Pool", self.pool is not None),
            ("tree", "Tree", report.tree is not None),
            ("scoring", "Scoring sheet", report.scoring is not None),
            ("prototypes", "Prototypes", True),
            ("training", "Training", bool(report.epochs or report.stages)),
            ("confusion", "Confusion", report.confusion is not None),
            ("run", "Run", True),
        )
        return [[place, name] for place, name, is_there in there if is_there]

    def overview(self) -> Table:
        report, pool = self.report, self.pool
        patches = ""
        if pool and pool.unused and self.num_sources:
            patches = f", of which {self.num_sources} are patches that it took from its training images"
        elif report.scoring is not None:
            patches = ", things that it has learnt to find in any picture"
        elif self.num_sources:
            patches = ", patches that it took from its training images"
        return {
            "eyebrow": "This looks like that",
            "title": report.title,
            "lede": (
                f"This model compares the parts of an image with {len(report.prototypes)} prototypes{patches}. "
                + say_how_decided(is_tree=report.tree is not None, may_abstain=report.scoring is not None)
            ),
            "tiles": [[tile.label, tile.value, tile.detail] for tile in make_tiles(report, pool)],
            "warned": "Before you trust it",
            "warnings": report.warnings,
            "notes": report.notes,
        }

    def how(self, place: Callable[[SeenPicture, str], list[Any]]) -> Table:
        """How to read one answer; `place` puts a picture with its alternative text on the page."""
        of_points = PATCHES if self.num_sources else NOT_PATCHES
        if self.report.scoring is not None:
            of_points = EXEMPLARS
        table: Table = {"text": of_points if self.report.tree is None else TREE}
        example = choose_example(self.report.explanations)
        if example is None or example.match.prototype.picture is None:
            return table
        card, name = example.match.prototype, example.item.name
        one_class = f" of class {card.classes[0].class_name}" if len(card.classes) == 1 else ""
        alt = f"The picture {name}; a frame marks the part that looks like prototype {card.index}"
        return table | {
            "example": [
                ["this part of the picture", *place(example.match.picture, alt)],
                [
                    "that part of a training picture",
                    *place(
                        example.match.prototype.picture,
                        name_source(one_class, card.index, is_exemplar=self.report.scoring is not None),
                    ),
                ],
            ],
            "says": say_example(example, len(self.report.prototypes)),
        }

    def because(self) -> Table | None:
        if not self.reasons:
            return None
        focal = (
            "; that similarity is of the place alone, before that of the image on average comes off"
            if self.report.is_focal
            else ""
        )
        top, measured = self.reasons[0], sum(bool(one.reasons) for one in self.report.prototypes)
        largest = max(abs(row.mean) for row in self.reasons) or 1.0
        say: list[Any] = ["No change made the parts look much less alike."]
        if top.num_main:
            which = "its" if measured == 1 else "the"
            say = [f"For {top.num_main} of {measured} prototypes {which} ", ["b", top.name], " matters most."]
        return {
            "title": "This looks like that, because …",
            "text": (
                "A frame says where, not why. So visible properties of the training pictures were changed, one at a "
                "time, and the same place was compared again. What is then missing from the similarity tells how much "
                f"the property matters{focal}. It holds for changes of the kind and strength that were tried."
            ),
            "say": say,
            "head": ["what was changed", "similarity lost, mean", "matters most to"],
            "rows": [
                [row.name, round(abs(row.mean) / largest, 3), row.mean < 0, decimal(row.mean), row.num_main]
                for row in self.reasons
            ],
        }

    def pool_table(self) -> Table | None:
        pool = self.pool
        if pool is None:
            return None
        one = pool.num_slots == 1
        text = [
            f"Each of {len(pool.rows)} classes has {pool.num_slots} slot{'' if one else 's'}, and fills "
            f"{'it' if one else 'them'} from one pool of {len(self.report.prototypes)} prototypes. A prototype can "
            "sit in slots of several classes: what it finds then counts for each of them. Slots are numbered from 0, "
            "as prototypes are."
        ]
        if pool.num_empty:
            text.append(
                f"{pool.num_empty} slot{' is' if pool.num_empty == 1 else 's are'} empty, since the prototype there "
                "was pruned. An empty slot gives no points."
            )
        return {
            "title": "The pool",
            "text": text,
            "uses": [
                [f"{len(cards)} {words}", [card.index for card in cards]]
                for cards, words in (
                    (pool.shared, "shared by several classes"),
                    (pool.single, "used by one class"),
                    (pool.unused, "used by no class"),
                )
            ],
            "label": "Prototypes in the slots of the classes",
            "head": [f"slot {number}" for number in range(pool.num_slots)],
            "has_pictures": pool.has_pictures,
            "rows": [[row.name, list(map(_slot, row.cards))] for row in pool.rows],
        }

    def gallery(self) -> Table:
        report, pool = self.report, self.pool
        one_class_each = pool is None and all(len(card.classes) == 1 for card in report.prototypes)
        groups = group_by_class(report) if one_class_each else group_by_use(report)
        return {
            "title": "All prototypes",
            "text": self._about_prototypes(),
            "many": len(report.prototypes) > MOST_DRAWN,
            "one_class_each": one_class_each,
            "choices": list_filter_classes(report),
            "hint": "number, class, file, reason" if self.reasons else "number, class, file",
            "groups": [
                [
                    group.key,
                    group.name,
                    f"{len(group.cards)} prototype{'' if len(group.cards) == 1 else 's'}",
                    [card.index for card in group.cards],
                ]
                for group in groups
            ],
        }

    def _about_prototypes(self) -> str:
        if not self.num_sources:
            return _NO_PATCHES
        if self.report.scoring is not None:
            return _MOST_PRESENT
        if self.pool is not None and self.pool.unused:
            return _LEARNT
        has_near = any(card.neighbours is not None for card in self.report.prototypes)
        return _ALL_PATCHES + (_OPEN_ONE if has_near else "")

    def scoring(self) -> Table | None:
        return view_scoring(self.report)

    def training(self) -> Table | None:
        report = self.report
        if not report.epochs and not report.stages:
            return None
        drawn = [charts.accuracy_chart(report.epochs), charts.loss_chart(report.epochs)] if report.epochs else []
        return {
            "title": "Training",
            "area": [charts.WIDTH, charts.HEIGHT, charts.LEFT, charts.RIGHT, charts.TOP, charts.BOTTOM],
            "charts": [asdict(chart) for chart in drawn],
            "label": "Results of the stages",
            "head": ["after", "prototypes", "validation", "test"],
            "stages": [
                [_stage_name(row.stage), row.num_prototypes, percent(row.val_accuracy), percent(row.test_accuracy)]
                for row in report.stages
            ],
        }

    def confusion(self) -> Table | None:
        report = self.report
        if report.confusion is None:
            return None
        rows, count = make_confusion_rows(report), report.confusion.num_images
        without = f" {none} without an answer are left out." if (none := report.confusion.num_unanswered) else ""
        table: Table = {"title": "What it mistakes for what"}
        if rows:
            table |= {
                "text": f"{count} test images: a row for each true class, a column for each answer.{without}",
                "label": "Confusion matrix",
                "classes": report.classes,
                "matrix": [[[cell.count, round(cell.share, 3), cell.same] for cell in row.cells] for row in rows],
            }
        else:
            table |= {
                "text": f"The most frequent mistakes on {count} test images.{without}",
                "pairs_head": ["true class", "answer", "images"],
                "pairs": [[one.true_class, one.answer, one.count] for one in list_confused_pairs(report)],
            }
        if report.scores is not None:
            table |= {
                "scores_label": "Scores of the classes",
                "scores_text": (
                    "Precision: of the images that were called so, those that are. Recall: of the images of the class, "
                    "those that were found."
                ),
                "scores_head": ["class", "images", "answers", "precision", "recall", "F1"],
                "scores": [
                    [name, one.images, one.answers, percent(one.precision), percent(one.recall), percent(one.f1)]
                    for name, one in zip(report.classes, report.scores.classes, strict=True)
                ],
            }
        return table

    def run(self) -> Table:
        return {
            "title": "The run",
            "settings": self.report.settings,
            "settings_title": "Configuration",
            "facts": self.report.facts,
        }


def _slot(card: Prototype | None) -> Sequence[Any] | None:
    """[prototype, text of its link, number of classes if several] of a filled slot."""
    if card is None:
        return None
    shared = f"{len(card.classes)} classes" if len(card.classes) > 1 else ""
    return [card.index, f"Prototype {card.index}, {name_classes(card)}", shared]


def _stage_name(stage: str) -> str:
    names = STAGES.get(stage)
    return names.page if names else stage
