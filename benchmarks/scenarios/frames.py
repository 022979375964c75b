"""What four sufficient frames in an image take: `python -m benchmarks frames RUN --data DIR`.

Each test image of a trained run is explained with the two strongest prototypes of each of its first two classes: once
without frames, and once with a sufficient frame searched for each of the four. The backbone's pass over the same image
is timed too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import FRAMES, append_rows
from benchmarks.pages.scenario_rows import FramesRow
from benchmarks.pages.targets import frames_verdict
from benchmarks.scenarios.scenario import begin, columns, evenly, flags, seconds
from protokern.explain import explain_image
from protokern.explain.framing import frame_explanation
from protokern.models.base import PrototypeModel
from protokern.runs.data import open_data
from protokern.runs.open import open_run

CLASSES, OF_EACH = 2, 2  # explained classes, and prototypes shown of each


class Times(NamedTuple):
    """Seconds for one image, and the shares of the image that its frames take.

    Attributes:
        backbone: its pass over the image.
        explained: the explanation without frames.
        framed: the explanation with them.
        areas: of the frames that were found.
    """

    backbone: float
    explained: float
    framed: float
    areas: tuple[float, ...]


def time_image(model: PrototypeModel, image: torch.Tensor, other: torch.Tensor) -> Times:
    """One image; the backbone first, so that its memory is there for all."""
    with torch.inference_mode():
        backbone = seconds(lambda: model.backbone(image[None]))
        labels = model(image[None]).logits[0].topk(CLASSES).indices.tolist()
    start = time.perf_counter()
    explanation = explain_image(model, image, top=OF_EACH, classes=labels)
    explained = time.perf_counter()
    framed = frame_explanation(model, image, explanation, other=other)
    end = time.perf_counter()
    found = (evidence.view.sufficient for one in framed.classes for evidence in one.evidence)
    areas = tuple(frame.area for frame in found if frame is not None and frame.area is not None)
    return Times(backbone, explained - start, end - start, areas)


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("frames", __doc__, FRAMES)
    parser.add_argument("run", type=Path, help="run folder of `protokern train`")
    parser.add_argument("--data", help="its photographs; default: where the training found them")
    parser.add_argument("--limit", type=int, default=24, help="so many test images, evenly spaced")
    arguments = parser.parse_args(argv)
    machine = begin(arguments)
    run = open_run(str(arguments.run), data=arguments.data, changes=(), device=torch.device("cpu"))
    test = open_data(run.config, run=run.folder).test
    chosen = evenly(len(test), arguments.limit)
    images = [test[index][0] for index in chosen]
    # The last image stands behind the first: each is checked with one of another place in the data.
    others = images[len(images) // 2 :] + images[: len(images) // 2]
    time_image(run.model, images[0], others[0])
    with watch_others() as other_work:
        taken = [time_image(run.model, image, other) for image, other in zip(images, others, strict=True)]
    framed = sorted(one.framed for one in taken)
    areas = [area for one in taken for area in one.areas]
    row = FramesRow(
        **columns(machine, other_work),
        data=Path(run.config.data.path or "birds").name,
        backbone=run.config.model.backbone,
        image_size=max(images[0].shape[-2:]),
        images=len(images),
        frames=len(areas),
        backbone_s=round(statistics.median(one.backbone for one in taken), 4),
        explained_s=round(statistics.median(one.explained for one in taken), 4),
        framed_s=round(statistics.median(framed), 4),
        slowest_s=round(framed[-1], 4),
        area=round(100 * statistics.median(areas), 2) if areas else None,
    )
    print(f"{row.images} images of {row.data}, {row.frames} frames, {row.backbone} at {row.image_size} pixels")
    print(f"a pass of the backbone {row.backbone_s:.3f} s, an explanation without frames {row.explained_s:.3f} s")
    print(f"with {CLASSES * OF_EACH} frames: {frames_verdict(row)}")
    print(f"slowest image {row.slowest_s:.2f} s; median area of a frame {row.area} % of the image")
    append_rows(arguments.out, [row])
    return 0
