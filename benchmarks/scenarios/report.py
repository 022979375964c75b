"""The page of a large run: `python -m benchmarks report`. How long it takes to build, to open, and how large it is.

The run is made up: photographs of coloured noise, an untrained tiny net, 2,000 prototypes of 200 classes, pushed. Its
prototype pictures are there before the clock starts, as after a training. Then all that `protokern report` does is
timed: test accuracy, nearest patches in training and test images, explanations, and the page with its pictures, which
is also timed by itself. Chromium opens the page from the disk several times, each time in a new context, and its own
clock tells when something was first seen.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.pages.page_rows import ReportRow
from benchmarks.pages.results import REPORT, append_rows
from benchmarks.pages.targets import REPORT_BUILD_S, REPORT_VIEW_MS, judged
from benchmarks.scenarios.scenario import begin, columns, flags
from protokern.config import config_to_dict, parse_config
from protokern.data import Splits, open_splits
from protokern.explain.collect import collect_report
from protokern.explain.prototypes import write_prototypes
from protokern.inputs.loaders import ordered_loader
from protokern.models.build import build_model
from protokern.push import push_prototypes
from protokern.report.page import write_report
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.runs.open import open_run

BATCH = 32


@dataclass(frozen=True)
class Size:
    """How large the made-up run is; images are those of each class."""

    classes: int
    prototypes_per_class: int
    train_images: int
    test_images: int
    image_size: int


@dataclass(frozen=True)
class Views:
    """Medians of Chromium's clock, milliseconds from the start of the navigation.

    Attributes:
        browser: its version.
        paint_ms: first contentful paint.
        load_ms: end of the load event.
        open_ms: from a click on a prototype to its sheet on the screen.
    """

    browser: str
    paint_ms: float
    load_ms: float
    open_ms: float


def write_photos(root: Path, size: Size) -> None:
    """Photographs of smooth coloured noise, a hue for each class: they compress about as real ones do."""
    rng = np.random.default_rng(0)
    for split, count in (("train", size.train_images), ("test", size.test_images)):
        for label in range(size.classes):
            folder = root / split / f"class_{label:03d}"
            folder.mkdir(parents=True)
            tint = np.random.default_rng(label).uniform(60, 200, 3)
            for number in range(count):
                coarse = rng.normal(0, 45, (14, 14, 3)) + tint
                image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
                smooth = np.asarray(image.resize((size.image_size, size.image_size), Image.Resampling.BICUBIC))
                pixels = smooth + rng.normal(0, 6, smooth.shape)
                photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                photo.save(folder / f"{number:03d}.jpg", quality=90)


def make_run(root: Path, size: Size) -> tuple[Path, Splits]:
    """A pushed run with pictures of its prototypes."""
    data, folder = root / "photos", root / "run"
    write_photos(data, size)
    folder.mkdir()
    model_table = {
        "backbone": "tiny",
        "weights": "none",
        "prototype_dim": 64,
        "prototypes_per_class": size.prototypes_per_class,
    }
    data_table = {"path": str(data), "image_size": size.image_size, "cache": "none"}
    config = parse_config({"model": model_table, "data": data_table, "train": {"batch_size": BATCH}})
    splits = open_splits(data, image_size=size.image_size, val_fraction=config.data.val_fraction)
    torch.manual_seed(0)
    model = build_model(config.model, size.classes, size.image_size).eval()
    push = push_prototypes(model, ordered_loader(splits.push, BATCH, workers=0))
    state = CheckpointState(
        config=config_to_dict(config), classes=tuple(splits.classes), stage="push", epoch=0, push=push
    )
    save_checkpoint(folder, "push-0", model, state)
    write_prototypes(folder, model, splits, push)
    return folder, splits


def open_in_chromium(address: str, rounds: int) -> Views | None:
    """Open the page of a run several times; None without Playwright or Chromium."""
    browser_path = shutil.which("chromium") or "/usr/bin/chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        print(f"first view: not measured, Playwright cannot be imported ({error})")
        return None
    if not Path(browser_path).exists():
        print("first view: not measured, there is no Chromium")
        return None
    paints, loads, opens = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
            view = context.new_page()
            view.goto(address, wait_until="load")
            view.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
            view.wait_for_selector(".card")
            paints.append(view.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            loads.append(view.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            opens.append(view.evaluate(_OPEN))
            context.close()
        version = browser.version
        browser.close()
    return Views(version, *(round(statistics.median(times), 1) for times in (paints, loads, opens)))


# Two frames after the click the sheet has been drawn.
_OPEN = """() => new Promise((done) => {
  const link = document.querySelector(".card .name a");
  const start = performance.now();
  link.click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(machine: Machine, root: Path, size: Size, rounds: int) -> ReportRow:
    folder, splits = make_run(root, size)
    with watch_others() as others:
        start = time.perf_counter()
        data = collect_report(open_run(str(folder), data=None, changes=(), device=torch.device("cpu")), splits)
        collected = time.perf_counter()
        page = folder / "report" / "index.html"
        write_report(data, page)
        end = time.perf_counter()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        views = open_in_chromium(page.as_uri(), rounds)
    return ReportRow(
        **columns(machine, others),
        prototypes=size.classes * size.prototypes_per_class,
        classes=size.classes,
        train_images=len(splits.push),
        test_images=len(splits.test),
        image_size=size.image_size,
        build_s=round(end - start, 2),
        page_s=round(end - collected, 2),
        peak_mb=round(peak_mb, 1),
        page_mb=round(page.stat().st_size / 1e6, 3),
        pictures=sum(1 for _ in page.parent.rglob("*.jpg")),
        pictures_mb=round(folder_mb(page.parent) - page.stat().st_size / 1e6, 3),
        rounds=rounds,
        **(dict.fromkeys(field.name for field in fields(Views)) if views is None else asdict(views)),
    )


def show(row: ReportRow) -> None:
    print(f"{row.prototypes} prototypes, {row.train_images} training and {row.test_images} test images")
    built = f"build {row.build_s:.1f} s, of which the page {row.page_s:.1f} s"
    print(judged(built, f"<= {REPORT_BUILD_S:g} s", row.build_s <= REPORT_BUILD_S))
    print(f"at most {row.peak_mb:.0f} MB of memory")
    print(f"page {row.page_mb:.2f} MB, {row.pictures} pictures beside it, {row.pictures_mb:.1f} MB")
    if row.paint_ms is not None and row.load_ms is not None and row.open_ms is not None:
        seen = f"first view {row.paint_ms:.0f} ms, loaded {row.load_ms:.0f} ms"
        print(judged(seen, f"<= {REPORT_VIEW_MS:g} ms", max(row.paint_ms, row.load_ms) <= REPORT_VIEW_MS))
        print(f"a prototype opens in {row.open_ms:.0f} ms; Chromium {row.browser}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("report", __doc__, REPORT)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--prototypes-per-class", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=30, help="of each class")
    parser.add_argument("--test-images", type=int, default=30, help="of each class")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, square")
    parser.add_argument("--rounds", type=int, default=7, help="times that Chromium opens the page")
    parser.add_argument("--keep", type=Path, help="folder for the run; default: a temporary one, removed at the end")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    size = Size(**{field.name: getattr(arguments, field.name) for field in fields(Size)})
    if arguments.keep is None:
        with tempfile.TemporaryDirectory() as root:
            row = measure(machine, Path(root), size, arguments.rounds)
    else:
        arguments.keep.mkdir(parents=True)
        row = measure(machine, arguments.keep, size, arguments.rounds)
    show(row)
    append_rows(arguments.out, [row])
    return 0
