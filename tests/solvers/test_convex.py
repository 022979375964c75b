from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from protokern.solvers import working_set
from protokern.solvers.convex import solve
from protokern.solvers.problem import LastLayerProblem, certify

RIDGE = 1e-2


def make_problem(*, images: int = 90, inputs: int = 9, classes: int = 3, noise: float = 0.6, **changes: float):
    """Own inputs are a little more active; `noise` 0 lets the classes be told apart without a mistake."""
    generator = torch.Generator().manual_seed(images + inputs)
    labels = torch.arange(images) % classes
    is_own = torch.arange(inputs) % classes == torch.arange(classes)[:, None]  # (K, E)
    values = torch.rand(inputs, images, generator=generator, dtype=torch.float64) * noise + 0.3 * is_own.T[:, labels]
    smoothing = changes.get("smoothing", 0.0)
    targets = torch.nn.functional.one_hot(labels, classes).T.double() * (1 - smoothing) + smoothing / classes
    start = torch.where(is_own, 1.0, 0.0).double()
    return LastLayerProblem(values, targets, is_own, start, changes.get("cross_entropy", 1.0), RIDGE)


def objective_by_hand(problem: LastLayerProblem, weight: Tensor, l1: float) -> Tensor:
    logits = weight @ problem.inputs  # (K, N)
    cross_entropy = (logits.logsumexp(dim=0) - (problem.targets * logits).sum(dim=0)).mean()
    distance = (weight - problem.start)[problem.is_own]
    ridge = RIDGE / len(weight) / 2 * distance.square().sum()
    return problem.cross_entropy * cross_entropy + l1 * weight[~problem.is_own].abs().sum() + ridge


def minimum_by_small_steps(problem: LastLayerProblem, l1: float, steps: int = 8000) -> Tensor:
    """Accelerated proximal gradient with a step that is surely short enough: slow, and right."""
    spread = torch.linalg.eigvalsh(problem.inputs @ problem.inputs.T / problem.inputs.shape[1])[-1]
    step = 1 / (0.5 * problem.cross_entropy * spread + RIDGE)
    weight = ahead = problem.start.clone()
    for count in range(1, steps + 1):
        excess = (ahead @ problem.inputs).softmax(dim=0) - problem.targets
        gradient = problem.cross_entropy * excess @ problem.inputs.T / problem.inputs.shape[1]
        gradient += torch.where(problem.is_own, RIDGE / len(weight) * (ahead - problem.start), 0.0)
        moved = ahead - step * gradient
        shrunk = moved.sign() * (moved.abs() - step * l1).clamp(min=0)
        new = torch.where(problem.is_own, moved, shrunk)
        ahead = new + count / (count + 3) * (new - weight)
        weight = new
    return weight


@pytest.mark.parametrize("changes", [{}, {"smoothing": 0.1}, {"cross_entropy": 0.5}])
@pytest.mark.parametrize("l1", [5e-3, 2e-3])
def test_it_finds_the_minimum_with_real_zeros(changes, l1) -> None:
    problem = make_problem(**changes)
    reference = minimum_by_small_steps(problem, l1)
    solution = solve(problem, l1, problem.start, tolerance=1e-7)
    assert solution.gap <= 1e-7
    assert solution.objective == pytest.approx(float(objective_by_hand(problem, solution.weight, l1)), rel=1e-12)
    assert solution.objective == pytest.approx(float(objective_by_hand(problem, reference, l1)), rel=1e-6)
    torch.testing.assert_close(solution.weight, reference, atol=2e-3, rtol=0)
    is_zero = solution.weight == 0
    assert 0 < int(is_zero.sum()) < int((~problem.is_own).sum())
    assert torch.equal(is_zero, reference.abs() < 1e-6)


