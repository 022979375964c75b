"""The smoke stage: right answers are told from wrong ones, check by check, and the table says which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import protokern
from benchmarks.gpu import smoke, smoke_checks
from benchmarks.gpu.plan import Record, Settings
from benchmarks.gpu.smoke import SHAPES, TINY, check, check_units
from benchmarks.gpu.smoke_checks import Check, Problem, check_values
from benchmarks.gpu.smoke_table import BACKENDS, KINDS, OPS, UNWEIGHTED_OP, WEIGHTED, broken, smoke_table, unit_name

REHEARSAL = Settings(rehearse=True)
SHAPE = "D5-4x3-P7"


def unit(op: str, backend: str = "native", kind: str = "float32", shape: str = SHAPE) -> dict[str, Any]:
    name = unit_name(backend, op, kind, shape)
    return {"name": name, "op": op, "backend": backend, "kind": kind, "shape": shape}


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "float16", "cosine"])
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_right_on_the_processor(op: str, kind: str, shape: str) -> None:
    result = check(unit(op, kind=kind, shape=shape), REHEARSAL)
    assert result.status == "right", result.text
    assert {row["verdict"] for row in result.tables["smoke"]} == {"right"}


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("op", [op for op in OPS if op != UNWEIGHTED_OP])
def test_every_op_is_right_with_weights(op: str, kind: str) -> None:
    result = check(unit(op, kind=kind), REHEARSAL)
    assert result.status == "right", result.text
    plain = check(unit(op), REHEARSAL)
    assert len(result.tables["smoke"]) == len(plain.tables["smoke"])


def test_weights_that_are_passed_over_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = protokern.min_distance

    def unweighted(*inputs: torch.Tensor, patch_weight: torch.Tensor, **options: Any) -> Any:
        found = right(*inputs, **options)
        return found._replace(value=found.value + 0 * patch_weight.sum())

    monkeypatch.setattr(smoke_checks.protokern, "min_distance", unweighted)
    result = check(unit("min_distance", kind="weights"), REHEARSAL)
    wrong = {row["check"] for row in result.tables["smoke"] if row["verdict"] == "wrong"}
    assert {"forward", "backward"} <= wrong


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
@pytest.mark.parametrize("op", ["min_distance", "distance_map"])
def test_the_triton_kernels_are_right_in_the_interpreter(op: str) -> None:
    pytest.importorskip("triton")
    result = check(unit(op, "triton"), REHEARSAL)
    assert result.status == "right", result.text


def test_the_checks_of_a_nearest_op_are_all_made() -> None:
    rows = check(unit("prototype_pool"), REHEARSAL).tables["smoke"]
    names = ["forward", "nearest", "backward", "copies", "NaN", "others beside NaN", "patch of NaN", "ties"]
    assert [row["check"] for row in rows] == names
    assert rows[0]["shape"] == SHAPE


def spoil(change: Callable[[Any, torch.Tensor], Any]) -> Callable[..., Any]:
    """`min_distance` with its result changed; the features are handed on too."""
    right = protokern.min_distance

    def wrong(features: torch.Tensor, prototypes: torch.Tensor, **options: Any) -> Any:
        return change(right(features, prototypes, **options), features)

    return wrong


def other_gradient(found: Any, features: torch.Tensor) -> Any:
    more = features.nan_to_num().sum() * 1e-3
    return found._replace(value=found.value + more - more.detach())


def second_best(found: Any, features: torch.Tensor) -> Any:
    return found._replace(patch=(found.patch + 1) % 12)


def not_quite_zero(found: Any, features: torch.Tensor) -> Any:
    return found._replace(value=found.value + 1e-7)


def swallow_nan(found: Any, features: torch.Tensor) -> Any:
    return found._replace(value=found.value.nan_to_num(3.0))


def last_on_a_tie(found: Any, features: torch.Tensor) -> Any:
    alike = (features.flatten(2) == features.flatten(2)[..., :1]).all(2).all(1)
    return found._replace(patch=torch.where(alike[:, None], 11, found.patch))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda found, features: found._replace(value=found.value * 1.001), {"forward", "backward"}),
        (other_gradient, {"backward"}),
        (second_best, {"forward", "nearest", "backward", "patch of NaN", "ties"}),
        (not_quite_zero, {"copies"}),
        (swallow_nan, {"NaN"}),
        (last_on_a_tie, {"ties"}),
    ],
    ids=["value", "gradient", "patch", "copies", "NaN", "ties"],
)
def test_a_wrong_answer_is_named_by_its_check(
    change: Callable[[Any, torch.Tensor], Any], wrong: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_checks.protokern, "min_distance", spoil(change))
    result = check(unit("min_distance"), REHEARSAL)
    assert result.status == "wrong"
    found = {row["check"] for row in result.tables["smoke"] if row["verdict"] == "wrong"}
    assert wrong <= found
    assert result.text.startswith("largest errors: ")
    if len(wrong) == 1:
        assert found == wrong


def test_nan_where_none_belongs_is_wrong() -> None:
    assert not Check("forward", float("nan"), 1.0).is_right


def test_a_precision_that_a_backend_lacks_is_missing_not_crashed() -> None:
    result = check(unit("min_distance", kind="tf32"), REHEARSAL)
    assert result.status == "missing"
    assert result.text.startswith("precision: must be None or 'fp32'")


def test_a_backend_that_is_not_built_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device_type: str = "cpu") -> None:
        raise protokern.errors.BackendUnavailableError("backend 'native': not built.")

    monkeypatch.setattr("protokern.kernels.native_library.load", load)
    assert check(unit("min_distance"), REHEARSAL).text == "backend 'native': not built."


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("op", ["min_distance", "mean_activation"])
def test_a_rounded_search_may_be_off_by_its_rounding_and_no_more(
    op: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor may lack these precisions, so the exact answer, moved by what the rounding allows, stands in."""
    right = getattr(protokern, op)
    problem = Problem(
        op=op, backend="native", case=TINY[SHAPE], dtype=torch.float32, metric="sqeuclidean", precision=precision,
        place=torch.device("cpu"),
    )  # fmt: skip

    def exact(features: torch.Tensor, prototypes: torch.Tensor, **options: Any) -> Any:
        return right(features, prototypes, **{**options, "precision": "fp32"})

    monkeypatch.setattr(smoke_checks.protokern, op, exact)
    assert all(one.is_right for one in check_values(problem)[0])

    def moved(features: torch.Tensor, prototypes: torch.Tensor, **options: Any) -> Any:
        found = exact(features, prototypes, **options)
        return found + 50.0 if op == "mean_activation" else found._replace(value=found.value * 1.01)

    monkeypatch.setattr(smoke_checks.protokern, op, moved)
    assert not check_values(problem)[0][0].is_right


