"""The last-layer stage: a convex problem over fixed activations, which are computed once.

`solve_last_layer` solves it; `train_last_layer` takes the small steps of the released program.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.config.train import TrainConfig
from protokern.errors import TrainingError
from protokern.evaluate import Evaluation
from protokern.losses import last_layer_l1
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.ranks import Ranks
from protokern.solvers.choice import Candidate, choose
from protokern.solvers.convex import Solution, solve
from protokern.solvers.limits import SignLimit
from protokern.solvers.problem import LastLayerProblem, allowed_signs, within_signs


@dataclass(frozen=True, slots=True)
class LastLayerInputs:
    """The inputs (N, E) of the last layer for a data set, and its labels (N,)."""

    values: Tensor
    labels: Tensor

    @torch.no_grad()
    def evaluate(self, last_layer: nn.Module) -> Evaluation:
        """Accuracy and cross entropy with this last layer."""
        logits = last_layer(self.values)  # (N, K)
        correct = (logits.argmax(dim=1) == self.labels).sum()
        return Evaluation(
            int(correct) / max(len(self.labels), 1),
            float(F.cross_entropy(logits.double(), self.labels)),
            len(self.labels),
        )


@torch.no_grad()
def collect_inputs(model: PrototypeModel, features: Iterable[tuple[Tensor, Tensor]]) -> LastLayerInputs:
    """The inputs of the last layer for batches of (features (B, D, H, W), labels (B,))."""
    return _collect(model, features, model.last_layer_input, len(model.last_layer_identity))


@torch.no_grad()
def collect_activations(model: PrototypeModel, features: Iterable[tuple[Tensor, Tensor]]) -> LastLayerInputs:
    """The activations of the prototypes, (N, P), whatever the last layer reads; otherwise as `collect_inputs`."""
    return _collect(model, features, lambda output: output.activations, model.num_prototypes)


def _collect(
    model: PrototypeModel,
    features: Iterable[tuple[Tensor, Tensor]],
    read: Callable[[ModelOutput], Tensor],
    columns: int,
) -> LastLayerInputs:
    device = model.device
    values, labels = [], []
    for batch, batch_labels in features:
        values.append(read(model.head(batch)))
        labels.append(batch_labels.to(device))
    if not values:
        return LastLayerInputs(torch.zeros(0, columns, device=device), torch.zeros(0, dtype=torch.int64, device=device))
    return LastLayerInputs(torch.cat(values), torch.cat(labels))


def gather_inputs(inputs: LastLayerInputs, ranks: Ranks) -> LastLayerInputs:
    """The inputs of the last layer of all ranks, in the order of the images, on the first rank; None on the others."""
    if ranks.size == 1:
        return inputs

    def joined(part: Tensor) -> Tensor:
        parts = ranks.gather_to_first(part)
        return torch.cat(parts).to(part.device) if parts else part[:0]

    return LastLayerInputs(joined(inputs.values), joined(inputs.labels))


@dataclass(frozen=True, slots=True)
class LastLayerResult:
    """The epoch whose weights were kept (0: those from before), and the training loss before and after."""

    best_epoch: int
    loss_before: float
    loss_after: float


def train_last_layer(
    model: PrototypeModel,
    train: LastLayerInputs,
    val: LastLayerInputs,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
) -> LastLayerResult:
    """Learn `model.last_layer` on fixed activations and keep the weights that are best on `val`.

    The loss is cross entropy plus L1 of the weights to other classes than an input's own. The weights from before the
    stage compete too.

    Raises:
        TrainingError: the loss is no longer finite.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "convex optimization of last layer"; the released program runs
        the whole net for each of the 20 epochs.
    """
    layer = model.last_layer
    best, best_epoch, best_weights = val.evaluate(layer), 0, copy.deepcopy(layer.state_dict())
    loss_before = float(_loss(model, train.values, train.labels, config).detach())
    for epoch in range(1, config.last_layer_epochs + 1):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(train.labels))
        for batch in torch.from_numpy(order).to(train.labels.device).split(config.batch_size):
            loss = _loss(model, train.values[batch], train.labels[batch], config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        result = val.evaluate(layer)
        if not np.isfinite(result.loss):
            raise TrainingError(
                f"last_layer, epoch {epoch}: the loss is no longer finite. "
                "Start again with a lower train.last_layer_lr."
            )
        if (result.accuracy, -result.loss) > (best.accuracy, -best.loss):
            best, best_epoch, best_weights = result, epoch, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_weights)
    return LastLayerResult(best_epoch, loss_before, float(_loss(model, train.values, train.labels, config).detach()))


def can_be_solved(last_layer: nn.Module) -> bool:
    """Whether the last layer is linear without bias, as the convex problem needs."""
    return (
        isinstance(last_layer, nn.Linear) and last_layer.bias is None and type(last_layer).forward is nn.Linear.forward
    )


@dataclass(frozen=True, slots=True)
class SolvedLastLayer:
    """What the solver did.

    Attributes:
        l1: strength whose weights were kept; without weights to other classes, the smallest such strength. 0: the
            weights from before were kept.
        nonzero: weights to other classes that are not zero.
        gap: upper bound of the relative distance to the minimum at that strength; above `last_layer_gap` if the problem
            is too ill-conditioned. 0 if the weights from before were kept.
        evaluations: of the loss and its gradient, over all strengths.
        loss_before, loss_after: cross entropy and L1 at `train.l1`, on the training images.
        at_bound: weights to other classes whose size is `last_layer_bound`.
        ridge: the chosen one; 0 if the weights from before were kept.
    """

    l1: float
    nonzero: int
    gap: float
    evaluations: int
    loss_before: float
    loss_after: float
    at_bound: int = 0
    ridge: float = 0.0


@torch.no_grad()
def solve_last_layer(
    model: PrototypeModel,
    train: LastLayerInputs,
    val: LastLayerInputs,
    config: TrainConfig,
    *,
    limits: Mapping[int, SignLimit] = MappingProxyType({}),
) -> SolvedLastLayer:
    """Solve for `model.last_layer` on fixed activations at several strengths of L1; `val` chooses one.

    Each strength starts from the solution of the stronger one before. Strengths are compared at ten times the gap; the
    chosen one is then solved to `last_layer_gap`. The weights from before the stage compete if they satisfy
    `last_layer_own`, `last_layer_others` and the limits.

    Args:
        model: a model whose last layer `can_be_solved`.
        train: the inputs to learn from.
        val: the inputs that choose the strength.
        config: coefficients, gap, ridge, bound, path, and which weights are allowed.
        limits: by class index, further limits of the weights into the logit of that class.

    Raises:
        ValueError: the last layer is of another kind, there are no images, or labels or classes are out of range.
        TrainingError: the activations are not finite.
    """
    layer = _checked_layer(model, train, val, limits)
    loss_before = float(_loss(model, train.values, train.labels, config))
    problem = _problem(model, train, config, limits)
    tolerance = config.last_layer_gap if config.last_layer_others == "none" else min(10 * config.last_layer_gap, 0.1)
    before = layer.weight.detach().clone()
    problem, solution, evaluations = _choose_ridge(layer, problem, val, config, tolerance)
    layer.weight.copy_(before)
    candidates, tolerance = _candidates(layer, problem, solution, val, config, tolerance)
    solved = [one.solution for one in candidates if one.solution is not None and one.solution is not solution]
    evaluations += sum(one.evaluations for one in solved)
    kept = choose(candidates, config.last_layer_others)
    chosen = kept.solution
    if chosen is not None and tolerance > config.last_layer_gap:
        chosen = solve(problem, kept.strength, chosen.weight, tolerance=config.last_layer_gap)
        evaluations += chosen.evaluations
    layer.weight.copy_(kept.weight if chosen is None else chosen.weight)
    others = layer.weight.cpu()[~problem.is_own]
    return SolvedLastLayer(
        l1=kept.l1,
        nonzero=int(others.count_nonzero()),
        gap=0.0 if chosen is None else chosen.gap,
        evaluations=evaluations,
        loss_before=loss_before,
        loss_after=float(_loss(model, train.values, train.labels, config)),
        at_bound=0 if chosen is None else int((others.abs() >= config.last_layer_bound).sum()),
        ridge=0.0 if chosen is None else problem.ridge,
    )


def _candidates(
    layer: nn.Linear,
    problem: LastLayerProblem,
    solution: Solution,
    val: LastLayerInputs,
    config: TrainConfig,
    tolerance: float,
) -> tuple[list[Candidate], float]:
    """The weights from before if they are allowed, then the path, strongest first; and the gap of their solutions.

    `layer` has the weights from before, and then holds one candidate after the other. `solution` is the one without
    weights to other classes.
    """
    candidates = []

    def add(l1: float, strength: float, solution: Solution | None) -> None:
        if solution is not None:
            layer.weight.copy_(solution.weight)
        others = int(layer.weight.cpu()[~problem.is_own].count_nonzero())
        weight = layer.weight.detach().clone()
        candidates.append(Candidate(l1, strength, weight, solution, others, val.evaluate(layer)))

    if _is_as_asked(layer.weight.cpu(), problem, config):
        add(0.0, 0.0, None)
    entering = solution.entering
    strengths = _strengths(entering, config)
    if config.last_layer_others != "path":
        strengths = [l1 for l1 in strengths if l1 < entering and config.last_layer_others == "needed"]
        add(max(entering, config.l1), np.inf, solution)
    elif len(strengths) == 1:
        tolerance = config.last_layer_gap
    for l1 in strengths:
        solution = solve(problem, l1, solution.weight, tolerance=tolerance)
        add(l1, l1, solution)
    return candidates, tolerance


def _choose_ridge(
    layer: nn.Linear, problem: LastLayerProblem, val: LastLayerInputs, config: TrainConfig, tolerance: float
) -> tuple[LastLayerProblem, Solution, int]:
    """The problem with the ridge that is best on `val` without weights to other classes; its solution; evaluations.

    `layer` holds one after the other.
    """
    best: tuple[float, LastLayerProblem, Solution] | None = None
    weight, evaluations = problem.start, 0
    for place in range(config.last_layer_ridge_path):
        tried = problem if place == 0 else replace(problem, ridge=problem.ridge / 10**place)
        solution = solve(tried, np.inf, weight, tolerance=tolerance)
        weight, evaluations = solution.weight, evaluations + solution.evaluations
        layer.weight.copy_(weight)
        loss = val.evaluate(layer).loss if config.last_layer_ridge_path > 1 else 0.0
        if best is None or loss < best[0]:
            best = loss, tried, solution
    assert best is not None
    return best[1], best[2], evaluations


def _is_as_asked(weight: Tensor, problem: LastLayerProblem, config: TrainConfig) -> bool:
    """Whether weights (K, E) satisfy the settings, but for the bound, and the limits."""
    if not torch.equal(within_signs(weight, problem.rises, problem.falls), weight):
        return False
    return config.last_layer_others == "path" or not weight[~problem.is_own].any()


def _checked_layer(
    model: PrototypeModel, train: LastLayerInputs, val: LastLayerInputs, limits: Mapping[int, SignLimit]
) -> nn.Linear:
    """The last layer, if it can be solved with these inputs."""
    layer = model.last_layer
    if not can_be_solved(layer):
        got = "nn.Linear with a bias" if type(layer) is nn.Linear else type(layer).__name__
        raise ValueError(f"model.last_layer: must be linear without bias; got {got}. Use train_last_layer.")
    assert isinstance(layer, nn.Linear)
    _check_labels("train", train.labels, model.num_classes)
    _check_labels("val", val.labels, model.num_classes)
    if not (train.values.isfinite().all() and val.values.isfinite().all()):
        raise TrainingError("last_layer: the activations are not finite. Start again with lower learning rates.")
    unknown = [k for k in limits if not 0 <= k < model.num_classes]
    if unknown:
        raise ValueError(
            f"limits: must be of classes 0 .. {model.num_classes - 1}; got {unknown[0]}. "
            "Use the classes that the model was built for."
        )
    return layer


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    if len(labels) == 0:
        raise ValueError(f"{name}: must hold at least one image; got none. Give activations to learn from.")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name}: must have labels of 0 .. {num_classes - 1}; got {low} .. {high}. "
            "Use the classes that the model was built for."
        )


def _problem(
    model: PrototypeModel, train: LastLayerInputs, config: TrainConfig, limits: Mapping[int, SignLimit]
) -> LastLayerProblem:
    """The problem on the CPU in float64; weights to other classes start at zero."""
    is_own = (model.last_layer_identity.T.cpu() > 0).contiguous()  # (K, E)
    weight = model.last_layer.weight
    assert isinstance(weight, Tensor)
    may_rise, may_fall = allowed_signs(is_own, limits)
    wanted = F.one_hot(train.labels.cpu(), len(is_own)).T.double()  # (K, N)
    smoothing = config.label_smoothing
    problem = LastLayerProblem(
        inputs=train.values.cpu().double().T.contiguous(),
        targets=(1 - smoothing) * wanted + smoothing / len(is_own),
        is_own=is_own,
        start=torch.where(is_own, weight.detach().cpu().double(), 0.0).contiguous(),
        cross_entropy=config.cross_entropy,
        ridge=config.last_layer_ridge,
        bound=config.last_layer_bound,
        own_is_non_negative=config.last_layer_own == "non_negative",
        may_rise=may_rise,
        may_fall=may_fall,
    )
    return replace(problem, start=within_signs(problem.start, problem.rises, problem.falls))


def _strengths(entering: float, config: TrainConfig) -> list[float]:
    """Strengths in equal ratios, from the one below which the first weight leaves zero down to `l1`."""
    if config.last_layer_path == 1 or entering <= config.l1:
        return [config.l1]
    return [float(l1) for l1 in np.geomspace(entering, config.l1, config.last_layer_path)]


def _loss(model: PrototypeModel, inputs: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    logits = model.last_layer(inputs)  # (B, K)
    weight = model.last_layer.weight
    assert isinstance(weight, Tensor)
    cross_entropy = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    return config.cross_entropy * cross_entropy + config.l1 * last_layer_l1(weight, model.last_layer_identity)
