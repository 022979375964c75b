"""From report data to an HTML page. All text is escaped; nothing on the page is fetched from a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from protokern.errors import ConfigError
from protokern.report import charts
from protokern.report.files import PICTURES, write_page
from protokern.report.images import PictureShelf
from protokern.report.numbers import decimal, percent, short, whole_percent
from protokern.report.pool import view_pool
from protokern.report.sheets import page_pictures, sheet_pictures, sheets_json
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
from protokern.report.words import (
    join_names,
    main_reasons,
    name_classes,
    name_foreign,
    name_frame,
    name_match,
    name_property,
    say_because,
    say_because_here,
    say_frame,
    say_role,
)
from protokern.results.explanations import ClassPoints, ExplainedImage
from protokern.results.places import SeenPicture
from protokern.results.prototypes import PrototypeCard
from protokern.results.run import ReportData, StageResult
from protokern.results.stages import STAGES
from protokern.storage.files import replace_file

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_INSIDE = 16_000_000  # bytes of pictures; a page that holds more opens slowly, so "auto" puts them beside it
LARGEST_PAGE = 80_000_000  # bytes of a page with its pictures inside; base64 makes four of three
MOST_DRAWN = 200  # prototypes; of more, only those in sight are laid out and drawn
Place = Literal["auto", "inside", "beside"]


def write_report(
    data: ReportData,
    path: Path,
    *,
    pictures: Place = "auto",
    replace: Callable[[Path, bytes], None] = replace_file,
) -> None:
    """Write the page of a run to `path`, at once: a page that was there stays whole until the new one is.

    Args:
        data: what it shows.
        path: of the page.
        pictures: "inside" the page, in one file; "beside" it, in a folder `pictures`, read as they come into view;
            "auto": inside up to 16 MB of them.
        replace: writes the page in place of an older one, at once.

    Raises:
        ConfigError: the pictures are to be inside and make a page of more than 80 MB.
    """
    shelf, num_on_page = shelve(data)
    size = shelf.num_bytes
    if pictures == "inside" and size * 4 // 3 > LARGEST_PAGE:
        raise ConfigError(
            f"pictures: must be 'auto' or 'beside' for {size / 1e6:.0f} MB of pictures, for one page holds at most "
            f"{LARGEST_PAGE / 1e6:.0f} MB; got 'inside'."
        )
    beside = pictures == "beside" or (pictures == "auto" and size > MOST_INSIDE)
    page = _render_report(data, shelf, num_on_page, beside=beside)
    write_page(page, path, shelf.pictures if beside else (), replace)


def shelve(data: ReportData) -> tuple[PictureShelf, int]:
    """All pictures of a run's page, and how many of them, the first ones, the page shows before anything is opened."""
    shelf = PictureShelf()
    for picture in page_pictures(data):
        shelf.find(picture)
    num_on_page = len(shelf.pictures)
    for picture in sheet_pictures(data):
        shelf.find(picture)
    return shelf, num_on_page


def write_explanation(item: ExplainedImage, model_name: str, path: Path) -> None:
    """Write the page of one explained image to `path`, at once."""
    write_page(render_explanation(item, model_name), path)


def render_report(data: ReportData, *, beside: bool = False) -> str:
    """The page of a run as HTML, with its pictures inside, or with the names of files beside it."""
    return _render_report(data, *shelve(data), beside=beside)


def _render_report(data: ReportData, shelf: PictureShelf, num_on_page: int, *, beside: bool) -> str:
    pictures = [card.picture for card in data.prototypes if card.picture]
    pool = view_pool(data)
    reasons = make_reason_rows(data.prototypes)
    one_class_each = pool is None and all(len(card.classes) == 1 for card in data.prototypes)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=f"{data.title}, protokern",
            data=data,
            shelf=shelf,
            beside=beside,
            on_page=() if beside else shelf.pictures[:num_on_page],
            sheets=Markup(sheets_json(data, shelf, num_on_page, beside=beside)),  # which escapes all markup
            linked=True,
            tiles=make_tiles(data, pool),
            example=choose_example(data.explanations),
            reasons=reasons,
            largest_mean=max((abs(row.mean) for row in reasons), default=0.0) or 1.0,
            num_measured=sum(bool(card.reasons) for card in data.prototypes),
            pool=pool,
            one_class_each=one_class_each,
            groups=group_by_class(data) if one_class_each else group_by_use(data),
            filter_classes=list_filter_classes(data),
            charts=[charts.accuracy_chart(data.epochs), charts.loss_chart(data.epochs)] if data.epochs else [],
            is_many=len(data.prototypes) > MOST_DRAWN,
            num_sources=len(pictures),
            is_focal=data.is_focal,
            is_salient=data.is_salient,
            has_slots=pool is not None,
            sees_part=any(_sees_part(picture) for picture in pictures),
            has_proof=any(picture.proof is not None for picture in pictures),
            confusion_rows=make_confusion_rows(data),
            confused_pairs=list_confused_pairs(data),
        )
    )


def render_explanation(item: ExplainedImage, model_name: str) -> str:
    """The page of one explained image as HTML."""
    alone = ReportData(title=model_name, classes=(), prototypes=(), explanations=(item,))
    shelf, _ = shelve(alone)
    pictures = [match.picture for one in item.classes for match in one.matches]
    return (
        _environment()
        .get_template("explanation.html.j2")
        .render(
            title=f"Why {item.predicted_class}? {item.name}",
            item=item,
            shelf=shelf,
            beside=False,
            on_page=shelf.pictures,
            linked=False,
            model_name=model_name,
            is_focal=item.is_focal,
            is_salient=item.is_salient,
            has_slots=any(match.slots for one in item.classes for match in one.matches),
            sees_part=any(_sees_part(picture) for picture in pictures),
            has_proof=any(picture.proof is not None for picture in pictures),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("protokern.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        decimal=decimal,
        short=short,
        percent=percent,
        sees_part=_sees_part,
        largest_points=_largest_points,
        stage_name=_stage_name,
        classes=name_classes,
        foreign=name_foreign,
        because=say_because,
        because_here=say_because_here,
        frame=say_frame,
        whole_percent=whole_percent,
        frame_name=name_frame,
        role=say_role,
        main_names=_main_names,
    )
    templates = files("protokern.report") / "templates"
    environment.globals.update(
        name_match=name_match,
        folder=PICTURES,
        style=Markup((templates / "style.css").read_text(encoding="utf-8")),  # our own files, not a user's text
        theme_script=Markup((templates / "theme.js").read_text(encoding="utf-8")),
        report_script=Markup((templates / "report.js").read_text(encoding="utf-8")),
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


def _sees_part(picture: SeenPicture) -> bool:
    """Whether the patch depends on less than the whole picture."""
    return tuple(picture.receptive_field_box) != (0, 0, *picture.image.shape[:2])


def _largest_points(one: ClassPoints) -> float:
    return max((abs(match.points) for match in one.matches), default=0.0) or 1.0


def _stage_name(row: StageResult) -> str:
    names = STAGES.get(row.stage)
    return names.page if names else row.stage


def _main_names(card: PrototypeCard) -> str:
    return join_names([name_property(one.modification) for one in main_reasons(card.reasons, card.mean_similarity)])
