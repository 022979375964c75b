"""From report data to one self-contained HTML page. All text is escaped; nothing on the page is fetched."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from protokern.report import charts
from protokern.report.data import ClassPoints, ExplainedImage, PrototypeCard, ReportData, SeenPicture, StageResult
from protokern.report.images import crop, to_data_uri
from protokern.report.pool import PoolView, view_pool
from protokern.report.words import name_classes, name_foreign, name_match

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST_MATRIX = 30  # classes; above, the page lists the most frequent mistakes instead
LONGEST_LIST = 20
_STAGES = {
    "warm": "warm-up",
    "joint": "joint training, best epoch",
    "push": "push",
    "hardening": "hardening",
    "last_layer": "last layer",
    "prune": "pruning",
    "pruned_last_layer": "last layer after pruning",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that sums up the run."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CardGroup:
    """Prototypes under one heading.

    Attributes:
        key: for links; unique on the page.
        name: the heading.
        cards: the prototypes.
    """

    key: str
    name: str
    cards: tuple[PrototypeCard, ...]


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """A count, its share of the row, and whether it is on the diagonal."""

    count: int
    share: float
    same: bool


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """One true class."""

    name: str
    cells: tuple[ConfusionCell, ...]


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """A frequent mistake."""

    true_class: str
    answer: str
    count: int


def write_report(data: ReportData, path: Path) -> None:
    """Write the page of a run to `path`, at once: a page that was there stays whole until the new one is."""
    _write(render_report(data), path)


def write_explanation(item: ExplainedImage, model_name: str, path: Path) -> None:
    """Write the page of one explained image to `path`, at once."""
    _write(render_explanation(item, model_name), path)


def render_report(data: ReportData) -> str:
    """The page of a run as HTML."""
    matrix = data.confusion is not None and len(data.classes) <= LARGEST_MATRIX
    curves = [charts.accuracy_chart(data.epochs), charts.loss_chart(data.epochs)] if data.epochs else []
    pictures = [card.picture for card in data.prototypes if card.picture]
    pool = view_pool(data)
    one_class_each = pool is None and all(len(card.classes) == 1 for card in data.prototypes)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=f"{data.title}, protokern",
            data=data,
            tiles=_tiles(data, pool),
            pool=pool,
            one_class_each=one_class_each,
            groups=_by_class(data) if one_class_each else _by_use(data),
            filter_classes=_filter_classes(data),
            charts=curves,
            num_sources=len(pictures),
            is_focal=any(item.is_focal for item in data.explanations),
            has_slots=pool is not None,
            sees_part=any(_sees_part(picture) for picture in pictures),
            confusion_rows=_confusion_rows(data) if matrix else (),
            confused_pairs=() if matrix else _confused_pairs(data),
        )
    )


def render_explanation(item: ExplainedImage, model_name: str) -> str:
    """The page of one explained image as HTML."""
    pictures = [match.picture for one in item.classes for match in one.matches]
    return (
        _environment()
        .get_template("explanation.html.j2")
        .render(
            title=f"Why {item.predicted_class}? {item.name}",
            item=item,
            model_name=model_name,
            is_focal=item.is_focal,
            has_slots=any(match.slots for one in item.classes for match in one.matches),
            sees_part=any(_sees_part(picture) for picture in pictures),
        )
    )


def _write(page: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("protokern.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        uri=to_data_uri,
        cropped=lambda picture: crop(picture.image, picture.box),
        decimal=_decimal,
        short=_short,
        percent=_percent,
        sees_part=_sees_part,
        largest_points=_largest_points,
        stage_name=_stage_name,
        classes=name_classes,
        foreign=name_foreign,
    )
    templates = files("protokern.report") / "templates"
    environment.globals.update(
        name_match=name_match,
        style=Markup((templates / "style.css").read_text(encoding="utf-8")),  # our own files, not a user's text
        script=Markup((templates / "filter.js").read_text(encoding="utf-8")),
        area={
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "right": charts.RIGHT,
            "top": charts.TOP,
            "bottom": charts.BOTTOM,
        },
    )
    return environment


def _decimal(value: float) -> str:
    """Two decimals with a true minus sign; never "-0.00"."""
    text = f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def _short(value: float) -> str:
    return f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "\N{EN DASH}" if share is None or not math.isfinite(share) else f"{100 * share:.1f}%"


def _sees_part(picture: SeenPicture) -> bool:
    """Whether the patch depends on less than the whole picture."""
    return tuple(picture.receptive_field_box) != (0, 0, *picture.image.shape[:2])


def _largest_points(one: ClassPoints) -> float:
    return max((abs(match.points) for match in one.matches), default=0.0) or 1.0


def _stage_name(row: StageResult) -> str:
    return _STAGES.get(row.stage, row.stage)


def _tiles(data: ReportData, pool: PoolView | None) -> list[Tile]:
    tiles = []
    last_test = next((row.test_accuracy for row in reversed(data.stages) if row.test_accuracy is not None), None)
    if data.confusion is not None and data.confusion.num_images:
        right, total = data.confusion.num_correct, data.confusion.num_images
        tiles.append(Tile("Test accuracy", _percent(right / total), f"{right} of {total} images"))
    elif last_test is not None:
        tiles.append(Tile("Test accuracy", _percent(last_test)))
    before, after = _around_the_push(data.stages)
    if before is not None and after is not None:
        tiles.append(Tile("Right after the push", _percent(after), f"{_percent(before)} before it"))
    most = max([len(data.prototypes), *(row.num_prototypes for row in data.stages)])
    pruned = f"of {most} before pruning" if most > len(data.prototypes) else ""
    unused = f"{len(pool.unused)} used by no class" if pool and pool.unused else ""
    tiles.append(Tile("Prototypes", str(len(data.prototypes)), ", ".join(filter(None, (pruned, unused)))))
    if pool:
        tiles.append(Tile("Shared", str(len(pool.shared)), "by two classes or more"))
    tiles.append(Tile("Classes", str(len(data.classes))))
    return tiles


def _around_the_push(stages: Iterable[StageResult]) -> tuple[float | None, float | None]:
    """Test accuracy before and right after the last push."""
    before = after = previous = None
    for row in stages:
        if row.stage == "push":
            before, after = previous, row.test_accuracy
        previous = row.test_accuracy
    return before, after


def _by_class(data: ReportData) -> list[CardGroup]:
    groups = [
        CardGroup(f"class-{index}", name, tuple(card for card in data.prototypes if card.is_of(index)))
        for index, name in enumerate(data.classes)
    ]
    return [group for group in groups if group.cards]


def _by_use(data: ReportData) -> list[CardGroup]:
    """Every prototype once: those that classes share first, those that no class uses last."""
    none = ("unchosen", "Not chosen yet") if data.still_chooses else ("unused", "Used by no class")
    headings = {"shared": "Shared by several classes", "single": "Used by one class", none[0]: none[1]}
    cards: dict[str, list[PrototypeCard]] = {key: [] for key in headings}
    for card in data.prototypes:
        cards["shared" if len(card.classes) > 1 else "single" if card.classes else none[0]].append(card)
    return [CardGroup(f"group-{key}", name, tuple(cards[key])) for key, name in headings.items() if cards[key]]


def _filter_classes(data: ReportData) -> list[tuple[str, str]]:
    """What the list of classes offers: value and name of every class with prototypes, and of "no class" if need be."""
    used = {one.class_index for card in data.prototypes for one in card.classes}
    choices = [(str(index), name) for index, name in enumerate(data.classes) if index in used]
    has_unused = bool(used) and not all(card.classes for card in data.prototypes)
    return [*choices, ("none", "used by no class")] if has_unused else choices


def _confusion_rows(data: ReportData) -> tuple[ConfusionRow, ...]:
    assert data.confusion is not None
    rows = []
    for index, (name, counts) in enumerate(zip(data.classes, data.confusion.counts.tolist(), strict=True)):
        total = max(1, sum(counts))
        cells = tuple(ConfusionCell(count, count / total, column == index) for column, count in enumerate(counts))
        rows.append(ConfusionRow(name, cells))
    return tuple(rows)


def _confused_pairs(data: ReportData) -> tuple[ConfusedPair, ...]:
    if data.confusion is None:
        return ()
    mistakes = data.confusion.counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:LONGEST_LIST]
    places = [divmod(int(place), len(data.classes)) for place in order]
    return tuple(
        ConfusedPair(data.classes[row], data.classes[column], int(mistakes[row, column]))
        for row, column in places
        if mistakes[row, column]
    )
