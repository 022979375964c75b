"""A pool's head never holds a B x P x H x W tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.models import ProtoPool
from tests.kernels.memory import peak_bytes

B, D, SIDE, P, K, S = 8, 8, 28, 96, 4, 3


@pytest.mark.parametrize("is_hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("focal", ["distance", "similarity"])
def test_forward_and_backward_stay_below_one_map(focal: str, is_hard: bool) -> None:
    torch.manual_seed(0)
    model = ProtoPool(nn.Identity(), K, P, S, D, focal=focal, in_channels=D, image_size=SIDE, backend="native")
    model.set_progress(1)
    if is_hard:
        model.harden()
    features = torch.rand(B, D, SIDE, SIDE, requires_grad=True)
    wanted = [features, model.prototype_layer.prototypes, model.last_layer.weight]

    def step() -> None:
        torch.autograd.grad(model.head(features).logits.sum(), wanted)

    assert peak_bytes(step) < 4 * B * P * SIDE**2
