"""Accelerated networks of ProtoPNet's descendants against the programs' formulas."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from protokern.interop import accelerate
from protokern.interop import accelerated as accelerated_at_its_address

from .networks import NETWORKS, assert_close, images, make_pair, tensors
from .programs_projections import CroppedSTProtoPNet, EveryStage, FullSTProtoPNet, OursNet, TESNet
from .programs_tokens import ProtoPFormer, ProtoViT
from .programs_tree import ProtoTree

# Methods beside `forward`, each called with images.
PUSHES = ("push_forward", "push_forward_trivial", "push_forward_support")
METHODS = ("prototype_distances", "prototype_similarities", *PUSHES)


@pytest.fixture(params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network as released, and an accelerated copy of it."""
    return make_pair(request.param)


def results(network: nn.Module, batch: Tensor) -> list[Any]:
    outputs = tensors(network(batch))
    if isinstance(network, ProtoTree):
        for strategy in ("sample_max", "greedy"):
            outputs += tensors(network(batch, sampling_strategy=strategy))
        return outputs + list(network.forward_partial(batch)[:2])
    if not isinstance(network, ProtoPFormer):  # whose method takes more
        outputs += [out for name in METHODS if hasattr(network, name) for out in tensors(getattr(network, name)(batch))]
    return outputs


