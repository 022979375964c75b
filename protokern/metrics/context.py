"""The inputs of measures beside the model and the images, the batches they see, and how a measure is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from protokern.metrics.results import MeasureResult
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.push import PushResult

SHOWN = 4  # prototypes that an explanation shows
NEEDED = 0.8  # of the contributions
SUBSET = 200  # images for measures that need many passes of the net
FILLS = ("grey", "blur", "other")
PROTOCOLS = ("default", "paper")

Shares = tuple[np.ndarray, int]
Box = tuple[int, int, int, int]
# From an image (C, Y, X), a prototype and its patch (row, column) to a frame (y0, x0, y1, x1), half open; None: none.
FrameOf = Callable[[Tensor, int, tuple[int, int]], Box | None]


class Region(Protocol):
    """A place in an image, such as the object; `protokern.data.regions` has two kinds."""

    def covers(self, rows: Shares, columns: Shares) -> np.ndarray:
        """Which points are in the region, (n, m) bool.

        Args:
            rows: whole numbers (n,) over one number: the points' heights as shares of the image's, exactly.
            columns: (m,), the same for the widths.
        """
        ...


class Part(Protocol):
    """The visible centre of a part; `protokern.data.regions.PartPoint` is one.

    Attributes:
        name: of the part.
        y, x: position as shares of the image's rows and columns, in [0, 1].
    """

    @property
    def name(self) -> str: ...

    @property
    def y(self) -> float: ...

    @property
    def x(self) -> float: ...


class Annotations(Protocol):
    """What is known about the images of a data set, such as `protokern.data.annotations.FolderAnnotations`."""

    def regions(self, index: int) -> Mapping[str, Region]:
        """The places of the object in an image, by name; none: not annotated."""
        ...

    def parts(self, index: int) -> Sequence[Part]:
        """The visible parts in an image; none: not annotated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What measures may need. A field that is None is unavailable, and measures that need it are left out.

    Attributes:
        regions: the places of the object in an image, by name, such as "mask" or "box bird"; none: not annotated.
        no_regions: why `regions` is None, as the end of a sentence.
        parts: the visible parts in an image; none: not annotated.
        no_parts: why `parts` is None, as the end of a sentence.
        image: an image of the data set by its index, (C, Y, X).
        frames: kinds of frames that explanations draw around a match, by name; see `FrameOf`.
        push: where the prototypes come from.
        source_boxes: frame of every prototype's own source, (y0, x0, y1, x1); None for one without a source. Without
            them the cells of the source patches are used.
        shown: how many prototypes an explanation shows, at least 1.
        needed: the share of the contributions to reach, in (0, 1].
        subset: how many images the measures use that need further passes of the net, at least 1.
        fill: what `left_alone` and `deletion` put in the place of pixels: "grey", 0.5 in all channels; "blur", the
            image without details; or "other", another image of the data set, which is drawn.
        seed: of all that is drawn: the subset, noise, and the intervals.
        protocol: "default", or "paper": as the released programs measure, where the default differs.
        part_area: share of the image that the box around a match has in which parts are looked for, in (0, 1]; None:
            the fixed boxes of the papers.

    Raises:
        ValueError: a number or a word is out of range.
    """

    regions: Callable[[int], Mapping[str, Region]] | None = None
    no_regions: str = "no annotations were given"
    parts: Callable[[int], Sequence[Part]] | None = None
    no_parts: str = "no annotations were given"
    image: Callable[[int], Tensor] | None = None
    frames: Mapping[str, FrameOf] = field(default_factory=dict)
    push: PushResult | None = None
    source_boxes: Sequence[Box | None] | None = None
    shown: int = SHOWN
    needed: float = NEEDED
    subset: int = SUBSET
    fill: str = "grey"
    seed: int = 0
    protocol: str = "default"
    part_area: float | None = None

    def __post_init__(self) -> None:
        for name in ("shown", "subset"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1; got {getattr(self, name)}. Give a positive number.")
        if not 0 < self.needed <= 1:
            raise ValueError(f"needed: must be above 0 and at most 1; got {self.needed}. Give a share, such as 0.8.")
        for name, choices in (("fill", FILLS), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: must be one of {', '.join(choices)}; got {getattr(self, name)!r}. Choose one of them."
                )
        if self.part_area is not None and not 0 < self.part_area <= 1:
            raise ValueError(
                f"part_area: must be above 0 and at most 1; got {self.part_area}. Give a share, such as 0.1."
            )
        if self.seed < 0:
            raise ValueError(f"seed: must be at least 0; got {self.seed}. Choose another seed.")


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch, computed once for all measures.

    Attributes:
        images: (B, C, Y, X), on the model's device.
        labels: (B,) int64 on the CPU.
        index: (B,) int64 on the CPU, which image of the data set each is.
        output: of the model, on its device.
        cells: (H, W) of the feature maps.
        features: (B, D, H, W), the feature maps, on the model's device.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    output: ModelOutput
    cells: tuple[int, int]
    features: Tensor


class Measuring(Protocol):
    """A running measure: it sees every batch once, keeps some numbers per image, and returns its result.

    Attributes:
        needs_images: whether it needs batches at all.
    """

    needs_images: bool

    def see(self, seen: Seen) -> None: ...

    def result(self) -> MeasureResult: ...


class LeftOutError(Exception):
    """A measure is not possible here; the message says why, as the end of a sentence."""


def weight_of_points(model: PrototypeModel) -> Tensor:
    """The weights (K, P) of a model whose answers are sums of points.

    Raises:
        LeftOutError: its reasons are a path.
    """
    if model.reasons == "path":
        raise LeftOutError("the answers of this model are no sums of points: it decides along a path")
    return model.prototype_weight.detach()


def draw(num_images: int, context: Context) -> frozenset[int]:
    """The images of the measures that use a part of the data set: `Context.subset` of them, drawn by the seed."""
    return frozenset(np.random.default_rng(context.seed).permutation(num_images)[: context.subset].tolist())
