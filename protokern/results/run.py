"""What the page of a run shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from protokern.results.explanations import Explanation
from protokern.results.measures import Trust
from protokern.results.prototypes import ClassSlots, Prototype
from protokern.results.scores import Scores


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
    """The result of a stage; accuracies in [0, 1], None if there was no such split."""

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
        unanswered: (K,) int, images of each class without an answer, which are not in `counts`; None: the model always
            answers.
    """

    counts: np.ndarray
    unanswered: np.ndarray | None = None

    @property
    def num_unanswered(self) -> int:
        return 0 if self.unanswered is None else int(self.unanswered.sum())

    @property
    def num_images(self) -> int:
        return int(self.counts.sum()) + self.num_unanswered

    @property
    def num_correct(self) -> int:
        return int(np.trace(self.counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNode:
    """A node of a decision tree.

    Attributes:
        prototype: that a branch asks for; None: a leaf.
        absent: position, in the list of nodes, of what follows if the prototype is absent; None: a leaf.
        present: the same if it is present.
        classes: of a leaf, (name, probability) of every class.
    """

    prototype: int | None = None
    absent: int | None = None
    present: int | None = None
    classes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRow:
    """What a class is scored by: (prototype, weight) pairs, the heaviest first."""

    class_name: str
    weights: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page of a run.

    Attributes:
        title: name of the run.
        classes: class names, in the order of the logits.
        prototypes: all prototypes of the model.
        slots: of every class, in the order of `classes`; empty for a model without slots, or one that still chooses.
        tree: the nodes of a decision tree, the root first; None for a model that decides by points.
        scoring: the rows of a scoring sheet, in the order of `classes`. The prototypes are then no patches, and are
            shown by the training patches in which they are most present. None for a model whose prototypes are pushed.
        is_focal: the average similarity over the image is subtracted from the similarities of points, but not from
            those of reasons and of nearest patches.
        is_salient: similarities are multiplied by how much the patch stands out in its image.
        is_projected: similarities are projections, in which the length of a patch counts; distances are their
            negatives.
        shows_distance: whether distances mean something to people; otherwise the page has similarities alone.
        still_chooses: the classes have not made their final choice of prototypes, so that no prototype has a class yet.
        explanations: of chosen test images.
        confusion: over the test images; None if the page was made without them.
        epochs: of training, in order.
        stages: results, in order.
        settings: the run's configuration as text.
        scores: scores of every class on the test images; None if the page was made without them.
        trust: how far the explanations can be trusted, in numbers; None if nothing was measured.
        notes: what readers of the page must know, one sentence each.
        warnings: reasons not to trust the run, a few sentences each.
        facts: short facts about the run (name, value), for the foot of the page.
    """

    title: str
    classes: tuple[str, ...]
    prototypes: tuple[Prototype, ...]
    slots: tuple[ClassSlots, ...] = ()
    tree: tuple[TreeNode, ...] | None = None
    scoring: tuple[ScoringRow, ...] | None = None
    is_focal: bool = False
    is_salient: bool = False
    is_projected: bool = False
    shows_distance: bool = True
    still_chooses: bool = False
    explanations: tuple[Explanation, ...] = ()
    confusion: Confusion | None = None
    epochs: tuple[EpochPoint, ...] = ()
    stages: tuple[StageResult, ...] = ()
    settings: str = ""
    scores: Scores | None = None
    trust: Trust | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=())
