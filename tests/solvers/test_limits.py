"""Limits of signs on small problems, against solvers that know nothing of the package."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from protokern.config.train import TrainConfig
from protokern.solvers import working_set
from protokern.solvers.convex import solve
from protokern.solvers.last_layer import LastLayerInputs, solve_last_layer
from protokern.solvers.limits import SignLimit
from protokern.solvers.problem import LastLayerProblem, allowed_signs, certify
from tests.train.toy import toy_config, toy_run

RIDGE, CLASSES, INPUTS, IMAGES = 1e-2, 4, 12, 100
KINDS = {
    "for": SignLimit(own="for"),
    "against": SignLimit(others="against"),
    "none": SignLimit(others="none"),
    "for-against": SignLimit(own="for", others="against"),
    "for-none": SignLimit(own="for", others="none"),
}


def make_data(seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (E, N), labels (N,) and own weights (K, E); inputs 0 and 1, of classes 0 and 1, are active elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    is_own = torch.arange(INPUTS) % CLASSES == torch.arange(CLASSES)[:, None]
    values = 0.7 * torch.rand(INPUTS, IMAGES, generator=generator, dtype=torch.float64) + 0.3 * is_own.T[:, labels]
    for row in (0, 1):
        values[row] = 0.8 - values[row] + 0.4 * (labels == (row + 1) % CLASSES)
    return values, labels, is_own


def make_problem(limits: dict[int, SignLimit], *, bound: float = math.inf) -> LastLayerProblem:
    values, labels, is_own = make_data()
    targets = torch.nn.functional.one_hot(labels, CLASSES).T.double()
    rises, falls = allowed_signs(is_own, limits)
    start = torch.where(is_own, 1.0, 0.0).double()
    return LastLayerProblem(values, targets, is_own, start, 1.0, RIDGE, bound=bound, may_rise=rises, may_fall=falls)


def box_by_hand(limits: dict[int, SignLimit], is_own: Tensor, bound: float, l1: float) -> tuple[Tensor, Tensor]:
    """Least and largest value of every weight, one after the other."""
    least, most = torch.empty(is_own.shape).double(), torch.empty(is_own.shape).double()
    for k in range(is_own.shape[0]):
        limit = limits.get(k, SignLimit())
        for e in range(is_own.shape[1]):
            if is_own[k, e]:
                least[k, e], most[k, e] = (0.0 if limit.own == "for" else -math.inf), math.inf
            elif limit.others == "none" or math.isinf(l1):
                least[k, e] = most[k, e] = 0.0
            else:
                least[k, e], most[k, e] = -bound, (0.0 if limit.others == "against" else bound)
    return least, most


def objective_by_hand(problem: LastLayerProblem, weight: Tensor, l1: float) -> Tensor:
    logits = weight @ problem.inputs  # (K, N)
    cross_entropy = (logits.logsumexp(dim=0) - (problem.targets * logits).sum(dim=0)).mean()
    distance = (weight - problem.start)[problem.is_own]
    others = weight[~problem.is_own].abs().sum()
    return (
        cross_entropy
        + (0.0 if math.isinf(l1) else l1 * others)
        + problem.ridge / len(weight) / 2 * distance.square().sum()
    )


def minimum_by_small_steps(problem: LastLayerProblem, l1: float, box: tuple[Tensor, Tensor]) -> Tensor:
    """Accelerated proximal gradient, whose speed is lost where it runs uphill; until it stands still.

    Every box has zero in it, so the proximal point of L1 in it is a cut-off one.
    """
    is_own, num_images = problem.is_own, problem.inputs.shape[1]
    spread = torch.linalg.eigvalsh(problem.inputs @ problem.inputs.T / num_images)[-1]
    step = 1 / (0.5 * spread + problem.ridge)
    weight = ahead = problem.start.clamp(*box)
    count = 0
    for _ in range(20000):
        gradient = ((ahead @ problem.inputs).softmax(dim=0) - problem.targets) @ problem.inputs.T / num_images
        gradient += torch.where(is_own, problem.ridge / len(weight) * (ahead - problem.start), 0.0)
        moved = ahead - step * gradient
        shrunk = moved if math.isinf(l1) else moved.sign() * (moved.abs() - step * l1).clamp(min=0)
        new = torch.where(is_own, moved, shrunk).clamp(*box)
        count = 0 if float(((ahead - new) * (new - weight)).sum()) > 0 else count + 1
        still = float((new - ahead).abs().max()) < 1e-9 * step
        ahead = new + count / (count + 3) * (new - weight)
        weight = new
        if still:
            return weight
    raise AssertionError("the steps do not come to rest")


def holds(weight: Tensor, is_own: Tensor, limits: dict[int, SignLimit]) -> bool:
    """Exactly, weight by weight."""
    for k, limit in limits.items():
        own, others = weight[k][is_own[k]], weight[k][~is_own[k]]
        if limit.own == "for" and not all(w >= 0 for w in own.tolist()):
            return False
        if limit.others == "against" and not all(w <= 0 for w in others.tolist()):
            return False
        if limit.others == "none" and not all(w == 0 for w in others.tolist()):
            return False
    return True


@pytest.mark.parametrize(("l1", "bound"), [(math.inf, math.inf), (4e-3, math.inf), (5e-4, 0.3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_within_limits_is_that_of_small_steps(kind: str, l1: float, bound: float) -> None:
    limits = {0: KINDS[kind], 2: KINDS[kind]}
    problem = make_problem(limits, bound=bound)
    reference = minimum_by_small_steps(problem, l1, box_by_hand(limits, problem.is_own, bound, l1))
    solution = solve(problem, l1, problem.start, tolerance=1e-7)
    assert solution.gap <= 1e-7
    assert holds(solution.weight, problem.is_own, limits)
    assert solution.objective == pytest.approx(float(objective_by_hand(problem, solution.weight, l1)), rel=1e-12)
    # The gap, and the steps' own distance from the minimum.
    assert solution.objective == pytest.approx(float(objective_by_hand(problem, reference, l1)), rel=1e-6)
    # The ridge bends F by RIDGE / CLASSES only, so a gap of 1e-7 allows weights this far away.
    torch.testing.assert_close(solution.weight, reference, atol=5e-3, rtol=0)
    free = solve(make_problem({}, bound=bound), l1, problem.start, tolerance=1e-7)
    is_idle = math.isinf(l1) and "for" not in kind  # then no weight of another class moves anyway
    assert holds(free.weight, problem.is_own, limits) == is_idle, "else the limit does nothing"


def test_a_generic_solver_finds_the_same_minimum() -> None:
    """SciPy's SLSQP on the two halves of every weight, whose boxes are written down here; gradients by autograd."""
    from scipy.optimize import minimize

    l1, limits = 2e-3, {0: KINDS["for-against"], 1: KINDS["none"], 3: KINDS["for"]}
    problem = make_problem(limits, bound=0.4)
    least, most = box_by_hand(limits, problem.is_own, 0.4, l1)
    l1_of = torch.where(problem.is_own, 0.0, l1).double()

    def total(halves: np.ndarray) -> tuple[float, np.ndarray]:
        up, down = values = torch.tensor(halves.reshape(2, *least.shape), requires_grad=True)
        result = objective_by_hand(problem, up - down, 0.0) + (l1_of * (up + down)).sum()
        result.backward()
        return result.item(), values.grad.numpy().ravel()

    box = [(0, high if math.isfinite(high) else None) for high in torch.cat([most, -least]).flatten().tolist()]
    first = torch.stack([problem.start, torch.zeros_like(problem.start)]).numpy().ravel()
    found = minimize(total, first, jac=True, method="SLSQP", bounds=box, options={"maxiter": 400, "ftol": 1e-14})
    solution = solve(problem, l1, problem.start, tolerance=1e-8)
    assert solution.gap <= 1e-8
    assert holds(solution.weight, problem.is_own, limits)
    assert solution.objective == pytest.approx(found.fun, rel=1e-6)
    up, down = torch.from_numpy(found.x).view(2, *least.shape)
    torch.testing.assert_close(solution.weight, up - down, atol=5e-3, rtol=0)


