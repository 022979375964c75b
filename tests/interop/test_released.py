"""Accelerated networks of the released programs against the programs themselves."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from protokern.interop import accelerate
from protokern.nn import PrototypeLayer

from .programs import PPNet, PrototypeChooser


def half_of_depth(distances: Tensor) -> Tensor:
    return 3 - 0.5 * distances


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())


def pp_net(**options: object) -> PPNet:
    return PPNet(backbone(), (8, 5, 1, 1), 2, 6, **options)


def pool_net(**options: object) -> PrototypeChooser:
    return PrototypeChooser(backbone(), 7, 3, 2, 5, 6, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "protopnet": pp_net,
    "protopnet-linear": lambda: pp_net(prototype_activation_function="linear"),
    "protopnet-function": lambda: pp_net(prototype_activation_function=half_of_depth),
    "protopnet-large-prototypes": lambda: PPNet(backbone(), (6, 4, 2, 3), 3, 6),
    "protopool": pool_net,
    "protopool-linear": lambda: pool_net(prototype_activation_function="linear"),
    "protopool-without-last-layer": lambda: pool_net(use_last_layer=False),
}


@pytest.fixture(params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network as released, and an accelerated copy of it."""
    torch.manual_seed(3)
    released = NETWORKS[request.param]()
    return released, accelerate(copy.deepcopy(released))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 13, 11, generator=torch.Generator().manual_seed(1))


def results(network: nn.Module, batch: Tensor) -> tuple[Tensor, ...]:
    """The outputs of all public methods; the released ProtoPool has no `push_forward`."""
    outputs = [*network(batch), network.prototype_distances(batch)]
    return (*outputs, *network.push_forward(batch)) if isinstance(network, PPNet) else tuple(outputs)


def gradients(network: nn.Module, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    network.zero_grad()
    sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outputs).backward()
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_the_programs(
    dtype: torch.dtype, train: bool, pair: tuple[nn.Module, nn.Module]
) -> None:
    tolerance = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    outcomes = []
    for network in pair:
        network.to(dtype).train(train)
        outputs = results(network, images().to(dtype))
        outcomes.append((outputs, gradients(network, outputs)))
    (wanted, wanted_grads), (got, grads) = outcomes
    for one, other in zip(wanted, got, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, **tolerance)
    assert grads.keys() == wanted_grads.keys()
    for name, wanted_grad in wanted_grads.items():
        scale = max(1.0, float(wanted_grad.abs().max()))
        torch.testing.assert_close(grads[name] / scale, wanted_grad / scale, **tolerance)


