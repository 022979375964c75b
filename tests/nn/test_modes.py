"""Evaluation mode for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.nn import evaluating


def test_every_module_gets_its_own_mode_back():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).train()
    net[0].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == [True, False, True]
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_exception():
    net = nn.Sequential(nn.Dropout()).train()
    with pytest.raises(KeyError), evaluating(net):
        raise KeyError
    assert all(module.training for module in net.modules())
    assert torch.is_grad_enabled()
