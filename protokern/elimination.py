"""Which prototypes the answers do not need: removes them one by one, each time the least needed one.

This is arithmetic on fixed activations: `logits = activations @ weight.T`, and removing a prototype removes its column.
prune.py applies the result to a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers (images x prototypes) that the search holds; if there are more, it uses an even selection of the training
# images.
LARGEST_TABLE = 5_000_000
_CHUNK = 256  # prototypes that are processed together
_LEAST = 1e-15  # of a sum of exponentials, where a difference of two has no digits left


@dataclass(frozen=True, slots=True)
class Activations:
    """What prototypes contribute before weights, (N, P), to images with the labels (N,) int64."""

    values: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Elimination:
    """The prototypes in the order of their removal, and how good the answers are with the remaining ones.

    Attributes:
        order: (R,) int64, first to last; without those that are never removed.
        accuracy: (R + 1,) float64 on the validation images; entry r: after r removals.
        loss: (R + 1,) float64, mean cross entropy on the same.
    """

    order: Tensor
    accuracy: Tensor
    loss: Tensor


def eliminate(
    weight: Tensor,
    is_own: Tensor,
    val: Activations,
    train: Activations,
    *,
    first: Sequence[int] = (),
    per_class: int = 1,
    moves_weights: bool = True,
) -> Elimination:
    """Remove one prototype after the other, until each class has `per_class` left, or all if it had fewer.

    Each step removes the prototype that leaves the lowest mean cross entropy on validation and training images, the
    first one on a tie. Of the training images it may use an even selection, see LARGEST_TABLE.

    Args:
        weight: (K, P).
        is_own: (K, P) bool, weights to the prototype's own classes.
        val: the images on which accuracy and loss are measured.
        train: the images on which the levels of the classes are kept, see ClassLevels; they also decide which prototype
            is needed least.
        first: prototypes that are removed before all others, in this order.
        per_class: at least 1.
        moves_weights: whether the weights of the remaining prototypes may be scaled.
    """
    levels = ClassLevels(weight, is_own, train.values if moves_weights else None)
    answers = Answers(weight, is_own, _seen(val, train), levels)
    order: list[int] = []
    accuracy, loss = [], []
    while True:
        logits = answers.logits[: len(val.labels)]
        accuracy.append(float((logits.argmax(dim=1) == val.labels).double().mean()))
        loss.append(float(F.cross_entropy(logits, val.labels)))
        if len(order) < len(first):
            gone = first[len(order)]
        else:
            at_least = (is_own & levels.kept).sum(dim=1) <= per_class  # (K,)
            may_go = levels.kept & ~(is_own & at_least[:, None]).any(dim=0)  # (P,)
            if not may_go.any():
                break
            gone = int(answers.losses_without().masked_fill(~may_go, torch.inf).numpy().argmin())
        answers.remove(gone)
        order.append(gone)
    return Elimination(
        torch.tensor(order, dtype=torch.int64),
        torch.tensor(accuracy, dtype=torch.float64),
        torch.tensor(loss, dtype=torch.float64),
    )


def need_for(
    weight: Tensor, is_own: Tensor, val: Activations, train: Activations, *, moves_weights: bool = True
) -> Tensor:
    """(P,) float64, the mean cross entropy without each prototype alone; arguments as for `eliminate`."""
    levels = ClassLevels(weight, is_own, train.values if moves_weights else None)
    return Answers(weight, is_own, _seen(val, train), levels).losses_without()


def _seen(val: Activations, train: Activations) -> Activations:
    """The images that decide the order: those of `val`, and an even selection of those of `train`."""
    step = max(1, -(-train.values.numel() // LARGEST_TABLE))
    return Activations(torch.cat([val.values, train.values[::step]]), torch.cat([val.labels, train.labels[::step]]))


class ClassLevels:
    """Factors for the weights of a class's remaining prototypes, so that the class keeps its level.

    The factor c of a class makes the class's own part of the logit as close as possible, by least squares over the
    images, to what it was with all prototypes: c = <part, first part> / <part, part>.

    Args:
        weight: (K, P).
        is_own: (K, P) bool.
        values: (N, P), activations of the images; None: no weight is scaled, every c is 1.

    Attributes:
        kept: (P,) bool.
        scale: (K,) float64, c.
    """

    def __init__(self, weight: Tensor, is_own: Tensor, values: Tensor | None) -> None:
        self._own = torch.where(is_own, weight, 0.0).double()  # (K, P)
        self._values = None if values is None else values.double()
        self._first = None if self._values is None else self._values @ self._own.T  # (N, K)
        self._part = None if self._first is None else self._first.clone()
        self.kept = torch.ones(weight.shape[1], dtype=torch.bool)
        self.scale = torch.ones(len(weight), dtype=torch.float64)

    def without(self, prototypes: Tensor, classes: Tensor) -> Tensor:
        """(A,) float64, c of `classes` (A,) after removing also the corresponding one of `prototypes` (A,)."""
        if self._values is None or self._part is None or self._first is None:
            return self.scale[classes]
        part = self._part[:, classes] - self._values[:, prototypes] * self._own[classes, prototypes]  # (N, A)
        return self._quotient(part, self._first[:, classes])

    def remove(self, prototype: int) -> None:
        """Remove one prototype."""
        self.kept[prototype] = False
        if self._values is None or self._part is None or self._first is None:
            return
        for label in self._own[:, prototype].nonzero().flatten().tolist():
            # Summed again, because after many subtractions a sum is mostly rounding.
            members = (self.kept & (self._own[label] != 0)).nonzero().flatten()
            self._part[:, label] = self._values[:, members] @ self._own[label, members]
            self.scale[label] = self._quotient(self._part[:, [label]], self._first[:, [label]])[0]

    @staticmethod
    def _quotient(part: Tensor, first: Tensor) -> Tensor:
        product, square = (part * first).sum(dim=0), part.square().sum(dim=0)
        return torch.where((product > 0) & (square > 0), product / square, 1.0)


class Answers:
    """The logits of images while prototypes are removed, and what they would be without one more.

    Args:
        weight: (K, P).
        is_own: (K, P) bool.
        images: the images.
        levels: of the classes; `remove` removes the prototype there too.
    """

    def __init__(self, weight: Tensor, is_own: Tensor, images: Activations, levels: ClassLevels) -> None:
        weight = weight.double()
        self._values, self._labels, self._levels = images.values.double(), images.labels, levels
        self._is_own = is_own
        self._own = torch.where(is_own, weight, 0.0)  # (K, P), these are multiplied by the scale of the class
        # A softmax ignores what is the same for all classes. After subtracting the most common weight, few entries are
        # left.
        others = weight.masked_fill(is_own, torch.nan)
        self._rest = torch.where(is_own, 0.0, weight) - others.nanmedian(dim=0).values.nan_to_num()  # (K, P)
        has_entry = (self._own != 0) | (self._rest != 0)
        most = max(int(has_entry.sum(dim=0).max()), 1)
        order = has_entry.T.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        self._entries = torch.where(has_entry.T.gather(1, order), order, -1)  # (P, J), -1: none
        self._own_part = self._values @ self._own.T  # (N, K)
        self._rest_part = self._values @ self._rest.T
        self._highest = self.logits.amax(dim=1, keepdim=True)  # (N, 1)
        # Change of the sum of exponentials when a prototype is removed, and the mean logit of the right answers.
        self._change = torch.zeros_like(self._values)
        self._gain = torch.zeros(weight.shape[1], dtype=torch.float64)
        self._sums = torch.empty_like(self._values)
        self._look_at(torch.arange(weight.shape[1]))

    @property
    def logits(self) -> Tensor:
        """(N, K), up to one number for every image."""
        return self._levels.scale * self._own_part + self._rest_part

    def losses_without(self) -> Tensor:
        """(P,) float64, the mean cross entropy after one more removal; undefined for those already removed."""
        logits = self.logits
        total = (logits - self._highest).exp().sum(dim=1, keepdim=True)  # (N, 1)
        sums = torch.add(self._change, total, out=self._sums)  # (N, P)
        torch.maximum(sums, _LEAST * total, out=sums).log_()
        right = (logits - self._highest).gather(1, self._labels[:, None]).mean()
        return sums.mean(dim=0) - right - self._gain

    def remove(self, prototype: int) -> None:
        """Remove one prototype."""
        self._levels.remove(prototype)
        kept = self._levels.kept
        changed = self._entries[prototype]
        changed = changed[changed >= 0]
        for label in changed.tolist():
            members = (kept & ((self._own[label] != 0) | (self._rest[label] != 0))).nonzero().flatten()
            self._own_part[:, label] = self._values[:, members] @ self._own[label, members]
            self._rest_part[:, label] = self._values[:, members] @ self._rest[label, members]
        is_touched = torch.isin(self._entries, changed).any(dim=1) & kept
        self._look_at(is_touched.nonzero().flatten())

    def _look_at(self, prototypes: Tensor) -> None:
        """Record what would change if one of `prototypes` (A,) were removed."""
        for part in prototypes.split(_CHUNK):
            self._change[:, part] = 0.0
            self._gain[part] = 0.0
            for classes in self._entries[part].T:  # (A,)
                used = classes >= 0
                if not used.any():
                    continue
                index, labels = part[used], classes[used]
                scale = self._levels.without(index, labels).where(
                    self._is_own[labels, index], self._levels.scale[labels]
                )
                values = self._values[:, index]  # (N, A)
                own_part = self._own_part[:, labels]
                old = self._levels.scale[labels] * own_part + self._rest_part[:, labels]
                new = scale * (own_part - values * self._own[labels, index])
                new += self._rest_part[:, labels] - values * self._rest[labels, index]
                self._change[:, index] += (new - self._highest).exp() - (old - self._highest).exp()
                self._gain[index] += ((new - old) * (self._labels[:, None] == labels)).mean(dim=0)


def smallest(path: Elimination, first: int, accuracy_loss: float, loss_ratio: float) -> int:
    """How many of a path to remove: as many as keep both measures within their limits, and at least the `first` ones.

    Args:
        path: see Elimination.
        first: how many are removed in any case.
        accuracy_loss: the accuracy may fall by at most this much from its value with all prototypes, in [0, 1].
        loss_ratio: the cross entropy may rise to at most this many times its first value, >= 1.
    """
    is_good = (path.accuracy >= path.accuracy[0] - accuracy_loss) & (path.loss <= loss_ratio * path.loss[0])
    return max(first, int(is_good.nonzero().max()))