def test_gumbel_noise_is_drawn_as_before() -> None:
    released = pool_net()
    accelerated = accelerate(copy.deepcopy(released))
    outputs = []
    for network in (released, accelerated):
        torch.manual_seed(5)
        outputs.append(network(images(), gumbel_scale=200))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_state_dict_keeps_its_keys_and_tensors(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = pair
    before = released.state_dict()
    accelerate(released)
    after = released.state_dict()
    assert list(before) == list(after) == list(accelerated.state_dict())
    for name in before:
        assert before[name].data_ptr() == after[name].data_ptr()
    assert isinstance(released, type(accelerated).__bases__[1])
    assert [name for name, _ in released.named_modules()] == [name for name, _ in accelerated.named_modules()]


def test_tensors_loaded_or_changed_later_are_used(pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = pair
    for parameter in released.parameters():
        if parameter.requires_grad:
            nn.init.uniform_(parameter)
    accelerated.load_state_dict(released.state_dict())
    for one, other in zip(released(images()), accelerated(images()), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_a_copied_or_pickled_network_is_still_accelerated(pair: tuple[nn.Module, nn.Module]) -> None:
    accelerated = accelerate(pair[1].eval(), backend="reference")
    whole = io.BytesIO()
    torch.save(accelerated, whole)
    whole.seek(0)
    twins = {
        "deepcopy": copy.deepcopy(accelerated),
        "copy": copy.copy(accelerated),
        "pickle": pickle.loads(pickle.dumps(accelerated)),
        "oldest pickle": pickle.loads(pickle.dumps(accelerated, protocol=0)),
        "torch.save": torch.load(whole, weights_only=False),
        "replica": accelerated._replicate_for_data_parallel(),
    }
    for name, twin in twins.items():
        assert type(twin) is type(accelerated), name
        assert twin.protokern_backend == "reference", name
        if name == "replica":  # DataParallel fills in the tensors of its device
            twin._parameters.update(accelerated._parameters)
        for one, other in zip(accelerated(images()), twin(images()), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert twins["copy"].prototype_vectors is accelerated.prototype_vectors
    assert twins["deepcopy"].prototype_vectors is not accelerated.prototype_vectors
    with torch.no_grad():
        twins["deepcopy"].prototype_vectors.zero_()
    assert accelerated.prototype_vectors.abs().sum() > 0


def test_twice_is_harmless_and_changes_the_options(pair: tuple[nn.Module, nn.Module]) -> None:
    accelerated = pair[1]
    made = type(accelerated)
    assert accelerate(accelerated, backend="reference", precision="fp32") is accelerated
    assert type(accelerated) is made
    assert (accelerated.protokern_backend, accelerated.protokern_precision) == ("reference", "fp32")


def test_pruning_goes_on_working() -> None:
    released = pp_net()
    accelerated = accelerate(copy.deepcopy(released))
    for network in (released, accelerated):
        network.prune_prototypes([1, 6])
    for one, other in zip(released(images()), accelerated(images()), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert accelerated(images())[1].shape == (4, 6)


def test_another_similarity_chosen_later() -> None:
    network = accelerate(pp_net())
    assert network.protokern_similarity == "log"
    for function in ("linear", half_of_depth, "log"):
        network.prototype_activation_function = function
        logits, nearest = network(images())
        wanted = network.last_layer(network.distance_2_similarity(nearest))
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)


def test_a_similarity_of_a_subclass_is_kept() -> None:
    class Steeper(PPNet):
        def distance_2_similarity(self, distances):
            return 2 * super().distance_2_similarity(distances)

    released = Steeper(backbone(), (8, 5, 1, 1), 2, 6)
    accelerated = accelerate(copy.deepcopy(released))
    assert accelerated.protokern_similarity == ""
    torch.testing.assert_close(accelerated(images())[0], released(images())[0], rtol=1e-4, atol=1e-5)


def test_copies_of_patches_are_at_distance_zero_with_gradient_zero() -> None:
    """Where the program's rounding decides, the accelerated network is exact; docs/interop.md names this difference."""
    network = accelerate(pp_net().eval())
    features = network.conv_features(images(1)).detach()
    with torch.no_grad():
        network.prototype_vectors.copy_(features[0, :, 1, :4].T.repeat(2, 1)[:, :, None, None])
    logits, nearest = network(images(1))
    assert (nearest == 0).all()
    assert (network.prototype_distances(images(1)).flatten(2).amin(2) == 0).all()
    (grad,) = torch.autograd.grad(nearest.sum() + logits.sum(), network.prototype_vectors)
    assert (grad == 0).all()
    full = network.distance_2_similarity(torch.zeros(1, 8))
    torch.testing.assert_close(logits, network.last_layer(full), rtol=1e-6, atol=1e-5)


def test_one_image_is_enough_for_protopool() -> None:
    """The released program drops the batch dimension of a single image and stops."""
    released = pool_net().eval()
    accelerated = accelerate(copy.deepcopy(released))
    with pytest.raises((RuntimeError, ValueError)):
        released(images(1))
    one, both = accelerated(images()[:1]), accelerated(images())
    torch.testing.assert_close(one[0], both[0][:1], rtol=1e-5, atol=1e-6)
    assert one[1].shape == (1, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_networks_and_autocast(dtype: torch.dtype, pair: tuple[nn.Module, nn.Module]) -> None:
    released, accelerated = (network.eval() for network in pair)
    exact = [output.detach() for output in released(images())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, nearest, *_ = accelerated(images())
    assert nearest.dtype == torch.float32
    torch.testing.assert_close(nearest, exact[1], rtol=0.1, atol=0.05)
    half = accelerate(copy.deepcopy(released).to(dtype))
    for one, other in zip(half(images().to(dtype)), exact, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, rtol=0.1, atol=0.1 * float(other.abs().max()))
    scores.float().sum().backward()


def test_compiles_to_one_graph(pair: tuple[nn.Module, nn.Module]) -> None:
    torch._dynamo.reset()
    accelerated = pair[1].eval()
    compiled = torch.compile(accelerated, fullgraph=True, dynamic=True, backend="aot_eager")
    for one, other in zip(accelerated(images()), compiled(images()), strict=True):
        torch.testing.assert_close(other, one)


def test_a_forward_pass_that_stores_no_map() -> None:
    """The saved tensors of the backward pass are those of the features and the result."""
    network = accelerate(PPNet(nn.Identity(), (500, 4, 1, 1), 2, 3))
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.rand(2, 3, 16, 16))
    assert max(sizes) < 2 * 500 * 16 * 16 / 10


class Nearly(PPNet):
    """Has the attributes of the released program and another `forward`."""

    def forward(self, x):
        return (*super().forward(x), self.prototype_distances(x))


class WithRoot(PPNet):
    def _l2_convolution(self, x):
        return super()._l2_convolution(x).sqrt()


class Scaled(PPNet):
    def forward(self, x):
        logits, nearest = super().forward(x)
        return 2 * logits, nearest


class NeedsMore(PPNet):
    def forward(self, x, labels):  # type: ignore[override]
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Nearly,
            r"model\.forward: must return tensors of shapes \[\(2, 2\), \(2, 8\)\] on a trial; got \[\(2, 2\), .*\]",
        ),
        (
            WithRoot,
            r"model\.prototype_distances: must return what the released program does; differs by up to [\d.]+ on",
        ),
        (Scaled, r"model\.forward: must return what the released program does; differs by up to [\d.]+ on a trial"),
        (NeedsMore, r"model: must run as in the released program; NeedsMore raised TypeError\(.*labels.*\)\."),
    ],
)
def test_networks_that_compute_something_else_are_refused_and_left_alone(kind: type[PPNet], message: str) -> None:
    network = kind(backbone(), (8, 5, 1, 1), 2, 6)
    before = dict(vars(network))
    with pytest.raises(ValueError, match=message + r".* Put protokern\.nn\.PrototypeLayer into the network instead\.$"):
        accelerate(network)
    assert type(network) is kind
    assert vars(network) == before


def test_other_networks_are_refused_with_what_they_lack() -> None:
    with pytest.raises(
        ValueError,
        match=r"^model: must be a network of the released ProtoPNet, ProtoPool, TesNet or ProtoTree program; got "
        r"Sequential, which lacks these attributes of ProtoPNet: features, add_on_layers, .*, push_forward\.$",
    ):
        accelerate(nn.Sequential(PrototypeLayer(3, 4)))
    network = pool_net()
    del network.last_layer, network.num_descriptive
    with pytest.raises(ValueError, match=r"lacks these attributes of ProtoPool: last_layer, num_descriptive\.$"):
        accelerate(network)
    with pytest.raises(ValueError, match=r"got DataParallel, .*\. Give the network inside, model\.module\.$"):
        accelerate(nn.DataParallel(pp_net()))
    with pytest.raises(ValueError, match=r"^model: must be accelerated before it is compiled; .* then compile it\.$"):
        accelerate(torch.compile(pp_net(), backend="eager"))  # type: ignore[type-var]


def test_prototypes_without_values_are_refused() -> None:
    message = r"^model\.prototype_vectors: must be a tensor \(P, D, h, w\) with values; got \(8, 5, 1, 1\) on meta\.$"
    with pytest.raises(ValueError, match=message):
        accelerate(pp_net().to("meta"))
    network = pp_net()
    network.prototype_vectors = nn.Parameter(torch.rand(8, 5))
    with pytest.raises(ValueError, match=r"must be a tensor \(P, D, h, w\) with values; got \(8, 5\) on cpu\."):
        accelerate(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, r"backend: must be 'auto' or one of"),
        ({"precision": "fp8"}, r"precision: must be None or"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, str], message: str) -> None:
    network = pp_net()
    with pytest.raises(ValueError, match=message):
        accelerate(network, **options)
    assert type(network) is PPNet