def test_the_gap_bounds_what_is_left_to_gain() -> None:
    problem, l1 = make_problem(), 5e-3
    least = float(objective_by_hand(problem, minimum_by_small_steps(problem, l1), l1))
    generator = torch.Generator().manual_seed(3)
    for scale in (0.0, 0.01, 0.3, 3.0):
        noise = torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)
        objective, gap, _ = certify(problem, problem.start + scale * noise, l1)
        assert objective - least <= gap * objective
    assert certify(problem, problem.start, l1)[1] > 0.01, "the start is no minimum, and the gap says so"


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-6])
def test_it_stops_at_the_gap_that_is_asked_for(tolerance) -> None:
    problem = make_problem()
    solution = solve(problem, 5e-3, problem.start, tolerance=tolerance)
    assert solution.gap <= tolerance
    exact = solve(problem, 5e-3, problem.start, tolerance=1e-9)
    assert (solution.objective - exact.objective) / solution.objective <= tolerance


def test_picked_rows_and_whole_products_agree(monkeypatch) -> None:
    """Classes with different numbers of weights; float64 throughout, so both walk the same way."""
    problem = make_problem(inputs=31, images=60, classes=5)
    members = problem.is_own | (torch.rand(5, 31, generator=torch.Generator().manual_seed(0)) < 0.3)
    weight = torch.where(problem.is_own, problem.start, 0.0)
    ends = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(working_set, "DENSE_SHARE", share)
        ends.append(working_set.WorkingSet(problem, members, torch.float64).minimise(weight, 2e-3, 40, 1e-6)[0])
    torch.testing.assert_close(*ends, atol=1e-6, rtol=0)
    assert not ends[0][~members].any()


def test_weights_leave_zero_where_the_solution_says() -> None:
    problem = make_problem()
    own_only = solve(problem, math.inf, problem.start, tolerance=1e-9)
    assert not own_only.weight[~problem.is_own].any()
    for factor, any_left in ((1.001, False), (0.98, True)):
        solution = solve(problem, factor * own_only.entering, own_only.weight, tolerance=1e-9)
        assert bool(solution.weight[~problem.is_own].any()) == any_left


def test_classes_that_can_be_told_apart_leave_weights_finite() -> None:
    problem = make_problem(noise=0.0)
    solution = solve(problem, 1e-4, problem.start, tolerance=1e-4)
    assert solution.gap <= 1e-4
    assert float(solution.weight.abs().max()) < 30


def test_a_warm_start_does_not_change_the_end() -> None:
    problem = make_problem()
    cold = solve(problem, 2e-3, problem.start, tolerance=1e-9)
    warm = solve(problem, 2e-3, solve(problem, 0.01, problem.start, tolerance=1e-3).weight, tolerance=1e-9)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-4, rtol=0)


