"""Add-on layers on rows give what the convolutions give, and learn from the rows that have a gradient alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from protokern.nn import apply_to_rows, make_add_on_layers

KINDS = ["regular", "bottleneck", "single", "linear"]
CHANNELS, DIM = 40, 16


def make_maps(batch: int = 4) -> Tensor:
    """(B, C, 4, 8), channels last."""
    return torch.rand(batch, CHANNELS, 4, 8).contiguous(memory_format=torch.channels_last)


def grads_of(layers: nn.Sequential, result: Tensor, maps: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, [maps, *layers.parameters()], grad)


def assert_same_grads(layers: nn.Sequential, maps: Tensor, grad: Tensor, **tolerance: float) -> None:
    """The result of the rows, and all gradients for the gradient `grad` of the result, are the convolutions'."""
    maps = maps.detach().requires_grad_()
    wanted, found = layers(maps), apply_to_rows(layers, maps)
    torch.testing.assert_close(found, wanted, **tolerance)
    grad = grad.to(wanted.dtype)
    for one, other in zip(grads_of(layers, found, maps, grad), grads_of(layers, wanted, maps, grad), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **tolerance)


def with_gradient_in(count: int, maps: Tensor) -> Tensor:
    """A gradient (B, D, 4, 8) that is zero but in `count` patches, some of them alone in one channel."""
    grad = torch.randn(maps.shape[0] * 32, DIM)
    grad[torch.randperm(len(grad))[count:]] = 0
    grad[: len(grad) // 2, 1:] = 0
    return grad.view(maps.shape[0], 4, 8, DIM).permute(0, 3, 1, 2)


@pytest.mark.parametrize("salience", [0.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_products_over_rows_are_the_convolutions(kind, memory_format, salience):
    maps = make_maps(3).contiguous(memory_format=memory_format)
    assert_same_grads(make_add_on_layers(CHANNELS, DIM, kind, salience=salience), maps, torch.randn(3, DIM, 4, 8))


@pytest.mark.parametrize("salience", [0.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 8, 9, 64, 65, 127])
def test_rows_without_a_gradient_change_nothing(kind, count, salience):
    maps = make_maps()
    assert_same_grads(make_add_on_layers(CHANNELS, DIM, kind, salience=salience), maps, with_gradient_in(count, maps))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [9, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("salience", [0.0, 2.0])
def test_under_autocast_products_round_as_the_convolutions_do(kind, count, dtype, salience):
    """Up to a few roundings to bfloat16, which has 8 bits; the gradients come in the dtypes of what they are of."""
    maps = make_maps()
    layers = make_add_on_layers(CHANNELS, DIM, kind, salience=salience)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_grads(layers, maps.to(dtype), with_gradient_in(count, maps), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("salience", [0.0, 2.0])
def test_the_backward_pass_takes_the_rows_with_a_gradient_alone(salience):
    layers, maps = make_add_on_layers(CHANNELS, DIM, salience=salience), make_maps()  # 128 patches
    flops = []
    for count in (8, 128):
        result = apply_to_rows(layers, maps)
        with FlopCounterMode(display=False) as counter:
            result.backward(with_gradient_in(count, maps))
        flops.append(counter.get_total_flops())
    products = 2 * 128 * (CHANNELS * DIM + 2 * DIM * DIM)  # two gradients of weights, one of what is between the layers
    assert flops == [products // 16, products]


def test_a_batch_without_images_has_gradients_of_zero():
    layers, maps = make_add_on_layers(CHANNELS, DIM), make_maps(0)
    result = apply_to_rows(layers, maps)
    assert result.shape == (0, DIM, 4, 8)
    result.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in layers.parameters())


def test_convolutions_without_bias_and_frozen_ones():
    layers = nn.Sequential(nn.Conv2d(CHANNELS, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, DIM, 1))
    maps = make_maps()
    assert_same_grads(layers, maps, with_gradient_in(5, maps))
    layers[0].requires_grad_(False)
    apply_to_rows(layers, maps).sum().backward()
    assert layers[0].weight.grad is None
    assert layers[2].weight.grad is not None


def test_a_non_finite_gradient_reaches_the_weights():
    layers, maps = make_add_on_layers(CHANNELS, DIM, "linear"), make_maps()
    grad = torch.zeros(4, DIM, 4, 8)
    grad[2, 3, 1, 1] = torch.nan
    apply_to_rows(layers, maps).backward(grad)
    of_weight = layers[0].get_parameter("weight").grad
    assert of_weight is not None
    assert of_weight[3].isnan().all()


def test_other_layers_and_hooked_ones_are_called():
    layers = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 1, groups=2), nn.Tanh(), nn.Conv2d(6, 5, 1))
    seen = []
    layers[3].register_forward_hook(lambda *_: seen.append(1))
    maps = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(apply_to_rows(layers, maps), layers(maps))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "layers", [[nn.ReLU(), nn.Conv2d(CHANNELS, DIM, 1)], [nn.Conv2d(CHANNELS, DIM, 1), nn.ReLU(), nn.Sigmoid()]]
)
def test_activations_leave_what_others_need(layers):
    """One before the first product does not change the maps, two in a row not each other's gradients."""
    maps = make_maps() - 0.5
    before = maps.clone()
    assert_same_grads(nn.Sequential(*layers), maps, with_gradient_in(7, maps))
    assert torch.equal(maps, before)


@pytest.mark.parametrize("others", [(), (nn.Softplus(),)], ids=["rows", "each"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_in_memory_as_their_weights_do(memory_format, others) -> None:
    # DistributedDataParallel compares the strides, and warns in three lines where they differ.
    layers = nn.Sequential(*make_add_on_layers(6, 4), *others).to(memory_format=memory_format)
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    gradients = torch.autograd.grad(apply_to_rows(layers, torch.rand(2, 6, 3, 3)).sum(), weights)
    assert [one.stride() for one in gradients] == [one.stride() for one in weights]
