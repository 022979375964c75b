"""The benchmark of metrics: what it calls, and what it stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ops import gate
from benchmarks.ops.cases import CASES, make_inputs
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import MetricRow
from benchmarks.scenarios import metrics
from protokern import min_distance


@pytest.mark.parametrize("name", ["sqeuclidean", "cosine", "dot"])
def test_a_step_searches_by_its_metric(name: str) -> None:
    inputs = make_inputs(CASES["tiny"], requires_grad=True)
    found: Any = metrics.make_step(inputs, name, "fwd", "reference")()
    wanted = min_distance(inputs.features, inputs.prototypes, metric=name, backend="reference")
    assert torch.equal(found.value, wanted.value)
    assert torch.equal(found.patch, wanted.patch)
    grads: Any = metrics.make_step(inputs, name, "full", "reference")()
    assert [grad.shape for grad in grads] == [inputs.features.shape, inputs.prototypes.shape]


def test_a_run_stores_a_row_for_each_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    path = tmp_path / "metrics.csv"
    arguments = ["--cases", "tiny", "--modes", "fwd", "--seconds", "0.05", "--settle", "0", "--out", str(path)]
    assert metrics.main([*arguments, "--backend", "reference"]) == 0
    rows = read_rows(path, MetricRow)
    assert [row.metric for row in rows] == ["sqeuclidean", "cosine", "dot"]
    assert rows[1].speed_of_cosine == 1
    assert all(row.speed_of_cosine > 0 for row in rows)
