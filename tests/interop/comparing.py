"""What tests of released networks compare: logits for the same images, before and after the import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protokern.interop import ReleasedNet
from protokern.models.base import ModelOutput

MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SIZE = 48
CLASSES = 4
# The programs compute distances by another formula and in another order, all in float32.
TOLERANCE = 1e-4


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Case(NamedTuple):
    """A network, what of its output are the logits, and what of ours are the same."""

    make: Callable[[], nn.Module]
    backbone: str
    theirs: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x)[0]
    ours: Callable[[ModelOutput], Tensor] = lambda output: output.logits
    options: Mapping[str, Any] = MappingProxyType({})


def scores(output: Any) -> Tensor:
    return output.scores


def check_same(net: ReleasedNet, released: nn.Module, case: Case) -> None:
    with torch.no_grad():
        wanted = case.theirs(released, (images() - MEAN) / STD)
        got = case.ours(net(images()))
    assert float(wanted.std()) > 1e-3
    torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE)
