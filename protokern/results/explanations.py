"""Why an image got its answer: points of prototypes for classes, and where each of them looked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protokern.results.importance import Reason
from protokern.results.places import PatchView, ReceptiveField, SeenPicture
from protokern.results.prototypes import Prototype


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one prototype says about one class, this looks like that: similarity x weight = points.

    Attributes:
        view: where it looked; shared by all classes it speaks for.
        picture: the same to be drawn.
        prototype: which.
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
        reasons: what matters to the prototype in this image; empty where nobody measured.
        place_similarity: what `reasons` are parts of, where `similarity` is focal: that of the place, before the
            image's average comes off. None: they are parts of `similarity`.
    """

    view: PatchView
    picture: SeenPicture
    prototype: Prototype
    prototype_classes: tuple[int, ...]
    slots: tuple[int, ...]
    distance: float
    similarity: float
    weight: float
    points: float
    is_reason: bool
    reasons: tuple[Reason, ...] = ()
    place_similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassExplanation:
    """How a class came to its logit.

    Attributes:
        class_index: which class.
        class_name: its name.
        logit: the model's output for it; the sum of the points of all prototypes.
        probability: softmax of the logits, in [0, 1].
        evidence: prototypes with the most points for or against the class, by falling absolute value of points, at
            least half of them reasons where there are so many; those without points, such as with a weight of zero,
            are left out.
        other_points: sum of all prototypes that `evidence` leaves out; `logit` = sum of points in `evidence` + this.
        num_other: how many those are.
        own_points: the part of `other_points` that is of the class's own prototypes.
        num_own: how many those are.
        foreign_points: the other part: of the prototypes of other classes, or of none.
        num_foreign: how many those are.
        num_unused: how many of them belong to no class; they have no points.
        num_speaking: how many prototypes of the model have points for or against the class.
        is_drawn: whether a page draws the evidence; of other classes it has the total alone.
    """

    class_index: int
    class_name: str
    logit: float
    probability: float
    evidence: tuple[Evidence, ...]
    other_points: float
    num_other: int
    own_points: float
    num_own: int
    foreign_points: float
    num_foreign: int
    num_unused: int
    num_speaking: int
    is_drawn: bool = True

    @property
    def total(self) -> float:
        """The logit, as pages call it."""
        return self.logit

    @property
    def matches(self) -> tuple[Evidence, ...]:
        """The evidence as it is drawn: reasons for the class first."""
        return (*self.reasons, *self.no_reasons)

    @property
    def reasons(self) -> tuple[Evidence, ...]:
        """Drawn evidence that is a reason for the class."""
        return tuple(one for one in self.evidence if self.is_drawn and one.is_reason)

    @property
    def no_reasons(self) -> tuple[Evidence, ...]:
        """Drawn evidence that speaks against the class, or for it although it stands for another one."""
        return tuple(one for one in self.evidence if self.is_drawn and not one.is_reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an image got its logits.

    Attributes:
        logits: (K,) float32, the model's.
        points: (P, K) float64: similarity x weight of every prototype for every class; columns sum to the logits.
        classes: the classes explained in detail, as asked for or by falling logit.
        receptive_field: of the model for images of this size; can be handed to the next explanation.
        name: of the image, its path within the data as a rule; empty where nobody named it.
        image: (Y, X, 3) uint8, as people see it.
        class_names: of all classes, in the order of the logits.
        true_class: name of the right class; None when nobody knows it.
        model_name: of the model, such as the name of its run; empty where nobody named it.
        is_focal: similarities are those at the best patch less those of the image on average.
        is_salient: similarities are multiplied by how much the patch stands out in its image.
    """

    logits: np.ndarray
    points: np.ndarray
    classes: tuple[ClassExplanation, ...]
    receptive_field: ReceptiveField
    name: str = ""
    image: np.ndarray
    class_names: tuple[str, ...]
    true_class: str | None = None
    model_name: str = ""
    is_focal: bool = False
    is_salient: bool = False

    @property
    def predicted(self) -> int:
        """The class of the highest logit; the first of them on a tie."""
        return int(self.logits.argmax())

    @property
    def predicted_class(self) -> str:
        """Its name."""
        return self.class_names[self.predicted]

    @property
    def is_wrong(self) -> bool:
        """Whether the right class is known, and another one."""
        return self.true_class is not None and self.true_class != self.predicted_class

    @property
    def probabilities(self) -> np.ndarray:
        """(K,) float64: softmax of the logits."""
        return softmax(self.logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(K,) float64 probabilities of logits (K,)."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities: np.ndarray = exponentials / exponentials.sum()
    return probabilities
