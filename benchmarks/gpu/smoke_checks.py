"""What the smoke stage asks of an op, each as one error and its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import protokern
from tests.kernels import oracle
from tests.kernels.cases import TOLERANCE, Case, gradient_tolerance

K = 3
# Flat enough at 0 that the rounding of a distance shows as little more in the similarity.
EPSILON = 0.1
COPIES = 5
# Unit roundoff of a factor: what a rounded search promises.
ROUNDOFF = {"fp32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}
NEAREST = ("min_distance", "prototype_pool", "topk_pool")


@dataclass(frozen=True)
class Check:
    """An error and its bound; NaN is never within it."""

    name: str
    error: float
    allowed: float

    @property
    def is_right(self) -> bool:
        return self.error <= self.allowed


@dataclass(frozen=True)
class Answer:
    """What an op gave, on the processor.

    Attributes:
        values: all its outputs that are not indices.
        patch: (B, P, k) int64; None where the op gives none.
    """

    values: list[Tensor]
    patch: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An op with its inputs.

    Attributes:
        precision: of the search; None for what the dtype has.
        place: the device.
        is_weighted: with weights of the patches.
    """

    op: str
    backend: str
    case: Case
    dtype: torch.dtype
    metric: str
    precision: str | None
    place: torch.device
    is_weighted: bool = False

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """Features and prototypes on the processor; the first prototypes are patches of the first image."""
        features, prototypes = self.case.inputs(self.dtype)
        height, width = self.case.patch or (1, 1)
        for index, at in enumerate(self.copied.tolist()):
            row, column = divmod(at, self.columns)
            patch = features[0, :, row : row + height, column : column + width]
            prototypes[index] = patch if self.case.patch else patch[:, 0, 0]
        return features, prototypes

    @property
    def columns(self) -> int:
        return self.case.width - (self.case.patch or (1, 1))[1] + 1

    @property
    def positions(self) -> int:
        return (self.case.height - (self.case.patch or (1, 1))[0] + 1) * self.columns

    @property
    def copied(self) -> Tensor:
        """Which patches of the first image the first prototypes are."""
        return torch.arange(min(COPIES, self.case.prototypes)) % self.positions

    @cached_property
    def chosen(self) -> Tensor:
        """(B, P), the patches that `distance_at` is asked for; those of the copies among them."""
        generator = torch.Generator().manual_seed(2)
        shape = (self.case.batch, self.case.prototypes)
        chosen = torch.randint(self.positions, shape, generator=generator)
        chosen[0, : len(self.copied)] = self.copied
        return chosen

    @cached_property
    def weight(self) -> Tensor | None:
        """Weights of the patches, (B, H', W'): 1 at copies and in the last image, whose patches may be equal.

        A quarter of the others are 0, but not for ops without a search, which give inf for those.
        """
        if not self.is_weighted:
            return None
        generator = torch.Generator().manual_seed(3)
        drawn = torch.rand(self.case.batch, self.positions, generator=generator)
        weight = torch.where(drawn < 0.25, 0.0 if self.op in NEAREST else 0.5, drawn)
        weight[0, self.copied] = weight[-1] = 1
        return weight.view(self.case.batch, -1, self.columns)

    @property
    def roundoff(self) -> float:
        if self.precision is not None:
            return ROUNDOFF[self.precision]
        return 0.0  # half inputs are exact in the precision that they take

    def run(
        self, features: Tensor, prototypes: Tensor, epsilon: float = EPSILON, weight: Tensor | None = None
    ) -> Answer:
        """The op on tensors of the device, its answer with the graph of autograd; `weight` instead of the problem's."""
        options: dict[str, Any] = {"metric": self.metric, "backend": self.backend}
        if self.weight is not None:
            options["patch_weight"] = self.weight.to(self.place) if weight is None else weight
        if self.op == "distance_map":
            return Answer([protokern.distance_map(features, prototypes, **options)], None)
        if self.op == "distance_at":
            at = self.chosen.to(self.place)
            return Answer([protokern.distance_at(features, prototypes, at, **options)], None)
        options["precision"] = self.precision
        if self.op == "mean_activation":
            mean = protokern.mean_activation(features, prototypes, epsilon=epsilon, **options)
            return Answer([mean], None)
        if self.op == "min_distance":
            nearest = protokern.min_distance(features, prototypes, **options)
            return Answer([nearest.value], nearest.patch.cpu()[..., None])
        if self.op == "prototype_pool":
            pool = protokern.prototype_pool(features, prototypes, epsilon=epsilon, **options)
            return Answer([pool.min_distance, pool.activation], pool.patch.cpu()[..., None])
        top = protokern.topk_pool(features, prototypes, K, epsilon=epsilon, **options)
        return Answer([top.distance, top.activation], top.patch.cpu())

    def wanted(self, distances: Tensor, patch: Tensor | None) -> list[Tensor]:
        """The same outputs from all distances (B, P, H', W') in float64, at the patches that were found."""
        flat = distances.flatten(2)
        if self.op == "distance_map":
            return [distances]
        if self.op == "distance_at":
            return [flat.gather(2, self.chosen[..., None])[..., 0]]
        if self.op == "mean_activation":
            return [oracle.activation(flat, "log", EPSILON).mean(2)]
        assert patch is not None
        at = flat.gather(2, patch)
        if self.op == "min_distance":
            return [at[..., 0]]
        similarity = oracle.activation(at, "log", EPSILON)
        return [at[..., 0], similarity[..., 0]] if self.op == "prototype_pool" else [at, similarity.mean(2)]


