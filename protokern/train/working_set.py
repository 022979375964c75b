"""The weights of a last layer that are being solved for, while all others stay zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protokern.train.last_layer_problem import LastLayerProblem

MEMORY = 30  # pairs of vectors that L-BFGS-B keeps
NUM_GROUPS = 4
# A product with all inputs costs as much as one with this share of them picked out, which uses the caches less.
DENSE_SHARE = 1 / 16


@dataclass(frozen=True, slots=True)
class _Group:
    """Classes that use about as many inputs, G of them, at most S inputs each.

    Attributes:
        classes: (G,).
        is_member: (G, S) bool, False where a class uses fewer.
        position: of the members in the working set's vector, as many as there are.
        rows: (G, S, N), the inputs.
    """

    classes: Tensor
    is_member: Tensor
    position: Tensor
    rows: Tensor


class WorkingSet:
    """Some weights (k, e) of a problem, held as one vector.

    Args:
        problem: see LastLayerProblem.
        members: (K, E) bool, the weights; at least all own ones.
        dtype: precision of the products with the inputs.
    """

    def __init__(self, problem: LastLayerProblem, members: Tensor, dtype: torch.dtype) -> None:
        self._problem = problem
        self._members = members
        self._targets = problem.targets.to(dtype)
        self._inputs = problem.inputs.to(dtype)
        self._dtype = dtype
        self._is_own = problem.is_own[members]  # (A,)
        self._start = problem.start[members]
        self._groups = [] if self._is_dense(members) else self._pick(members)

    def minimise(self, weight: Tensor, l1: float, iterations: int, tolerance: float) -> tuple[Tensor, int]:
        """Improve `weight` (K, E), which is zero outside of the set; also the evaluations that were used.

        A weight of another class is the difference of two that are not negative, so that L1 is linear and a zero is a
        bound that is met exactly.
        """
        from scipy.optimize import minimize  # takes a fifth of a second to import

        own, ridge, num_images = self._is_own, self._problem.own_ridge, self._inputs.shape[1]
        num_own = int(own.sum())
        num_other = len(own) - num_own
        scale = self._problem.cross_entropy / num_images

        def join(parts: np.ndarray) -> Tensor:
            vector = torch.empty(len(own), dtype=torch.float64)
            values = torch.from_numpy(parts)
            vector[own] = values[:num_own]
            vector[~own] = values[num_own : num_own + num_other] - values[num_own + num_other :]
            return vector

        def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
            vector = join(parts)
            loss, gradient = self._cross_entropy(vector)
            distance = vector[own] - self._start[own]
            others = scale * gradient[~own]
            total = scale * loss + ridge / 2 * float(distance @ distance)
            if num_other:
                total += l1 * float(parts[num_own:].sum())
            slopes = (scale * gradient[own] + ridge * distance, l1 + others, l1 - others)
            return total, torch.cat(slopes).numpy()

        first = weight[self._members]
        others = first[~own]
        result = minimize(
            objective,
            torch.cat([first[own], others.clamp(min=0), (-others).clamp(min=0)]).numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, None)] * num_own + [(0, None)] * (2 * num_other),
            # Only the gap says when to stop; a gradient that is this small in every weight cannot make it wider.
            options={
                "maxiter": iterations,
                "maxcor": MEMORY,
                "ftol": 1e-15,
                "gtol": tolerance * min(l1, ridge) / 4,
            },
        )
        improved = torch.zeros_like(weight)
        improved[self._members] = join(result.x)
        return improved, int(result.nfev)

    def _cross_entropy(self, vector: Tensor) -> tuple[float, Tensor]:
        """The sum of the cross entropies over the images, and its gradient (A,) float64."""
        log_shares = self._logits(vector.to(self._dtype)).log_softmax(dim=0)  # (K, N)
        loss = -float((self._targets * log_shares).sum(dtype=torch.float64))
        return loss, self._gradient(log_shares.exp_().sub_(self._targets)).double()

    def _logits(self, vector: Tensor) -> Tensor:
        if not self._groups:
            dense = torch.zeros(self._members.shape, dtype=self._dtype)
            dense[self._members] = vector
            return dense @ self._inputs
        logits = torch.zeros(self._targets.shape, dtype=self._dtype)  # a class may use no inputs
        for group in self._groups:
            weights = torch.zeros(group.is_member.shape, dtype=self._dtype)
            weights[group.is_member] = vector[group.position]
            logits[group.classes] = (weights[:, None] @ group.rows)[:, 0]
        return logits

    def _gradient(self, difference: Tensor) -> Tensor:
        """(A,) from what the class shares are too large, (K, N)."""
        if not self._groups:
            return (difference @ self._inputs.T)[self._members]
        gradient = torch.empty(len(self._is_own), dtype=self._dtype)
        for group in self._groups:
            products = (difference[group.classes][:, None] @ group.rows.transpose(1, 2))[:, 0]  # (G, S)
            gradient[group.position] = products[group.is_member]
        return gradient

    @staticmethod
    def _is_dense(members: Tensor) -> bool:
        return float(members.double().mean()) > DENSE_SHARE

    def _pick(self, members: Tensor) -> list[_Group]:
        """The inputs that each class uses, picked out once; classes that use about as many share a group."""
        counts = members.sum(dim=1)
        position = torch.zeros(members.shape, dtype=torch.int64)
        position[members] = torch.arange(int(counts.sum()))
        groups = []
        for classes in counts.argsort(stable=True).tensor_split(NUM_GROUPS):
            if not len(classes) or not int(counts[classes].max()):
                continue
            width = int(counts[classes].max())
            order = members[classes].int().argsort(dim=1, descending=True, stable=True)[:, :width]  # (G, S)
            is_member = members[classes].gather(1, order)
            groups.append(
                _Group(
                    classes=classes,
                    is_member=is_member,
                    position=position[classes].gather(1, order)[is_member],
                    rows=self._inputs[order],
                )
            )
        return groups
