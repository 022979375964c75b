"""Why an image got its answer: points of prototypes for classes, and where each of them looked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protokern.results.importance import Reason
from protokern.results.places import PatchView, ReceptiveField, SeenPicture
from protokern.results.prototypes import PrototypeCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one prototype says about one class: similarity x weight = points.

    Attributes:
        view: where it looked; shared by all classes it speaks for.
        prototype_classes: the classes that the prototype belongs to, ascending: one, several that share it, or none;
            the class it speaks for here need not be one of them.
        slots: the slots of the explained class that it sits in, ascending; empty for models without slots, and for
            prototypes that no slot of the class holds.
        distance: of the nearest patch, in the model's metric.
        similarity: what it contributes before weights: the activation at that distance, for ProtoPool the focal
            similarity.
        weight: of the prototype for the class; with slots, the sum over the slots of all classes that hold it.
        points: similarity x weight, its share of the logit.
        is_reason: whether it is a reason for the class: one of its own prototypes, with points above zero. The others
            speak against the class, or for it although they stand for another one.
    """

    view: PatchView
    prototype_classes: tuple[int, ...]
    slots: tuple[int, ...]
    distance: float
    similarity: float
    weight: float
    points: float
    is_reason: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassExplanation:
    """How a class came to its logit.

    Attributes:
        class_index: which class.
        logit: as the model gave it.
        evidence: the prototypes with the most points for or against the class, by falling absolute value, but at least
            half of them reasons where there are so many; those without points, such as with a weight of zero, are left
            out.
        other_points: sum of all prototypes that `evidence` leaves out; `logit` = sum of points in `evidence` + this.
        num_other: how many those are.
    """

    class_index: int
    logit: float
    evidence: tuple[Evidence, ...]
    other_points: float
    num_other: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an image got its logits.

    Attributes:
        logits: (K,) float32, the model's.
        points: (P, K) float64: similarity x weight of every prototype for every class; columns sum to the logits.
        classes: the classes explained in detail, as asked for or by falling logit.
        receptive_field: of the model for images of this size; can be handed to the next explanation.
    """

    logits: np.ndarray
    points: np.ndarray
    classes: tuple[ClassExplanation, ...]
    receptive_field: ReceptiveField

    @property
    def predicted(self) -> int:
        """The class of the highest logit; the first of them on a tie."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> np.ndarray:
        """(K,) float64: softmax of the logits."""
        exponentials = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return exponentials / exponentials.sum()


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
