"""The arithmetic of docs/scaling.md."""

from __future__ import annotations

import pytest

from benchmarks.pages.scaling import IMAGES, PAGE, Cost, count_cost, floor_table, floors, page, plan_seconds

COST = Cost(forward=8.0, training=24.0, distances=0.1, outputs=10_000_000)


def test_operations_are_counted_on_the_net() -> None:
    cost = count_cost()
    assert cost.forward == pytest.approx(2 * 4.09, rel=0.01)  # 4.09 billion multiply-adds, as ResNet-50 is known for
    assert 2.9 < cost.training / cost.forward < 3.0  # the first layer has no gradient for its input
    assert cost.distances == 2 * 49 * 128 * 10_000 / 1e9
    assert cost.outputs == 11_113_984


def test_a_floor_is_the_larger_of_arithmetic_and_memory() -> None:
    joint = floors(COST)["a joint epoch, bf16"]
    assert joint.arithmetic == pytest.approx(IMAGES * 24.1e9 / 990e12)
    assert joint.memory == pytest.approx(IMAGES * 10e6 * 6 * 2 / 4.3e12)
    assert joint.seconds == joint.memory
    assert joint.bound == "memory"
    warm, joint, push, prune = floors(COST).values()
    assert plan_seconds(floors(COST)) == 5 * warm.seconds + 20 * joint.seconds + push.seconds + prune.seconds


def test_the_page_holds_the_tables_and_says_that_no_gpu_was_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert floor_table(count_cost()) in text, "run python -m benchmarks scaling --write"
    assert "all of ImageNet, by proportion" in page()
    assert "**No GPU time on this page was measured.**" in text
    assert "Which u a run reaches is not known" in text
