"""What is stored of pages: that of a report, and the workbench."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.pages.rows import Measurement


@dataclass(frozen=True)
class ReportRow(Measurement):
    """The page of a made-up run: building it, opening it in Chromium, its size.

    Attributes:
        threads: of torch, while it was built.
        build_s: from the run folder and its data to the page, once.
        page_s: of this, from what was computed to the page: pictures drawn and stored, HTML rendered and written.
        peak_mb: the most memory that the process held, the making of the run included.
        page_mb: the page itself; pictures, pictures_mb: files beside it.
        rounds: times that the page was opened; the milliseconds are medians of them.
        browser: version of Chromium; None, as the milliseconds, where there was none.
        paint_ms: first contentful paint.
        load_ms: end of the load event.
        open_ms: from a click on a prototype to its sheet.
    """

    prototypes: int
    classes: int
    train_images: int
    test_images: int
    image_size: int
    threads: int
    build_s: float
    page_s: float
    peak_mb: float
    page_mb: float
    pictures: int
    pictures_mb: float
    rounds: int
    browser: str | None
    paint_ms: float | None
    load_ms: float | None
    open_ms: float | None


@dataclass(frozen=True)
class AppRow(Measurement):
    """The workbench of a run over the loopback interface; milliseconds are medians of `rounds`.

    Attributes:
        case: name of the run, or "made up".
        threads: of torch.
        all_images: of all splits, whose answers are read once.
        open_s: from the run folder to a page that answers.
        prepare_s: from there until it can be edited.
        page_ms: from the request to the whole page.
        ask_ms: from a photograph to its explanation.
        forbid_ms: from forbidding a prototype to all new numbers; None, as the next one: nothing was edited.
        undo_ms: the same of undoing it.
        browser: version of Chromium; None, as the two last ones, where there was none.
        paint_ms: first contentful paint.
        load_ms: end of the load event.
    """

    threads: int
    case: str
    backbone: str
    image_size: int
    prototypes: int
    classes: int
    train_images: int
    all_images: int
    open_s: float
    prepare_s: float
    rounds: int
    page_ms: float
    ask_ms: float
    forbid_ms: float | None
    undo_ms: float | None
    browser: str | None
    paint_ms: float | None
    load_ms: float | None