def check_values(problem: Problem) -> tuple[list[Check], Answer]:
    """Forward and backward on ordinary values; and the answer, for comparisons."""
    inputs = problem.inputs if problem.weight is None else (*problem.inputs, problem.weight)
    given = [tensor.to(problem.place, copy=True).requires_grad_() for tensor in inputs]
    answer = problem.run(given[0], given[1], weight=given[2] if problem.is_weighted else None)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    distances = oracle.distance_map(exact[0], exact[1], problem.metric)
    if problem.is_weighted:
        distances = oracle.weigh(distances, exact[2], problem.metric)
    wanted = problem.wanted(distances, answer.patch)
    rtol = TOLERANCE[problem.dtype][0]
    checks = [Check("forward", relative_error(answer.values, wanted), rtol)]
    if problem.op == "mean_activation" and problem.roundoff:
        checks = [Check("forward", absolute_error(answer.values, wanted), spread(problem, distances))]
    if answer.patch is not None:
        checks.append(check_nearest(problem, distances.detach().flatten(2), answer.patch))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one.dtype) for one in answer.values]
    found = torch.autograd.grad(answer.values, given, [one.to(problem.place) for one in weights])
    truth = torch.autograd.grad(wanted, exact, [one.double() for one in weights])
    checks.append(Check("backward", scaled_error(found, truth), 2 * gradient_tolerance(problem.dtype)[0]))
    return checks, Answer([one.detach().cpu() for one in answer.values], answer.patch)


def check_nearest(problem: Problem, distances: Tensor, patch: Tensor) -> Check:
    """How much farther than the k nearest the found ones are, in units of what the precision allows."""
    at = distances.gather(2, patch)
    nearest = distances.sort(2).values[..., : patch.shape[2]]
    slack = nearest * 1e-5 + TOLERANCE[problem.dtype][1] + reach(problem)
    return Check("nearest", float(((at.sort(2).values - nearest) / slack).max()), 1.0)


def reach(problem: Problem) -> float:
    """How far a rounded search may be off: twice the error of 2 x.p for each of two patches."""
    if not problem.roundoff:
        return 0.0
    if problem.metric == "cosine":
        return 8 * problem.roundoff
    features, prototypes = (tensor.double() for tensor in problem.inputs)
    cells = 1 if prototypes.dim() == 2 else prototypes[0, 0].numel()
    longest = features.square().sum(1).max() * cells + prototypes.flatten(1).square().sum(1).max()
    return float(4 * problem.roundoff * longest)


