"""The layer and a whole model as programs of torch: compiled, exported, packaged, called as functions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree

from protokern import MinDistance, PrototypePool, TopKPool
from protokern.models import (
    ModelOutput,
    PIPNetOutput,
    ProtoPNet,
    ProtoPoolOutput,
    ProtoTreeOutput,
    TesNetOutput,
)
from protokern.nn import PrototypeLayer

FIELDS = ("activation", "min_distance", "patch")
# What inductor and export warn of in their own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]


def inverse(distance: Tensor) -> Tensor:
    return 1 / (1 + distance)


LAYERS: dict[str, Callable[[], PrototypeLayer]] = {
    "plain": lambda: PrototypeLayer(5, 4),
    "patches": lambda: PrototypeLayer(5, 4, (2, 3)),
    "cosine": lambda: PrototypeLayer(5, 4, metric="cosine", activation="cosine"),
    "function": lambda: PrototypeLayer(5, 4, activation=inverse),
    "three nearest": lambda: PrototypeLayer(5, 4, top_k=3),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> PrototypeLayer:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return LAYERS[request.param]()


def net(backend: str = "auto") -> ProtoPNet:
    torch._dynamo.reset()
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return ProtoPNet(conv, 3, prototypes_per_class=2, prototype_dim=5, backend=backend)


def tensors(output: PrototypePool | ModelOutput) -> list[Tensor]:
    return list(output) if isinstance(output, tuple) else [getattr(output, field.name) for field in fields(output)]


def step(model: nn.Module, inputs: Tensor) -> list[Any]:
    """Outputs, and gradients of the parameters and the inputs."""
    inputs = inputs.clone().requires_grad_()
    model.zero_grad()
    outputs = tensors(model(inputs))
    sum(out.square().sum() for out in outputs if out.is_floating_point()).backward()
    return [*outputs, inputs.grad, *(parameter.grad for parameter in model.parameters())]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(right, left)


class TestCompile:
    def test_layer_is_one_graph_for_all_shapes(self, layer: PrototypeLayer) -> None:
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
        counts = []
        # No two sizes of the first are equal: torch would take them for one and the same.
        for shape in ((3, 4, 6, 7), (2, 4, 5, 9), (8, 4, 4, 5)):
            features = torch.rand(shape)
            assert_same(step(layer, features), step(compiled, features))
            counts.append(counter.frame_count)
        assert counts == counts[:1] * 3

    def test_layer_has_no_graph_break(self, layer: PrototypeLayer) -> None:
        explained = torch._dynamo.explain(layer)(torch.rand(2, 4, 5, 6))
        assert explained.graph_break_count == 0, explained.break_reasons
        assert explained.graph_count == 1

    def test_methods_of_the_layer_are_one_graph_each(self, layer: PrototypeLayer) -> None:
        features, index = torch.rand(2, 4, 5, 6), torch.tensor([3, 0])
        method: Any
        for method in (layer.min_distance, layer.distance_map, lambda x: layer.distance_map(x, index)):
            wanted, got = method(features), torch.compile(method, fullgraph=True, backend="aot_eager")(features)
            assert_same(list(wanted), list(got))

    def test_layer_under_autocast(self, layer: PrototypeLayer) -> None:
        def run(features: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return layer(features @ torch.eye(6)).activation  # the product is in bfloat16, the prototypes are not

        features = torch.rand(2, 4, 5, 6)
        wanted = run(features)
        assert wanted.dtype == torch.float32
        torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(features), wanted)

    @pytest.mark.parametrize("backend", ["reference", "native"], indirect=True)
    def test_whole_model_is_one_graph_and_trains(self, backend: str) -> None:
        model = net(backend)
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
        counts = []
        for shape in ((4, 3, 19, 23), (6, 3, 17, 21), (5, 3, 32, 27)):
            images = torch.rand(shape)
            model.eval()  # the running statistics must not move between the two
            assert_same(step(model, images), step(compiled, images))
            model.train()
            assert_same(step(model, images), step(compiled, images))
            counts.append(counter.frame_count)
        assert counts == counts[:1] * 3

    def test_modes_and_no_grad_cost_one_graph_each(self) -> None:
        model = net()
        counter = CompileCounterWithBackend("eager")
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
        images = torch.rand(4, 3, 19, 23)
        for _ in range(3):
            compiled(images)
            with torch.no_grad():
                compiled(images)
        assert counter.frame_count == 2

    @pytest.mark.slow
    def test_whole_model_with_inductor(self) -> None:
        model = net().eval()
        images = torch.rand(4, 3, 19, 23)
        assert_same(step(model, images), step(torch.compile(model, fullgraph=True), images))


class TestExport:
    @pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
    @pytest.mark.parametrize("kind", ["layer", "model"])
    def test_exported_program_runs_after_a_save_for_any_batch_and_size(
        self, kind: str, strict: bool, tmp_path: Path
    ) -> None:
        module, shape = (
            (PrototypeLayer(5, 4, (2, 1)), (3, 4, 6, 7)) if kind == "layer" else (net().eval(), (3, 3, 19, 23))
        )
        dynamic = {
            0: torch.export.Dim("images", min=1, max=64),
            2: torch.export.Dim("rows", min=4, max=64),
            3: torch.export.Dim("columns", min=4, max=64),
        }
        if kind == "model":  # the stride of the backbone leaves odd sizes only; those stay as they are
            dynamic = {0: dynamic[0]}
        exported = torch.export.export(module, (torch.rand(shape),), dynamic_shapes=(dynamic,), strict=strict)
        torch.export.save(exported, tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()
        others = [shape, (9, *shape[1:])] + ([(1, 4, 5, 5), (2, 4, 9, 4)] if kind == "layer" else [])
        for other in others:
            inputs = torch.rand(other)
            got = loaded(inputs)
            assert type(got) is (PrototypePool if kind == "layer" else ModelOutput)
            assert_same(tensors(module(inputs)), tensors(got))

    @pytest.mark.slow
    def test_exported_program_runs_in_another_process_that_imports_the_ops(self, tmp_path: Path) -> None:
        layer, features = PrototypeLayer(5, 4), torch.rand(2, 4, 3, 3)
        torch.export.save(torch.export.export(layer, (features,)), tmp_path / "program.pt2")
        torch.save({"features": features, "activation": layer(features).activation}, tmp_path / "tensors.pt")
        script = (
            "import sys, torch, protokern.kernels\n"
            "tensors = torch.load(sys.argv[2])\n"
            "got = torch.export.load(sys.argv[1]).module()(tensors['features'])\n"
            "torch.testing.assert_close(got.activation, tensors['activation'])\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "program.pt2"), str(tmp_path / "tensors.pt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_the_graph_holds_the_op_itself(self) -> None:
        exported = torch.export.export(PrototypeLayer(5, 4), (torch.rand(2, 4, 3, 3),))
        called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
        assert torch.ops.protokern.prototype_pool.default in called
        assert not any("conv" in str(target) or "mm" in str(target) for target in called)

    @pytest.mark.slow
    def test_package_of_aot_inductor(self, tmp_path: Path) -> None:
        layer = PrototypeLayer(5, 4).requires_grad_(False)
        features = torch.rand(3, 4, 6, 7)
        dynamic = ({0: torch.export.Dim("images", min=1, max=64)},)
        exported = torch.export.export(layer, (features,), dynamic_shapes=dynamic)
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "layer.pt2"))
        loaded = torch._inductor.aoti_load_package(path)
        for inputs in (features, torch.rand(7, 4, 6, 7)):
            assert_same(tensors(layer(inputs)), tensors(loaded(inputs)))

    def test_types_in_saved_programs_keep_their_names(self) -> None:
        """A program that was saved says these names, wherever the classes are now."""
        names = {
            "protokern.kernels.min_distance.op.MinDistance": MinDistance,
            "protokern.kernels.prototype_pool.op.PrototypePool": PrototypePool,
            "protokern.kernels.topk_pool.op.TopKPool": TopKPool,
            "protokern.models.base.ModelOutput": ModelOutput,
            "protokern.models.pipnet.PIPNetOutput": PIPNetOutput,
            "protokern.models.protopool.ProtoPoolOutput": ProtoPoolOutput,
            "protokern.models.prototree.ProtoTreeOutput": ProtoTreeOutput,
            "protokern.models.tesnet.TesNetOutput": TesNetOutput,
        }
        serialized = _pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE
        assert {name: kind for name, kind in serialized.items() if name.startswith("protokern.")} == names


class TestFunctions:
    def test_functional_call_takes_other_prototypes(self, layer: PrototypeLayer) -> None:
        features = torch.rand(2, 4, 5, 6)
        other = {"prototypes": torch.rand_like(layer.prototypes).requires_grad_()}
        got = torch.func.functional_call(layer, other, (features,))
        (grad,) = torch.autograd.grad(got.min_distance.sum(), other["prototypes"])
        assert grad.abs().sum() > 0
        with torch.no_grad():
            layer.prototypes.copy_(other["prototypes"])
        for field in FIELDS:
            torch.testing.assert_close(getattr(got, field), getattr(layer(features), field))

    @pytest.mark.parametrize(
        "transform",
        [
            lambda f, x: torch.vmap(f)(x[:, None]),
            lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
            lambda f, x: torch.func.jvp(f, (x,), (x,)),
            lambda f, x: torch.func.jacrev(f)(x),
            lambda f, x: torch.func.vjp(f, x),
            lambda f, x: torch.func.hessian(f)(x),
        ],
        ids=["vmap", "grad", "jvp", "jacrev", "vjp", "hessian"],
    )
    def test_transforms_of_the_layer_say_what_to_do_instead(
        self, transform: Callable[[Callable[[Tensor], Tensor], Tensor], Any], layer: PrototypeLayer
    ) -> None:
        message = (
            r"torch\.func transforms \(vmap, grad, jvp\) are not supported\. Batch images along B, and use backward"
        )
        with pytest.raises(RuntimeError, match=message):
            transform(lambda x: layer(x).activation, torch.rand(2, 4, 5, 6))
