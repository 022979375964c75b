"""The last layer: first weights, no bias, dropping prototypes."""

from __future__ import annotations

import torch

from protokern.nn import PrototypeClassifier, SlotSum

IDENTITY = torch.tensor([[1.0, 0], [1, 0], [0, 1]])


def test_first_weights_follow_the_class_identity():
    layer = PrototypeClassifier(IDENTITY)
    assert layer.bias is None
    assert layer.weight.tolist() == [[1, 1, -0.5], [-0.5, -0.5, 1]]


def test_first_weights_can_be_chosen():
    layer = PrototypeClassifier(IDENTITY, correct_class_weight=3, incorrect_class_weight=0)
    assert layer.weight.tolist() == [[3, 3, 0], [0, 0, 3]]


def test_dropping_prototypes_keeps_the_other_columns():
    layer = PrototypeClassifier(IDENTITY)
    layer.weight.requires_grad_(False)
    layer.keep_prototypes(torch.tensor([2, 0]))
    assert layer.weight.tolist() == [[-0.5, 1], [1, -0.5]]
    assert not layer.weight.requires_grad
    assert (layer.in_features, layer.out_features) == (2, 2)
    assert layer(torch.tensor([[2.0, 4.0]])).tolist() == [[3, 0]]


def test_slots_are_summed_up_by_class():
    layer = SlotSum(2)
    slots = torch.tensor([[1.0, 2, 4, 8, 16, 32]])  # three slots of class 0, then three of class 1
    assert layer(slots).tolist() == [[7, 56]]
    assert layer(slots.expand(0, 6)).shape == (0, 2)
    assert list(layer.parameters()) == []