def spread(problem: Problem, distances: Tensor) -> float:
    """The most that rounded distances can move a mean of similarities: their error times the slope, patch by patch."""
    flat = distances.detach().flatten(2)
    off = reach(problem)
    lowest = (flat - off).clamp_min(0)
    moved = oracle.activation(lowest, "log", EPSILON) - oracle.activation(flat + off, "log", EPSILON)
    return float(moved.mean(2).max()) + TOLERANCE[problem.dtype][0]


def check_copies(problem: Problem, clean: Answer) -> list[Check]:
    """The distance of an exact copy is 0, not nearly 0."""
    index = torch.arange(len(problem.copied))
    if problem.op == "mean_activation":
        return []
    if problem.op == "distance_map":
        own = clean.values[0].flatten(2)[0, index, problem.copied]
    elif problem.op == "topk_pool":
        own = clean.values[0][0, index, 0]
    else:
        own = clean.values[0][0, index]
    return [Check("copies", float(own.abs().max()), 0.0)]


def check_non_finite(problem: Problem, clean: Answer) -> list[Check]:
    """A NaN in one patch of the first image spoils what covers it, names the first such patch, and nothing else."""
    features, prototypes = (tensor.clone() for tensor in problem.inputs)
    features[0, -1, 1, 1] = torch.nan
    answer = on_device(problem, features, prototypes)
    height, width = problem.case.patch or (1, 1)
    rows = torch.arange(problem.positions) // problem.columns
    columns = torch.arange(problem.positions) % problem.columns
    covers = (rows <= 1) & (rows + height > 1) & (columns <= 1) & (columns + width > 1)  # (N,)
    spoilt = []
    for value in answer.values:
        bad = torch.zeros(value.shape, dtype=torch.bool)
        if problem.op == "distance_map":
            bad[0] = covers.view(value.shape[2:])
        elif problem.op == "distance_at":
            bad[0] = covers[problem.chosen[0]]
        else:
            bad[0] = True
        spoilt.append(bad)
    off = sum(int((value.isnan() != bad).sum()) for value, bad in zip(answer.values, spoilt, strict=True))
    checks = [Check("NaN", float(off), 0.0)]
    others = [int((one[1:] != other[1:]).sum()) for one, other in zip(answer.values, clean.values, strict=True)]
    if problem.op != "mean_activation":  # whose centre may move with the features
        checks.append(Check("others beside NaN", float(sum(others)), 0.0))
    if answer.patch is not None:
        first = int(covers.nonzero()[0])
        checks.append(Check("patch of NaN", float((answer.patch[0] != first).sum()), 0.0))
    return checks


def check_ties(problem: Problem) -> list[Check]:
    """Of patches that are all alike the first counts, and all have the same distance."""
    features, prototypes = (tensor.clone() for tensor in problem.inputs)
    features[-1] = features[-1, :, :1, :1]
    answer = on_device(problem, features, prototypes)
    if problem.op == "distance_map":
        last = answer.values[0][-1].flatten(1)
        return [Check("ties", float((last != last[:, :1]).sum()), 0.0)]
    if answer.patch is None:
        return []
    wanted = torch.arange(answer.patch.shape[2])
    return [Check("ties", float((answer.patch[-1] != wanted).sum()), 0.0)]


def on_device(problem: Problem, features: Tensor, prototypes: Tensor) -> Answer:
    with torch.no_grad():
        answer = problem.run(features.to(problem.place), prototypes.to(problem.place))
    return Answer([value.cpu() for value in answer.values], answer.patch)


def absolute_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return max(
        float((one.detach().cpu().double() - other.detach()).abs().max())
        for one, other in zip(found, wanted, strict=True)
    )


def relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest error relative to the wanted number plus a tenth, like the tolerance of the tests."""
    return max(
        float(((one.detach().cpu().double() - other.detach()).abs() / (other.detach().abs() + 0.1)).max())
        for one, other in zip(found, wanted, strict=True)
    )


def scaled_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Sums of either sign, so against the largest of each tensor."""
    return max(
        float((one.cpu().double() - other).abs().max() / max(float(other.abs().max()), 1e-30))
        for one, other in zip(found, wanted, strict=True)
    )
