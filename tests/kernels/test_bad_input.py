"""What every op answers to wrong input, which it checks before it chooses a backend, and to strange input."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protokern.errors import BackendUnavailableError
from protokern.kernels import backends
from protokern.kernels.metric import METRICS

from .cases import SMALL, Case
from .interpreted import QUICK_OPS, interpreter_runs
from .public_ops import OPS, outputs

pytestmark = interpreter_runs()

# `argument: must be what is wanted; got what came. What to do.` The last sentence only where there is something to do.
FORM = re.compile(r"^[a-z_]+: must .+; got .+\.$", flags=re.DOTALL)


@pytest.fixture(params=OPS)
def op(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return OPS[request.param]


def assert_refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert FORM.match(str(caught.value))


@pytest.mark.parametrize(
    ("of_features", "of_prototypes", "message"),
    [
        ((5, 4, 3), (7, 5), r"features: must have shape \(B, D, H, W\); got \(5, 4, 3\)\."),
        ((2, 5, 4, 3, 1), (7, 5), r"features: must have shape \(B, D, H, W\); got \(2, 5, 4, 3, 1\)\."),
        ((), (7, 5), r"features: must have shape \(B, D, H, W\); got \(\)\."),
        ((2, 5, 4, 3), (7,), r"prototypes: must have shape \(P, D\) or \(P, D, h, w\); got \(7,\)\."),
        ((2, 5, 4, 3), (7, 5, 1), r"prototypes: must have shape \(P, D\) or \(P, D, h, w\); got \(7, 5, 1\)\."),
        ((2, 0, 4, 3), (7, 0), r"features: must have at least one channel; got \(2, 0, 4, 3\)\."),
        (
            (2, 5, 4, 3),
            (7, 6),
            r"prototypes: must have shape \(P, 5\) to match features \(2, 5, 4, 3\); got \(7, 6\)\.",
        ),
        (
            (2, 5, 4, 3),
            (7, 6, 1, 1),
            r"prototypes: must have shape \(P, 5, h, w\) to match features \(2, 5, 4, 3\); got \(7, 6, 1, 1\)\.",
        ),
        ((2, 5, 0, 3), (7, 5), r"features: must have at least one cell \(H, W >= 1\); got \(2, 5, 0, 3\)\."),
        ((0, 5, 4, 0), (7, 5), r"features: must have at least one cell \(H, W >= 1\); got \(0, 5, 4, 0\)\."),
        ((2, 5, 4, 3), (7, 5, 0, 1), r"prototypes: must span at least one cell \(h, w >= 1\); got \(7, 5, 0, 1\)\."),
        (
            (2, 5, 4, 3),
            (7, 5, 5, 1),
            r"prototypes: must not be larger than the grid of features \(2, 5, 4, 3\); got \(7, 5, 5, 1\)\.",
        ),
        (
            (2, 5, 4, 3),
            (7, 5, 1, 4),
            r"prototypes: must not be larger than the grid of features \(2, 5, 4, 3\); got \(7, 5, 1, 4\)\.",
        ),
    ],
)
def test_wrong_shapes(
    of_features: tuple[int, ...], of_prototypes: tuple[int, ...], message: str, op: Callable[..., Any]
) -> None:
    features, prototypes = torch.rand(of_features), torch.rand(of_prototypes)
    assert_refused(ValueError, message, lambda: op(features, prototypes))


# What is done to features and prototypes, and the answer to it.
WRONG_KINDS: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, Any]], type[Exception], str]] = {
    "features of a list": (
        lambda x, p: (x.tolist(), p),
        TypeError,
        r"features: must be a torch\.Tensor; got list\.",
    ),
    "features of numpy": (lambda x, p: (x.numpy(), p), TypeError, r"features: must be a torch\.Tensor; got ndarray\."),
    "no prototypes": (lambda x, p: (x, ()), TypeError, r"prototypes: must be a torch\.Tensor; got tuple\."),
    "int64": (
        lambda x, p: (x.long(), p),
        ValueError,
        r"features: must be float64, float32, bfloat16 or float16; got torch\.int64\.",
    ),
    "bool": (lambda x, p: (x > 0, p), ValueError, r"features: must be float64, .*; got torch\.bool\."),
    "complex": (
        lambda x, p: (x, p.to(torch.complex64)),
        ValueError,
        r"prototypes: must be float64, .*; got torch\.complex64\.",
    ),
    "float8": (
        lambda x, p: (x.to(torch.float8_e4m3fn), p),
        ValueError,
        r"features: must be float64, .*; got torch\.float8_e4m3fn\.",
    ),
    "sparse": (
        lambda x, p: (x, p.to_sparse()),
        ValueError,
        r"prototypes: must be a dense tensor; got layout torch\.sparse_coo\. Call to_dense\(\) on it\.",
    ),
    "mkldnn": (
        lambda x, p: (x.to_mkldnn(), p),
        ValueError,
        r"features: must be a dense tensor; got layout torch\._mkldnn\. Call to_dense\(\) on it\.",
    ),
    "other dtype": (
        lambda x, p: (x, p.double()),
        ValueError,
        r"prototypes: must have the dtype of features, torch\.float32; got torch\.float64\. Convert one of them",
    ),
    "other half dtype": (
        lambda x, p: (x.half(), p.bfloat16()),
        ValueError,
        r"prototypes: must have the dtype of features, torch\.float16; got torch\.bfloat16\. Convert one of them",
    ),
    "prototypes on another device": (
        lambda x, p: (x, p.to("meta")),
        ValueError,
        r"prototypes: must be on the device of features, cpu; got meta\. Move one of them\.",
    ),
    "features on another device": (
        lambda x, p: (x.to("meta"), p),
        ValueError,
        r"prototypes: must be on the device of features, meta; got cpu\. Move one of them\.",
    ),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_wrong_kinds_of_tensor(kind: str, op: Callable[..., Any]) -> None:
    change, error, message = WRONG_KINDS[kind]
    features, prototypes = SMALL.inputs()
    inputs = change(features, prototypes)
    assert_refused(error, message, lambda: op(*inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "euclidean"}, r"metric: must be one of sqeuclidean, cosine, dot; got 'euclidean'\."),
        ({"metric": None}, r"metric: must be one of sqeuclidean, cosine, dot; got None\."),
    ],
)
def test_wrong_metric(options: dict[str, Any], message: str, op: Callable[..., Any]) -> None:
    assert_refused(ValueError, message, lambda: op(*SMALL.inputs(), **options))


def test_unknown_backend(op: Callable[..., Any]) -> None:
    for name in ("cuda", "", None):
        message = rf"backend: must be 'auto' or one of reference, native, triton; got {name!r}\."
        assert_refused(ValueError, message, partial(op, *SMALL.inputs(), backend=name))


@pytest.mark.parametrize("name", ["native", "triton"])
def test_a_backend_that_is_missing_is_refused_with_the_reason(
    name: str, op: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backends._status

    def status(asked: str) -> backends.BackendStatus:
        missing = backends.BackendStatus(False, ("cpu",), "the test took it away. Put it back.")
        return missing if asked == name else found(asked)

    monkeypatch.setattr(backends, "_status", status)
    with pytest.raises(BackendUnavailableError, match=rf"^backend '{name}': the test took it away\. Put it back\.$"):
        op(*SMALL.inputs(), backend=name)


def sliding_windows(features: Tensor) -> Tensor:
    """Images that share three of their four rows with their neighbours."""
    batch, depth, height, width = features.shape
    rows = torch.randn(depth, height + batch - 1, width).contiguous()
    return rows.as_strided(features.shape, (width, (height + batch - 1) * width, width, 1))


def with_negative_bit(tensor: Tensor) -> Tensor:
    """The same values, stored as their negatives with a flag, as the imaginary part of a conjugate is."""
    stored = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert stored.is_neg()
    return stored


# Input whose memory is strange and whose values are plain.
STRANGE: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "flipped": lambda x, p: (x.flip(3).flip(1), p.flip(0)),
    "overlapping images": lambda x, p: (sliding_windows(x), p),
    "one image, expanded": lambda x, p: (x[:1].expand(2, -1, -1, -1), p),
    "one channel, expanded": lambda x, p: (x[:, :1].expand(-1, 5, -1, -1), p),
    "one cell, expanded": lambda x, p: (x[:, :, :1, :1].expand(-1, -1, 4, 3), p),
    "one prototype, expanded": lambda x, p: (x, p[:1].expand(7, -1)),
    "one number, expanded": lambda x, p: (x[:1, :1, :1, :1].expand(2, 5, 4, 3), p[:1, :1].expand(7, 5)),
    "the same memory twice": lambda x, p: (x, x.as_strided((7, 5), (5, 1))),
    "overlapping prototypes": lambda x, p: (x, p.as_strided((7, 5), (1, 1))),
    "negative bit": lambda x, p: (with_negative_bit(x), with_negative_bit(p)),
    "large strides of ones": lambda x, p: (x[:, :, :1].as_strided((2, 5, 1, 3), (60, 12, 9999, 1)), p),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", STRANGE)
@interpreter_runs(op=QUICK_OPS, metric=("sqeuclidean",), because="the offsets are those of another op or metric")
def test_strange_memory_gives_the_numbers_of_plain_memory(
    kind: str, metric: str, op: Callable[..., Any], backend: str
) -> None:
    strange = STRANGE[kind](*SMALL.inputs())
    plain = tuple(torch.tensor(tensor.tolist()) for tensor in strange)
    results = []
    for inputs in (plain, strange):
        inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        floats = [out for out in outputs(op(*inputs, metric=metric, backend=backend)) if out.is_floating_point()]
        grads = torch.autograd.grad(floats, inputs, [torch.linspace(-1, 1, o.numel()).view(o.shape) for o in floats])
        results.append([*floats, *grads])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6)


@interpreter_runs(op=QUICK_OPS, because="the loads are those of another op")
def test_gradients_reach_what_overlaps(op: Callable[..., Any], backend: str) -> None:
    """Memory that stands for several cells gets the sum of their gradients."""
    prototypes = SMALL.inputs()[1]
    row = torch.randn(5, 5, 3)
    grads = []
    for windows in (lambda r: r.as_strided((2, 5, 4, 3), (3, 15, 3, 1)), lambda r: torch.stack([r[:, :4], r[:, 1:]])):
        leaf = row.clone().requires_grad_()
        floats = [out for out in outputs(op(windows(leaf), prototypes, backend=backend)) if out.is_floating_point()]
        grads.append(torch.autograd.grad(sum(out.sum() for out in floats), leaf)[0])
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def test_negative_strides_of_numpy_are_stopped_by_torch_and_work_once_copied(
    op: Callable[..., Any], backend: str
) -> None:
    features, prototypes = SMALL.inputs()
    flipped = features.numpy()[:, :, ::-1, ::-1]
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(flipped)
    got = outputs(op(torch.from_numpy(flipped.copy()), prototypes, backend=backend))
    for one, other in zip(got, outputs(op(features.flip(2, 3), prototypes, backend=backend)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@interpreter_runs(op=QUICK_OPS, because="the loads are those of another op")
def test_offsets_beyond_32_bits_on_either_side(op: Callable[..., Any], tmp_path: Path, backend: str) -> None:
    """The two images, and the prototypes, lie more than 2^31 numbers apart in a sparse file."""
    values, few = Case(2, 3, 4, 5, 2).inputs()
    far = 2**31 + 5
    memory = np.memmap(tmp_path / "numbers", dtype=np.float32, mode="w+", shape=far + 1000)
    numbers = torch.from_numpy(memory)
    features = numbers.as_strided((2, 3, 4, 5), (far, 20, 5, 1))
    prototypes = numbers.as_strided((2, 3), (far, 1), storage_offset=500)
    features.copy_(values)
    prototypes.copy_(few)
    results = []
    for inputs in ((values, few), (features, prototypes)):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        result = outputs(op(*leaves, backend=backend))
        total = sum(out.sum() for out in result if out.is_floating_point())
        results.append([*result, *torch.autograd.grad(total, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@interpreter_runs(op=QUICK_OPS, because="the loads are those of another op")
def test_what_is_not_finite_stays_in_its_image_and_prototype(bad: float, op: Callable[..., Any], backend: str) -> None:
    features, prototypes = Case(3, 5, 4, 3, 7).inputs()
    clean = outputs(op(features, prototypes, backend=backend))
    features[1, 2, 0, 0] = bad  # in the patch that `distance_at` is asked for
    prototypes[4, 3] = bad
    spoilt = torch.zeros(3, 7, dtype=torch.bool)
    spoilt[1], spoilt[:, 4] = True, True
    for before, after in zip(clean, outputs(op(features, prototypes, backend=backend)), strict=True):
        torch.testing.assert_close(after[~spoilt], before[~spoilt], rtol=1e-6, atol=1e-6)
        if after.is_floating_point():
            first = after[..., 0, 0] if op is OPS["distance_map"] else after
            assert first[spoilt].isnan().all()


@pytest.mark.parametrize("case", [Case(0, 5, 4, 3, 7), Case(2, 5, 4, 3, 0), Case(0, 5, 4, 3, 0)], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_no_images_or_no_prototypes_give_empty_results(
    metric: str, case: Case, op: Callable[..., Any], backend: str
) -> None:
    for result in outputs(op(*case.inputs(), metric=metric, backend=backend)):
        assert result.shape[:2] == (case.batch, case.prototypes)
        assert result.numel() == 0
