"""`mean_activation` keeps the op contract on every backend, for every activation; copies, NaN, memory."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protokern import distance_map, mean_activation
from protokern.kernels.similarity import activate

from . import oracle
from .cases import SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .contract import METRICS, OpContract
from .interpreted import CASES_OF_SLOW_KERNELS, interpreter_leaves_out, interpreter_runs
from .memory import peak_bytes
from .nearest_contract import problems

pytestmark = interpreter_runs(case=CASES_OF_SLOW_KERNELS, of_features=())

ACTIVATIONS = ["log", "linear", "exp", "cosine", "exp_root"]


class TestMeanActivation(OpContract):
    # The centre of the product is the mean of all prototypes, and its rounding depends on their order.
    company = 1e-6

    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        settings = {"activation": oracle.SIMILARITY[metric], "epsilon": 0.1, "metric": metric, "backend": backend}
        return (mean_activation(features, prototypes, **settings),)

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        return (oracle.activation(distances, oracle.SIMILARITY[metric], 0.1).mean((2, 3)),)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES, Case(3, 20, 6, 6, 75), Case(1, 70, 13, 11, 9)], ids=str)
def test_every_activation_with_its_gradient(case: Case, activation: str, dtype: torch.dtype, backend: str) -> None:
    metric = "cosine" if activation == "cosine" else "sqeuclidean"
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(dtype))
    mean = mean_activation(features, prototypes, activation=activation, epsilon=1e-2, metric=metric, backend=backend)
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    wanted = oracle.activation(oracle.distance_map(x, p, metric), activation, 1e-2).mean((2, 3))
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(mean.double(), wanted, rtol=rtol, atol=atol)
    weights = torch.randn_like(mean)
    grads = torch.autograd.grad(mean, (features, prototypes), weights)
    wanted_grads = torch.autograd.grad(wanted, (x, p), weights.double())
    rtol, atol = gradient_tolerance(dtype)
    for grad, truth in zip(grads, wanted_grads, strict=True):
        scale = max(1.0, truth.abs().max().item())
        torch.testing.assert_close(grad.double(), truth, rtol=rtol, atol=atol * scale)


def test_three_patches_and_two_prototypes_by_hand(backend: str) -> None:
    features = torch.tensor([[[[0.0, 3.0, 1.0]], [[0.0, 4.0, 1.0]]]]).requires_grad_()  # patches (0, 0), (3, 4), (1, 1)
    prototypes = torch.tensor([[3.0, 3.0], [1.0, 0.0]]).requires_grad_()
    distances = [[18.0, 1.0, 8.0], [1.0, 20.0, 1.0]]
    mean = mean_activation(features, prototypes, activation="linear", backend=backend)
    torch.testing.assert_close(mean, torch.tensor([[-9.0, -22 / 3]]))
    (mean * torch.tensor([[1.0, 10.0]])).sum().backward()
    assert features.grad is not None
    assert prototypes.grad is not None
    # -2 g (x - p) / 3, summed over both prototypes for a patch and over the patches for a prototype.
    of_patches = [[6 + 20, 0 - 40, 4 - 0], [6 - 0, -2 - 80, 4 - 20]]
    torch.testing.assert_close(features.grad, torch.tensor(of_patches)[None, :, None] / 3)
    torch.testing.assert_close(prototypes.grad, torch.tensor([[-10.0, -8.0], [20.0, 100.0]]) / 3)
    log = mean_activation(features, prototypes, epsilon=0.5, backend=backend)
    wanted = [[sum(math.log((d + 1) / (d + 0.5)) for d in row) / 3 for row in distances]]
    torch.testing.assert_close(log, torch.tensor(wanted))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
@pytest.mark.parametrize("grid", [(1, 2), (5, 6)])
@interpreter_runs(grid=((1, 2),), because="every pair is in doubt")
def test_exact_copies_have_the_full_similarity_and_no_gradient(
    grid: tuple[int, int], metric: str, offset: float, backend: str
) -> None:
    features = torch.rand(3, 128, 1, 1).expand(3, 128, *grid).contiguous() + offset
    prototypes = features[:, :, -1, -1].clone().requires_grad_()
    features.requires_grad_()
    own = mean_activation(features, prototypes, metric=metric, backend=backend).diagonal()
    torch.testing.assert_close(own, torch.full((3,), 9.2103), rtol=0, atol=1e-4)
    for grad in torch.autograd.grad(own.sum(), (features, prototypes)):
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("patch_size", [None, (2, 2)])
@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
def test_one_copy_among_other_patches(metric: str, patch_size: tuple[int, int] | None, backend: str) -> None:
    features, _ = Case(4, 40, 6, 7, 1).inputs()
    height, width = patch_size or (1, 1)
    prototypes = features[:, :, 2 : 2 + height, 3 : 3 + width].clone()
    prototypes = prototypes.flatten(1) if patch_size is None else prototypes
    mean = mean_activation(features, prototypes, metric=metric, backend=backend)
    distances = oracle.distance_map(features, prototypes, metric)
    assert (distances.flatten(2).diagonal().amin(0) < 1e-12).all()
    wanted = oracle.activation(distances.clamp_min(0), "log").mean((2, 3))
    torch.testing.assert_close(mean.double(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("size", [1e-3, 1e-5])
@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
@interpreter_runs(size=(1e-5,), because="the nearer patches are the harder ones")
def test_patches_close_to_their_prototype_keep_their_digits(metric: str, size: float, backend: str) -> None:
    features, _ = Case(2, 64, 4, 4, 1).inputs()
    prototypes = features[:, :, 1, 1].clone()
    features = (prototypes[:, :, None, None] + size * features).requires_grad_()
    prototypes.requires_grad_()
    mean = mean_activation(features, prototypes, metric=metric, backend=backend)
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    # Not the oracle's cosine, which cancels even in float64.
    distances = distance_map(x, p, metric=metric, backend="reference")
    wanted = oracle.activation(distances, "log").mean((2, 3))
    torch.testing.assert_close(mean.double(), wanted, rtol=2e-5, atol=2e-6)
    grads = torch.autograd.grad(mean.diagonal().sum(), (features, prototypes))
    truths = torch.autograd.grad(wanted.diagonal().sum(), (x, p))
    # Unit vectors are rounded before they are subtracted.
    slack = 1e-5 if metric == "sqeuclidean" else 1e-6 / size
    for grad, truth in zip(grads, truths, strict=True):
        scale = truth.abs().max().item()
        torch.testing.assert_close(grad.double(), truth, rtol=slack, atol=slack * scale)


@pytest.mark.parametrize(
    ("activation", "metric"),
    [
        *itertools.product(["log", "linear", "exp", "exp_root"], oracle.DIFFERENCES),
        ("linear", "dot"),
    ],
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_gives_nan(metric: str, bad: float, activation: str, backend: str) -> None:
    features, prototypes = Case(3, 17, 5, 4, 51).inputs()

    def run() -> Tensor:
        return mean_activation(features, prototypes, activation=activation, metric=metric, backend=backend)

    clean = run()
    features[1, 16, 2, 3] = bad
    mean = run()
    assert mean[1].isnan().all()
    assert torch.equal(mean[[0, 2]], clean[[0, 2]])
    prototypes[50, 0] = bad
    mean = run()
    assert mean[:, 50].isnan().all()
    assert mean[1].isnan().all()
    torch.testing.assert_close(mean[[0, 2], :50], clean[[0, 2], :50], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_non_finite_inputs_never_give_a_finite_gradient(metric: str, backend: str) -> None:
    features, prototypes = Case(2, 5, 3, 3, 4).inputs()
    features[0, 1, 1, 1] = torch.nan
    features.requires_grad_()
    prototypes.requires_grad_()
    activation = oracle.SIMILARITY[metric]
    mean = mean_activation(features, prototypes, activation=activation, metric=metric, backend=backend)
    grads = torch.autograd.grad(mean.sum(), (features, prototypes))
    assert not grads[0][0].isfinite().all()
    assert not grads[1].isfinite().all()
    assert grads[0][1].isfinite().all()


@pytest.mark.parametrize(
    ("activation", "wanted"), [("log", 0.0), ("exp", 0.0), ("exp_root", 0.0), ("linear", -torch.inf)]
)
def test_distances_too_large_for_the_type(activation: str, wanted: float, backend: str) -> None:
    features = torch.full((1, 3, 2, 2), 1e30)
    prototypes = -features[0, :, 0, 0][None]
    assert mean_activation(features, prototypes, activation=activation, backend=backend).tolist() == [[wanted]]


@pytest.mark.parametrize("epsilon", [1e-4, 1e-12, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@interpreter_leaves_out("one formula")
def test_log_of_any_distance_and_epsilon(scale: float, epsilon: float, backend: str) -> None:
    features, prototypes = (tensor * scale for tensor in Case(2, 9, 5, 7, 20).inputs())
    mean = mean_activation(features, prototypes, epsilon=epsilon, backend=backend)
    distances = oracle.distance_map(features, prototypes, "sqeuclidean")
    wanted = torch.log1p((1 - epsilon) / (distances + epsilon)).mean((2, 3))
    torch.testing.assert_close(mean.double(), wanted, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("patch_size", [None, (2, 2)])
@interpreter_leaves_out("a large batch")
def test_no_tensor_of_all_distances_in_memory(patch_size: tuple[int, int] | None, metric: str, backend: str) -> None:
    case = Case(64, 6, 14, 14, 1024, patch_size)
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())

    def forward_and_backward() -> None:
        activation = oracle.SIMILARITY[metric]
        mean = mean_activation(features, prototypes, activation=activation, metric=metric, backend=backend)
        torch.autograd.grad(mean.sum(), (features, prototypes))

    all_distances = 4 * case.batch * case.prototypes * case.height * case.width
    outputs = 4 * case.batch * case.prototypes * 2
    assert peak_bytes(forward_and_backward) - outputs < 0.25 * all_distances


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_reduced_matmul_precision_of_the_process_does_not_show(setting: str, backend: str) -> None:
    features, prototypes = (torch.sigmoid(tensor) for tensor in Case(2, 128, 12, 12, 100).inputs())
    wanted = mean_activation(features, prototypes, precision="fp32", backend=backend)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        got = mean_activation(features, prototypes, precision="fp32", backend=backend)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


@given(data=st.data())
@interpreter_leaves_out("a hundred launches")
def test_any_shape_layout_and_kind_of_values(data: st.DataObject, backend: str) -> None:
    features, prototypes, metric = data.draw(problems())
    activation = oracle.SIMILARITY[metric]
    mean = mean_activation(features, prototypes, activation=activation, metric=metric, backend=backend)
    distances = distance_map(features.double(), prototypes.double(), metric=metric, backend="reference")
    wanted = activate(distances, activation, 1e-4).mean((2, 3))
    rtol, atol = TOLERANCE[features.dtype]
    torch.testing.assert_close(mean.double(), wanted, rtol=rtol, atol=atol)


def test_a_function_is_refused() -> None:
    features, prototypes = SMALL.inputs()
    message = (
        r"activation: must be one of log, linear, exp, cosine, exp_root; got a function\. "
        r"Apply it to protokern\.distance_map\(features, prototypes\) and take the mean\."
    )
    with pytest.raises(ValueError, match=message):
        mean_activation(features, prototypes, activation=torch.exp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation": "focal"},
            r"activation: must be one of log, .*, exp_root or a callable; got 'focal'\.",
        ),
        ({"activation": "cosine"}, r"activation: must not be 'cosine' unless metric is 'cosine'"),
        ({"epsilon": 0.0}, r"epsilon: must be a finite number above 0; got 0\.0\."),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    features, prototypes = SMALL.inputs()
    with pytest.raises(ValueError, match=message):
        mean_activation(features, prototypes, **options)
