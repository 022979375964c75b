"""The ops, the layer and accelerated networks inside what torch does on a CUDA device: graphs, compilation, streams."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern import available_backends, distance_map
from protokern.interop import accelerate
from protokern.nn import PrototypeLayer
from tests.interop.programs import PPNet, PrototypeChooser
from tests.kernels.cases import Case
from tests.kernels.public_ops import OPS, outputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]
# Past one tile in every direction, and small enough to be launched a hundred times.
CASE = Case(6, 48, 9, 7, 150)
PATCHES = Case(4, 16, 8, 7, 70, (2, 3))


@pytest.fixture(params=["auto", "triton", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    """What can run on the device without asking the host. The reference cannot: it counts close pairs."""
    if request.param != "auto":
        status = available_backends()[request.param]
        if not status.available or "cuda" not in status.devices:
            pytest.skip(f"backend {request.param!r}: {status.reason or 'does not run on cuda'}")
    return request.param


@pytest.fixture(params=OPS)
def op(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return OPS[request.param]


def inputs_of(case: Case, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [tensor.cuda().requires_grad_() for tensor in case.inputs(dtype, seed=seed)]


def results_of(call: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """What `call` returns for `inputs`, and the gradients of the inputs."""
    found = outputs(call(*inputs))
    floats = [out for out in found if out.is_floating_point()]
    grads = torch.autograd.grad(floats, inputs, [torch.full_like(out, 0.5) for out in floats])
    return [out.detach() for out in found] + list(grads)


def warm_up(call: Callable[[], Any]) -> None:
    """Run on a stream of its own before a capture, as torch asks for: kernels compile and memory is found."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)