def test_classes_without_inputs_of_their_own_count_too() -> None:
    """So few weights that rows are picked, and more than a quarter of the classes use none."""
    classes, inputs = 40, 20
    is_own = torch.arange(inputs) % 10 == torch.arange(classes)[:, None]
    labels = torch.arange(120) % classes
    values = torch.rand(inputs, len(labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.nn.functional.one_hot(labels, classes).T.double()
    problem = LastLayerProblem(values, targets, is_own, is_own.double(), 1.0, RIDGE)
    solution = solve(problem, math.inf, problem.start, tolerance=1e-6)
    assert solution.gap <= 1e-6


def minimum_within(problem: LastLayerProblem, l1: float, bound: float) -> Tensor:
    """As `minimum_by_small_steps`, each step cut off at the bound: the proximal point of L1 in a box."""
    spread = torch.linalg.eigvalsh(problem.inputs @ problem.inputs.T / problem.inputs.shape[1])[-1]
    step = 1 / (0.5 * problem.cross_entropy * spread + RIDGE)
    weight = ahead = problem.start.clone()
    for count in range(1, 4001):
        excess = (ahead @ problem.inputs).softmax(dim=0) - problem.targets
        gradient = problem.cross_entropy * excess @ problem.inputs.T / problem.inputs.shape[1]
        gradient += torch.where(problem.is_own, RIDGE / len(weight) * (ahead - problem.start), 0.0)
        moved = ahead - step * gradient
        shrunk = (moved.sign() * (moved.abs() - step * l1).clamp(min=0)).clamp(-bound, bound)
        new = torch.where(problem.is_own, moved, shrunk)
        ahead = new + count / (count + 3) * (new - weight)
        weight = new
    return weight


@pytest.mark.parametrize("bound", [0.5, 0.05])
@pytest.mark.parametrize("l1", [2e-3, 1e-4])
def test_it_finds_the_minimum_within_a_bound(bound, l1) -> None:
    problem = replace(make_problem(), bound=bound)
    reference = minimum_within(problem, l1, bound)
    solution = solve(problem, l1, problem.start, tolerance=1e-7)
    others = solution.weight[~problem.is_own].abs()
    assert solution.gap <= 1e-7
    assert float(others.max()) == bound, "met exactly, and not passed by rounding"
    assert solution.objective == pytest.approx(float(objective_by_hand(problem, reference, l1)), rel=1e-6)
    torch.testing.assert_close(solution.weight, reference, atol=2e-3, rtol=0)


def test_the_gap_bounds_what_is_left_to_gain_within_a_bound() -> None:
    problem, l1 = replace(make_problem(), bound=0.2), 1e-4
    least = float(objective_by_hand(problem, minimum_within(problem, l1, 0.2), l1))
    generator = torch.Generator().manual_seed(3)
    for scale in (0.0, 0.01, 0.3):
        noise = torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)
        weight = problem.start + scale * noise
        weight = torch.where(problem.is_own, weight, weight.clamp(-0.2, 0.2))
        objective, gap, _ = certify(problem, weight, l1)
        assert objective - least <= gap * objective


def test_a_bound_that_is_not_reached_changes_no_bit() -> None:
    problem = make_problem()
    free = solve(problem, 5e-3, problem.start, tolerance=1e-7)
    far = solve(replace(problem, bound=1e9), 5e-3, problem.start, tolerance=1e-7)
    assert torch.equal(free.weight, far.weight)
    assert (free.gap, free.objective, free.evaluations) == (far.gap, far.objective, far.evaluations)


def unwilling_problem() -> LastLayerProblem:
    """The inputs 0, 1 and 2 are active in other classes than their own, so that own weights would be below zero."""
    problem = make_problem(images=60, inputs=6)
    inputs = problem.inputs.clone()
    inputs[:3] = inputs[:3].max() - inputs[:3] + 0.2 * problem.is_own.T[:3].roll(1, dims=1).double() @ problem.targets
    return replace(problem, inputs=inputs, own_is_non_negative=True)


def minimum_by_scipy(problem: LastLayerProblem, l1: float) -> Tensor:
    """The same problem in SLSQP's hands, whose gradients are autograd's: weights of other classes in two halves."""
    from scipy.optimize import minimize

    shape, own = problem.start.shape, problem.is_own.flatten()
    has_others = math.isfinite(l1)

    def loss(values):
        halves = torch.tensor(values, requires_grad=True)
        weight = torch.zeros(shape.numel(), dtype=torch.float64).masked_scatter(own, halves[: own.sum()])
        if has_others:
            up, down = halves[own.sum() :].chunk(2)
            weight = weight.masked_scatter(~own, up - down)
        total = objective_by_hand(problem, weight.view(shape), 0.0)
        if has_others:
            total = total + l1 * halves[own.sum() :].sum()
        total.backward()
        return total.item(), halves.grad.numpy()

    num_halves = 2 * int((~own).sum()) if has_others else 0
    start = torch.cat([problem.start.flatten()[own], torch.zeros(num_halves, dtype=torch.float64)])
    least = [(0, None)] * int(own.sum()) + [(0, problem.bound)] * num_halves
    options = {"maxiter": 300, "ftol": 1e-14}
    found = torch.from_numpy(minimize(loss, start.numpy(), jac=True, method="SLSQP", bounds=least, options=options).x)
    weight = torch.zeros(shape.numel(), dtype=torch.float64)
    weight[own] = found[: own.sum()]
    if has_others:
        up, down = found[own.sum() :].chunk(2)
        weight[~own] = up - down
    return weight.view(shape)


@pytest.mark.parametrize("l1", [math.inf, 5e-3])
def test_own_weights_that_may_not_be_negative_are_those_of_another_solver(l1) -> None:
    problem = unwilling_problem()
    free = solve(replace(problem, own_is_non_negative=False), l1, problem.start, tolerance=1e-7)
    assert float(free.weight[problem.is_own].min()) < -0.1, "else the constraint does nothing"
    reference = minimum_by_scipy(problem, l1)
    solution = solve(problem, l1, problem.start, tolerance=1e-7)
    own = solution.weight[problem.is_own]
    assert float(own.min()) == 0.0, "met exactly, and not passed by rounding"
    assert solution.gap <= 1e-7
    least = float(objective_by_hand(problem, reference, 0.0 if math.isinf(l1) else l1))
    assert solution.objective == pytest.approx(least, rel=1e-6)
    assert solution.objective > free.objective
    torch.testing.assert_close(solution.weight, reference, atol=2e-3, rtol=0)


def test_own_weights_at_zero_would_fall_and_others_stand_still() -> None:
    """The conditions of Karush, Kuhn and Tucker, with the gradient of autograd."""
    problem = unwilling_problem()
    solution = solve(problem, math.inf, problem.start, tolerance=1e-10)
    weight = solution.weight.clone().requires_grad_()
    objective_by_hand(problem, weight, 0.0).backward()
    assert weight.grad is not None
    own, slope = solution.weight[problem.is_own], weight.grad[problem.is_own]
    assert 0 < int((own == 0).sum()) < len(own)
    assert float(slope[own == 0].min()) >= -1e-5
    assert float(slope[own > 0].abs().max()) <= 1e-5
    assert not solution.weight[~problem.is_own].any()


def test_the_gap_bounds_what_is_left_to_gain_without_negative_weights() -> None:
    problem = unwilling_problem()
    generator = torch.Generator().manual_seed(3)
    for l1 in (math.inf, 5e-3):
        least = float(objective_by_hand(problem, minimum_by_scipy(problem, l1), 0.0 if math.isinf(l1) else l1))
        for scale in (0.0, 0.05, 0.5, 3.0):
            noise = torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)
            weight = problem.start + scale * noise
            weight = torch.where(problem.is_own, weight.clamp(min=0), 0.0 if math.isinf(l1) else weight)
            objective, gap, _ = certify(problem, weight, l1)
            assert objective - least <= gap * objective * (1 + 1e-9)
            free_gap = certify(replace(problem, own_is_non_negative=False), weight, l1)[1]
            assert gap <= free_gap


def test_own_weights_that_stay_positive_by_themselves_are_the_same() -> None:
    problem = make_problem()
    free = solve(problem, 5e-3, problem.start, tolerance=1e-7)
    assert float(free.weight[problem.is_own].min()) > 0
    held = solve(replace(problem, own_is_non_negative=True), 5e-3, problem.start, tolerance=1e-7)
    torch.testing.assert_close(held.weight, free.weight, atol=2e-3, rtol=0)
    assert held.gap <= 1e-7


@pytest.mark.parametrize("l1", [math.inf, 5e-3])
def test_a_gap_is_reached_that_values_of_the_objective_cannot_tell_apart(l1) -> None:
    """The objective stands still in its last digit long before; the last steps go by gradients."""
    problem = unwilling_problem()
    solution = solve(problem, l1, problem.start, tolerance=1e-12)
    assert solution.gap <= 1e-12
    assert float(solution.weight[problem.is_own].min()) == 0.0
