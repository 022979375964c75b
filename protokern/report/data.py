"""What a page shows, as plain data: pictures are arrays, boxes are numbers, names are text. No model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from protokern.results.importance import Reason
from protokern.results.prototypes import ClassWeight

PixelBox = tuple[int, int, int, int]  # (y0, x0, y1, x1), half-open pixels of the picture it belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyPicture:
    """A picture that is read when it is drawn, so that a page of thousands needs the memory of one.

    Numpy takes it for an array: `np.asarray(picture)` is its pixels.

    Attributes:
        load: gives the pixels, (Y, X, 3) uint8, the same at each call.
        shape: of the pixels.
        key: what picture this is; two of equal keys are the same, and the second is not read.
    """

    load: Callable[[], np.ndarray]
    shape: tuple[int, ...]
    key: Hashable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.load(), dtype=dtype)


Picture = np.ndarray | LazyPicture


class FrameProof(NamedTuple):
    """What was tested about a frame: how much of the similarity is left when all outside of it is replaced.

    Attributes:
        kept: share that is left in grey; None if the similarity is not positive, so that no frame can keep it.
        kept_blur: share that is left in a blur of the picture; None likewise.
        kept_other: share that is left in another picture; None likewise, and where it was not tried.
        area: of the frame, as a share of the picture; None likewise.
    """

    kept: float | None
    kept_blur: float | None
    kept_other: float | None
    area: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPicture:
    """A picture with what one prototype made of it.

    Attributes:
        image: (Y, X, 3) uint8.
        heat: (Y, X, 3) uint8, the image under its heat map; None where it is not shown.
        box: drawn as a frame: what alone keeps the similarity, or the highest-activated part.
        receptive_field_box: the pixels that the nearest patch can depend on.
        cell: where the nearest patch is, drawn as a thin mark; None: it is not drawn.
        proof: what was tested about the frame; None: nothing.
    """

    image: Picture
    heat: Picture | None = None
    box: PixelBox
    receptive_field_box: PixelBox
    cell: PixelBox | None = None
    proof: FrameProof | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One of the patches that are nearest to a prototype.

    Attributes:
        picture: the image it is in.
        name: of that image.
        class_name: its class.
        similarity: of the prototype and the patch.
        distance: of the two.
        patch_box: around the patch's cell and what is connected with it, whatever is drawn.
    """

    picture: SeenPicture
    name: str
    class_name: str
    similarity: float
    distance: float
    patch_box: PixelBox


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The patches nearest to a prototype, nearest first, at most one of an image.

    Attributes:
        train: in the images that the prototypes come from.
        test: in the test images.
        agreement_train: share of `train` whose class the prototype belongs to, in [0, 1].
        agreement_test: share of `test`, likewise.
    """

    train: tuple[Neighbour, ...]
    test: tuple[Neighbour, ...]
    agreement_train: float
    agreement_test: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeCard:
    """A prototype and the training patch that it is.

    Attributes:
        index: of the prototype in the model.
        classes: those that it belongs to, by index: one, several that share it, or none.
        picture: the training image it comes from; None if it is no patch of an image.
        source_name: name of that image, None likewise.
        distance: from the learnt vector to the patch that replaced it; None likewise.
        reasons: what matters to it over all training images; empty where nobody measured.
        mean_similarity: over the images of `reasons`; None likewise.
        neighbours: the patches nearest to it; None where nobody looked.
    """

    index: int
    classes: tuple[ClassWeight, ...]
    picture: SeenPicture | None = None
    source_name: str | None = None
    distance: float | None = None
    reasons: tuple[Reason, ...] = ()
    mean_similarity: float | None = None
    neighbours: Neighbours | None = None

    def is_of(self, class_index: int) -> bool:
        """Whether it belongs to that class."""
        return any(one.class_index == class_index for one in self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """This looks like that: similarity x weight = points.

    Attributes:
        picture: where the prototype looked in the explained image.
        prototype: which.
        similarity: of the two.
        weight: of the prototype for the class it speaks for or against.
        points: their product.
        is_reason: whether the prototype is one of the class's own and speaks for it.
        slots: the slots of that class that hold the prototype; none in models without slots.
        reasons: what matters to the prototype in this image; empty where nobody measured.
        place_similarity: what `reasons` are parts of, where `similarity` is focal: that of the place, before the
            image's average comes off. None: they are parts of `similarity`.
    """

    picture: SeenPicture
    prototype: PrototypeCard
    similarity: float
    weight: float
    points: float
    is_reason: bool = True
    slots: tuple[int, ...] = ()
    reasons: tuple[Reason, ...] = ()
    place_similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPoints:
    """How a class came to its total.

    Attributes:
        class_index: which class.
        class_name: its name.
        total: the logit: the points of `matches` + `own_points` + `foreign_points`.
        probability: softmax of the logits, in [0, 1].
        matches: prototypes with the most points: reasons for the class first, then those against it or of other
            classes; each of the two by falling absolute value.
        own_points: of the class's own prototypes that are not in `matches`, together.
        num_own: how many those are.
        foreign_points: of the prototypes of other classes, or of none, that are not in `matches`, together.
        num_foreign: how many those are.
        num_unused: how many of them belong to no class; they have no points.
        num_speaking: how many prototypes of the model have points for or against the class.
    """

    class_index: int
    class_name: str
    total: float
    probability: float
    matches: tuple[Match, ...]
    own_points: float
    num_own: int
    foreign_points: float
    num_foreign: int
    num_unused: int = 0
    num_speaking: int

    @property
    def reasons(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if match.is_reason)

    @property
    def no_reasons(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if not match.is_reason)

    @property
    def other_points(self) -> float:
        return self.own_points + self.foreign_points

    @property
    def num_other(self) -> int:
        return self.num_own + self.num_foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedImage:
    """One classified image and why.

    Attributes:
        name: of the image, its path within the data as a rule.
        image: (Y, X, 3) uint8, as the model saw it.
        classes: the class with the highest total first.
        true_class: name of the right class; None when nobody knows it.
        is_focal: similarities are those at the best patch less those of the image on average.
        is_salient: similarities are multiplied by how much the patch stands out in its image.
    """

    name: str
    image: np.ndarray
    classes: tuple[ClassPoints, ...]
    true_class: str | None = None
    is_focal: bool = False
    is_salient: bool = False

    @property
    def predicted_class(self) -> str:
        return self.classes[0].class_name

    @property
    def is_wrong(self) -> bool:
        return self.true_class is not None and self.true_class != self.predicted_class


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPoint:
    """One epoch of training on the curves; accuracies in [0, 1]."""

    stage: str
    epoch: int
    loss: float
    val_loss: float
    accuracy: float
    val_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage left behind; accuracies in [0, 1], None where there was no such split."""

    stage: str
    epoch: int
    num_prototypes: int
    val_accuracy: float | None
    test_accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of test images.

    Attributes:
        counts: (K, K) int, row = true class, column = predicted class.
    """

    counts: np.ndarray

    @property
    def num_images(self) -> int:
        return int(self.counts.sum())

    @property
    def num_correct(self) -> int:
        return int(np.trace(self.counts))


class ClassRow(NamedTuple):
    """How a class fares on the test images.

    Attributes:
        class_name: of the class.
        images: of the class.
        answers: images that were called this class.
        precision: share of the answers that are right, in [0, 1]; None where there are none.
        recall: share of the images that were found, likewise.
        f1: harmonic mean of both, likewise.
    """

    class_name: str
    images: int
    answers: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSlots:
    """What a class has in its slots.

    Attributes:
        class_name: of the class.
        prototypes: index of the prototype in each slot; None where a slot is empty.
    """

    class_name: str
    prototypes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything on the page of a run.

    Attributes:
        title: name of the run.
        classes: class names, in the order of the logits.
        prototypes: all prototypes of the model.
        slots: of every class, in the order of `classes`; empty for a model without slots, or one that still chooses.
        is_focal: points are made of similarities less those of the image on average; those of reasons and of nearest
            patches are before that.
        is_salient: similarities are multiplied by how much the patch stands out in its image.
        still_chooses: the classes have not chosen their prototypes for good, so that no prototype has a class yet.
        explanations: of chosen test images.
        confusion: over the test images; None when the page was made without them.
        epochs: of training, in order.
        stages: results, in order.
        settings: the run's configuration as text.
        class_rows: how every class fares on the test images; empty when the page was made without them.
        balanced_accuracy: mean recall over the classes, in [0, 1]; None likewise.
        notes: what a reader must know about this page, one sentence each.
        warnings: what speaks against trusting the run, a few sentences each.
        facts: short facts about the run (name, value), for the foot of the page.
    """

    title: str
    classes: tuple[str, ...]
    prototypes: tuple[PrototypeCard, ...]
    slots: tuple[ClassSlots, ...] = ()
    is_focal: bool = False
    is_salient: bool = False
    still_chooses: bool = False
    explanations: tuple[ExplainedImage, ...] = ()
    confusion: Confusion | None = None
    epochs: tuple[EpochPoint, ...] = ()
    stages: tuple[StageResult, ...] = ()
    settings: str = ""
    class_rows: tuple[ClassRow, ...] = ()
    balanced_accuracy: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=())
