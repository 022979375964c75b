"""From results to an HTML page. A page needs no network; its script draws it from its JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from protokern.errors import ConfigError
from protokern.report.contrast import view_contrast
from protokern.report.files import write_page
from protokern.report.images import Shelf
from protokern.report.matches import view_matches
from protokern.report.page_json import to_json
from protokern.report.reading import Rich
from protokern.report.view import Table, view_explanation, view_report
from protokern.results.contrast import Contrast
from protokern.results.explanations import Explanation
from protokern.results.matches import PatchMatch
from protokern.results.progress import Progress, show_nothing
from protokern.results.run import Report
from protokern.storage.files import replace_file

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Template

MOST_INSIDE = 16_000_000  # bytes of pictures; a larger page opens slowly, so "auto" puts its pictures beside it
LARGEST_PAGE = 80_000_000  # bytes of a page with its pictures inside; base64 turns three bytes into four
_SCRIPTS = ("parts", "explained", "trust", "tree", "report", "gallery", "sheet", "start", "theme")
Place = Literal["auto", "inside", "beside"]


def write_report(
    data: Report,
    path: Path,
    *,
    pictures: Place = "auto",
    replace: Callable[[Path, bytes], None] = replace_file,
    progress: Progress = show_nothing,
) -> None:
    """Write the page of a run to `path` in one step: an older page stays complete until then.

    Args:
        data: what the page shows.
        path: of the page.
        pictures: "inside" the page, in one file; "beside" it, in a folder `pictures`, read as they come into view;
            "auto": inside up to 16 MB of them.
        replace: replaces the page by a new one in one step.
        progress: shows the progress over the prototypes.

    Raises:
        ConfigError: `pictures` is "inside", and the page would have more than 80 MB.
    """
    table, shelf = view_report(data, progress)
    size = shelf.num_bytes
    if pictures == "inside" and size * 4 // 3 > LARGEST_PAGE:
        raise ConfigError(
            f"pictures: must be 'auto' or 'beside' for {size / 1e6:.0f} MB of pictures, for one page holds at most "
            f"{LARGEST_PAGE / 1e6:.0f} MB; got 'inside'."
        )
    beside = pictures == "beside" or (pictures == "auto" and size > MOST_INSIDE)
    write_page(_frame(table, shelf, beside=beside), path, shelf.pictures if beside else (), replace)


def write_explanation(item: Explanation, model_name: str, path: Path) -> None:
    """Write the page of one explained image to `path` in one step."""
    write_page(render_explanation(item, model_name), path)


def render_report(data: Report, *, beside: bool = False) -> str:
    """The page of a run as HTML, with its pictures inside or with the names of files beside it."""
    return _frame(*view_report(data), beside=beside)


def render_small_report(data: Report) -> str | None:
    """The page of a run with its pictures inside; None if they are too large for a page that opens quickly."""
    table, shelf = view_report(data)
    return None if shelf.num_bytes > MOST_INSIDE else _frame(table, shelf, beside=False)


def render_explanation(item: Explanation, model_name: str) -> str:
    """The page of one explained image as HTML, with its pictures inside."""
    return _frame(*view_explanation(item, model_name), beside=False)


def render_contrast(contrast: Contrast) -> str:
    """The page that says why one class and not another as HTML, with its pictures inside."""
    return _frame(*view_contrast(contrast), beside=False)


def render_matches(matches: Sequence[PatchMatch], image: np.ndarray, metric: str) -> str:
    """The page of patches of an image (Y, X, 3) beside their nearest training patches as HTML, with its pictures."""
    return _frame(*view_matches(matches, image, metric), beside=False)


def render_gallery(data: Report) -> str | None:
    """The prototypes of a run's page alone, with their pictures inside; None if they are too large for that."""
    table, shelf = _view_gallery(data)
    return None if shelf.num_bytes > MOST_INSIDE else _frame(table, shelf, beside=False)


def write_gallery(data: Report, path: Path) -> None:
    """Write the prototypes of a run's page alone to `path` in one step; many pictures go into a folder beside it."""
    table, shelf = _view_gallery(data)
    beside = shelf.num_bytes > MOST_INSIDE
    write_page(_frame(table, shelf, beside=beside), path, shelf.pictures if beside else ())


def _view_gallery(data: Report) -> tuple[Table, Shelf]:
    table, shelf = view_report(data)
    return table | {"nav": [row for row in table["nav"] if row[0] == "prototypes"]}, shelf


def render_live(table: Table, *, scripts: str, style: str, nonce: str) -> str:
    """A page that a server shows, whose pictures have addresses, see `view_report`.

    Args:
        table: the page.
        scripts: run before the page is drawn; they may change `SECTIONS` and `SHEET_PARTS`.
        style: added to that of all pages.
        nonce: of the scripts and the style, for a content security policy.
    """
    return _frame(table, None, beside=True, scripts=scripts, style=style, nonce=nonce)


def _frame(
    table: Table, shelf: Shelf | None, *, beside: bool, scripts: str = "", style: str = "", nonce: str = ""
) -> str:
    """A page: its JSON, the script that draws it, and a summary for readers without JavaScript."""
    templates = files("protokern.report") / "templates"
    before, after = _SCRIPTS[: _SCRIPTS.index("start")], _SCRIPTS[_SCRIPTS.index("start") :]
    read = [(templates / f"{name}.js").read_text(encoding="utf-8") for name in before]
    script = "".join([*read, scripts, *((templates / f"{name}.js").read_text(encoding="utf-8") for name in after)])
    return _template().render(
        nonce=nonce,
        page=table,
        sheets={sheet["index"]: sheet for sheet in table.get("sheets", ())},
        json=Markup(to_json(table, shelf, beside=beside)),  # `to_json` escapes all markup
        # Files of packages, not a user's text.
        style=Markup((templates / "style.css").read_text(encoding="utf-8") + style),
        script=Markup(script),
    )


@cache
def _template() -> Template:
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("protokern.report"), autoescape=True, undefined=ChainableUndefined, trim_blocks=True
    )
    environment.filters["plain"] = _plain
    return environment.get_template("frame.html.j2")


def _plain(pieces: Rich) -> str:
    """A text with marks as plain text."""
    return "".join(piece if isinstance(piece, str) else piece[1] for piece in pieces)
