"""Evaluation mode for a while; afterwards every module is in its previous mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode without gradients inside the `with` block.

    Afterwards, also after an exception, each submodule is back in the mode it had (a frozen BatchNorm stays frozen).
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
