"""Ensembles: sums of logits, means of probabilities, and what refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.models import Ensemble, PIPNet, ProtoPNet, ProtoTree, TesNet

SMALL = {"prototype_dim": 4, "image_size": 16}


def conv_net(channels: int) -> nn.Module:
    return nn.Conv2d(3, channels, 3, 2)


def make_models(num_classes: int = 3) -> list:
    torch.manual_seed(0)
    return [
        ProtoPNet(conv_net(5), num_classes, prototypes_per_class=2, **SMALL).eval(),
        TesNet(conv_net(6), num_classes, prototypes_per_class=1, **SMALL).eval(),
    ]


def test_the_points_of_all_members_add_up_to_the_logits():
    models = make_models()
    ensemble = Ensemble(models)
    assert (ensemble.combine, ensemble.num_classes, ensemble.num_prototypes) == ("sum", 3, 9)
    images = torch.rand(2, 3, 16, 16)
    output = ensemble(images)
    points = sum(one.activations @ model.prototype_weight.T for one, model in zip(output.members, models, strict=True))
    torch.testing.assert_close(output.logits, points)
    torch.testing.assert_close(output.members[1].logits, models[1](images).logits)


def test_the_mean_is_that_of_the_probabilities():
    models = make_models()
    images = torch.rand(2, 3, 16, 16)
    wanted = (models[0](images).logits.softmax(dim=1) + models[1](images).logits.softmax(dim=1)) / 2
    torch.testing.assert_close(Ensemble(models, "mean")(images).logits.exp(), wanted)


@pytest.mark.parametrize("kind", ["tree", "pipnet"])
def test_a_member_whose_points_do_not_add_up_makes_it_a_mean(kind):
    tree = kind == "tree"
    member = ProtoTree(conv_net(4), 3, depth=2, **SMALL) if tree else PIPNet(conv_net(4), 3, image_size=16)
    ensemble = Ensemble([*make_models(), member.eval()])
    assert ensemble.combine == "mean"
    probabilities = ensemble(torch.rand(2, 3, 16, 16)).logits.exp()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_its_state_has_that_of_every_member():
    ensemble = Ensemble(make_models())
    other = Ensemble(make_models())
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(ensemble.state_dict())
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(other.eval()(images).logits, ensemble.eval()(images).logits)


@pytest.mark.parametrize(
    ("models", "combine", "message"),
    [
        (make_models()[:1], "auto", r"models: must be at least two; got 1\. A single model answers for itself\."),
        ([*make_models(), *make_models(4)], "sum", r"models: must have the same classes; got models of 3, 3, 4, 4"),
        (make_models(), "vote", "combine: must be one of sum, mean, auto; got 'vote'"),
    ],
)
def test_what_makes_no_ensemble_is_refused(models, combine, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(models, combine)
