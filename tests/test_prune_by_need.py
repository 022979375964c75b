"""Pruning by what the answers need: within the stated loss, at the level of before, copies first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from protokern.elimination import Activations
from protokern.models import ProtoPool
from protokern.prune import choose_by_need, prune_by_need
from protokern.push import PushResult

from .test_prune import bare_model, bare_pool


def active(model, count, *, seed):
    """Images of noise and what the model's prototypes say of them; prototypes of the right class say more."""
    values = torch.rand(count, model.num_prototypes, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % model.num_classes
    return Activations(values + 0.6 * model.class_identity[:, labels].T, labels)


def weighed_model(num_classes=3, each=4):
    """Distinct prototypes with weights of their own classes alone."""
    generator = torch.Generator().manual_seed(0)
    model = bare_model(torch.rand(num_classes * each, 5, generator=generator), num_classes)
    with torch.no_grad():
        own = model.class_identity.T
        model.last_layer.weight.copy_(own * (2 + torch.rand(own.shape, generator=generator)))
    return model


def accuracy_and_loss(weight, images):
    logits = images.values.double() @ weight.double().T
    return (
        float((logits.argmax(dim=1) == images.labels).double().mean()),
        float(F.cross_entropy(logits, images.labels)),
    )


def test_what_the_answers_do_not_need_goes_within_the_stated_loss():
    model = weighed_model()
    val, train = active(model, 60, seed=1), active(model, 90, seed=2)
    before = accuracy_and_loss(model.last_layer.weight.detach(), val)
    result = prune_by_need(model, val, train, accuracy_loss=0.02, loss_ratio=1.3)
    assert 0 < len(result.not_needed) < 9
    assert result.copies.tolist() == []
    assert model.num_prototypes == len(result.kept) == 12 - len(result.pruned)
    assert bool((model.class_identity.sum(dim=0) >= 1).all())
    kept = Activations(val.values[:, result.kept], val.labels)
    after = accuracy_and_loss(model.last_layer.weight.detach(), kept)
    assert after[0] >= before[0] - 0.02
    assert after[1] <= 1.3 * before[1]
    assert after[1] == pytest.approx(float(result.path.loss[result.steps]), rel=1e-5)
    assert after[0] == float(result.path.accuracy[result.steps])
    further = result.path.loss[result.steps + 1 :] > 1.3 * before[1]
    further |= result.path.accuracy[result.steps + 1 :] < before[0] - 0.02
    assert further.all(), "no smaller set of the path would do"


def test_those_that_are_left_keep_the_level_of_their_class():
    model = weighed_model()
    train = active(model, 90, seed=2)
    own = model.class_identity.T * model.last_layer.weight.detach()
    before = train.values @ own.T
    result = prune_by_need(model, active(model, 60, seed=1), train, per_class=2)
    after = train.values[:, result.kept] @ model.last_layer.weight.detach().T
    assert model.class_identity.sum(dim=0).tolist() == [2, 2, 2]
    for label in range(3):
        best = torch.linalg.lstsq(after[:, [label]], before[:, label]).solution
        assert float(best) == pytest.approx(1.0, abs=1e-5)


def test_prototypes_that_are_there_twice_go_first_and_leave_their_weight():
    model = weighed_model()
    with torch.no_grad():
        model.prototype_layer.prototypes[6] = model.prototype_layer.prototypes[4]
    val, train = active(model, 60, seed=1), active(model, 90, seed=2)
    for one in (val, train):
        one.values[:, 6] = one.values[:, 4]
    weight = model.last_layer.weight.detach().clone()
    result = prune_by_need(model, val, train, per_class=4)
    (gone,) = result.copies.tolist()
    (stays,) = {4, 6} - {gone}
    assert result.pruned.tolist() == [gone], "the other classes have four, and this one has three now"
    assert result.path.order[0] == gone
    assert float(result.path.loss[1]) == pytest.approx(float(result.path.loss[0]), rel=1e-12)
    expected = weight.clone()
    expected[1, stays] = weight[1, 4] + weight[1, 6]
    torch.testing.assert_close(model.last_layer.weight.detach(), expected[:, result.kept])


def test_the_same_source_patch_goes_whatever_it_costs():
    model = weighed_model(each=2)
    missing = torch.zeros(6)
    push = PushResult(torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([5, 5, 5, 5, 5, 5]), missing, missing, (3, 3))
    images = active(model, 60, seed=1), active(model, 90, seed=2)
    result = choose_by_need(model, *images, push, accuracy_loss=0, loss_ratio=1)
    assert len(result.copies) == 1
    assert result.copies.tolist()[0] in (0, 1)
    assert model.num_prototypes == 6, "to choose changes nothing"


def test_what_a_pool_does_not_need_goes_and_its_slots_stay_as_they_are():
    model = bare_pool([0.5, 4, 11, 7, 1], [[0, 1], [0, 4], [2, 0]])
    images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 9
    with torch.no_grad():
        before = model(images)
        contributions = before.activations[:, None, :] * model.prototype_weight
    seen = Activations(before.activations, before.logits.argmax(dim=1))
    result = prune_by_need(model, seen, seen, accuracy_loss=0.4, loss_ratio=4)
    assert 3 in result.not_needed.tolist(), "no class uses it"
    assert bool((model.class_identity.sum(dim=0) >= 1).all())
    with torch.no_grad():
        after = model(images).activations[:, None, :] * model.prototype_weight
    torch.testing.assert_close(after, contributions[:, :, result.kept])
    torch.testing.assert_close(result.weight.float(), model.prototype_weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: Activations(one.values[:, :5], one.labels), r"val: must have activations \(N, 12\) and labels"),
        (lambda one: Activations(one.values[:0], one.labels[:0]), "val: must hold finite activations of at least one"),
        (lambda one: Activations(one.values / 0, one.labels), "val: must hold finite activations .*; got NaN or inf"),
    ],
)
def test_activations_that_say_nothing_are_refused(change, message):
    model = weighed_model()
    with pytest.raises(ValueError, match=message):
        prune_by_need(model, change(active(model, 6, seed=0)), active(model, 6, seed=1))
    assert model.num_prototypes == 12


def test_a_model_that_still_chooses_is_not_pruned_by_need():
    model = ProtoPool(nn.Identity(), 2, num_prototypes=4, slots_per_class=2, prototype_dim=3, in_channels=3)
    images = Activations(torch.rand(4, 4), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="model: must have made its choices final before pruning"):
        prune_by_need(model, images, images)
