"""The registered ops inside torch: opcheck, torch.compile, autocast, and what they refuse."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

from protokern import distance_at, distance_map, mean_activation, min_distance, prototype_pool, topk_pool

from . import oracle
from .cases import SMALL, SMALL_PATCHES, Case
from .contract import METRICS

OPS = torch.ops.protokern
# opcheck itself looks at the gradient of copies that are not leaves.
ignore_grad_of_non_leaf = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def calls(case: Case, metric: str, backend: str) -> dict[str, tuple[object, ...]]:
    """Arguments of every registered op; the float tensors require gradients where the op has one."""
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
    value, patch = min_distance(features.detach(), prototypes.detach(), metric=metric, backend="reference")
    whole = distance_map(features.detach(), prototypes.detach(), metric=metric, backend="reference")
    plain = features.detach(), prototypes.detach()
    return {
        "min_distance": (features, prototypes, metric, None, backend),
        "prototype_pool": (features, prototypes, metric, oracle.SIMILARITY[metric], 1e-4, "fp32", backend),
        "distance_map": (features, prototypes, metric, backend),
        "distance_at": (features, prototypes, patch, metric, backend),
        "min_distance_backward": (value, *plain, patch, metric, backend, True, True),
        "distance_map_backward": (whole, *plain, metric, True, False),
        "mean_activation": (features, prototypes, metric, "log", 0.1, None, backend),
        "mean_activation_backward": (value, *plain, metric, "log", 0.1, backend, False, True),
        "topk_distance": (features, prototypes, 2, metric, "fp32", backend),
    }


NAMES = [
    "min_distance",
    "prototype_pool",
    "distance_map",
    "distance_at",
    "min_distance_backward",
    "distance_map_backward",
    "mean_activation",
    "mean_activation_backward",
    "topk_distance",
]


@ignore_grad_of_non_leaf
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
@pytest.mark.parametrize(
    ("metric", "name"),
    # The mean of a product is a closed form: `mean_activation` takes another op for it.
    [pair for pair in itertools.product(METRICS, NAMES) if pair[0] != "dot" or not pair[1].startswith("mean")],
)
def test_opcheck(metric: str, case: Case, name: str, backend: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, calls(case, metric, backend)[name])


@ignore_grad_of_non_leaf
def test_opcheck_of_several_patches(backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    patch = torch.randint(0, 12, (2, 7, 3))
    torch.library.opcheck(OPS.distance_at.default, (features, prototypes, patch, "cosine", backend))


@ignore_grad_of_non_leaf
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "half"])
def test_opcheck_of_other_layouts(layout: str, name: str, backend: str) -> None:
    change = {
        "channels_last": lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor,
        "sliced": lambda tensor: torch.cat([tensor, tensor], -1)[..., ::2],
        "half": lambda tensor: tensor.bfloat16(),
    }[layout]
    arguments = list(calls(SMALL, "sqeuclidean", backend)[name])
    of_inputs = slice(1, 3) if name.endswith("_backward") else slice(0, 2)
    inputs = [tensor for tensor in arguments[of_inputs] if isinstance(tensor, Tensor)]
    arguments[of_inputs] = [change(tensor.detach()).requires_grad_(tensor.requires_grad) for tensor in inputs]
    torch.library.opcheck(getattr(OPS, name).default, tuple(arguments))


def several_ops(features: Tensor, prototypes: Tensor, backend: str) -> Tensor:
    """A loss that passes through every public op."""
    pooled = prototype_pool(features, prototypes, backend=backend)
    nearest = min_distance(features, prototypes, metric="cosine", backend=backend)
    index = torch.tensor([2, 0])
    some = distance_map(features, prototypes, prototype_index=index, backend=backend)
    there = distance_at(features, prototypes, nearest.patch, backend=backend)
    mean = mean_activation(features, prototypes, backend=backend)
    few = topk_pool(features, prototypes, 3, backend=backend)
    projection = {"activation": "linear", "metric": "dot", "bias": prototypes.flatten(1)[:, 0], "backend": backend}
    scores = prototype_pool(features, prototypes, **projection).activation
    scores = scores - mean_activation(features, prototypes, **projection)
    focal = (pooled.activation - mean).sum() + few.activation.sum() + few.distance.sum()
    return focal + scores.sum() + pooled.min_distance.sum() + nearest.value.sum() + some.sum() + there.sum()


@pytest.mark.parametrize("patch_size", [None, (2, 1)])
def test_compile_of_the_whole_graph_with_dynamic_shapes(patch_size: tuple[int, int] | None, backend: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(several_ops, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    # No two sizes of the first case are equal: torch would take them for one and the same.
    for case in (Case(3, 5, 4, 6, 7, patch_size), Case(4, 6, 5, 7, 11, patch_size), Case(8, 8, 9, 6, 5, patch_size)):
        results = []
        for function in (several_ops, compiled):
            features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
            loss = function(features, prototypes, backend)
            results.append((loss, *torch.autograd.grad(loss, (features, prototypes))))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
        compilations.append(counter.frame_count)
    assert compilations == compilations[:1] * 3  # the first case compiles, and the graph serves the others


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compile_with_inductor() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(several_ops, fullgraph=True, dynamic=True)
    results = []
    for function in (several_ops, compiled):
        features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
        loss = function(features, prototypes, "auto")
        results.append((loss, *torch.autograd.grad(loss, (features, prototypes))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("of_features", "of_prototypes", "wide"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_autocast_takes_the_wider_of_the_two_types(
    of_features: torch.dtype, of_prototypes: torch.dtype, wide: torch.dtype, backend: str
) -> None:
    features, prototypes = SMALL.inputs()
    features = features.to(of_features).requires_grad_()
    prototypes = prototypes.to(of_prototypes).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, patch = min_distance(features, prototypes, backend=backend)
    wanted = min_distance(features.detach().to(wide), prototypes.detach().to(wide), backend=backend)
    assert torch.equal(value, wanted.value)
    assert torch.equal(patch, wanted.patch)
    grads = torch.autograd.grad(value.sum(), (features, prototypes))
    assert [grad.dtype for grad in grads] == [of_features, of_prototypes]


PUBLIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min_distance": lambda x, p: min_distance(x, p).value,
    "prototype_pool": lambda x, p: prototype_pool(x, p).activation,
    "distance_map": lambda x, p: distance_map(x, p),
    "distance_at": lambda x, p: distance_at(x, p, torch.zeros(2, 7, dtype=torch.int64)),
    "mean_activation": lambda x, p: mean_activation(x, p),
    "topk_pool": lambda x, p: topk_pool(x, p, 2).activation,
}
REGISTERED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min_distance": lambda x, p: OPS.min_distance(x, p, "sqeuclidean", None, "auto")[0],
    "prototype_pool": lambda x, p: OPS.prototype_pool(x, p, "sqeuclidean", "log", 1e-4, None, "auto")[0],
    "distance_map": lambda x, p: OPS.distance_map(x, p, "sqeuclidean", "auto"),
    "distance_at": lambda x, p: OPS.distance_at(x, p, torch.zeros(2, 7, dtype=torch.int64), "sqeuclidean", "auto"),
    "mean_activation": lambda x, p: OPS.mean_activation(x, p, "sqeuclidean", "log", 1e-4, None, "auto"),
    "topk_distance": lambda x, p: OPS.topk_distance(x, p, 2, "sqeuclidean", None, "auto")[0],
}
TRANSFORMS: dict[str, Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor], object]] = {
    "vmap": lambda f, x, p: torch.vmap(f, (0, None))(torch.stack([x, x]), p),
    "grad": lambda f, x, p: torch.func.grad(lambda y: f(y, p).sum())(x),
    "jvp": lambda f, x, p: torch.func.jvp(lambda y: f(y, p), (x,), (x,)),
    "jacrev": lambda f, x, p: torch.func.jacrev(f)(x, p),
    "functionalize-free vjp": lambda f, x, p: torch.func.vjp(f, x, p),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("level", "name"), [*(("public", name) for name in PUBLIC), *(("registered", name) for name in REGISTERED)]
)
def test_function_transforms_are_refused(level: str, name: str, transform: str) -> None:
    function = (PUBLIC if level == "public" else REGISTERED)[name]
    message = rf"{name}: torch\.func transforms \(vmap, grad, jvp\) are not supported\. Batch images along B"
    with pytest.raises(RuntimeError, match=message):
        TRANSFORMS[transform](function, *SMALL.inputs())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("name", PUBLIC)
def test_forward_mode_is_refused(name: str) -> None:
    features, prototypes = SMALL.inputs()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(features, torch.ones_like(features))
        registered = "topk_distance" if name == "topk_pool" else name
        message = rf"^{registered}: forward-mode derivatives are not supported\. Use backward\(\) for gradients\.$"
        with pytest.raises(RuntimeError, match=message):
            PUBLIC[name](dual, prototypes)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_op_keeps_the_autocast_rule(name: str) -> None:
    features, prototypes = SMALL.inputs()
    features = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = PUBLIC[name](features, prototypes)
    assert torch.equal(got, PUBLIC[name](features.float(), prototypes))


@pytest.mark.parametrize("name", PUBLIC)
def test_no_graph_is_kept_without_gradients(name: str) -> None:
    features, prototypes = SMALL.inputs()
    assert PUBLIC[name](features, prototypes).grad_fn is None
    with torch.no_grad():
        assert not PUBLIC[name](features.requires_grad_(), prototypes).requires_grad
    assert PUBLIC[name](features, prototypes).requires_grad


def test_inference_mode(backend: str) -> None:
    features, prototypes = SMALL.inputs()
    wanted = prototype_pool(features, prototypes, backend=backend)
    with torch.inference_mode():
        got = prototype_pool(*SMALL.inputs(), backend=backend)
    for one, other in zip(wanted, got, strict=True):
        assert torch.equal(one, other)


def test_export_for_any_number_of_images() -> None:
    class Layer(torch.nn.Module):
        def __init__(self, prototypes: Tensor) -> None:
            super().__init__()
            self.prototypes = torch.nn.Parameter(prototypes)

        def forward(self, features: Tensor) -> Tensor:
            return prototype_pool(features, self.prototypes).activation

    features, prototypes = Case(3, 5, 4, 6, 7).inputs()
    exported = torch.export.export(
        Layer(prototypes), (features,), dynamic_shapes=({0: torch.export.Dim("images", min=1, max=64)},)
    )
    more = Case(9, 5, 4, 6, 7).inputs(seed=1)[0]
    torch.testing.assert_close(exported.module()(more), prototype_pool(more, prototypes).activation)


def test_patch_indices_carry_no_gradient() -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    assert not min_distance(features, prototypes).patch.requires_grad
    assert not prototype_pool(features, prototypes).patch.requires_grad


def test_meta_tensors_give_shapes_and_types() -> None:
    features, prototypes = (tensor.to("meta") for tensor in SMALL_PATCHES.inputs(torch.bfloat16))
    result = prototype_pool(features, prototypes)
    assert [tensor.shape for tensor in result] == [(2, 6)] * 3
    assert [tensor.dtype for tensor in result] == [torch.float32, torch.float32, torch.int64]
    assert distance_map(features, prototypes).shape == (2, 6, 3, 3)
