"""Networks of the released programs on tiny backbones, and how their answers are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from protokern.interop import accelerate

from .programs_projections import CroppedSTProtoPNet, EveryStage, FullSTProtoPNet, OursNet, TESNet
from .programs_tokens import ProtoPFormer, ProtoViT
from .programs_tree import ProtoTree


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())


def steep(distances: Tensor) -> Tensor:
    return torch.exp(-3 * distances)


def spread_out(tree: ProtoTree) -> ProtoTree:
    """Prototypes that the program's rounded distances tell apart."""
    nn.init.uniform_(tree.prototype_layer.prototype_vectors)
    return tree


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tesnet": lambda: TESNet(backbone(), (8, 5, 1, 1), 2, 6),
    "tesnet-large-prototypes": lambda: TESNet(backbone(), (8, 5, 2, 2), 2, 6),
    "evalprotopnet": lambda: OursNet(EveryStage(6), (8, 5, 1, 1), 2, 6),
    "prototree": lambda: spread_out(ProtoTree(4, backbone(), 3, 5, 6)),
    "prototree-logs": lambda: spread_out(ProtoTree(4, backbone(), 3, 5, 6, log_probabilities=True)),
    "st-cropped": lambda: CroppedSTProtoPNet(backbone(), (8, 5, 1, 1), 2, 6),
    "st-full": lambda: FullSTProtoPNet(backbone(), (8, 5, 1, 1), 2, 6),
    "protopformer": lambda: ProtoPFormer((8, 5, 1, 1), 2, 6, 9),
    "protopformer-function": lambda: ProtoPFormer((8, 5, 1, 1), 2, 6, 9, steep),
    "protovit": lambda: ProtoViT((6, 5, 4), 2),
    "protovit-radius": lambda: ProtoViT((6, 5, 3), 2, radius=2),
}


def make_pair(kind: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    released = NETWORKS[kind]()
    return released, accelerate(copy.deepcopy(released))


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(1))


def tensors(answer: Any) -> list[Any]:
    """The leaves of tuples, lists and dicts; a dict in the order of its keys."""
    if isinstance(answer, dict):
        answer = [answer[key] for key in sorted(answer, key=str)]
    return [leaf for part in answer for leaf in tensors(part)] if isinstance(answer, tuple | list) else [answer]


def assert_close(got: Any, wanted: Any, relative: float, size: float = 1.0) -> None:
    """Equal but for a share of the largest component, or of `size` if that is larger."""
    if not isinstance(wanted, Tensor):
        assert got == wanted
        return
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    largest = max(size, float(wanted.detach().abs().max()))
    torch.testing.assert_close(got, wanted, rtol=0, atol=relative * largest)