def gradients(network: nn.Module, outputs: list[Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    network.zero_grad()
    live = [out for out in outputs if isinstance(out, Tensor) and out.requires_grad]
    sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in live).backward()
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_values_and_gradients_are_the_programs(
    dtype: torch.dtype, relative: float, train: bool, pair: tuple[nn.Module, nn.Module]
) -> None:
    outcomes = []
    for network in pair:
        network.to(dtype).train(train)
        outputs = results(network, images().to(dtype))
        outcomes.append((outputs, gradients(network, outputs)))
    (wanted, wanted_grads), (got, grads) = outcomes
    for one, other in zip(wanted, got, strict=True):
        assert_close(other, one, relative)
    assert grads.keys() == wanted_grads.keys()
    # A small gradient may be what is left of large ones.
    size = max(float(gradient.abs().max()) for gradient in wanted_grads.values())
    for name, gradient in wanted_grads.items():
        assert_close(grads[name], gradient, relative, size)


def test_state_dict_keeps_its_keys_and_tensors(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = pair
    before = released.state_dict()
    kind = type(released)
    assert accelerate(released) is released
    after = released.state_dict()
    assert list(before) == list(after) == list(accelerated.state_dict())
    for name in before:
        assert before[name].data_ptr() == after[name].data_ptr()
    assert isinstance(released, kind)
    assert type(released) is type(accelerated)
    assert [name for name, _ in released.named_modules()] == [name for name, _ in accelerated.named_modules()]


def test_tensors_loaded_later_are_used(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = pair
    for parameter in released.parameters():
        nn.init.uniform_(parameter)
    accelerated.load_state_dict(released.state_dict())
    for one, other in zip(tensors(released(images())), tensors(accelerated(images())), strict=True):
        assert_close(other, one, 1e-5)


def test_a_copied_or_pickled_network_is_still_accelerated(pair: tuple[nn.Module, nn.Module]) -> None:
    accelerated = accelerate(pair[1].eval(), backend="reference")
    twins = {
        "deepcopy": copy.deepcopy(accelerated),
        "copy": copy.copy(accelerated),
        "pickle": pickle.loads(pickle.dumps(accelerated)),
        "replica": accelerated._replicate_for_data_parallel(),
    }
    for name, twin in twins.items():
        assert type(twin) is type(accelerated), name
        assert twin.protokern_backend == "reference", name
        if name == "replica":  # DataParallel fills in the tensors of its device
            twin._parameters.update(accelerated._parameters)
        for one, other in zip(tensors(accelerated(images())), tensors(twin(images())), strict=True):
            assert_close(other, one, 0)


class Sizes(TorchDispatchMode):
    """Notes the size of every tensor that an op makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tensors(made) if isinstance(one, Tensor)]
        self.largest = max([self.largest, *sizes])
        return made


LARGE: dict[str, Callable[[], nn.Module]] = {
    "tesnet": lambda: TESNet(nn.Identity(), (500, 4, 1, 1), 2, 3),
    "prototree": lambda: ProtoTree(2, nn.Identity(), 8, 4, 3),
    "protovit": lambda: ProtoViT((300, 4, 4), 2),
    # These return maps of all patches, but store none for the backward pass.
    "evalprotopnet": lambda: OursNet(EveryStage(3), (500, 4, 1, 1), 2, 3),
    "st-cropped": lambda: CroppedSTProtoPNet(nn.Identity(), (500, 4, 1, 1), 2, 3),
    "st-full": lambda: FullSTProtoPNet(nn.Identity(), (500, 4, 1, 1), 2, 3),
    "protopformer": lambda: ProtoPFormer((500, 4, 1, 1), 2, 3, 36),
}


def largest_tensor(network: nn.Module) -> int:
    """The size of the largest tensor that the logits and their gradients need."""
    sizes = Sizes()
    with sizes:
        tensors(network(images(2)))[0].sum().backward()
    return sizes.largest


@pytest.mark.parametrize("kind", ["tesnet", "prototree", "protovit"])
def test_forward_and_backward_make_no_map(kind: str) -> None:
    released = LARGE[kind]()
    prototypes, cells = released.num_prototypes * (4 if kind == "protovit" else 1), 14 * 14
    assert largest_tensor(released) >= 2 * prototypes * cells
    # ProtoViT compares each sub-patch with nine neighbours.
    assert largest_tensor(accelerate(released)) <= 2 * prototypes * (9 if kind == "protovit" else cells / 10)


def largest_in_backward(network: nn.Module) -> int:
    logits = tensors(network(images(2)))[0]
    sizes = Sizes()
    with sizes:
        logits.sum().backward()
    return sizes.largest


@pytest.mark.parametrize(
    ("kind", "cells"), [("evalprotopnet", 49), ("st-cropped", 196), ("st-full", 784), ("protopformer", 36)]
)
def test_where_forward_returns_maps_the_gradient_of_the_logits_makes_none(kind: str, cells: int) -> None:
    released = LARGE[kind]()
    assert largest_in_backward(released) >= 2 * 500 * cells
    assert largest_in_backward(accelerate(released)) < 2 * 500 * cells / 4


@pytest.mark.parametrize("kind", ["protopformer", "protovit"])
def test_a_program_that_sends_tensors_to_the_gpu_is_tried_where_the_network_is(kind: str) -> None:
    """The released programs call `.cuda()`, so without a GPU they cannot run; accelerated they can."""
    torch.manual_seed(3)
    released = NETWORKS[kind]()
    sent = type("Sent", (type(released),), {"device": lambda self, tensor: tensor.cuda()})
    network = copy.deepcopy(released)
    network.__class__ = sent
    accelerate(network)
    for one, other in zip(tensors(released(images())), tensors(network(images())), strict=True):
        assert_close(other, one, 1e-5)


def copied(features: Tensor, count: int) -> Tensor:
    """The first patches of an image as prototypes (count, D, 1, 1)."""
    return features[0].flatten(1).T[:count, :, None, None].detach()


def test_copies_of_patches_are_exact_with_gradient_zero() -> None:
    """Where the program's rounding decides, the accelerated network is exact; docs/interop.md names this difference."""
    tesnet = make_pair("tesnet")[1]
    tesnet.prototype_vectors.data = copied(tesnet.conv_features(images(1)), 8)
    _, negative_cosines = tesnet(images(1))
    assert (negative_cosines == -1).all()
    (grad,) = torch.autograd.grad(negative_cosines.sum(), tesnet.prototype_vectors)
    assert (grad == 0).all()

    tree = make_pair("prototree")[1]
    vectors = tree.prototype_layer.prototype_vectors
    vectors.data = copied(tree.forward_partial(images(1))[0], len(vectors))
    answer, info = tree(images(1))
    # exp(-1e-7), which the root of the program's 1e-14 leaves.
    assert all(present == torch.exp(torch.tensor(-1e-7)) for present in info["ps"].values())
    (grad,) = torch.autograd.grad(answer[:, 0].sum(), vectors)
    assert (grad == 0).all()

    former = make_pair("protopformer")[1].eval()
    tokens = former.conv_features(images(1), former.reserve_layer_nums)[0][1]
    former.prototype_vectors.data = copied(tokens, 8)
    activations, (distances, _) = former.get_activations(tokens, former.prototype_vectors)
    assert activations.tolist() == [pytest.approx([9.2103] * 8, abs=1e-4)]
    assert (distances.flatten(2).amin(2) == 0).all()


def test_protovit_matches_each_sub_patch_with_a_patch_of_its_own_near_the_one_before() -> None:
    """A prototype whose sub-patches all prefer one patch: the first gets it, the others its neighbours."""
    network = make_pair("protovit")[1]
    features, _, _ = network.greedy_distance(images(1), get_f=True)
    corner = features[0, :, 0, 0].detach()
    network.prototype_vectors.data = corner[None, :, None].expand(6, 5, 4).clone()
    _, _, patches = network.greedy_distance(images(1), get_f=True)
    assert patches.dtype == torch.float32
    for chosen in patches[0].long().tolist():
        assert chosen[0] == 0
        assert len(set(chosen)) == 4
        for one, after in itertools.pairwise(chosen):
            assert max(abs(one // 14 - after // 14), abs(one % 14 - after % 14)) <= 4


def test_under_autocast_similarities_stay_in_single_precision(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = (network.eval() for network in pair)
    exact = tensors(released(images()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = tensors(accelerated(images()))
    assert [tuple(one.shape) for one in outputs if isinstance(one, Tensor)] == [tuple(one.shape) for one in exact]
    assert any(one.dtype == torch.float32 for one in outputs)
    sum(one.float().sum() for one in outputs if one.requires_grad).backward()


def test_protovit_takes_other_grids() -> None:
    network = make_pair("protovit")[1]
    patches = network.greedy_distance(images()[:, :, :9, :6], get_f=True)[2]
    assert patches.max() < 9 * 6
    assert all(len(set(chosen)) == 4 for chosen in patches.flatten(0, 1).tolist())


def test_networks_saved_by_an_earlier_version_are_found() -> None:
    assert accelerated_at_its_address.AcceleratedProtoPNet.__name__ == "AcceleratedProtoPNet"
    made = accelerated_at_its_address.make_empty(TESNet, accelerated_at_its_address.AcceleratedProtoPool)
    assert type(made).__bases__ == (accelerated_at_its_address.AcceleratedProtoPool, TESNet)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["tesnet", "evalprotopnet", "prototree", "st-cropped", "st-full", "protopformer"])
def test_half_networks_are_taken_and_answer_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    released = make_pair(kind)[0].eval()
    exact = tensors(released(images()))[0].detach()
    logits = tensors(accelerate(released.to(dtype))(images().to(dtype)))[0]
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("kind", ["tesnet", "protopformer", "protovit"])
def test_compiles_to_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    accelerated = make_pair(kind)[1].eval()
    compiled = torch.compile(accelerated, fullgraph=True, dynamic=True, backend="aot_eager")
    for one, other in zip(tensors(accelerated(images())), tensors(compiled(images())), strict=True):
        assert_close(other, one, 1e-6)


def test_a_pruned_tree_goes_on_working() -> None:
    """The program replaces a branch by one of its children; the prototype stays among the vectors."""
    released, accelerated = make_pair("prototree")
    for network in (released, accelerated):
        network._root.l = network._root.l.r
        network._root.r.l = network._root.r.l.l
    for one in (accelerated, accelerate(copy.deepcopy(released))):
        for got, wanted in zip(results(one, images()), results(released, images()), strict=True):
            assert_close(got, wanted, 1e-5)
