"""Facts about prototypes: their classes, the patches that they are, and the patches nearest to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from protokern.results.importance import Reason
from protokern.results.places import Box, PixelBox, SeenPicture, SufficientFrame

BELONGING_SHARE = 0.5


class ClassWeight(NamedTuple):
    """A class that a prototype belongs to: its index, its name, and the prototype's weight for it."""

    class_index: int
    class_name: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeSource:
    """The patch that a prototype is.

    Attributes:
        image: position of the training image in the push set.
        name: of that image.
        patch: (row, column) in the grid of patches.
        activation_box: around the highest twentieth of the heat map, pixels, as in the paper.
        patch_box: around the patch's cell and the part of this twentieth that is connected with the cell; the frame in
            the pictures.
        receptive_field_box: the pixels that the patch depends on.
        distance: from the prototype before the push to the patch.
        sufficient: the smallest box found whose content alone keeps the similarity; None: not searched for yet.
    """

    image: int
    name: str
    patch: tuple[int, int]
    activation_box: Box
    patch_box: Box
    receptive_field_box: Box
    distance: float
    sufficient: SufficientFrame | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One of the patches that are nearest to a prototype.

    Attributes:
        picture: the image with the patch.
        name: of the image.
        class_name: class of the image.
        similarity: of the prototype and the patch.
        distance: of the prototype and the patch.
        patch_box: around the patch's cell and the pixels connected with it, whichever frame is drawn; None: no
            heat map was made.
    """

    picture: SeenPicture
    name: str
    class_name: str
    similarity: float
    distance: float
    patch_box: PixelBox | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The patches nearest to a prototype, nearest first, at most one per image.

    Attributes:
        train: in the images that the prototypes come from.
        test: in the test images.
        agreement_train: share of `train` whose class the prototype belongs to, in [0, 1].
        agreement_test: share of `test` whose class the prototype belongs to, in [0, 1].
    """

    train: tuple[Neighbour, ...]
    test: tuple[Neighbour, ...]
    agreement_train: float
    agreement_test: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prototype:
    """A prototype and the training patch that it is.

    Attributes:
        index: of the prototype in the model.
        classes: its classes by index, with its weight for each: one, several that share it, or none.
        source: the patch that it is; None if it is no patch of an image.
        picture: the training image it comes from, as it is drawn; None without a source or without a stored picture.
        reasons: which properties matter to it over all training images; empty if they were not measured.
        mean_similarity: over the images of `reasons`; None if they were not measured.
        neighbours: the patches nearest to it; None if they were not searched for.
    """

    index: int
    classes: tuple[ClassWeight, ...]
    source: PrototypeSource | None = None
    picture: SeenPicture | None = None
    reasons: tuple[Reason, ...] = ()
    mean_similarity: float | None = None
    neighbours: Neighbours | None = None

    @property
    def source_name(self) -> str | None:
        """Name of the training image it comes from; None if it is no patch of an image."""
        return None if self.source is None else self.source.name

    @property
    def distance(self) -> float | None:
        """The distance from the learnt vector to the patch that replaced it; None if it is no patch of an image."""
        return None if self.source is None else self.source.distance

    def is_of(self, class_index: int) -> bool:
        """Whether the prototype belongs to the class."""
        return any(one.class_index == class_index for one in self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSlots:
    """The slots of a class.

    Attributes:
        class_name: of the class.
        prototypes: index of the prototype in each slot; None where a slot is empty.
    """

    class_name: str
    prototypes: tuple[int | None, ...]


@dataclass(frozen=True)
class SplitNeighbours:
    """The k nearest patches of every prototype in one data set, at most one per image, nearest first; on the CPU.

    If there are fewer than k, the last entries have image, patch and label -1, distance inf and similarity NaN.

    Attributes:
        distance: (P, k), in the model's metric.
        similarity: (P, k), the activation at that distance; for ProtoPool before the image's average is subtracted.
        image: (P, k) int64, position of the image in the data set.
        patch: (P, k) int64, flat index row * W' + column in `grid`.
        label: (P, k) int64, class of the image.
        agreement: (P,) float64, the share of the neighbours whose class the prototype belongs to; NaN without any.
        grid: (H', W'), rows and columns of the patches.
    """

    distance: Tensor
    similarity: Tensor
    image: Tensor
    patch: Tensor
    label: Tensor
    agreement: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class GlobalExplanation:
    """The nearest patches of every prototype among the training and the test images."""

    train: SplitNeighbours
    test: SplitNeighbours

    @property
    def belong_together(self) -> Tensor:
        """(P,) bool: whether more than half of the neighbours are of the prototype's classes, in both splits.

        This is about classes, not about looks: only people can see whether the patches show the same thing.
        """
        return (self.train.agreement > BELONGING_SHARE) & (self.test.agreement > BELONGING_SHARE)
