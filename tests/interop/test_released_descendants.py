"""Accelerated networks of the released TesNet and ProtoTree programs against the programs themselves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from protokern.interop import accelerate

from .released_programs import ProtoTree, TESNet


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tesnet": lambda: TESNet(backbone(), (8, 5, 1, 1), 2, 6),
    "prototree": lambda: ProtoTree(backbone(), 6, 4, 3, 5),
    "prototree-log": lambda: ProtoTree(backbone(), 6, 4, 3, 5, is_log=True),
}
STRATEGIES = ("distributed", "sample_max", "greedy")


@pytest.fixture(params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network as released, and an accelerated copy of it."""
    torch.manual_seed(3)
    released = NETWORKS[request.param]()
    return released, accelerate(copy.deepcopy(released))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 13, 11, generator=torch.Generator().manual_seed(1))


def results(network: nn.Module, batch: Tensor) -> list[Tensor]:
    """The tensors among the outputs of all public methods, in one order."""
    if isinstance(network, TESNet):
        return [*network(batch), *network.prototype_distances(batch), *network.push_forward(batch)]
    found = [*network.forward_partial(batch)[:2]]
    for strategy in STRATEGIES:
        answer, info = network(batch, sampling_strategy=strategy)
        found += [answer, *(info[table][index] for table in ("pa_tensor", "ps") for index in sorted(info[table]))]
        if strategy != "distributed":
            found.append(torch.tensor(info["out_leaf_ix"]))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_and_gradients_are_those_of_the_program(pair: tuple[nn.Module, nn.Module], dtype: torch.dtype) -> None:
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    found = []
    for network in pair:
        network.to(dtype)
        outputs = results(network, images().to(dtype))
        generator = torch.Generator().manual_seed(2)
        weighed = [
            out * torch.rand(out.shape, generator=generator, dtype=dtype) for out in outputs if out.requires_grad
        ]
        sum(one.sum() for one in weighed).backward()  # type: ignore[union-attr]
        gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        found.append((outputs, gradients))
    (wanted, wanted_gradients), (got, gradients) = found
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **tolerance)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, **tolerance)


def test_the_state_dict_stays_and_copies_stay_accelerated(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = (network.eval() for network in pair)
    assert list(released.state_dict()) == list(accelerated.state_dict())
    for twin in (copy.deepcopy(accelerated), pickle.loads(pickle.dumps(accelerated))):
        assert type(twin) is type(accelerated)
        for one, other in zip(results(twin, images()), results(accelerated, images()), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_copy_of_a_prototype_is_certainly_present() -> None:
    """Where the program rounds the distance, p is as low as 0.99; here only its own 1e-14 under the root is left."""
    network = accelerate(NETWORKS["prototree"]().eval())
    with torch.no_grad():
        features = network._add_on(network._net(images(1)))
        network.prototype_layer.prototype_vectors.copy_(features[0, :, 1, 2].view(1, -1, 1, 1))
        _, info = network(images(1))
    assert all(float(p) == pytest.approx(1, abs=1e-6) for p in info["ps"].values())


def test_a_tree_that_was_pruned_goes_on_working() -> None:
    released = NETWORKS["prototree"]().eval()
    released.prune_left_below(released._root)
    accelerated = accelerate(copy.deepcopy(released))
    for one, other in zip(results(accelerated, images()), results(released, images()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_no_map_is_stored() -> None:
    """The saved tensors of the backward pass are those of the features and the result."""
    networks = (
        accelerate(TESNet(nn.Identity(), (500, 4, 1, 1), 2, 3)),
        accelerate(ProtoTree(nn.Identity(), 3, 2, 7, 4)),
    )
    for network in networks:
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network(torch.rand(2, 3, 16, 16))
        assert max(sizes) < 2 * 127 * 16 * 16 / 4


class OtherTree(ProtoTree):
    def forward_partial(self, xs):
        features, distances, table = super().forward_partial(xs)
        return features, distances**2, table


class OtherTesNet(TESNet):
    def forward(self, x):
        logits, cosine = super().forward(x)
        return 2 * logits, cosine


@pytest.mark.parametrize(
    ("network", "method"),
    [
        (lambda: OtherTree(backbone(), 6, 4, 3, 5), "forward_partial"),
        (lambda: OtherTesNet(backbone(), (8, 5, 1, 1), 2, 6), "forward"),
        (lambda: TESNet(backbone(), (8, 5, 2, 2), 2, 6), "prototype_distances"),
    ],
)
def test_networks_that_compute_something_else_are_refused(network: Callable[[], nn.Module], method: str) -> None:
    other = network()
    before = dict(vars(other))
    with pytest.raises(ValueError, match=rf"model\.{method}: must return what the released program does; differs by"):
        accelerate(other)
    assert vars(other) == before


def test_what_a_network_lacks_is_named() -> None:
    network = NETWORKS["prototree"]()
    del network._root, network._add_on
    with pytest.raises(ValueError, match=r"lacks these attributes of ProtoTree: _add_on, _root, nodes, "):
        accelerate(network)
    network = NETWORKS["prototree"]().to("meta")
    with pytest.raises(ValueError, match=r"^model\.prototype_layer\.prototype_vectors: must be a tensor \(P"):
        accelerate(network)
    with pytest.raises(ValueError, match="must be one of distributed, sample_max, greedy; got 'best'"):
        accelerate(NETWORKS["prototree"]())(images(), sampling_strategy="best")