@pytest.mark.parametrize(("l1", "bound"), [(math.inf, math.inf), (4e-3, math.inf), (5e-4, 0.3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_bounds_what_is_left_to_gain(kind: str, l1: float, bound: float) -> None:
    limits = {0: KINDS[kind], 1: KINDS["for-against"]}
    problem = make_problem(limits, bound=bound)
    box = box_by_hand(limits, problem.is_own, bound, l1)
    best = minimum_by_small_steps(problem, l1, box)
    least = float(objective_by_hand(problem, best, l1))
    generator = torch.Generator().manual_seed(3)
    for near in (problem.start, best):
        for scale in (0.0, 0.01, 0.1, 1.0):
            noise = torch.randn(best.shape, generator=generator, dtype=torch.float64)
            weight = (near + scale * noise).clamp(*box)
            objective, gap, _ = certify(problem, weight, l1)
            assert objective == pytest.approx(float(objective_by_hand(problem, weight, l1)), rel=1e-12)
            # Rounding of the objective and of the steps' end.
            assert objective - least <= gap * objective + 1e-9
            free = replace(problem, may_rise=None, may_fall=None)
            assert gap <= certify(free, weight, l1)[1] + 1e-12, "fewer weights are nearer their minimum"


def test_the_gap_vanishes_at_a_minimum_that_a_limit_holds() -> None:
    """Without the limits in the bound, the weights that would move but may not leave it open."""
    limits = dict.fromkeys(range(CLASSES), KINDS["for-none"])
    problem = make_problem(limits)
    best = minimum_by_small_steps(problem, 5e-4, box_by_hand(limits, problem.is_own, math.inf, 5e-4))
    assert certify(problem, best, 5e-4)[1] < 1e-6
    assert certify(replace(problem, may_rise=None, may_fall=None), best, 5e-4)[1] > 0.01


@pytest.mark.parametrize("l1", [math.inf, 4e-3])
def test_newton_steps_stay_within_limits(l1: float) -> None:
    """A gap this small needs them: values of F no longer differ there."""
    limits = dict.fromkeys(range(CLASSES), KINDS["for-against"])
    problem = make_problem(limits, bound=0.3)
    solution = solve(problem, l1, problem.start, tolerance=1e-12)
    assert solution.gap <= 1e-12
    assert holds(solution.weight, problem.is_own, limits)
    own = solution.weight[problem.is_own]
    assert float(own.min()) == 0.0 < float(own.max())


def test_a_newton_step_from_a_wall_does_not_pass_it() -> None:
    """The weight 0, 0 is an own one that would fall: from the wall, and from just before it."""
    limits = {0: KINDS["for-against"]}
    problem = make_problem(limits)
    weight = 1.05 * minimum_by_small_steps(problem, math.inf, box_by_hand(limits, problem.is_own, math.inf, math.inf))
    assert weight[0, 0] == 0.0, "else there is no wall"
    every = torch.ones_like(problem.is_own)
    for distance in (0.0, 1e-6):
        weight[0, 0] = distance
        stepped = working_set.WorkingSet(problem, every, torch.float64).newton_step(weight, 1e-3)
        assert holds(stepped, problem.is_own, limits)
        assert stepped[0, 0] == 0.0
        assert not torch.equal(stepped, weight)


def test_a_working_set_moves_no_weight_to_a_forbidden_side() -> None:
    """Of all weights, also those that the rounds would never put into it."""
    limits = {0: KINDS["none"], 1: KINDS["for-against"], 2: KINDS["for"]}
    problem = make_problem(limits, bound=0.3)
    chosen = working_set.WorkingSet(problem, torch.ones_like(problem.is_own), torch.float64)
    moved, _ = chosen.minimise(problem.start, 5e-4, 500, 1e-9)
    assert holds(moved, problem.is_own, limits)
    reference = minimum_by_small_steps(problem, 5e-4, box_by_hand(limits, problem.is_own, 0.3, 5e-4))
    least = float(objective_by_hand(problem, reference, 5e-4))
    assert float(objective_by_hand(problem, moved, 5e-4)) == pytest.approx(least, rel=1e-6)


def test_the_strength_at_which_weights_enter_is_that_of_weights_that_may() -> None:
    """Of weights that pull upwards and may not, nothing is heard; the gradient is autograd's."""
    limits = dict.fromkeys(range(CLASSES), KINDS["against"])
    problem = make_problem(limits)
    solution = solve(problem, math.inf, problem.start, tolerance=1e-10)
    weight = solution.weight.clone().requires_grad_()
    objective_by_hand(problem, weight, math.inf).backward()
    assert weight.grad is not None
    slopes = weight.grad[~problem.is_own]
    assert float(-slopes.min()) > float(slopes.max()), "the strongest pull is a forbidden one"
    assert solution.entering == pytest.approx(float(slopes.max()), rel=1e-3)
    for factor, any_left in ((1.001, False), (0.97, True)):
        path = solve(problem, factor * solution.entering, solution.weight, tolerance=1e-9)
        assert bool(path.weight[~problem.is_own].any()) == any_left


def test_without_weights_that_may_move_nothing_enters() -> None:
    problem = make_problem(dict.fromkeys(range(CLASSES), KINDS["none"]))
    assert solve(problem, math.inf, problem.start, tolerance=1e-6).entering == 0.0
    assert not solve(problem, 1e-6, problem.start, tolerance=1e-6).weight[~problem.is_own].any()


@pytest.mark.parametrize("l1", [math.inf, 4e-3])
def test_a_start_outside_the_limits_is_brought_inside(l1: float) -> None:
    limits = {0: KINDS["for-against"], 1: KINDS["none"]}
    problem = make_problem(limits)
    generator = torch.Generator().manual_seed(0)
    outside = torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)
    for tolerance in (1e9, 1e-6):  # not a step, and all of them
        assert holds(solve(problem, l1, outside, tolerance=tolerance).weight, problem.is_own, limits)


def test_limits_that_allow_everything_change_no_bit() -> None:
    for l1 in (math.inf, 4e-3):
        bare = replace(make_problem({}), may_rise=None, may_fall=None)
        ends = [solve(one, l1, bare.start, tolerance=1e-8) for one in (bare, make_problem({2: SignLimit()}))]
        assert torch.equal(ends[0].weight, ends[1].weight)
        assert replace(ends[0], weight=ends[1].weight) == ends[1]


def test_own_weights_that_may_not_rise_are_no_limit() -> None:
    problem = make_problem({})
    with pytest.raises(ValueError, match=r"may_rise: must be True at every own weight; got False at 12 of them\."):
        replace(problem, may_rise=torch.zeros_like(problem.is_own))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"own": "against"}, "own: must be one of any, for; got 'against'. Choose one of them."),
        ({"others": "for"}, "others: must be one of any, against, none; got 'for'. Choose one of them."),
    ],
)
def test_signs_that_are_none_are_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignLimit(**values)