def test_the_units_are_every_op_backend_and_kind_on_every_shape() -> None:
    names = [one["name"] for one in check_units(Settings(), {})]
    assert (
        len(names) == len(set(names)) == len(SHAPES) * len(BACKENDS) * (len(OPS) * len(KINDS) - 2 * 2 - len(WEIGHTED))
    )
    assert names[0] == f"triton min_distance float32 {next(iter(SHAPES))}"
    assert all(one["backend"] != "triton" or one["kind"] in ("float32", "cosine") for one in check_units(REHEARSAL, {}))


def test_the_table_shows_the_worst_of_every_cell() -> None:
    right = Record(status="right", text="", tries=1, data={})
    wrong, crashed = replace(right, status="wrong"), replace(right, status="crashed")
    records = {
        unit_name("triton", "min_distance", "float32", "one"): right,
        unit_name("triton", "min_distance", "float32", "two"): right,
        unit_name("triton", "min_distance", "tf32", "one"): right,
        unit_name("triton", "min_distance", "tf32", "two"): wrong,
        unit_name("native", "topk_pool", "float16", "one"): crashed,
        unit_name("native", "min_distance", "bf16", "one"): crashed,
    }
    lines = smoke_table(records).splitlines()
    assert lines[1].split() == ["min_distance", "triton", "2", "right", "1", "WRONG"]
    assert lines[2].split() == ["min_distance", "native", "1", "CRASHED"]
    assert len(lines) == 4
    # What crashed on float32 inputs is not timed.
    assert broken(records) == {"min_distance": ["native"]}


def test_the_smoke_stage_needs_no_other_truth_than_the_tests() -> None:
    assert smoke_checks.oracle.__name__ == "tests.kernels.oracle"
    assert "protokern" not in vars(smoke_checks.oracle)
    assert smoke.SHAPES
