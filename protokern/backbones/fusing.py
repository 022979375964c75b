"""The pass of a net that no longer learns, with its convolutions fused: the same numbers but for rounding, sooner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.backbones.efficientnet_lite import SamePadConv2d
from protokern.backbones.folding import folded_batch_norms, has_hooks

FUSED = "fused"  # the name of this arithmetic
_BATCH = 16  # images; the maps of more do not stay in the caches of a processor


def can_fuse(net: nn.Module) -> bool:
    """Whether convolutions of `net` can be fused: on a processor, in float32, with oneDNN, and all weights finite.

    The ReLU of oneDNN makes a number of NaN, so a broken weight would no longer show.
    """
    of_net = next(net.parameters(), torch.zeros(0))
    return (
        of_net.device.type == "cpu"
        and of_net.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and all(bool(value.isfinite().all()) for value in net.state_dict().values())
    )


@contextmanager
def fused_layers(net: nn.Module) -> Iterator[None]:
    """Within the block, `net` in evaluation mode computes a convolution, its batch norm and its ReLU as one.

    The numbers are the same but for rounding; gradients are not available. Batch norms are folded as in
    `folded_batch_norms`. Where `can_fuse` is true, oneDNN then applies a ReLU or ReLU6 while it writes the result of
    the convolution before it, and pads uneven images itself. Only what certainly gives the same result is fused: layers
    right after each other in a `nn.Sequential`, used once, without hooks. Afterwards, also after an exception, the net
    is unchanged, bit for bit.

    Args:
        net: any net, also one with nothing to fuse; in evaluation mode throughout the block, and given finite images.
    """
    with ExitStack() as held:
        held.enter_context(folded_batch_norms(net))
        if can_fuse(net):
            held.enter_context(_fused_convolutions(net))
        yield


def run_fused(net: nn.Module, images: Tensor) -> Tensor:
    """What `net` gives for images (B, C, Y, X), in parts that stay in the caches of a processor.

    Images that are not finite go through the plain layers, so that they give NaN as always.

    Args:
        net: in evaluation mode; `can_fuse` is true for it.
        images: on the processor.
    """
    with fused_layers(net) if bool(images.isfinite().all()) else nullcontext():
        return torch.cat([net(part) for part in images.split(_BATCH)])


@contextmanager
def _fused_convolutions(net: nn.Module) -> Iterator[None]:
    uses: dict[int, int] = {}
    for _, part in net.named_modules(remove_duplicate=False):
        uses[id(part)] = uses.get(id(part), 0) + 1
    replaced: list[tuple[nn.Sequential, str, nn.Module]] = []
    try:
        for parent in [part for part in net.modules() if type(part) is nn.Sequential]:
            layers = [(name, part) for name, part in parent.named_children() if not _does_nothing(part)]
            for (first, convolution), (second, after) in pairwise([*layers, ("", nn.Identity())]):
                if not _can_be_one(convolution) or uses[id(convolution)] > 1:
                    continue
                assert isinstance(convolution, nn.Conv2d)
                is_fused = type(after) in _ACTIVATIONS and uses[id(after)] == 1 and not has_hooks(after)
                replaced.append((parent, first, convolution))
                setattr(parent, first, _Fused(convolution, after if is_fused else None))
                if is_fused:
                    replaced.append((parent, second, after))
                    setattr(parent, second, nn.Identity())
        yield
    finally:
        for parent, name, part in replaced:
            setattr(parent, name, part)


# What oneDNN calls an activation, and its numbers.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


def _does_nothing(part: nn.Module) -> bool:
    return type(part) is nn.Identity and not has_hooks(part)


def _can_be_one(part: nn.Module) -> bool:
    return (
        type(part) in (nn.Conv2d, SamePadConv2d)
        and part.padding_mode == "zeros"
        and not isinstance(part.padding, str)
        and not has_hooks(part)
    )


class _Fused(nn.Module):
    """A convolution and the activation after it, if any, as one call of oneDNN."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self._convolution = convolution
        self._activation = ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        # The weight as oneDNN takes it; by how many zeros are added to it along each axis.
        self._weights: dict[tuple[int, ...], Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        one = self._convolution
        more, padding = self._padded_evenly(images) if isinstance(one, SamePadConv2d) else ((0, 0), one.padding)
        weight = self._weights.get(more)
        if weight is None:
            weight = F.pad(one.weight, (more[1], 0, more[0], 0)).contiguous(memory_format=torch.channels_last)
            self._weights[more] = weight
        name, numbers = self._activation
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, weight, one.bias, list(padding), list(one.stride), list(one.dilation), one.groups, name, numbers, ""
        )
        return fused

    def _padded_evenly(self, images: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """The zeros at the start of the weight, and those on both sides of the images, for rows and columns.

        An axis that gets one more zero at its end gets one more at its start too, which a weight of zero then meets.
        """
        one = self._convolution
        assert isinstance(one, SamePadConv2d)
        rows, columns = one.padding_of((images.shape[-2], images.shape[-1]))
        return (rows % 2, columns % 2), (-(-rows // 2), -(-columns // 2))