def assert_same_bits(wanted: list[Tensor], got: list[Tensor]) -> None:
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", [CASE, PATCHES], ids=str)
def test_forward_and_backward_are_captured_in_a_graph(case: Case, op: Callable[..., Any], backend: str) -> None:
    inputs = inputs_of(case)

    def run() -> list[Tensor]:
        return results_of(lambda x, p: op(x, p, backend=backend), inputs)

    warm_up(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for seed in (1, 2):
        with torch.no_grad():
            for tensor, new in zip(inputs, case.inputs(seed=seed), strict=True):
                tensor.copy_(new)
        graph.replay()
        assert_same_bits(run(), captured)


@pytest.fixture
def no_host_sync() -> Iterator[None]:
    """Inside, whatever makes the host wait for the device raises."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_host_sync")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [CASE, PATCHES], ids=str)
def test_the_host_never_waits(case: Case, dtype: torch.dtype, op: Callable[..., Any], backend: str) -> None:
    inputs = inputs_of(case, dtype=dtype)
    index = torch.tensor([3, 0, 3], device="cuda")

    def run() -> None:
        results_of(lambda x, p: op(x, p, backend=backend), inputs)
        if op is OPS["distance_map"]:
            results_of(lambda x, p: distance_map(x, p, prototype_index=index, backend=backend), inputs)

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    run()


def test_another_stream_gives_the_same_bits(op: Callable[..., Any], backend: str) -> None:
    inputs = inputs_of(CASE)
    wanted = results_of(lambda x, p: op(x, p, backend=backend), inputs)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = results_of(lambda x, p: op(x, p, backend=backend), inputs)
    stream.synchronize()
    assert_same_bits(wanted, got)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_the_wider_type(half: torch.dtype, op: Callable[..., Any], backend: str) -> None:
    features, prototypes = inputs_of(CASE)
    features = features.detach().to(half).requires_grad_()
    with torch.autocast("cuda", dtype=half):
        got = results_of(lambda x, p: op(x, p, backend=backend), [features, prototypes])
    wide = features.detach().float().requires_grad_()
    wanted = results_of(lambda x, p: op(x, p, backend=backend), [wide, prototypes])
    wanted[-2] = wanted[-2].to(half)
    assert_same_bits(wanted, got)


LAYERS: dict[str, Callable[[str], PrototypeLayer]] = {
    "plain": lambda backend: PrototypeLayer(150, 48, backend=backend),
    "patches": lambda backend: PrototypeLayer(70, 48, (2, 3), backend=backend),
    "cosine": lambda backend: PrototypeLayer(150, 48, metric="cosine", activation="cosine", backend=backend),
    "function": lambda backend: PrototypeLayer(150, 48, activation=lambda d: 1 / (1 + d), backend=backend),
    "three nearest": lambda backend: PrototypeLayer(150, 48, top_k=3, backend=backend),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest, backend: str) -> PrototypeLayer:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return LAYERS[request.param](backend).cuda()


def training_step(layer: nn.Module, features: Tensor) -> list[Tensor]:
    """Similarity, distance and patch, and the gradients of the features and the parameters."""
    result = outputs(layer(features))
    loss = result[0].square().mean() + result[1].mean()
    return [out.detach() for out in result] + list(torch.autograd.grad(loss, [features, *layer.parameters()]))


def test_training_step_of_the_layer_is_captured_in_a_graph(layer: PrototypeLayer) -> None:
    features = torch.rand(6, 48, 9, 7, device="cuda", requires_grad=True)
    warm_up(lambda: training_step(layer, features))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = training_step(layer, features)
    for _ in range(3):
        with torch.no_grad():
            features.uniform_()
            layer.prototypes.uniform_()
        graph.replay()
        assert_same_bits(training_step(layer, features), captured)


def test_graphed_callable_of_the_layer(layer: PrototypeLayer) -> None:
    class Similarities(nn.Module):
        def __init__(self, layer: PrototypeLayer) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, features: Tensor) -> Tensor:
            return self.layer(features).activation

    features = torch.rand(6, 48, 9, 7, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(Similarities(layer)), (features,))
    fresh = torch.rand_like(features).requires_grad_()
    results = []
    for module in (Similarities(layer), graphed):
        similarity = module(fresh)
        grads = torch.autograd.grad(similarity.square().sum(), [fresh, *module.parameters()])
        results.append([tensor.detach().clone() for tensor in (similarity, *grads)])
    assert_same_bits(*results)


@pytest.mark.parametrize("backend", ["auto"], indirect=True)
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_training_step_of_the_compiled_layer(mode: str, layer: PrototypeLayer) -> None:
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    for _ in range(4):  # the second and third calls record the graphs, the fourth replays them
        features = torch.rand(6, 48, 9, 7, device="cuda", requires_grad=True)
        torch.compiler.cudagraph_mark_step_begin()
        got = [tensor.clone() for tensor in training_step(compiled, features)]
        for one, other in zip(training_step(layer, features), got, strict=True):
            torch.testing.assert_close(other, one)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


@pytest.mark.parametrize("backend", ["auto"], indirect=True)
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_exported_layer_runs_for_any_batch(strict: bool, layer: PrototypeLayer) -> None:
    dynamic = ({0: torch.export.Dim("images", min=1, max=64)},)
    features = torch.rand(3, 48, 9, 7, device="cuda")
    exported = torch.export.export(layer, (features,), dynamic_shapes=dynamic, strict=strict)
    more = torch.rand(17, 48, 9, 7, device="cuda")
    assert_same_bits(list(layer(more)), list(exported.module()(more)))


@pytest.mark.slow
def test_package_of_aot_inductor(tmp_path: Any) -> None:
    torch._dynamo.reset()
    layer = PrototypeLayer(150, 48).cuda().requires_grad_(False)
    features = torch.rand(3, 48, 9, 7, device="cuda")
    exported = torch.export.export(layer, (features,))
    path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "layer.pt2"))
    assert_same_bits(list(layer(features)), list(torch._inductor.aoti_load_package(path)(features)))


@pytest.mark.parametrize("program", ["protopnet", "protopool"])
def test_accelerated_networks_agree_with_the_programs(
    program: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TF32 off: the convolutions of the programs, not ours, are coarse with it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 4, stride=2)
    released = (
        PPNet(conv, (60, 32, 1, 1), 3, 16) if program == "protopnet" else PrototypeChooser(conv, 40, 4, 3, 32, 16)
    )
    released = released.cuda()
    accelerated = accelerate(copy.deepcopy(released), backend=backend)
    images, labels = torch.rand(8, 3, 30, 26, device="cuda"), torch.arange(8, device="cuda") % 3
    results = []
    for network in (released, accelerated):
        network.double()  # where no two patches are equally near but for a rounding
        logits, nearest, *_ = network(images.double())
        loss = F.cross_entropy(logits, labels) + nearest.mean()
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        results.append([logits, nearest, *torch.autograd.grad(loss, parameters)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-9)
    released.float()
    accelerated.float()
    for one, other in zip(released(images)[:2], accelerated(images)[:2], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_accelerated_network_is_captured_in_a_graph(backend: str) -> None:
    torch.manual_seed(0)
    network = accelerate(PPNet(nn.Conv2d(3, 16, 4, stride=2), (60, 32, 1, 1), 3, 16).cuda(), backend=backend)
    images = torch.rand(8, 3, 30, 26, device="cuda", requires_grad=True)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def run() -> list[Tensor]:
        logits, nearest = network(images)
        return [logits, nearest, *torch.autograd.grad(logits.square().mean() + nearest.mean(), parameters)]

    warm_up(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        images.uniform_()
    graph.replay()
    for one, other in zip(run(), captured, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
