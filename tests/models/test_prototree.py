"""ProtoTree against a tree of nodes that is walked branch by branch in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from protokern.errors import ConfigError
from protokern.losses import Labels, LossCoefficients
from protokern.models import ProtoTree
from protokern.models.configurations import find_configuration
from protokern.nn import DecisionTree
from tests.models.contract import ModelContract


@dataclass
class Leaf:
    index: int


@dataclass
class Branch:
    index: int
    absent: Branch | Leaf
    present: Branch | Leaf


def grow(depth: int, index: int = 0, first: int = 0) -> Branch | Leaf:
    """The node `index` of a complete tree, over the leaves from `first` on."""
    if depth == 0:
        return Leaf(first)
    half = 2 ** (depth - 1)
    return Branch(index, grow(depth - 1, 2 * index + 1, first), grow(depth - 1, 2 * index + 2, first + half))


def walk(node, present: list[float], reach: float, out: dict[int, float]) -> None:
    if isinstance(node, Leaf):
        out[node.index] = reach
        return
    p = present[node.index]
    walk(node.absent, present, reach * (1 - p), out)
    walk(node.present, present, reach * p, out)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def leaves_below(node) -> list[int]:
    if isinstance(node, Leaf):
        return [node.index]
    return leaves_below(node.absent) + leaves_below(node.present)


def make_tree(depth: int = 3, num_classes: int = 4, seed: int = 0) -> DecisionTree:
    torch.manual_seed(seed)
    tree = DecisionTree(depth, num_classes)
    tree.leaf_logits.copy_(torch.rand(2**depth, num_classes) * 5)
    return tree


def make_model(**settings) -> ProtoTree:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 6, 3, 2, padding=1), nn.ReLU())
    model = ProtoTree(backbone, 3, in_channels=2, image_size=16, prototype_dim=5, **settings)
    model.last_layer.leaf_logits.copy_(torch.rand(model.last_layer.leaf_logits.shape) * 4)
    return model


class TestContract(ModelContract):
    TERMS = frozenset({"cross_entropy"})

    def build(self, backbone: nn.Module, num_classes: int) -> ProtoTree:
        model = ProtoTree(
            backbone, num_classes, in_channels=2, image_size=16, prototype_dim=5, depth=3, backend="reference"
        )
        model.last_layer.leaf_logits.copy_(torch.rand(8, num_classes))
        return model


def test_mixture_equals_the_walk_through_the_nodes():
    tree, root = make_tree(), grow(3)
    log_present = -torch.rand(5, 7) * 6
    reach = tree.log_reach(log_present).exp()
    answer = tree(log_present).exp()
    distributions = [softmax(row) for row in tree.leaf_logits.tolist()]
    for b, row in enumerate(log_present.double().exp().tolist()):
        wanted: dict[int, float] = {}
        walk(root, row, 1.0, wanted)
        torch.testing.assert_close(reach[b], torch.tensor([wanted[i] for i in range(8)]), rtol=1e-5, atol=1e-7)
        mixture = [sum(wanted[i] * distributions[i][k] for i in range(8)) for k in range(4)]
        torch.testing.assert_close(answer[b], torch.tensor(mixture), rtol=1e-5, atol=1e-7)


def test_probabilities_add_up_to_one_and_nothing_underflows():
    tree = make_tree(depth=9, num_classes=50)
    tree.leaf_logits.zero_()
    tree.leaf_logits[torch.arange(512), torch.arange(512) % 50] = 4000.0
    log_present = -torch.rand(3, 511) * 16
    log_present[0] = -16
    log_present[1, ::2] = 0.0
    log_present.requires_grad_(True)
    answer = tree(log_present)
    assert answer.isfinite().all()
    torch.testing.assert_close(answer.exp().sum(dim=1), torch.ones(3))
    answer.sum().backward()
    assert log_present.grad is not None
    assert log_present.grad.isfinite().all()


def test_gradient_equals_finite_differences():
    tree = make_tree(depth=2).double()
    log_present = (-torch.rand(2, 3, dtype=torch.float64) * 2 - 0.01).requires_grad_(True)
    assert torch.autograd.gradcheck(tree, (log_present,))


def test_update_of_the_leaves_equals_the_formula():
    tree, root = make_tree(), grow(3)
    tree.start_epoch(10)
    tree.leaf_logits.add_(0.5)  # as batches before this one would
    start, before = tree.at_start.double().clone(), tree.leaf_logits.double().clone()
    log_present, labels = -torch.rand(6, 7) * 3, torch.tensor([0, 1, 2, 3, 1, 1])
    log_reach = tree.log_reach(log_present)
    tree.update(log_reach, tree.mix(log_reach), labels)

    wanted = (before - start / 10).clamp(min=0)
    distributions = [softmax(row) for row in before.tolist()]
    for row, label in zip(log_present.double().exp().tolist(), labels.tolist(), strict=True):
        reach: dict[int, float] = {}
        walk(root, row, 1.0, reach)
        answer = sum(reach[i] * distributions[i][label] for i in range(8))
        for i in range(8):
            wanted[i, label] += reach[i] * distributions[i][label] / answer
    torch.testing.assert_close(tree.leaf_logits.double(), wanted, rtol=1e-5, atol=1e-6)


def test_update_counts_every_image_once():
    tree = make_tree()
    tree.leaf_logits.zero_()
    tree.start_epoch(1)
    log_reach = tree.log_reach(-torch.rand(9, 7))
    tree.update(log_reach, tree.mix(log_reach), torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3]))
    torch.testing.assert_close(tree.leaf_logits.sum(dim=0), torch.tensor([4.0, 2.0, 1.0, 2.0]))


def test_greedy_leaf_is_that_of_the_walk_and_a_tie_goes_to_absent():
    tree, root = make_tree(), grow(3)
    present = torch.rand(20, 7)
    present[0] = 0.5
    for row, leaf in zip(present.tolist(), tree.greedy_leaf(present.log()).tolist(), strict=True):
        node = root
        while isinstance(node, Branch):
            node = node.present if row[node.index] > 0.5 else node.absent
        assert leaf == node.index


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
def test_pruning_keeps_the_certain_leaves_and_the_branches_that_lead_to_two_of_them(threshold):
    model, root = make_model(depth=3), grow(3)
    images = torch.rand(4, 2, 16, 16)
    certain = [
        i for i, row in enumerate(model.last_layer.leaf_logits.double().tolist()) if max(softmax(row)) > threshold
    ]
    before = model(images)

    nodes = model.prune_leaves(threshold)

    if len(certain) >= 2:
        assert nodes.leaves.tolist() == certain
    needed = []

    def visit(node) -> bool:
        if isinstance(node, Leaf):
            return node.index in nodes.leaves.tolist()
        absent, present = visit(node.absent), visit(node.present)
        if absent and present:
            needed.append(node.index)
        return absent or present

    visit(root)
    assert nodes.prototypes.tolist() == sorted(needed)
    assert model.num_prototypes == len(needed)
    after = model(images)
    torch.testing.assert_close(after.log_present, before.log_present[:, nodes.prototypes])
    torch.testing.assert_close(after.leaf_probabilities.sum(dim=1), torch.ones(4))
    for leaf, log_reach in zip(nodes.leaves.tolist(), after.log_reach.T, strict=True):
        chosen, node = torch.zeros(4), root
        while isinstance(node, Branch):
            is_right = leaf in leaves_below(node.present)
            if node.index in needed:
                p = before.log_present[:, node.index].exp()
                chosen = chosen + (p if is_right else 1 - p).log()
            node = node.present if is_right else node.absent
        torch.testing.assert_close(log_reach, chosen, rtol=1e-4, atol=1e-5)


def test_a_tree_without_any_certain_leaf_keeps_the_two_best():
    model = make_model(depth=3)
    model.last_layer.leaf_logits.zero_()
    model.last_layer.leaf_logits[5, 1] = 1.0
    nodes = model.prune_leaves(0.9)
    assert nodes.leaves.tolist() == [0, 5]
    assert nodes.prototypes.tolist() == [0]
    assert model(torch.rand(1, 2, 16, 16)).logits.isfinite().all()


def test_keep_prototypes_takes_what_a_pruning_leaves_and_refuses_the_rest():
    model = make_model(depth=3)
    certainty = model.last_layer.leaf_logits.softmax(dim=1).amax(dim=1)
    nodes = model.last_layer.leaves_to_keep(float(certainty.sort().values[2]))
    assert len(nodes.prototypes) < 7
    with pytest.raises(ValueError, match=r"index: must be what is left .* Use prune_leaves"):
        model.keep_prototypes([1, 2])  # without the root, only one of them is left
    model.keep_prototypes(nodes.prototypes)
    assert model.num_prototypes == len(nodes.prototypes)
    assert model.last_layer.num_leaves == len(nodes.leaves)


def test_a_new_tree_takes_on_the_sizes_of_a_pruned_one():
    model, images = make_model(depth=3), torch.rand(3, 2, 16, 16)
    model.prune_leaves(0.5)
    weights = model.state_dict()
    other = make_model(depth=3)
    other.fit_sizes(weights)
    other.load_state_dict(weights)
    assert torch.equal(other(images).logits, model(images).logits)


def test_classes_of_a_prototype_are_those_of_the_leaves_below():
    model = make_model(depth=2)
    model.last_layer.leaf_logits.copy_(torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 9, 1]]))
    assert model.class_identity.tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_influence_is_what_the_reversed_decision_would_take_away():
    model = make_model(depth=3).double()
    output = model(torch.rand(3, 2, 16, 16, dtype=torch.float64))
    influence = model.influence(output, 2)
    for j in range(7):
        present = output.log_present.detach().exp()
        present[:, j] = 1 - present[:, j]
        wanted = output.logits[:, 2] - model.last_layer(present.log())[:, 2]
        torch.testing.assert_close(influence[:, j], wanted.detach(), rtol=1e-6, atol=1e-9)


def test_influence_is_finite_and_right_where_the_other_side_has_next_to_nothing():
    tree = make_tree(depth=3).double()
    tree.leaf_logits.copy_(torch.eye(4, dtype=torch.float64).repeat(2, 1) * 60)  # other classes: e^-60
    log_present = -torch.rand(2, 7, dtype=torch.float64) * 8 - 1e-2
    influence = tree.influence(log_present, 1)
    assert influence.isfinite().all()
    for j in range(7):
        turned = log_present.clone()
        turned[:, j] = torch.log1p(-log_present[:, j].exp())
        wanted = tree(log_present)[:, 1] - tree(turned)[:, 1]
        torch.testing.assert_close(influence[:, j], wanted, rtol=1e-6, atol=1e-6)


def test_decision_path_goes_from_the_root_to_the_greedy_leaf():
    model, root = make_model(depth=3), grow(3)
    nn.init.normal_(model.prototype_layer.prototypes, 0.5, 0.4)
    with torch.no_grad():
        output = model(torch.rand(6, 2, 16, 16))
    for image in range(6):
        node = root
        for step in model.decision_path(output, image):
            assert isinstance(node, Branch)
            assert step.prototype == node.index
            assert step.probability == pytest.approx(float(output.activations[image, node.index]))
            assert step.is_present == (step.probability > 0.5)
            node = node.present if step.is_present else node.absent
        assert isinstance(node, Leaf)
        assert node.index == int(model.route(output, "greedy")[image])


def test_routes():
    model = make_model(depth=3)
    output = model(torch.rand(5, 2, 16, 16))
    assert torch.equal(model.route(output, "most_likely"), output.leaf_probabilities.argmax(dim=1))
    with pytest.raises(ValueError, match="routing: must be greedy or most_likely; got 'random'"):
        model.route(output, "random")


def test_loss_is_the_negative_log_likelihood():
    model = make_model(depth=3)
    output, labels = model(torch.rand(4, 2, 16, 16)), torch.tensor([0, 2, 1, 2])
    total, terms = model.loss(output, Labels(labels), LossCoefficients())
    wanted = -output.logits[torch.arange(4), labels].mean()
    torch.testing.assert_close(total, wanted)
    assert list(terms) == ["cross_entropy"]


def test_prototype_weight_says_what_to_use():
    with pytest.raises(ValueError, match=r"a ProtoTree decides along a path\. Use influence"):
        _ = make_model().prototype_weight


def test_starts_as_the_paper_says():
    model = make_model(depth=6)
    model = ProtoTree(model.backbone, 3, in_channels=2, image_size=16)
    prototypes = model.prototype_layer.prototypes.detach()
    assert prototypes.shape == (511, 256)
    assert float(prototypes.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(prototypes.std()) == pytest.approx(0.1, abs=0.01)
    assert model.last_layer.leaf_logits.eq(0).all()
    assert model.add_on_layers[0].bias is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"depth": 0}, "depth: must be from 1 to 16; got 0"),
        ({"depth": 40}, "depth: must be from 1 to 16; got 40"),
        ({"leaf_threshold": 1.0}, "leaf_threshold: must be from 0 to below 1; got 1.0"),
        ({"activation": "log"}, 'activation: must be a similarity that is a probability, "exp_root" or "exp"'),
        ({"top_k": 2}, "top_k: must be 1 in a tree"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    configuration = find_configuration("prototree")
    assert configuration is not None
    with pytest.raises(ConfigError) as caught:
        configuration(**setting)
    assert message in str(caught.value)
