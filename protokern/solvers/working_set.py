"""The weights of a last layer that are optimised, while all others stay zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from protokern.solvers.problem import LastLayerProblem

MEMORY = 30  # pairs of vectors that L-BFGS-B keeps
WIDEST = 1.5  # most inputs over fewest inputs of the classes in a group
# A product with all inputs costs as much as one with this share of them picked out, which uses the caches less well.
DENSE_SHARE = 1 / 16


MOST_STEPS = 200  # of conjugate gradients
SMALL = 1e-12  # of the residual, relative to the right side


def _solve_by_conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """x with product(x) = right, for a positive semidefinite product, as far as rounding lets it."""
    found, residual = torch.zeros_like(right), right.clone()
    direction, squared = residual.clone(), float(right @ right)
    least = squared * SMALL**2
    for _ in range(MOST_STEPS):
        if squared <= least or squared == 0:
            break
        image = product(direction)
        bend = float(direction @ image)
        if bend <= 0:
            break
        found += squared / bend * direction
        residual -= squared / bend * image
        before, squared = squared, float(residual @ residual)
        direction = residual + squared / before * direction
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    """Classes that use about as many inputs, G of them, at most S inputs each.

    Attributes:
        classes: where they are among the working set's classes.
        is_member: (G, S) bool, False where a class uses fewer inputs.
        position: positions of the members in the working set's vector.
        rows: (G, S, N), the inputs.
    """

    classes: slice
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
        self._dtype = dtype
        self._is_own = problem.is_own[members]  # (A,)
        self._start = problem.start[members]
        self._largest = problem.bound if math.isfinite(problem.bound) else None
        self._rises = problem.rises[members] & ~self._is_own  # weights of other classes
        self._falls = problem.falls[members] & ~self._is_own
        self._is_held = ~problem.falls[members] & self._is_own  # own weights with zero as a bound
        self._inputs = problem.inputs.to(dtype)
        self._groups: list[_Group] = []
        order = torch.arange(len(members))
        if float(members.double().mean()) <= DENSE_SHARE:
            self._groups, order = _pick(members, self._inputs)
        self._targets = problem.targets[order].to(dtype)

    def minimise(self, weight: Tensor, l1: float, iterations: int, tolerance: float) -> tuple[Tensor, int]:
        """Improve `weight` (K, E), which is zero outside the set; also returns the number of evaluations.

        Own weights stay at or above zero where the problem says so. A weight of another class is the difference of two
        non-negative variables, so that L1 is linear and both zero and the largest allowed weight are bounds, which are
        met exactly. Where a weight may only have one sign, there is only the variable of that sign.
        """
        from scipy.optimize import minimize  # takes a fifth of a second to import

        own, ridge, num_images = self._is_own, self._problem.own_ridge, self._problem.inputs.shape[1]
        rises, falls = self._rises, self._falls
        num_own, num_up, num_down = int(own.sum()), int(rises.sum()), int(falls.sum())
        scale = self._problem.cross_entropy / num_images

        def join(parts: np.ndarray) -> Tensor:
            vector = torch.zeros(len(own), dtype=torch.float64)
            of_own, up, down = torch.from_numpy(parts).split([num_own, num_up, num_down])
            vector[own] = of_own
            vector[rises] = up
            vector[falls] -= down
            return vector

        def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
            vector = join(parts)
            loss, gradient = self._cross_entropy(vector)
            distance = vector[own] - self._start[own]
            total = scale * loss + ridge / 2 * float(distance @ distance)
            if num_up + num_down:
                total += l1 * float(parts[num_own:].sum())
            slopes = (
                scale * gradient[own] + ridge * distance,
                l1 + scale * gradient[rises],
                l1 - scale * gradient[falls],
            )
            return total, torch.cat(slopes).numpy()

        first = weight[self._members]
        least = [0.0 if is_held else None for is_held in self._is_held[own].tolist()]
        with _openblas_on_one_thread():
            result = minimize(
                objective,
                torch.cat([first[own], first[rises].clamp(min=0), (-first[falls]).clamp(min=0)]).numpy(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(one, None) for one in least] + [(0, self._largest)] * (num_up + num_down),
                # Only the gap decides when to stop; a gradient this small in every weight hardly widens it.
                options={
                    "maxiter": iterations,
                    "maxcor": MEMORY,
                    "ftol": 1e-15,
                    "gtol": tolerance * min(l1, ridge),
                },
            )
        improved = torch.zeros_like(weight)
        improved[self._members] = join(result.x)
        return improved, int(result.nfev)

    def newton_step(self, weight: Tensor, l1: float) -> Tensor:
        """`weight` (K, E) after one Newton step of the weights that are not at a bound, by conjugate gradients.

        L-BFGS-B compares values of F, and stops where these no longer differ in their last digit. There the gradient
        still says more.
        """
        vector = weight[self._members]
        own, ridge = self._is_own, self._problem.own_ridge
        scale = self._problem.cross_entropy / self._problem.inputs.shape[1]
        free = torch.where(own, (vector > 0) | ~self._is_held, vector != 0)
        if self._largest is not None:
            free &= own | (vector.abs() < self._largest)
        shares = self._logits(self._spread(vector.to(self._dtype))).softmax(dim=0)  # (K, N)
        _, slope = self._cross_entropy(vector)
        gradient = scale * slope + torch.where(own, ridge * (vector - self._start), l1 * vector.sign())

        def curvature(direction: Tensor) -> Tensor:
            moved = self._logits(self._spread(direction.to(self._dtype)))
            bent = shares * (moved - (shares * moved).sum(dim=0))
            return free * (
                scale * self._gather(self._gradients(bent)).double() + torch.where(own, ridge, 0) * direction
            )

        moved = vector - _solve_by_conjugate_gradients(curvature, free * gradient)
        moved = torch.where(self._is_held, moved.clamp(min=0), moved)
        stays = own | (moved.sign() == vector.sign())  # a weight of another class does not jump over zero
        moved = torch.where(stays, moved, 0)
        if self._largest is not None:
            moved = torch.where(own, moved, moved.clamp(-self._largest, self._largest))
        improved = torch.zeros_like(weight)
        improved[self._members] = moved
        return improved

    def _cross_entropy(self, vector: Tensor) -> tuple[float, Tensor]:
        """The sum of the cross entropies over the images, and its gradient (A,) float64."""
        log_shares = self._logits(self._spread(vector.to(self._dtype))).log_softmax(dim=0)  # (K, N)
        loss = -float((self._targets * log_shares).sum(dtype=torch.float64))
        excess = log_shares.exp_().sub_(self._targets)
        return loss, self._gather(self._gradients(excess)).double()

    def _spread(self, vector: Tensor) -> list[Tensor]:
        """The vector (A,) as matrices: (K, E), or (G, S) for every group; zero elsewhere."""
        if not self._groups:
            dense = torch.zeros(self._members.shape, dtype=self._dtype)
            dense[self._members] = vector
            return [dense]
        tables = [torch.zeros(group.is_member.shape, dtype=self._dtype) for group in self._groups]
        for table, group in zip(tables, self._groups, strict=True):
            table[group.is_member] = vector[group.position]
        return tables

    def _gather(self, tables: list[Tensor]) -> Tensor:
        """The opposite of `_spread`."""
        if not self._groups:
            return tables[0][self._members]
        vector = torch.empty(len(self._is_own), dtype=self._dtype)
        for table, group in zip(tables, self._groups, strict=True):
            vector[group.position] = table[group.is_member]
        return vector

    def _logits(self, weights: list[Tensor]) -> Tensor:
        if not self._groups:
            return weights[0] @ self._inputs
        # Classes without any input stay at zero.
        logits = torch.zeros(self._targets.shape, dtype=self._dtype)
        for weight, group in zip(weights, self._groups, strict=True):
            logits[group.classes] = (weight[:, None] @ group.rows)[:, 0]
        return logits

    def _gradients(self, excess: Tensor) -> list[Tensor]:
        """The errors of the class shares, (K, N), times the inputs; matrices as in `_spread`."""
        if not self._groups:
            return [excess @ self._inputs.T]
        return [(excess[group.classes][:, None] @ group.rows.transpose(1, 2))[:, 0] for group in self._groups]


def _pick(members: Tensor, inputs: Tensor) -> tuple[list[_Group], Tensor]:
    """The inputs that each class uses, picked out once; and the classes (K,) in the order of the groups."""
    counts = members.sum(dim=1)
    position = torch.zeros(members.shape, dtype=torch.int64)
    position[members] = torch.arange(int(counts.sum()))
    groups: list[_Group] = []
    first = 0
    alike = _alike(counts)
    for classes in alike:
        width = int(counts[classes[-1]])
        order = members[classes].int().argsort(dim=1, descending=True, stable=True)[:, :width]  # (G, S)
        is_member = members[classes].gather(1, order)
        groups.append(
            _Group(
                classes=slice(first, first + len(classes)),
                is_member=is_member,
                position=position[classes].gather(1, order)[is_member],
                rows=inputs[order],
            )
        )
        first += len(classes)
    return groups, torch.cat([*alike, (counts == 0).nonzero().flatten()])


def _alike(counts: Tensor) -> list[Tensor]:
    """Classes with a count above 0, fewest first, in groups whose counts (K,) differ by a factor of at most WIDEST."""
    groups: list[list[int]] = []
    for one in counts.argsort(stable=True).tolist():
        if counts[one] == 0:
            continue
        if not groups or counts[one] > WIDEST * counts[groups[-1][0]]:
            groups.append([])
        groups[-1].append(one)
    return [torch.tensor(group) for group in groups]


def _openblas_on_one_thread() -> AbstractContextManager[object]:
    """Limit SciPy's OpenBLAS, whose threads spin between the small products of L-BFGS-B while torch's should run."""
    return ThreadpoolController().select(internal_api="openblas").limit(limits=1)
