"""Factors of the products: what the prep kernel writes, against the same rounding in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.kernels.triton_common import operands
from protokern.kernels.triton_common.limits import KNOWN_LIMITS
from protokern.kernels.triton_common.operands import OperandKind, full_precision, operand_kind, prepare_operands

from ..cases import LAYOUTS, Case

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
CASE = Case(3, 21, 5, 9, 45)


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


def rounded(x: Tensor, dropped_bits: int) -> Tensor:
    """Float32 rounded to nearest by its bits, ties away from zero."""
    if dropped_bits == 0:
        return x
    bits = x.contiguous().view(torch.int32) + (1 << (dropped_bits - 1))
    return (bits & -(1 << dropped_bits)).view(torch.float32)


def kind(dropped_bits: int, *, split: bool = False, exact: bool = False) -> OperandKind:
    return OperandKind(torch.float32, dropped_bits, split, exact, "ieee")


def test_rounding_is_to_bfloat16_and_to_eleven_bits() -> None:
    x = torch.randn(1000) * torch.logspace(-20, 20, 1000)
    assert torch.equal(rounded(x, 16), x.bfloat16().float())
    error = (rounded(x, 13) - x).abs() / x.abs()
    assert 2.0**-13 < error.max() <= 2.0**-11


@pytest.mark.parametrize("dropped_bits", [0, 13, 16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every_second", "transposed"])
def test_rows_are_centred_rounded_and_padded(layout: str, dropped_bits: int) -> None:
    features, prototypes = CASE.inputs()
    x, p, rows_first = prepare_operands(LAYOUTS[layout](features), prototypes, kind(dropped_bits), "sqeuclidean", 16)
    assert x.pitch == p.pitch == 32
    centre = prototypes[[45 * sample // 16 for sample in range(16)]].mean(0)
    for operand, vectors in ((x, features.permute(0, 2, 3, 1).reshape(-1, 21)), (p, prototypes)):
        centred = vectors - centre
        error = 2.0 ** (dropped_bits - 24) if dropped_bits else 1e-6
        torch.testing.assert_close(operand.high[:, :21], centred, rtol=error, atol=1e-6)
        assert torch.equal(operand.high, rounded(operand.high, dropped_bits))
        assert torch.equal(operand.high[:, 21:], torch.zeros(len(vectors), 11))
        torch.testing.assert_close(operand.square, centred.square().sum(1), rtol=1e-5, atol=1e-5)
    assert rows_first.stride(1) == 1
    assert torch.equal(rows_first, features)


def test_split_factors_miss_two_to_the_minus_17() -> None:
    features, prototypes = CASE.inputs()
    x, _, _ = prepare_operands(features, prototypes, kind(16, split=True), "cosine", 16)
    scale = torch.ldexp(torch.ones(3), torch.frexp(features.abs().amax((1, 2, 3))).exponent - 1)
    scaled = (features / scale[:, None, None, None]).permute(0, 2, 3, 1).reshape(-1, 21)
    assert torch.equal(x.high[:, :21], scaled.bfloat16().float())
    error = (x.high + x.low)[:, :21] - scaled
    assert (error.abs() <= 2.0**-17 * scaled.abs()).all()
    assert (x.low[:, :21].abs() <= 2.0**-8 * scaled.abs()).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_components_show_in_the_norm_and_nowhere_else(bad: float) -> None:
    features, prototypes = CASE.inputs()
    features[1, 20, 2, 3] = bad
    prototypes[7, 0] = bad
    x, p, _ = prepare_operands(features, prototypes, kind(16, split=True), "sqeuclidean", 16)
    assert x.square.isnan().nonzero().tolist() == [[45 + 2 * 9 + 3]]
    assert p.square.isnan().nonzero().tolist() == [[7]]
    for operand in (x, p):
        assert operand.high.isfinite().all()
        assert operand.low.isfinite().all()


def test_exact_kinds_keep_half_numbers_as_they_are() -> None:
    features, prototypes = CASE.inputs(torch.bfloat16)
    x, p, _ = prepare_operands(features, prototypes, kind(16, exact=True), "sqeuclidean", 32)
    assert torch.equal(x.high[:, :21], features.float().permute(0, 2, 3, 1).reshape(-1, 21))
    assert torch.equal(p.high[:, :21], prototypes.float())


def test_cells_of_larger_prototypes_are_rows_of_their_own() -> None:
    features, prototypes = Case(1, 5, 4, 4, 3, (2, 3)).inputs()
    _, p, _ = prepare_operands(features, prototypes, kind(0, exact=True), "sqeuclidean", 16)
    assert torch.equal(p.high[:, :5].view(3, 2, 3, 5), prototypes.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("arch", "dtype", "precision", "metric", "name"),
    [
        (90, torch.float32, "fp32", "sqeuclidean", "split"),
        (90, torch.float32, "tf32", "sqeuclidean", "tf32"),
        (90, torch.float32, "bf16", "cosine", "bf16"),
        (90, torch.bfloat16, "bf16", "sqeuclidean", "bf16"),
        (80, torch.float16, "tf32", "sqeuclidean", "fp16"),
        (80, torch.float16, "tf32", "cosine", "tf32"),
        (75, torch.float32, "bf16", "sqeuclidean", "ieee"),
    ],
)
def test_what_a_search_multiplies(arch: int, dtype: torch.dtype, precision: str, metric: str, name: str) -> None:
    found, chosen = operand_kind(KNOWN_LIMITS[arch], dtype, precision, metric)
    assert found == name
    assert chosen.exact == (dtype != torch.float32 and name != "ieee")
    assert chosen.split == (name == "split")


@pytest.mark.parametrize(("arch", "precision"), [(75, "ieee"), (80, "tf32x3"), (90, "tf32x3")])
def test_what_a_gradient_multiplies(arch: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert full_precision(KNOWN_LIMITS[arch]).input_precision == "ieee"  # interpreted
    monkeypatch.setattr(operands, "is_interpreted", lambda: False)
    assert full_precision(KNOWN_LIMITS[arch]) == OperandKind(torch.float32, 0, False, False, precision)
