"""The benchmark of weights: what it calls, and what it stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.ops import gate
from benchmarks.ops.cases import CASES, make_inputs
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import WeightRow
from benchmarks.scenarios import weights
from protokern import prototype_pool


def test_each_kind_of_call_is_what_its_name_says() -> None:
    case = CASES["tiny"]
    inputs = make_inputs(case, requires_grad=True)
    kinds = weights.make_weights(case)
    assert list(kinds) == ["none", "numbers", "mask"]
    numbers, mask = kinds["numbers"], kinds["mask"]
    assert numbers is not None
    assert mask is not None
    assert kinds["none"] is None
    assert 0.05 < (~mask).float().mean() < 0.5
    for kind, weight in kinds.items():
        grads = weights.make_step(inputs, weight, "cosine", "full", "reference")()
        assert isinstance(grads, tuple)
        assert len(grads) == (3 if kind == "numbers" else 2)
        pool = weights.make_step(inputs, weight, "cosine", "fwd", "reference")()
        wanted = prototype_pool(
            inputs.features, inputs.prototypes, metric="cosine", backend="reference", patch_weight=weight
        )
        assert all(torch.equal(one, other) for one, other in zip(pool, wanted, strict=True))


def test_a_run_stores_a_row_for_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    path = tmp_path / "weights.csv"
    arguments = ["--cases", "tiny", "--modes", "fwd", "--seconds", "0.05", "--settle", "0", "--out", str(path)]
    assert weights.main([*arguments, "--backend", "reference"]) == 0
    rows = read_rows(path, WeightRow)
    assert [(row.metric, row.weights) for row in rows] == [
        (metric, kind) for metric in weights.METRICS for kind in ("none", "numbers", "mask")
    ]
    assert rows[0].slower_than_none == 1
    assert all(row.slower_than_none > 0 for row in rows)
