"""PIP-Net against its formulas, written out cell by cell in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from protokern.config.train import PruneConfig, TrainConfig
from protokern.errors import ConfigError
from protokern.evaluate import evaluate
from protokern.losses import Labels, LossCoefficients, alignment_cost, presence_cost
from protokern.models import PIPNet
from protokern.models.pipnet import PIPNetConfig
from protokern.models.plan import Step
from protokern.nn import ScoringSheet
from tests.models.contract import PointsContract


class TestPIPNet(PointsContract):
    TERMS = frozenset({"cross_entropy", "alignment", "presence"})
    LAYERS_THAT_LEARN: tuple[str, ...] = ("backbone", "add_on_layers", "last_layer")
    COVERS_CLASSES = False

    def build(self, backbone, num_classes):
        return PIPNet(
            backbone, num_classes, num_prototypes=5, smallest_presence=0.0, in_channels=self.CHANNELS, image_size=16
        )

    def coefficient(self, model, name, coefficients):
        own = {"cross_entropy": model.config.classification * coefficients.cross_entropy}
        return own.get(name) or getattr(model.config, name)


class TestPIPNetOfTheBackboneSChannels(TestPIPNet):
    LAYERS_THAT_LEARN = ("backbone", "last_layer")

    def build(self, backbone, num_classes):
        return PIPNet(backbone, num_classes, smallest_presence=0.0, in_channels=self.CHANNELS, image_size=16)


def conv_net(channels: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())


def softmax(column: list[float]) -> list[float]:
    powers = [math.exp(value - max(column)) for value in column]
    return [power / sum(powers) for power in powers]


def shares_of(features: torch.Tensor) -> list[list[list[float]]]:
    """Image, channel, cell."""
    found = []
    for image in features.tolist():
        cells = [[value for row in channel for value in row] for channel in image]
        by_cell = [softmax(list(column)) for column in zip(*cells, strict=True)]
        found.append([list(channel) for channel in zip(*by_cell, strict=True)])
    return found


@pytest.fixture
def model() -> PIPNet:
    torch.manual_seed(0)
    return PIPNet(conv_net(), 4)


@pytest.fixture
def features() -> torch.Tensor:
    torch.manual_seed(3)
    return 3 * torch.randn(4, 6, 2, 3)


def test_presences_are_the_largest_shares(model, features):
    shares = shares_of(features)
    output = model.train().head(features)
    for image in range(4):
        for channel in range(6):
            cells = shares[image][channel]
            assert output.maps[image, channel].flatten().tolist() == pytest.approx(cells, abs=1e-6)
            assert float(output.activations[image, channel]) == pytest.approx(max(cells), abs=1e-6)
            assert int(output.patches[image, channel]) == cells.index(max(cells))


@pytest.mark.parametrize(("bias", "power"), [(False, 2.0), (True, 3.0)])
def test_scores_and_logits_are_those_of_the_sheet(features, bias, power):
    torch.manual_seed(1)
    model = PIPNet(conv_net(), 3, bias=bias, power=power)
    with torch.no_grad():
        model.last_layer.weight.normal_()
        if bias:
            model.last_layer.bias.uniform_()
    biases = [0.0] * 3 if model.last_layer.bias is None else model.last_layer.bias.tolist()
    with torch.no_grad():
        output = model.head(features)
    presences = [[max(cells) for cells in image] for image in shares_of(features)]
    for image in range(4):
        for k in range(3):
            weights = model.last_layer.weight[k].tolist()
            score = sum(p * max(w, 0) for p, w in zip(presences[image], weights, strict=True))
            score += biases[k]
            assert float(output.scores[image, k]) == pytest.approx(score, abs=1e-5)
            assert float(output.logits[image, k]) == pytest.approx(math.log(1 + score**power), abs=1e-5)
    assert torch.equal(model.scores(output), output.scores)


def test_in_evaluation_small_presences_are_none(model, features):
    presences = model.train().head(features).activations
    limit = float(presences.median())
    model.config = type(model.config)(smallest_presence=limit)
    output = model.eval().head(features)
    assert output.maps is None
    expected = torch.where(presences.double() < limit, 0, presences.double())
    torch.testing.assert_close(output.activations.double(), expected, atol=1e-6, rtol=0)
    assert (output.activations == 0).any()
    torch.testing.assert_close(output.scores, output.activations @ model.prototype_weight.T)


def test_a_presence_at_the_limit_counts():
    model = PIPNet(conv_net(2), 2, smallest_presence=0.5).eval()
    output = model.head(torch.zeros(1, 2, 1, 1))
    assert output.activations.tolist() == [[0.5, 0.5]]


def test_it_abstains_where_all_scores_are_0(model):
    model.eval()
    nothing, something = torch.zeros(1, 6, 1, 1), torch.zeros(1, 6, 1, 1)
    something[0, 2] = 9
    model.config = type(model.config)(smallest_presence=0.2)
    output = model.head(torch.cat([nothing, something]))
    assert model.abstains(output).tolist() == [True, False]
    assert output.scores[0].tolist() == [0, 0, 0, 0]
    with torch.no_grad():
        model.last_layer.weight[:, 2] = -1
    assert model.abstains(model.head(something)).tolist() == [True]
    assert model.train().abstains(model.head(nothing)).tolist() == [False]


def alignment(one: list, other: list) -> float:
    """By its definition, for shares by image, channel and cell."""
    terms = [
        math.log(sum(a[c][n] * b[c][n] for c in range(len(a))) + 1e-12)
        for a, b in zip(one, other, strict=True)
        for n in range(len(a[0]))
    ]
    return -sum(terms) / len(terms)


def test_alignment_has_its_value_and_half_its_gradient(features):
    one, other = features[:2], features[2:]
    expected = alignment(shares_of(one), shares_of(other))
    first, second = (view.double().clone().requires_grad_() for view in (one, other))
    cost = alignment_cost(first.softmax(dim=1), second.softmax(dim=1))
    assert float(cost.detach()) == pytest.approx(expected, abs=1e-9)
    cost.backward()
    for view, fixed in ((first, second), (second, first)):
        plain = view.detach().clone().requires_grad_()
        (-torch.log((plain.softmax(1) * fixed.detach().softmax(1)).sum(1) + 1e-12).mean()).backward()
        torch.testing.assert_close(view.grad, plain.grad / 2, rtol=1e-10, atol=1e-14)


def test_presence_is_a_number_of_the_batch():
    one, other = torch.tensor([[0.5, 0.1], [0.25, 0.0]]), torch.tensor([[0.2, 0.3], [0.2, 0.0]])
    views = [(0.75, 0.1), (0.4, 0.3)]
    expected = [-sum(math.log(math.tanh(total) + 1e-8) for total in sums) / 2 for sums in views]
    assert float(presence_cost(one, other)) == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert float(presence_cost(torch.zeros(2, 2), torch.zeros(2, 2))) == pytest.approx(-math.log(1e-8), rel=1e-6)


@pytest.mark.parametrize("cost", [alignment_cost, presence_cost])
def test_views_have_one_shape(cost):
    with pytest.raises(ValueError, match=r"must have the shape of the first view, \(2, 3\); got \(1, 3\)"):
        cost(torch.rand(2, 3), torch.rand(1, 3))


def phase_loss(model: PIPNet, features: torch.Tensor, labels: torch.Tensor, weights: tuple[float, float, float]):
    """The loss of a phase from plain softmaxes, the views one after the other."""
    views = features.chunk(2)
    maps = [view.softmax(dim=1) for view in views]
    presences = [one.flatten(2).max(dim=2).values for one in maps]

    def disagree(u, v):
        return -torch.log((u * v.detach()).sum(dim=1) + 1e-12).mean()

    align = (disagree(maps[0], maps[1]) + disagree(maps[1], maps[0])) / 2
    spread = -sum(torch.log(torch.tanh(p.sum(dim=0)) + 1e-8).mean() for p in presences) / 2
    scores = torch.cat(presences) @ model.last_layer.weight.clamp(min=0).T
    chances = (1 + scores**2) / (1 + scores**2).sum(dim=1, keepdim=True)
    answer = -chances.gather(1, labels.repeat(2)[:, None]).log().mean()
    return weights[0] * align + weights[1] * spread + weights[2] * answer


@pytest.mark.parametrize(
    ("step", "weights"),
    [
        (Step("pretrain", 0), (0.1, 5, 0)),
        (Step("pretrain", 9), (1, 5, 0)),
        (Step("sheet", 10), (0, 0, 2)),
        (Step("warm", 13), (5, 2, 2)),
        (Step("joint", 20), (5, 2, 2)),
    ],
)
def test_each_phase_has_its_loss_and_gradients(model, features, step, weights):
    model.double().train().set_step(step)
    labels = torch.tensor([3, 1])
    ours, theirs = (features.double().clone().requires_grad_() for _ in range(2))
    loss = model.loss(model.head(ours), Labels(labels), LossCoefficients())
    expected = phase_loss(model, theirs, labels, weights)
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=1e-9)
    with_sheet = [model.last_layer.weight] if weights[2] else []
    mine = torch.autograd.grad(loss.total, [ours, *with_sheet])
    wanted = torch.autograd.grad(expected, [theirs, *with_sheet])
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_the_loss_takes_two_views_in_training(model, features):
    labels = Labels(torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="output: must be of two views of each of 4 images; got 4 rows"):
        model.train().loss(model.head(features), labels, LossCoefficients())
    with pytest.raises(ValueError, match="output: must be of a model in training; got one of evaluation"):
        model.eval().loss(model.head(features), labels, LossCoefficients())


def test_steps_shrink_the_sheet(model):
    weight = model.last_layer.weight
    with torch.no_grad():
        weight[0, :3] = torch.tensor([0.5, 0.0004, -2.0])
    optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.0)
    expected = weight.detach().double().clone()
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(1, 4):
        optimizer.zero_grad()
        (weight.relu() * torch.arange(24.0).view(4, 6)).sum().backward()
        gradient = weight.grad.double()
        optimizer.step()
        model.after_step(None, None)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = 0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = (expected - moved - 1e-3).clamp(min=0)
        torch.testing.assert_close(weight.detach().double(), expected, atol=1e-5, rtol=0)
    assert weight[0, 2].item() == 0


def test_the_pre_training_shrinks_nothing(model):
    before = model.last_layer.weight.detach().clone()
    model.set_step(Step("pretrain", 0))
    model.after_step(None, None)
    assert torch.equal(model.last_layer.weight, before)


def test_a_bias_is_never_negative_after_a_step():
    sheet = ScoringSheet(2, 2, bias=True)
    with torch.no_grad():
        sheet.bias.copy_(torch.tensor([-1.0, 0.5]))
    sheet.shrink(0.001)
    assert sheet.bias.tolist() == [0, 0.5]


def test_it_starts_as_the_release_does():
    torch.manual_seed(0)
    model = PIPNet(conv_net(64), 50, num_prototypes=40)
    assert model.last_layer.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert model.last_layer.weight.std().item() == pytest.approx(0.1, abs=0.01)
    assert model.last_layer.bias is None
    bound = math.sqrt(6 / (64 + 40))
    largest = model.add_on_layers[0].weight.abs().max().item()
    assert 0.95 * bound < largest <= bound
    assert PIPNet(conv_net(64), 2).num_prototypes == 64
    assert len(PIPNet(conv_net(64), 2).add_on_layers) == 0


def test_classes_are_those_with_a_weight(model):
    with torch.no_grad():
        model.last_layer.weight.zero_()
        model.last_layer.weight[1, 2], model.last_layer.weight[3, 2], model.last_layer.weight[0, 4] = 0.5, 0.002, 0.001
    expected = torch.zeros(6, 4)
    expected[2, [1, 3]] = 1
    assert torch.equal(model.class_identity, expected)


def test_pruning_drops_what_no_class_scores_by_or_no_image_shows(model):
    with torch.no_grad():
        model.last_layer.weight[:, 1] = 0.0009
    distance = torch.tensor([0.1, 0.1, 5.0, 0.1, 2.0, 0.1])  # exp(-5) and exp(-2): 0.007 and 0.135
    assert model.prune_own(distance).tolist() == [0, 3, 4, 5]
    assert model.prototype_layer.channels.tolist() == [0, 3, 4, 5]
    assert model.prune_own().tolist() == [0, 1, 2, 3]


def test_one_prototype_stays_in_any_case(model):
    with torch.no_grad():
        model.last_layer.weight.zero_()
        model.last_layer.weight[2, 4] = 1e-4
    assert model.prune_own().tolist() == [4]


def test_a_pruned_state_fits_a_new_model(model, features):
    model.keep_prototypes([5, 1])
    other = PIPNet(conv_net(), 4)
    other.fit_sizes(model.state_dict())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().head(features).logits, model.eval().head(features).logits)


def test_the_plan_has_its_own_stages():
    model = PIPNet(conv_net(), 2, pretrain_epochs=2, sheet_epochs=1)
    train = TrainConfig(warm_epochs=1, joint_epochs=2)
    steps = model.stages(train, PruneConfig(enabled=True))
    names = [step.name for step in steps]
    assert names == ["pretrain-0", "pretrain-1", "sheet-2", "warm-3", "joint-4", "joint-5", "exemplars-5", "prune-5"]
    without = PIPNet(conv_net(), 2, pretrain_epochs=0).stages(train, PruneConfig())
    assert [step.name for step in without] == ["warm-0", "joint-1", "joint-2", "exemplars-2"]


def test_each_stage_has_its_parts_and_rates():
    model = PIPNet(conv_net(), 2, early_layers=("0",))
    train = TrainConfig(backbone_lr=5e-4, add_on_lr=5e-3)
    net = {"backbone": 5e-4, "add_on_layers": 5e-3}
    assert model.learning_rates("pretrain", train) == net
    assert model.learning_rates("sheet", train) == {"last_layer": 0.05}
    assert model.learning_rates("joint", train) == {**net, "last_layer": 0.05}
    assert model.learning_rates("exemplars", train) == {}
    assert [model.waiting_layers(stage) for stage in ("pretrain", "warm", "joint")] == [("0",), ("0",), ()]


def test_rates_fall_and_the_sheet_begins_again():
    model: Any = PIPNet(conv_net(), 2, pretrain_epochs=4, sheet_epochs=3)
    train = TrainConfig(warm_epochs=2, joint_epochs=10)  # 15 epochs after the pre-training: cycles of 5
    first = model.rate_factors(Step("pretrain", 0), 0.0, train)
    middle = model.rate_factors(Step("pretrain", 2), 0.0, train)
    assert first == {"backbone": 1, "add_on_layers": 1}
    assert middle["backbone"] == pytest.approx((1 + 0.01) / 2)
    sheet = [model.rate_factors(Step("sheet", 4 + epoch), 0.5, train) for epoch in range(3)]
    assert [one["backbone"] for one in sheet] == [1, 1, 1]
    expected = [0.02 + 0.98 * (1 + math.cos(math.pi * (epoch + 0.5) / 5)) / 2 for epoch in range(3)]
    assert [one["last_layer"] for one in sheet] == pytest.approx(expected)
    assert model.rate_factors(Step("joint", 9), 0.0, train)["last_layer"] == 1  # 5 epochs after the pre-training
    last = model.rate_factors(Step("joint", 18), 0.5, train)
    assert last["backbone"] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 11.5 / 15)) / 2)
    longer = TrainConfig(warm_epochs=2, joint_epochs=30)
    assert model.rate_factors(Step("joint", 9), 0.0, longer)["last_layer"] < 1
    assert model.rate_factors(Step("joint", 14), 0.0, longer)["last_layer"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"power": 0.5}, "power: must be a finite number of at least 1"),
        ({"smallest_presence": 1.0}, "smallest_presence: must be from 0 to below 1"),
        ({"shrink": -1.0}, "shrink: must be a finite number of at least 0"),
        ({"num_prototypes": -1}, "num_prototypes: must be a finite number of at least 0"),
        ({"pretrain_epochs": 10**7}, "pretrain_epochs: must be at most 1000000"),
        ({"prototype_size": (2, 2)}, r"prototype_size: must be left at \(1, 1\) for a PIP-Net, whose prototypes"),
        ({"metric": "cosine"}, "metric: must be left at 'sqeuclidean' for a PIP-Net"),
        ({"top_k": 3}, "top_k: must be left at 1 for a PIP-Net"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        PIPNetConfig(**settings)


def test_what_has_no_sense_here_is_refused():
    with pytest.raises(ValueError, match='activation: must be "exp" for a PIP-Net; got a function'):
        PIPNet(conv_net(), 2, activation=torch.relu)
    with pytest.raises(ValueError, match="num_classes: must be at least 1; got 0"):
        PIPNet(conv_net(), 0)


def test_an_abstention_is_no_right_answer(model):
    model.eval()
    model.config = type(model.config)(smallest_presence=0.999)
    images = torch.rand(3, 3, 16, 16)
    assert model.abstains(model(images)).all()
    result = evaluate(model, [(images, torch.zeros(3, dtype=torch.int64))], torch.device("cpu"))
    assert (result.accuracy, result.abstained) == (0, 1)
