from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError, TrainingError
from protokern.evaluate import Evaluation
from protokern.inputs.loaders import ordered_loader
from protokern.nn import PrototypeClassifier
from protokern.runs.log import Notice, StageRecord
from protokern.solvers.choice import Candidate, choose
from protokern.solvers.last_layer import (
    LastLayerInputs,
    SolvedLastLayer,
    can_be_solved,
    collect_inputs,
    solve_last_layer,
    train_last_layer,
)
from protokern.train import head_stages
from protokern.train.loop import train
from protokern.train.optimizers import freeze, make_optimizer
from tests.train.toy import Squares, toy_config, toy_run

CONFIG = TrainConfig(last_layer_epochs=30, last_layer_lr=0.05, batch_size=8, l1=1e-3)


@pytest.fixture
def model(tmp_path):
    model = toy_run(tmp_path, toy_config()).model
    freeze(model, "last_layer", CONFIG)
    return model


def activations(count: int, *, seed: int) -> LastLayerInputs:
    """Two prototypes for each of three classes; those of the right class are a little more active."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    own = F.one_hot(labels, 3).repeat_interleave(2, dim=1)
    return LastLayerInputs(torch.rand(count, 6, generator=generator) + 0.2 * own, labels)


def full_loss(model, data: LastLayerInputs, config: TrainConfig) -> float:
    """By hand: mean cross entropy, and L1 of the weights to other classes."""
    weight = model.last_layer.weight.detach()
    logits = data.values @ weight.T
    own = torch.tensor([[p // 2 == k for p in range(6)] for k in range(3)])
    l1 = sum(abs(float(weight[k, p])) for k in range(3) for p in range(6) if not own[k, p])
    picked = [float(logits[i].log_softmax(0)[label]) for i, label in enumerate(data.labels.tolist())]
    return -sum(picked) / len(picked) * config.cross_entropy + config.l1 * l1


def test_the_loss_falls_and_only_the_last_layer_changes(model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train = activations(60, seed=0)
    loss_before = full_loss(model, train, CONFIG)
    result = train_last_layer(model, train, train, CONFIG, make_optimizer(model, "last_layer", CONFIG))
    assert result.loss_before == pytest.approx(loss_before, rel=1e-5)
    assert result.loss_after == pytest.approx(full_loss(model, train, CONFIG), rel=1e-5)
    assert result.loss_after < result.loss_before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"last_layer.weight"}


def test_weights_that_do_worse_on_the_validation_split_are_not_kept(model) -> None:
    """Validation labels that contradict training: every epoch makes it worse, so the first weights stay."""
    train, val = activations(60, seed=0), activations(30, seed=1)
    contrary = LastLayerInputs(val.values, (val.labels + 1) % 3)
    weight = model.last_layer.weight.detach().clone()
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.roll(weight, 1, dims=0))  # answers one class on: right for `contrary`
    start = model.last_layer.weight.detach().clone()
    result = train_last_layer(model, train, contrary, CONFIG, make_optimizer(model, "last_layer", CONFIG))
    assert result.best_epoch == 0
    assert torch.equal(model.last_layer.weight, start)


def test_it_depends_on_the_seed_alone(model) -> None:
    start = model.last_layer.weight.detach().clone()
    ends = []
    for _ in range(2):
        with torch.no_grad():
            model.last_layer.weight.copy_(start)
        torch.rand(7)
        optimizer = make_optimizer(model, "last_layer", CONFIG)
        train_last_layer(model, activations(60, seed=0), activations(30, seed=1), CONFIG, optimizer)
        ends.append(model.last_layer.weight.detach().clone())
    assert torch.equal(*ends)


def test_a_loss_that_is_not_finite_stops_the_stage(model) -> None:
    train = activations(16, seed=0)
    train.values[3, 2] = torch.inf
    with pytest.raises(TrainingError, match=r"epoch 1: the loss is no longer finite. Start again with a lower"):
        train_last_layer(model, train, train, CONFIG, make_optimizer(model, "last_layer", CONFIG))


def test_activations_are_those_of_the_model_in_order(model) -> None:
    dataset = Squares(7, seed=3)
    images = torch.stack([dataset[i][0] for i in range(7)])
    with torch.no_grad():
        output = model(images)
        batches = [(model.features(chunk), labels) for chunk, labels in ordered_loader(dataset, 3, workers=0)]
    collected = collect_inputs(model, batches)
    torch.testing.assert_close(collected.values, output.activations)
    assert collected.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    correct = (output.logits.argmax(1) == collected.labels).float().mean()
    assert collected.evaluate(model.last_layer).accuracy == pytest.approx(float(correct))


SOLVED = TrainConfig(l1=1e-3, last_layer_path=4, last_layer_gap=1e-6)


def test_the_solver_ends_below_many_small_steps(model) -> None:
    train = activations(60, seed=0)
    start = model.last_layer.weight.detach().clone()
    one_strength = TrainConfig(l1=1e-3, last_layer_path=1, last_layer_gap=1e-6, last_layer_ridge=1e-4)
    one_strength = replace(one_strength, last_layer_bound=1e9)  # the small steps have none
    result = solve_last_layer(model, train, train, one_strength)
    assert result.l1 == 1e-3
    assert result.gap <= 1e-6
    assert result.loss_after == pytest.approx(full_loss(model, train, one_strength), rel=1e-5)
    with torch.no_grad():
        model.last_layer.weight.copy_(start)
    steps = TrainConfig(l1=1e-3, last_layer_epochs=200, last_layer_lr=0.02, batch_size=60)
    stepped = train_last_layer(model, train, train, steps, make_optimizer(model, "last_layer", steps))
    assert result.loss_after < stepped.loss_after < result.loss_before


def test_the_validation_split_chooses_the_strength(model) -> None:
    train, val = activations(60, seed=0), activations(90, seed=1)
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.roll(model.last_layer.weight, 1, dims=0))  # wrong: not to be kept
    start = model.last_layer.weight.detach().clone()
    chosen = solve_last_layer(model, train, val, SOLVED)
    after = val.evaluate(model.last_layer)
    assert chosen.l1 > SOLVED.l1, "noise cannot be learnt: a stronger term does better on other images"
    with torch.no_grad():
        model.last_layer.weight.copy_(start)
    weakest = solve_last_layer(model, train, val, TrainConfig(l1=SOLVED.l1, last_layer_path=1, last_layer_gap=1e-6))
    assert weakest.nonzero > chosen.nonzero
    assert val.evaluate(model.last_layer).loss > after.loss


def test_nothing_is_kept_that_is_worse_than_before(model) -> None:
    train, val = activations(60, seed=0), activations(30, seed=1)
    contrary = LastLayerInputs(val.values, (val.labels + 1) % 3)
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.roll(model.last_layer.weight, 1, dims=0))
    start = model.last_layer.weight.detach().clone()
    result = solve_last_layer(model, train, contrary, SOLVED)
    assert (result.l1, result.gap) == (0.0, 0.0)
    assert torch.equal(model.last_layer.weight, start)


def test_the_weights_from_before_win_a_tie(model) -> None:
    """Nothing is active in the validation images, so that all weights say the same of them."""
    train, val = activations(60, seed=0), activations(30, seed=1)
    start = model.last_layer.weight.detach().clone()
    result = solve_last_layer(model, train, LastLayerInputs(torch.zeros_like(val.values), val.labels), SOLVED)
    assert result.l1 == 0.0
    assert torch.equal(model.last_layer.weight, start)


def test_activations_that_are_not_finite_are_not_solved_for(model) -> None:
    train = activations(16, seed=0)
    train.values[3, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"last_layer: the activations are not finite. Start again"):
        solve_last_layer(model, train, train, SOLVED)


class Scaled(torch.nn.Linear):
    def forward(self, values):
        return 2 * super().forward(values)


def test_only_linear_layers_without_bias_can_be_solved() -> None:
    assert can_be_solved(PrototypeClassifier(torch.eye(3)))
    assert not can_be_solved(torch.nn.Linear(6, 3))
    assert not can_be_solved(Scaled(6, 3, bias=False))


def test_a_problem_that_is_not_solved_to_the_gap_is_named(tmp_path, monkeypatch) -> None:
    far = SolvedLastLayer(l1=1e-3, nonzero=3, gap=0.02, evaluations=9, loss_before=2.0, loss_after=1.0)
    monkeypatch.setattr(head_stages, "solve_last_layer", lambda *_: far)
    records = list(train(toy_run(tmp_path, toy_config())))
    (stage,) = (record for record in records if isinstance(record, StageRecord) and record.stage == "last_layer")
    assert stage.details["gap"] == 0.02
    notices = [record.text for record in records if isinstance(record, Notice)]
    assert any("within 0.02 of its minimum, not 0.0001: prototypes are nearly alike, or" in text for text in notices)


def test_validation_activations_that_are_not_finite_choose_nothing(model) -> None:
    train, val = activations(16, seed=0), activations(16, seed=1)
    val.values[3, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"last_layer: the activations are not finite. Start again"):
        solve_last_layer(model, train, val, SOLVED)


def test_inputs_of_no_images_are_where_the_model_is(model) -> None:
    collected = collect_inputs(model.to("meta"), [])
    assert collected.values.shape == (0, 6)
    assert (collected.values.device.type, collected.labels.device.type) == ("meta", "meta")


@pytest.mark.parametrize(
    ("part", "labels", "message"),
    [
        ("train", [], "train: must hold at least one image; got none. Give activations to learn from."),
        ("val", [], "val: must hold at least one image; got none. Give activations to learn from."),
        (
            "train",
            [0, 3],
            r"train: must have labels of 0 \.\. 2; got 0 \.\. 3. Use the classes that the model was built",
        ),
        ("val", [-1, 2], r"val: must have labels of 0 \.\. 2; got -1 \.\. 2. Use the classes that the model was"),
    ],
)
def test_inputs_that_cannot_be_solved_for_are_named(model, part, labels, message) -> None:
    inputs = {"train": activations(9, seed=0), "val": activations(9, seed=1)}
    inputs[part] = LastLayerInputs(inputs[part].values[: len(labels)], torch.tensor(labels, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        solve_last_layer(model, inputs["train"], inputs["val"], CONFIG)


@pytest.mark.parametrize(
    ("layer", "got"),
    [(torch.nn.Linear(6, 3), "nn.Linear with a bias"), (torch.nn.Sequential(torch.nn.Linear(6, 3)), "Sequential")],
)
def test_a_last_layer_that_the_problem_is_not_of_is_refused(model, layer, got) -> None:
    model.last_layer = layer
    data = activations(9, seed=0)
    with pytest.raises(
        ValueError, match=rf"model\.last_layer: must be linear without bias; got {got}\. Use train_last_"
    ):
        solve_last_layer(model, data, data, CONFIG)


@pytest.mark.parametrize("images", [6, 9, 24])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_few_images_do_not_make_weights_to_other_classes_large(model, images, scale) -> None:
    """Of so few images any two inputs tell the classes apart: L1 alone lets the weights grow to many times the own."""
    train = activations(images, seed=0)
    train = LastLayerInputs(scale * train.values, train.labels)
    with torch.no_grad():
        model.last_layer.weight.zero_()  # worse than any solution
    result = solve_last_layer(model, train, train, TrainConfig(last_layer_path=2))
    is_own = model.last_layer_identity.T > 0
    weight = model.last_layer.weight.detach()
    assert result.l1 > 0
    assert float(weight[~is_own].abs().max()) <= 0.5
    assert result.at_bound == int((weight[~is_own].abs() == 0.5).sum())
    assert result.gap <= 1e-4
    with torch.no_grad():
        model.last_layer.weight.zero_()
    free = solve_last_layer(model, train, train, TrainConfig(last_layer_path=2, last_layer_bound=1e9))
    assert free.at_bound == 0
    if scale == 1:
        assert float(model.last_layer.weight.detach()[~is_own].abs().max()) > 5, "what the bound is for"


def test_the_bound_is_what_the_setting_says(model) -> None:
    train = activations(60, seed=0)
    largest = []
    for bound in (0.1, 0.25, 2.0):
        with torch.no_grad():
            model.last_layer.weight.zero_()
        solve_last_layer(model, train, train, TrainConfig(last_layer_path=1, last_layer_bound=bound))
        largest.append(float(model.last_layer.weight.detach()[model.last_layer_identity.T == 0].abs().max()))
    assert largest == pytest.approx([0.1, 0.25, 2.0])


def noisy(count: int, *, seed: int) -> LastLayerInputs:
    """As `activations`; prototype 4 is more active in class 0 than in its own, class 2."""
    data = activations(count, seed=seed)
    data.values[:, 4] = torch.where(data.labels == 0, 0.9, 0.1) + 0.1 * data.values[:, 4]
    return data


def test_own_weights_are_not_negative_where_that_is_asked_for(model) -> None:
    is_own = model.last_layer_identity.T > 0
    least = {}
    for own in ("free", "non_negative"):
        with torch.no_grad():
            model.last_layer.weight.copy_(torch.roll(is_own.float(), 1, dims=0))  # wrong: not to be kept
        result = solve_last_layer(model, noisy(60, seed=0), noisy(60, seed=1), replace(SOLVED, last_layer_own=own))
        assert result.l1 > 0
        least[own] = float(model.last_layer.weight.detach()[is_own].min())
    assert least["free"] < 0
    assert least["non_negative"] == 0


def test_no_weight_to_another_class_where_that_is_asked_for(model) -> None:
    is_own = model.last_layer_identity.T > 0
    result = solve_last_layer(
        model, activations(60, seed=0), activations(60, seed=1), replace(SOLVED, last_layer_others="none")
    )
    assert result.nonzero == 0
    assert result.gap <= SOLVED.last_layer_gap
    assert result.l1 > 0, "the weights from before have -0.5 for every other class, so they cannot stay"
    assert not model.last_layer.weight.detach()[~is_own].any()
    assert bool((model.last_layer.weight.detach()[is_own] != 1).all())


def test_weights_to_other_classes_come_where_the_validation_split_needs_them(model) -> None:
    needed = replace(SOLVED, last_layer_others="needed", last_layer_path=6)
    result = solve_last_layer(model, activations(90, seed=0), activations(90, seed=1), needed)
    assert result.nonzero == 0, "noise needs none"
    contrary = activations(90, seed=0)
    contrary.values[:, 4] = 3.0 * (contrary.labels == 0) + 0.1 * contrary.values[:, 4]
    contrary.values[:, :4] = contrary.values[:, 5:].roll(1, dims=0)
    with torch.no_grad():
        model.last_layer.weight.copy_(model.last_layer_identity.T)
    result = solve_last_layer(model, contrary, contrary, needed)
    assert result.nonzero > 0, "prototype 4, of class 2, tells class 0 from the others"
    assert contrary.evaluate(model.last_layer).accuracy > 0.5


def candidate(l1: float, others: int, correct: int, loss: float) -> Candidate:
    return Candidate(l1, l1, torch.zeros(2, 2), None, others, Evaluation(correct / 100, loss, 100))


def test_the_fewest_weights_within_half_a_standard_error_are_chosen() -> None:
    """Of 100 images 90 right: one standard error is 3 images, half of one is 1.5."""
    path = [candidate(4, 0, 88, 0.3), candidate(3, 5, 89, 0.4), candidate(2, 9, 90, 0.5), candidate(1, 20, 90, 0.6)]
    assert choose(path, "needed").l1 == 3
    assert choose(path, "path").l1 == 2
    better = [candidate(5, 0, 89, 0.9), *path]
    assert choose(better, "needed").l1 == 5
    tied = [candidate(0, 5, 89, 0.4), *path]
    assert choose(tied, "needed").l1 == 0, "the weights from before win a tie"
    assert choose([candidate(7, 0, 99, 0.1), candidate(6, 1, 100, 0.2)], "needed").l1 == 6, (
        "all right: nothing to spare"
    )


def test_settings_of_the_solver_are_refused_with_the_small_steps() -> None:
    for settings in ({"last_layer_own": "non_negative"}, {"last_layer_others": "none"}):
        (name,) = settings
        with pytest.raises(ConfigError, match=f'{name}: must be "(free|path)" with last_layer_solver = "compat"; got '):
            TrainConfig(last_layer_solver="compat", **settings)


def test_a_last_layer_that_learns_in_small_steps_says_what_it_does_not_know(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config(last_layer_others="none"))
    run.model.last_layer = Scaled(6, 3, bias=False)
    notices = [record.text for record in train(run) if isinstance(record, Notice)]
    told = "it learns in small steps, which know neither train.last_layer_own nor train.last_layer_others"
    assert any(told in text for text in notices)


def test_the_validation_split_chooses_how_firmly_own_weights_are_held(model) -> None:
    start = model.last_layer.weight.detach().clone()

    def own_only(**settings):
        with torch.no_grad():
            model.last_layer.weight.copy_(start)
        config = replace(SOLVED, last_layer_others="none", **settings)
        result = solve_last_layer(model, activations(60, seed=0), val, config)
        return result, model.last_layer.weight.detach().clone()

    for val, wanted in ((activations(60, seed=0), 1e-4), (LastLayerInputs(torch.rand(30, 6), torch.arange(30) % 3), 1)):
        ridge = 1.0 if wanted == 1 else 1e-2
        alone = {place: own_only(last_layer_ridge=ridge / 10**place) for place in range(3)}
        losses = {}
        for place, (_, weight) in alone.items():
            losses[place] = float(F.cross_entropy(val.values @ weight.T, val.labels))
        best = min(losses, key=losses.get)
        result, weight = own_only(last_layer_ridge=ridge, last_layer_ridge_path=3)
        assert result.ridge == pytest.approx(ridge / 10**best) == pytest.approx(wanted)
        torch.testing.assert_close(weight, alone[best][1], atol=0.02, rtol=0.02)
    assert result.evaluations > alone[best][0].evaluations


def test_a_ridge_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="last_layer_ridge_path: must be at most 8: the last ridge"):
        TrainConfig(last_layer_ridge_path=9)
