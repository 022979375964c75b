"""Why an image got its answer: points of prototypes for classes, and where the prototypes looked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protokern.results.importance import Reason
from protokern.results.places import PatchView, ReceptiveField, SeenPicture
from protokern.results.prototypes import Prototype

NO_CLASS = "none of these"  # the answer of a model that abstains


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one prototype says about one class, this looks like that: similarity x weight = points.

    Attributes:
        view: where the prototype looked; shared by all classes for which it has points.
        picture: the view as it is drawn.
        prototype: which.
        prototype_classes: the classes that the prototype belongs to, ascending: one, several that share it, or none;
            the explained class need not be one of them.
        slots: the slots of the explained class that hold the prototype, ascending; empty for models without slots, and
            for prototypes that no slot of the class holds.
        distance: of the nearest patch, in the model's metric.
        similarity: the activation at that distance, before weights; for ProtoPool the focal similarity.
        weight: of the prototype for the class; with slots, the sum over the slots of all classes that hold it.
        points: similarity x weight, its share of the logit.
        is_reason: whether it is a reason for the class: a prototype of the class with points above zero. The others
            speak against the class, or for it although they belong to another class.
        reasons: which properties matter to the prototype in this image; empty if they were not measured.
        place_similarity: for a focal `similarity`, the similarity of the place before the image's average is
            subtracted; `reasons` are parts of it. None: they are parts of `similarity`.
        is_present: in a tree, whether the path takes the side "present" here; `similarity` is then the probability of
            that side, and `points` what the log probability of the class would lose with the other side. None: no tree.
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
    is_present: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionEnd:
    """Where the decisions of a tree end, and what the whole tree says.

    Attributes:
        leaf: its number.
        classes: (index, probability) of the most probable classes in that leaf, by falling probability.
        share: the probability with which the soft tree ends in that leaf, in [0, 1].
        agrees: whether the leaf's most probable class is the answer of the whole tree.
    """

    leaf: int
    classes: tuple[tuple[int, float], ...]
    share: float
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassExplanation:
    """How the logit of a class comes about.

    Attributes:
        class_index: index of the class.
        class_name: name of the class.
        logit: the model's output for it; the sum of the points of all prototypes.
        probability: softmax of the logits, in [0, 1].
        evidence: prototypes with the most points for or against the class, by falling absolute value of points; at
            least half of them are reasons if there are enough. Prototypes without points, such as those with a weight
            of zero, are left out.
        other_points: sum of all prototypes that `evidence` leaves out; `logit` = sum of points in `evidence` + this.
        num_other: number of the prototypes that `evidence` leaves out.
        own_points: the part of `other_points` from prototypes of the class.
        num_own: number of these prototypes.
        foreign_points: the other part, from prototypes of other classes or of none.
        num_foreign: number of these prototypes.
        num_unused: number of these that belong to no class; they have no points.
        num_speaking: number of prototypes of the model that have points for or against the class.
        is_drawn: whether a page draws the evidence; otherwise it shows only the total.
        score: what the points add up to, where that is not the logit; None: it is.
        bias: a number of the class that is added to the points, 0 without one.
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
    score: float | None = None
    bias: float = 0.0

    @property
    def total(self) -> float:
        """What the points add up to, as pages call it: the score, which for most models is the logit."""
        return self.logit if self.score is None else self.score

    @property
    def matches(self) -> tuple[Evidence, ...]:
        """The evidence that is drawn: reasons for the class first."""
        return (*self.reasons, *self.no_reasons)

    @property
    def reasons(self) -> tuple[Evidence, ...]:
        """Drawn evidence that is a reason for the class."""
        return tuple(one for one in self.evidence if self.is_drawn and one.is_reason)

    @property
    def no_reasons(self) -> tuple[Evidence, ...]:
        """Drawn evidence that speaks against the class, or for it although it belongs to another class."""
        return tuple(one for one in self.evidence if self.is_drawn and not one.is_reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faint:
    """What nearly counted in an image to which a model has no answer.

    Attributes:
        prototypes: (index, presence) of the strongest ones, by falling presence.
        smallest: the presence from which on a prototype counts.
    """

    prototypes: tuple[tuple[int, float], ...]
    smallest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why an image got its logits.

    Attributes:
        logits: (K,) float32, the model's.
        points: (P, K) float64: similarity x weight of every prototype for every class; columns sum to the logits, or
            to the scores that a model makes its logits of.
        classes: the classes explained in detail, as asked for or by falling logit.
        receptive_field: of the model for images of this size; can be passed to the next explanation.
        name: of the image, usually its path within the data; empty if it was not given.
        image: (Y, X, 3) uint8, as people see it.
        class_names: of all classes, in the order of the logits.
        true_class: name of the right class; None if it is unknown.
        model_name: of the model, such as the name of its run; empty if it was not given.
        is_focal: similarities are those at the best patch less the average over the image.
        is_salient: similarities are multiplied by how much the patch stands out in its image.
        is_projected: similarities are projections, in which the length of a patch counts.
        abstains: whether the model answers "none of these", because no class has a score.
        faint: if so, the prototypes that come nearest to counting, (index, presence) by falling presence, and the
            presence from which on they count; None: the model has an answer.
        end: of a tree, where its decisions end; they are the evidence of the answer, from the root on. None: no tree.
            The points are then those of `PrototypeModel.influence`, which do not add up to the logits.
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
    is_projected: bool = False
    abstains: bool = False
    faint: Faint | None = None
    end: DecisionEnd | None = None

    @property
    def predicted(self) -> int:
        """Index of the class with the highest logit; the first one on a tie."""
        return int(self.logits.argmax())

    @property
    def predicted_class(self) -> str:
        """Its name; NO_CLASS if the model abstains."""
        return NO_CLASS if self.abstains else self.class_names[self.predicted]

    @property
    def is_wrong(self) -> bool:
        """Whether the right class is known and is another class."""
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