@pytest.fixture
def model(tmp_path):
    return toy_run(tmp_path, toy_config()).model


def inputs(seed: int) -> LastLayerInputs:
    """Three classes with two prototypes each; 0 and 3 are more active in another class than in their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(90) % 3
    values = torch.rand(90, 6, generator=generator) + 0.4 * (torch.arange(6) // 2 == labels[:, None])
    values[:, 0] = 0.9 * (labels == 1) + 0.1 * values[:, 0]
    values[:, 3] = 0.9 * (labels == 2) + 0.1 * values[:, 3]
    return LastLayerInputs(values, labels)


SETTINGS = TrainConfig(l1=5e-4, last_layer_path=5, last_layer_gap=1e-6)


@pytest.mark.parametrize(
    ("others", "ridge_path", "own"),
    [("path", 1, "free"), ("path", 3, "free"), ("needed", 1, "non_negative"), ("none", 3, "free")],
)
@pytest.mark.parametrize("kind", ["for", "against", "none"])
def test_the_stage_keeps_limits_in_every_mode(model, kind: str, others: str, ridge_path: int, own: str) -> None:
    limits = {1: KINDS[kind], 2: KINDS["for-against"]}
    is_own = model.last_layer_identity.T > 0
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.where(is_own, -0.5, 0.0))  # class 2 forbids it: not to be kept
    settings = replace(SETTINGS, last_layer_others=others, last_layer_ridge_path=ridge_path, last_layer_own=own)
    result = solve_last_layer(model, inputs(0), inputs(1), settings, limits=limits)
    if own == "non_negative":  # what the setting says of every class
        limits = {k: replace(limits.get(k, SignLimit()), own="for") for k in range(3)}
    weight = model.last_layer.weight.detach()
    assert result.l1 > 0
    assert result.gap <= 1e-6
    assert holds(weight, is_own, limits)
    assert result.nonzero == int(weight[~is_own].count_nonzero())
    strength = result.l1 if result.nonzero else math.inf
    held_at = torch.where(is_own, -0.5, 0.0).double()
    for k, limit in limits.items():
        if limit.own == "for":
            held_at[k] = 0.0  # as near to the start as it may be
    data = inputs(0)
    by_hand = LastLayerProblem(
        data.values.double().T, torch.nn.functional.one_hot(data.labels).T.double(), is_own, held_at, 1.0, result.ridge
    )
    reference = minimum_by_small_steps(by_hand, strength, box_by_hand(limits, is_own, 0.5, strength))
    least = float(objective_by_hand(by_hand, reference, strength))
    # The weights were solved to a gap of 1e-6, then rounded to float32.
    assert float(objective_by_hand(by_hand, weight.double(), strength)) == pytest.approx(least, rel=3e-6)


def test_weights_from_before_compete_only_within_the_limits(model) -> None:
    """Validation images in which nothing is active: all weights say the same, and those from before win a tie."""
    quiet = LastLayerInputs(torch.zeros(30, 6), torch.arange(30) % 3)
    is_own = model.last_layer_identity.T > 0
    start = torch.where(is_own, 1.0, -0.5)  # those of the paper
    start[0, 1] = -0.25
    start[1, 0] = 0.25
    for limit, may_stay in (
        ({}, True),
        ({0: SignLimit(own="for")}, False),
        ({1: SignLimit(own="for")}, True),
        ({1: SignLimit(others="against")}, False),
        ({2: SignLimit(others="against")}, True),
        ({2: SignLimit(others="none")}, False),
    ):
        with torch.no_grad():
            model.last_layer.weight.copy_(start)
        result = solve_last_layer(model, inputs(0), quiet, SETTINGS, limits=limit)
        assert (result.l1 == 0) == may_stay
        assert torch.equal(model.last_layer.weight, start) == may_stay
        assert holds(model.last_layer.weight.detach(), is_own, limit)


def test_limits_of_no_class_are_refused(model) -> None:
    message = r"limits: must be of classes 0 \.\. 2; got 3\. Use the classes that the model was built for\."
    with pytest.raises(ValueError, match=message):
        solve_last_layer(model, inputs(0), inputs(1), SETTINGS, limits={3: SignLimit(own="for")})
