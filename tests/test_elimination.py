"""The order in which prototypes go, against loops that compute every loss from scratch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protokern import elimination
from protokern.elimination import Activations, ClassLevels, Elimination, eliminate, need_for, smallest


def make_case(
    *, classes: int = 3, each: int = 3, images: int = 24, others: str = "none", seed: int = 0
) -> tuple[Tensor, Tensor, Activations, Activations]:
    """Weights (K, P), whose they are (K, P), validation and training images."""
    generator = torch.Generator().manual_seed(seed)
    count = classes * each
    is_own = torch.arange(count) // each == torch.arange(classes)[:, None]
    weight = torch.where(is_own, 1 + 4 * torch.rand(classes, count, generator=generator), 0.0)
    if others == "all":
        weight = torch.where(is_own, weight, -torch.rand(classes, count, generator=generator))
    elif others == "alike":
        weight = torch.where(is_own, weight, -0.5)
    elif others == "few":
        weight[0, -1], weight[1, 0] = -0.7, 0.4
    labels = torch.arange(images) % classes
    values = torch.rand(images, count, generator=generator) + 0.4 * is_own.T[:, labels].T
    half = images // 2
    return (
        weight,
        is_own,
        Activations(values[:half], labels[:half]),
        Activations(values[half:], labels[half:]),
    )


def loss_from_scratch(
    weight: Tensor, is_own: Tensor, kept: list[int], level: Tensor | None, images: list[tuple[list[float], int]]
) -> float:
    """The mean cross entropy with the prototypes `kept`; every class is scaled by a fit of its own part on `level`."""
    scale = []
    for label in range(len(weight)):
        own = [p for p in range(weight.shape[1]) if is_own[label, p]]
        above = below = 0.0
        for row in [] if level is None else level.double().tolist():
            part = sum(row[p] * float(weight[label, p]) for p in own if p in kept)
            above += part * sum(row[p] * float(weight[label, p]) for p in own)
            below += part * part
        scale.append(above / below if below > 0 and above > 0 else 1.0)
    total = 0.0
    for row, right in images:
        logits = [
            sum(row[p] * float(weight[label, p]) * (scale[label] if is_own[label, p] else 1.0) for p in kept)
            for label in range(len(weight))
        ]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[right]
    return total / len(images)


def rows_of(*sets: Activations) -> list[tuple[list[float], int]]:
    return [pair for one in sets for pair in zip(one.values.double().tolist(), one.labels.tolist(), strict=True)]


@pytest.mark.parametrize("others", ["none", "alike", "few", "all"])
@pytest.mark.parametrize("moves_weights", [True, False])
def test_the_path_is_that_of_loops_that_begin_anew(others, moves_weights) -> None:
    weight, is_own, val, train = make_case(others=others)
    level = train.values if moves_weights else None
    path = eliminate(weight, is_own, val, train, moves_weights=moves_weights)
    kept, order = list(range(9)), []
    losses = [loss_from_scratch(weight, is_own, kept, level, rows_of(val))]
    while len(kept) > 3:
        free = [p for p in kept if sum(q // 3 == p // 3 for q in kept) > 1]
        tried = {
            p: loss_from_scratch(weight, is_own, [q for q in kept if q != p], level, rows_of(val, train)) for p in free
        }
        order.append(min(free, key=lambda p: (tried[p], p)))
        kept.remove(order[-1])
        losses.append(loss_from_scratch(weight, is_own, kept, level, rows_of(val)))
    assert path.order.tolist() == order
    torch.testing.assert_close(path.loss, torch.tensor(losses, dtype=torch.float64), rtol=1e-9, atol=0)


def test_prototypes_of_several_classes_are_missed_by_all_of_them() -> None:
    weight, is_own, val, train = make_case(others="few")
    is_own[1, 0] = is_own[2, 4] = True
    weight[1, 0], weight[2, 4] = 2.0, 3.0
    need = need_for(weight, is_own, val, train)
    for p in range(9):
        kept = [q for q in range(9) if q != p]
        by_hand = loss_from_scratch(weight, is_own, kept, train.values, rows_of(val, train))
        assert float(need[p]) == pytest.approx(by_hand, rel=1e-9)
    path = eliminate(weight, is_own, val, train)
    left = sorted(set(range(9)) - set(path.order.tolist()))
    assert is_own[:, left].any(dim=1).all()


def test_a_class_keeps_its_last_and_those_that_are_asked_for() -> None:
    weight, is_own, val, train = make_case(each=4)
    for per_class in (1, 2, 3):
        order = eliminate(weight, is_own, val, train, per_class=per_class).order
        left = torch.ones(12, dtype=torch.bool).index_fill(0, order, False)
        assert (is_own & left).sum(dim=1).tolist() == [per_class] * 3
    assert len(eliminate(weight, is_own, val, train, per_class=4).order) == 0


def test_the_first_of_equal_ones_goes_and_the_order_is_the_same_every_time() -> None:
    weight, is_own, val, train = make_case()
    weight = weight[:, [0, 0, 0, 3, 4, 5, 6, 7, 8]]
    equal = [Activations(one.values[:, [0, 0, 0, 3, 4, 5, 6, 7, 8]], one.labels) for one in (val, train)]
    orders = [eliminate(weight, is_own, *equal).order.tolist() for _ in range(2)]
    assert orders[0] == orders[1]
    assert [p for p in orders[0] if p < 3] == [0, 1]


def test_those_that_are_to_go_first_go_first() -> None:
    weight, is_own, val, train = make_case()
    path = eliminate(weight, is_own, val, train, first=[7, 2])
    assert path.order[:2].tolist() == [7, 2]
    assert len(path.loss) == len(path.accuracy) == len(path.order) + 1


def test_the_level_of_a_class_is_kept_by_those_that_are_left() -> None:
    """One class whose two prototypes are active as (1, 3) and (2, 2), with the weights 2 and 1: by hand."""
    weight, values = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    levels = ClassLevels(weight, torch.ones(1, 2, dtype=torch.bool), values)
    levels.remove(1)
    # Before: 2 * 1 + 2 = 4 and 2 * 3 + 2 = 8; the part that is left: 2 and 6. (2 * 4 + 6 * 8) / (4 + 36) = 1.4.
    assert levels.scale.tolist() == pytest.approx([1.4])
    assert levels.kept.tolist() == [True, False]


def test_of_many_training_images_an_even_choice_finds_the_order(monkeypatch) -> None:
    weight, is_own, val, train = make_case(images=60)
    monkeypatch.setattr(elimination, "LARGEST_TABLE", 9 * 10)  # ten of thirty images: every third
    need = need_for(weight, is_own, val, train)
    chosen = Activations(train.values[::3], train.labels[::3])
    by_hand = loss_from_scratch(weight, is_own, list(range(1, 9)), train.values, rows_of(val, chosen))
    assert float(need[0]) == pytest.approx(by_hand, rel=1e-9)


def test_as_many_go_as_both_limits_allow() -> None:
    path = Elimination(
        order=torch.tensor([4, 2, 3, 0]),
        accuracy=torch.tensor([0.90, 0.88, 0.92, 0.895, 0.5], dtype=torch.float64),
        loss=torch.tensor([0.40, 0.39, 0.41, 0.43, 0.9], dtype=torch.float64),
    )
    assert smallest(path, 0, 0.01, 1.1) == 3
    assert smallest(path, 0, 0.01, 1.05) == 2, "0.43 is more than 1.05 times 0.40"
    assert smallest(path, 0, 0.0, 1.0) == 0
    assert smallest(path, 0, 0.0, 1.1) == 2, "0.88 on the way is no obstacle"
    assert smallest(path, 4, 0.0, 1.0) == 4, "copies go in any case"
    assert smallest(path, 0, 1.0, 3.0) == 4
